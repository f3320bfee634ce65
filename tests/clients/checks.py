"""The openai, litellm and llm packages chat with a chain of three processes.

Called by `tests/clients/run` with the program. Every check fails loudly;
the first failure ends the run, and the processes end with it.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROGRAM = sys.argv[1]
MODEL = "smollm2:135m"
HI = [{"role": "user", "content": "Name three rivers."}]
STAND = 120  # seconds that the demo may take, a download aside; only what is broken takes them

# No setting of the caller's may reach another server, or answer in the swarm's place.
for name in list(os.environ):
    if name.startswith(("OPENAI_", "LITELLM_", "LLM_", "TAIMATSU_API")) or name.lower().endswith("_proxy"):
        del os.environ[name]
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402
import openai  # noqa: E402


class Process:
    """A node or a demo; its stderr is read until a line says where its API is."""

    def __init__(self, *args):
        self.process = subprocess.Popen(
            [PROGRAM, *args], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )

    def api(self, pattern):
        said = []
        # One that hangs is ended, and so is its stderr.
        watch = threading.Timer(STAND, self.process.kill)
        watch.start()
        try:
            for line in self.process.stderr:
                said.append(line)
                if found := re.search(pattern, line):
                    return found.group(1)
        finally:
            watch.cancel()
        sys.exit("no API came up:\n" + "".join(said))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("a process did not end in 20 s")


def raises(kind, call, **wanted):
    """Calls, and wants this error with these attributes."""
    try:
        call()
    except kind as error:
        for name, value in wanted.items():
            assert getattr(error, name) == value, (name, getattr(error, name), str(error))
        return error
    raise AssertionError(f"no {kind.__name__}")


def is_usage(usage, tokens):
    assert usage.prompt_tokens > 0 and usage.completion_tokens == tokens, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


def openai_chats(base):
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
    assert MODEL in [model.id for model in client.models.list()]
    ask = dict(model=MODEL, messages=HI, max_tokens=12, temperature=0)

    raw = client.chat.completions.with_raw_response.create(**ask)
    route, seed = raw.headers["x-taimatsu-route"], int(raw.headers["x-taimatsu-seed"])
    assert re.fullmatch(r"chain;\w+\[0-9\],\w+\[10-19\],\w+\[20-29\]", route), route
    whole = raw.parse()
    assert whole.choices[0].finish_reason == "length" and whole.system_fingerprint.startswith("fp_")
    assert whole.model_extra["taimatsu"] == {"seed": seed}
    is_usage(whole.usage, 12)
    text = whole.choices[0].message.content
    assert text

    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=options))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == text, (streamed, text)
    is_usage(chunks[-1].usage, 12)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"

    warm = dict(ask, temperature=1, seed=seed, n=3, presence_penalty=0.5, max_tokens=6)
    first, again = (client.chat.completions.create(**warm) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) > 1, texts
    assert texts == [choice.message.content for choice in again.choices], "one seed, one answer"
    pieces = ["", "", ""]
    for chunk in client.chat.completions.create(**warm, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert pieces == texts, "streamed and whole are the same"

    logs = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    content = logs.choices[0].logprobs.content
    assert "".join(token.token for token in content) == logs.choices[0].message.content
    for token in content:
        assert bytes(token.bytes).decode() == token.token and len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs), "it is greedy"
    streamed = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3, stream=True)
    parts = [c.choices[0].logprobs for c in streamed if c.choices]
    assert [token for part in parts if part for token in part.content] == content

    stop = text[4:8]
    stopped = client.chat.completions.create(**ask, stop=stop, extra_body={"taimatsu": True})
    assert stopped.choices[0].message.content == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    label = stopped.model_extra["taimatsu"]
    assert [hop["blocks"] for hop in label["route"]] == [[0, 9], [10, 19], [20, 29]], label


def openai_continues_texts(base):
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
    ask = dict(model=MODEL, prompt=["Once upon", "The sea"], max_tokens=6, temperature=0)
    whole = client.completions.create(**ask, echo=True)
    assert [choice.text[:7] for choice in whole.choices] == ["Once up", "The sea"], whole
    is_usage(whole.usage, 12)
    texts = ["", ""]
    for chunk in client.completions.create(**ask, echo=True, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    # As lm-eval asks for the likelihood of a given text.
    ids = [504, 3575, 282, 260, 6330, 314]
    ask = dict(model=MODEL, prompt=[ids], temperature=0, echo=True, logprobs=1, seed=1234)
    one, none = (client.completions.create(**ask, max_tokens=n).choices[0].logprobs for n in (1, 0))
    assert len(one.tokens) == 7 and len(none.tokens) == 6, (one, none)
    assert one.token_logprobs[:6] == none.token_logprobs and one.token_logprobs[0] is None
    for logprob, top in list(zip(one.token_logprobs, one.top_logprobs))[1:]:
        assert logprob in top.values() and logprob <= max(top.values()) <= 0
    assert one.text_offset == sorted(one.text_offset) and one.text_offset[0] == 0


def openai_hears_of_errors(base):
    client = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
    chat = client.chat.completions.create
    raises(openai.NotFoundError, lambda: chat(model="gpt-nonsense", messages=HI), code="model_not_found")
    long = [{"role": "user", "content": "one two three " * 4000}]
    error = raises(openai.BadRequestError, lambda: chat(model=MODEL, messages=long),
                   code="context_length_exceeded")
    assert "maximum context length is" in str(error)
    raises(openai.BadRequestError, lambda: chat(model=MODEL, messages=HI, temperature=3),
           code="invalid_value", param="temperature")
    raises(openai.BadRequestError, lambda: chat(model=MODEL, messages=HI, tools=[{"type": "function"}]),
           code="unsupported_parameter", param="tools")
    raises(openai.BadRequestError,
           lambda: client.completions.create(model=MODEL, prompt="a", suffix="b"), param="suffix")
    forced = {"taimatsu": {"route": "whole"}}
    raises(openai.InternalServerError, lambda: chat(model=MODEL, messages=HI, extra_body=forced),
           status_code=503, code="no_route")
    raises(openai.BadRequestError,
           lambda: chat(model=MODEL, messages=HI, extra_body={"taimatsu": {"route": "moon"}}))


async def openai_chats_at_once(base):
    client = openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0)

    async def one(prompt):
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=8,
            temperature=0, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    prompts = ["Count to ten.", "Name a tree.", "Say hello."]
    together = await asyncio.gather(*map(one, prompts))
    alone = [await one(prompt) for prompt in prompts]
    assert together == alone, (together, alone)


def openai_needs_its_key(home):
    keys = Path(home, "keys")
    keys.touch(mode=0o600)
    keys.write_text("sesame\n")
    args = ["--home", str(Path(home, "node")), "--api-key", str(keys), "--api", "127.0.0.1:0"]
    with Process("up", "--listen", "/ip4/127.0.0.1/tcp/0", *args) as node:
        base = node.api(r"API\s+(http://\S+/v1)")
        models = lambda key: openai.OpenAI(base_url=base, api_key=key, max_retries=0).models.list()
        raises(openai.AuthenticationError, lambda: models("wrong"), code="invalid_api_key")
        models("sesame")


def litellm_chats(base):
    ask = dict(model=f"openai/{MODEL}", api_base=base, api_key="none", max_tokens=8, temperature=0,
               num_retries=0, max_retries=0)
    whole = litellm.completion(messages=HI, **ask)
    text = whole.choices[0].message.content
    assert text and whole.choices[0].finish_reason == "length"
    is_usage(whole.usage, 8)
    options = {"include_usage": True}
    chunks = list(litellm.completion(messages=HI, stream=True, stream_options=options, **ask))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    usages = [usage for chunk in chunks if (usage := getattr(chunk, "usage", None))]
    is_usage(usages[-1], 8)
    texts = litellm.text_completion(**dict(ask, model=f"text-completion-openai/{MODEL}"), prompt="The sea")
    assert texts.choices[0].text
    long = [{"role": "user", "content": "one two three " * 4000}]
    raises(litellm.ContextWindowExceededError, lambda: litellm.completion(messages=long, **ask))
    unknown = dict(ask, model="openai/nonsense")
    raises(litellm.NotFoundError, lambda: litellm.completion(messages=HI, **unknown))


def llm_chats(base, home):
    def llm(*args):
        environment = dict(os.environ, LLM_USER_PATH=str(Path(home, "llm")))
        done = subprocess.run([sys.executable, "-m", "llm", "openai", "endpoint", base, *args], text=True,
                              capture_output=True, stdin=subprocess.DEVNULL, env=environment, timeout=60)
        return done.returncode, done.stdout.strip(), done.stderr

    assert MODEL in llm("--models")[1]
    options = ["-m", MODEL, "-o", "temperature", "0", "-o", "max_tokens", "8", "Name three rivers."]
    streamed, whole = llm(*options), llm("--no-stream", *options)
    assert streamed[0] == whole[0] == 0 and streamed[1] == whole[1] != "", (streamed, whole)
    code, _, told = llm("-m", "nonsense", "hi")
    assert code != 0 and "not known here" in told, told


def check(name, call, *args):
    begun = time.monotonic()
    result = call(*args)
    if asyncio.iscoroutine(result):
        asyncio.run(result)
    print(f"  {name} · {time.monotonic() - begun:.1f} s", flush=True)


def main():
    # Ended by a signal, this process still ends the others.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    litellm.suppress_debug_info = True
    with tempfile.TemporaryDirectory(prefix="taimatsu-clients-") as home:
        with Process("demo", "--keep", "--max-tokens", "1") as demo:
            base = demo.api(r"running\s+API\s+(http://\S+/v1)")
            check("openai chats", openai_chats, base)
            check("openai continues texts", openai_continues_texts, base)
            check("openai hears of errors", openai_hears_of_errors, base)
            check("openai chats at once", openai_chats_at_once, base)
            check("litellm chats", litellm_chats, base)
            check("llm chats", llm_chats, base, home)
        check("openai needs its key", openai_needs_its_key, home)
    print("every client chats with a chain of three")


main()
