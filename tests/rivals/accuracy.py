"""Compares K1's and llama.cpp's logits with those of llama.cpp over the same weights in f32."""

import json
import pathlib
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np

programs, scratch = map(pathlib.Path, sys.argv[1:3])
F32 = 0


def expanded(path):
    """The file with every weight as f32: made once."""
    out = scratch / (path.stem + ".f32.gguf")
    if out.exists():
        return out
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out.with_suffix(".part"), reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(weights, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    out.with_suffix(".part").rename(out)
    return out


def theirs(path, prompts, **options):
    """llama.cpp's logits of every position of each prompt."""
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, n_threads=2, n_threads_batch=2, logits_all=True, verbose=False, **options)
    for ids in prompts:
        model.reset()
        model.eval(ids)
        yield np.array(model.scores[:len(ids)], dtype=np.float64)


def ours(path, prompts, vocab):
    """K1's."""
    lines = "".join(" ".join(map(str, ids)) + "\n" for ids in prompts)
    said = subprocess.run(
        [programs / "examples" / "logits", path], input=lines.encode(), capture_output=True, check=True, timeout=600)
    rows = np.frombuffer(said.stdout, dtype="<f4").reshape(-1, vocab)
    at = 0
    for ids in prompts:
        yield rows[at:at + len(ids)].astype(np.float64)
        at += len(ids)


def logprobs(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


print("| model | positions | | KL divergence, nats | 99th of 100 | another best token |")
print("|---|---|---|---|---|---|")
arguments = sys.argv[3:]
for model, reference in zip(arguments[::2], arguments[1::2]):
    shown = subprocess.run([programs / "taimatsu", "show", model, "--json"], capture_output=True, check=True, timeout=60)
    path = pathlib.Path(json.loads(shown.stdout)["path"])
    cases = json.loads(pathlib.Path(reference).read_text())["cases"]
    prompts = [case["prompt_tokens"] + case["tokens"] for case in cases]
    truth = [logprobs(logits) for logits in theirs(expanded(path), prompts, type_k=F32, type_v=F32)]
    means = {}
    for name, run in (("K1", ours(path, prompts, truth[0].shape[1])), ("llama.cpp", theirs(path, prompts))):
        apart, other = [], 0
        for true, logits in zip(truth, run):
            told = logprobs(logits)
            apart.extend((np.exp(true) * (true - told)).sum(axis=1))
            other += int((true.argmax(axis=1) != told.argmax(axis=1)).sum())
        means[name] = np.mean(apart)
        print(f"| {model} | {len(apart)} | {name} | {means[name]:.6f} | {np.quantile(apart, 0.99):.6f} | {other} |", flush=True)
    print(f"| {model} | | K1 / llama.cpp | {means['K1'] / means['llama.cpp']:.3f} | | |", flush=True)
