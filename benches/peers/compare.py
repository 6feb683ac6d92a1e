"""skimstone beside llama.cpp on the same weights, in turn (A B B A, or A B C C B A), each in a process of its own.

Before each run of skimstone the machine's ceilings are measured: bytes of weights per second against what threads can read, and
multiply-adds of the prompt's products against what they can do in registers.

    pip install llama-cpp-python --no-binary llama-cpp-python && pip install gguf
    cargo build --release -p skimstone-targets -p skimstone-benches
    python3 benches/peers/compare.py --out record.csv

A fork of llama.cpp takes part by its own `llama-bench`: --fork NAME=path/to/llama-bench --fork-args "-rtr 1". It reads the same file, without
the cases at a depth.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import sys
import time

import models

# model, format of the matrices, format of embedding and head, prompt, generated tokens, depth, threads
CASES = [
    ("qwen2.5-0.5b", "q4_0", "q8_0", 128, 64, 0, 2),
    ("qwen2.5-0.5b", "q8_0", "q8_0", 128, 64, 0, 2),
    ("qwen2.5-0.5b", "q4_0", "q4_0", 128, 64, 0, 2),
    ("qwen2.5-0.5b", "q4_0", "q8_0", 128, 48, 0, 1),
    ("qwen2.5-0.5b", "q4_0", "q8_0", 512, 16, 0, 2),
    ("qwen2.5-0.5b", "q4_0", "q8_0", 16, 48, 2048, 2),
    ("qwen2.5-1.5b", "q4_0", "q8_0", 128, 32, 0, 2),
    ("qwen2.5-1.5b", "q8_0", "q8_0", 128, 24, 0, 2),
    ("smollm2-135m", "q4_0", "q8_0", 128, 128, 0, 2),
]
NAMES = ["prefill", "decode"]


def llama_worker(path, prompt, gen, depth, threads):
    """One measurement with llama.cpp: tokens per second of the prompt and of the generation after it."""
    import llama_cpp

    model = llama_cpp.Llama(
        model_path=path, n_ctx=depth + prompt + gen + 8, n_batch=512, n_ubatch=512,
        n_threads=threads, n_threads_batch=threads, verbose=False,
    )
    fill = [5 + i % 200 for i in range(max(depth, 512))]
    # A first pass faults the weights in, as skim does.
    model.eval(fill[:64])
    model.reset()
    if depth:
        model.eval(fill[:depth])
    start = time.perf_counter()
    model.eval(fill[:prompt])
    prefill = prompt / (time.perf_counter() - start)
    batch = llama_cpp.llama_batch_init(1, 0, 1)
    start = time.perf_counter()
    for i in range(gen):
        batch.n_tokens, batch.token[0], batch.pos[0] = 1, 7, depth + prompt + i
        batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
        if llama_cpp.llama_decode(model._ctx.ctx, batch) != 0:
            sys.exit("llama_decode failed")
    print(json.dumps([prefill, gen / (time.perf_counter() - start)]))


def llama(gguf, case):
    command = [sys.executable, __file__, "--worker", str(gguf), *map(str, case)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])


def llama_bench(binary, gguf, case, extra):
    """One measurement with a fork's own bench, which warms up by itself; `None` at a depth."""
    prompt, gen, depth, threads = map(str, case)
    if depth != "0":
        return None
    command = [binary, "-m", gguf, "-p", prompt, "-n", gen, "-t", threads, "-r", "1", "-o", "json", *extra]
    tests = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    speed = {test["n_gen"] > 0: test["avg_ts"] for test in tests}
    return [speed[False], speed[True]]


def skim(bundle, case, binary):
    prompt, gen, depth, threads = map(str, case)
    command = [binary, "bench", bundle, "--prompt", prompt, "--gen", gen, "--depth", depth, "--threads", threads]
    answer = json.loads(subprocess.run([*command, "--reps", "1", "--json"], capture_output=True, check=True).stdout)
    return [answer[f"{name}_tokens_per_s"] for name in NAMES], answer["weight_bytes"]


def ceilings(binary, threads):
    answer = json.loads(subprocess.run([binary, str(threads)], capture_output=True, check=True).stdout)
    return [answer["int8_multiply_adds_per_s"], answer["stream_read_bytes_per_s"]]


def products_per_token(model):
    """Multiply-adds of the layers' matrices; a prompt's head runs once."""
    m = models.MODELS[model]
    kv = m["kv_heads"] * m["hidden"] // m["heads"]
    return m["layers"] * m["hidden"] * (2 * m["hidden"] + 2 * kv + 3 * m["ff"])


def main():
    if sys.argv[1:2] == ["--worker"]:
        return llama_worker(sys.argv[2], *map(int, sys.argv[3:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skim", default="target/release/skim", help="the built program")
    parser.add_argument("--ceilings", default="target/release/ceilings", help="the program that measures the machine")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/peers"), help="where the models go")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--fork", default="", help="name of a fork and the path of its llama-bench, as NAME=PATH")
    parser.add_argument("--fork-args", default="", help="arguments for it")
    parser.add_argument("--out", type=pathlib.Path, help="where to write the CSV")
    args = parser.parse_args()
    import llama_cpp

    args.work.mkdir(parents=True, exist_ok=True)
    rows = []
    print(f"# llama-cpp-python {llama_cpp.__version__}, run in turn; ratio is skimstone over the rival within a round")
    for model, matrices, head, *case in CASES:
        prompt, gen, depth, threads = case
        name = f"{model} {matrices} head {head} prompt {prompt} depth {depth} threads {threads}"
        if args.only not in name:
            continue
        gguf = args.work / f"{model}-{matrices}-{head}.gguf"
        bundle = gguf.with_suffix(".skim")
        if not gguf.exists():
            models.write(gguf, model, matrices, head)
        if not bundle.exists():
            subprocess.run([args.skim, "import", gguf, bundle], check=True, stdout=subprocess.DEVNULL)
        rivals = {"llama.cpp": lambda: llama(gguf, case)}
        if args.fork:
            fork, _, binary = args.fork.partition("=")
            rivals[fork] = lambda: llama_bench(binary, gguf, case, args.fork_args.split())
        runs, shares = {side: [] for side in [*rivals, "skim"]}, []
        for i in range(args.rounds):
            for side in list(runs)[:: 1 if i % 2 == 0 else -1]:
                if side != "skim":
                    runs[side].append(rivals[side]())
                    continue
                most = ceilings(args.ceilings, threads)
                speeds, weight_bytes = skim(bundle, case, args.skim)
                runs[side].append(speeds)
                costs = [products_per_token(model), weight_bytes]
                shares.append([speed * cost / limit for speed, cost, limit in zip(speeds, costs, most)])
        for side in rivals:
            if None in runs[side]:
                continue
            for i, what in enumerate(NAMES):
                a, b = ([run[i] for run in runs[of]] for of in (side, "skim"))
                ratios = [y / x for x, y in zip(a, b)]
                share = [one[i] for one in shares]
                row = dict(case=name, what=what, rival=side, rival_tokens_s=round(statistics.median(a), 1), skim_tokens_s=round(statistics.median(b), 1),
                           ratio=round(statistics.median(ratios), 2), ratio_low=round(min(ratios), 2), ratio_high=round(max(ratios), 2), of_ceiling=round(statistics.median(share), 3),
                           of_ceiling_low=round(min(share), 3), of_ceiling_high=round(max(share), 3), rounds=args.rounds)
                rows.append(row)
                print(",".join(map(str, row.values())), flush=True)
    if args.out:
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
