"""Streams of one node by its API: their tokens a second, and what they feel of a long prompt."""

import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time

program, model = sys.argv[1:3]
LONG = " ".join(f"line {index} of a long text," for index in range(290))


def stream(port, prompt, tokens, seen):
    """Asks, and notes when each token comes."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    ask = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True, "temperature": 0, "ignore_eos": True}
    link.request("POST", "/v1/completions", json.dumps(ask), {"content-type": "application/json"})
    reply = link.getresponse()
    assert reply.status == 200, reply.read()
    while line := reply.readline():
        if line.startswith(b"data: {") and json.loads(line[6:])["choices"]:
            seen.append(time.perf_counter())
    link.close()


def together(ports, count, tokens, long=0):
    """Tokens of each stream by when they came; of the long prompt, when it was asked and answered."""
    seen = [[] for _ in range(count)]
    threads = [
        threading.Thread(target=stream, args=(ports[index % len(ports)], f"Story number {index}:", tokens, times))
        for index, times in enumerate(seen)]
    for thread in threads:
        thread.start()
    asked, answered = None, []
    if long:
        while min(map(len, seen)) < 20:
            time.sleep(0.002)
        asked = time.perf_counter()
        stream(ports[0], LONG, 1, answered)
    for thread in threads:
        thread.join()
    return seen, asked, answered


def p95(gaps):
    return statistics.quantiles(gaps, n=20)[-1] * 1000


MODELS = json.loads(subprocess.check_output([program, "config", "show", "--json"]))["settings"]["models"]["value"]


class Node:
    """A node that hosts the model; ends with its block."""

    def __enter__(self):
        self.home = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [program, "--home", self.home.name, "up", "--serve", model, "--api", "127.0.0.1:0",
             "--listen", "/ip4/127.0.0.1/tcp/0", "--json", "--kv-positions", "16384", "--models", MODELS],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = int(json.loads(self.process.stdout.readline())["api"].rsplit(":", 1)[1])
        together([port], 1, 16)
        return port

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.home.cleanup()


def rate(ports, count):
    """Tokens a second of all streams together; the median of three."""
    rates = []
    for _ in range(3):
        seen, _, _ = together(ports, count, 128)
        first, last = min(times[0] for times in seen), max(times[-1] for times in seen)
        rates.append(sum(len(times) - 1 for times in seen) / (last - first))
    return statistics.median(rates)


with Node() as port:
    for count in (1, 4, 8, 16):
        print(f"{count} streams: {rate([port], count):.0f} tokens/s in all", flush=True)
    ratios = []
    for _ in range(5):
        # The same streams without the prompt, at the same tokens: each looks back as far.
        alone, _, _ = together([port], 4, 900)
        seen, asked, answered = together([port], 4, 900, long=1)
        calm, beside = [], []
        for times, same in zip(seen, alone):
            for index in range(1, min(len(times), len(same))):
                if times[index - 1] > asked and times[index] < answered[0]:
                    beside.append(times[index] - times[index - 1])
                    calm.append(same[index] - same[index - 1])
        ratios.append(p95(beside) / p95(calm))
        print(f"4 streams: p95 {p95(calm):.1f} ms a token, beside a long prompt {p95(beside):.1f} ms "
              f"({ratios[-1]:.2f} times); the prompt took {answered[0] - asked:.2f} s", flush=True)
    print(f"median {statistics.median(ratios):.2f} times", flush=True)
    with Node() as second:
        print(f"2 hosts on this machine, a stream each: {rate([port, second], 2):.0f} tokens/s in all", flush=True)
        with Node() as third:
            print(f"3 hosts: {rate([port, second, third], 3):.0f} tokens/s in all", flush=True)
