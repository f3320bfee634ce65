"""Runs taimatsu and llama.cpp in turns on the same files and prints a table of ratios."""

import json
import statistics
import subprocess
import sys

program, rounds = sys.argv[1], int(sys.argv[2])
models = sys.argv[3:]


def ours(model, what, threads):
    command = [program, "bench", what, "--model", model, "--threads", str(threads), "--runs", "1", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=600).stdout)


def path_of(model):
    shown = subprocess.run([program, "show", model, "--json"], check=True, capture_output=True, timeout=60)
    return json.loads(shown.stdout)["path"]


print("| model | threads | | taimatsu | llama.cpp | ratio | of memory bandwidth |")
print("|---|---|---|---|---|---|---|")
for model in models:
    for threads in (1, 2):
        rival = subprocess.Popen(
            [sys.executable, __file__.replace("compare.py", "llama.py"), path_of(model), str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found = {}
        for _ in range(rounds):
            for what, count in (("decode", 128), ("prefill", 512), ("batch", 128)):
                mine = ours(model, what, threads)
                rival.stdin.write(f"{what} {count}\n")
                rival.stdin.flush()
                theirs = json.loads(rival.stdout.readline())
                found.setdefault(what, []).append(
                    (mine["tokens_per_second"], theirs["tokens_per_second"], mine["share_of_bandwidth"]))
        rival.stdin.close()
        rival.wait(timeout=60)
        for what, runs in found.items():
            mine, theirs, share = (statistics.median(column) for column in zip(*runs))
            ratio = statistics.median(a / b for a, b, _ in runs)
            print(f"| {model} | {threads} | {what} | {mine:.0f} | {theirs:.0f} | {ratio:.2f} | {share:.0%} |", flush=True)
