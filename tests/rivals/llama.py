"""Times llama.cpp on a GGUF file: one line of JSON for each line of stdin: `decode N`, `prefill N`,
or `batch N` for N tokens in each of SESSIONS sequences together."""

import json
import sys
import time

import llama_cpp as l

path, threads = sys.argv[1], int(sys.argv[2])
SESSIONS = 8
# Kept alive: the library calls it from now on.
quiet = l.llama_log_callback(lambda *_: None)
l.llama_log_set(quiet, None)
l.llama_backend_init()
model = l.llama_model_load_from_file(path.encode(), l.llama_model_default_params())
params = l.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch = 4608, 512, 512
params.n_seq_max, params.kv_unified = SESSIONS, True
params.n_threads = params.n_threads_batch = threads
context = l.llama_init_from_model(model, params)


def step(ids):
    """Computes ids; logits of the last."""
    array = (l.llama_token * len(ids))(*ids)
    assert l.llama_decode(context, l.llama_batch_get_one(array, len(ids))) == 0
    l.llama_get_logits_ith(context, -1)


batch = l.llama_batch_init(SESSIONS, 0, 1)


def together(position, one):
    """The same id in each sequence; logits of all."""
    batch.n_tokens = SESSIONS
    for index in range(SESSIONS):
        batch.token[index], batch.pos[index], batch.logits[index] = one, position, 1
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, index
    assert l.llama_decode(context, batch) == 0
    l.llama_get_logits_ith(context, -1)


def ids(count):
    return [index * 31 % 500 for index in range(count)]


step(ids(16))
for line in sys.stdin:
    what, count = line.split()
    l.llama_memory_clear(l.llama_get_memory(context), True)
    sessions = 1
    if what == "decode":
        step([0])
    if what == "batch":
        sessions = SESSIONS
        together(0, 0)
    began = time.perf_counter()
    if what == "decode":
        for one in ids(int(count)):
            step([one])
    elif what == "batch":
        for position, one in enumerate(ids(int(count)), 1):
            together(position, one)
    else:
        step(ids(int(count)))
    print(json.dumps({"tokens_per_second": sessions * int(count) / (time.perf_counter() - began)}), flush=True)
