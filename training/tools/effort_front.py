"""Accuracy over budgets of `auto` and of each fixed route, question by question, and what deadlines do.

    skim calibrate-effort STUDENT.skim CAL.jsonl --out auto.skim
    python3 training/tools/effort_front.py auto.skim TEST.jsonl --skim target/release/skim --out effort

Runs `skim eval` once per limit, with all routes on the same questions; writes OUT.csv, and its tables as markdown to standard output. What is
there of OUT.csv is kept, so that a run that was stopped goes on. The difference of each row is that of `auto` against the row's route: positive
where `auto` is more often right, with its 95 % interval (Newcombe, paired) and McNemar's exact p.
"""

import argparse
import csv
import json
import pathlib
import subprocess

FIELDS = [
    "limit", "value", "route", "n", "accuracy", "low", "high", "tokens", "layer_passes", "rungs", "rejected_tokens", "p50_ms", "p99_ms",
    "in_time", "answered", "ended", "gained", "lost", "difference", "difference_low", "difference_high", "p_value",
]
OPTIONS = {"none": None, "tokens": "--budget-tokens", "layer passes": "--budget-layer-passes", "ms": "--budget-ms", "answer by, ms": "--answer-by"}


def numbers(text):
    return [int(part) for part in text.split(",") if part]


def evaluate(args, limit, value):
    command = [*args.prefix.split(), args.skim, "eval", args.model, args.data, "--route", ",".join(args.routes), "--threads", "1", "--json"]
    if OPTIONS[limit]:
        command += [OPTIONS[limit], str(value)]
    if args.limit:
        command += ["--limit", str(args.limit)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    pairs = {pair["against"]: pair for pair in report["pairs"]}
    for route in args.routes:
        score, ends, pair = report["routes"][route], report["ends"][route], pairs.get(route)
        row = {
            "limit": limit, "value": value, "route": route, "n": score["n"], "accuracy": round(score["accuracy"], 5),
            "low": round(score["interval"][0], 5), "high": round(score["interval"][1], 5), "tokens": round(score["mean_generated_tokens"], 2),
            "layer_passes": round(score["mean_layer_passes"], 2), "rungs": round(score["mean_rungs"], 3),
            "rejected_tokens": round(score["mean_rejected_tokens"], 2), "p50_ms": round(score["p50_ms"], 3), "p99_ms": round(score["p99_ms"], 3),
            "in_time": "" if ends["in_time"] is None else ends["in_time"], "answered": ends["answered"], "ended": ends["ended"],
        }
        if pair:
            row |= {
                "gained": pair["gained"], "lost": pair["lost"], "difference": round(-pair["loss"], 5),
                "difference_low": round(-pair["interval"][1], 5), "difference_high": round(-pair["interval"][0], 5),
                "p_value": f"{pair['p_value']:.3g}",
            }
        yield row


def table(rows, routes):
    """One line per limit: accuracy of every route, and `auto` against the best fixed one."""
    print(f"| limit | {' | '.join(routes)} | best fixed | difference, points (95 %) | p | tokens of `auto` | layer passes of `auto` |")
    print("| --- " * (len(routes) + 6) + "|")
    limits = dict.fromkeys((row["limit"], row["value"]) for row in rows)
    for limit in limits:
        of = {row["route"]: row for row in rows if (row["limit"], row["value"]) == limit}
        best = max((route for route in routes if route != "auto"), key=lambda route: float(of[route]["accuracy"]))
        against = of[best]
        low, high = (f"{100 * float(against[end]):+.1f}" for end in ("difference_low", "difference_high"))
        cells = [f"{100 * float(of[route]['accuracy']):.1f} %" for route in routes]
        name = "none" if limit[0] == "none" else f"{limit[1]} {limit[0]}"
        auto = of["auto"]
        print(
            f"| {name} | {' | '.join(cells)} | `{best}` | {100 * float(against['difference']):+.1f} ({low} to {high}) | {against['p_value']} "
            f"| {float(auto['tokens']):.1f} | {float(auto['layer_passes']):.0f} |"
        )


def deadlines(rows, routes):
    print("| limit | route | in time | p50 ms | p99 ms | with words | with an end | accuracy |")
    print("| --- " * 8 + "|")
    for row in rows:
        n = int(row["n"])
        share = f"{100 * int(row['in_time']) / n:.2f} %"
        print(
            f"| {row['value']} {row['limit']} | `{row['route']}` | {share} | {float(row['p50_ms']):.2f} | {float(row['p99_ms']):.2f} "
            f"| {row['answered']} of {n} | {row['ended']} of {n} | {100 * float(row['accuracy']):.1f} % |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--skim", default="target/release/skim")
    parser.add_argument("--prefix", default="", help="a command before it, such as one that sets its priority")
    parser.add_argument("--routes", type=lambda text: text.split(","), default=["auto", "direct", "skip", "cot"])
    parser.add_argument("--tokens", type=numbers, default=[])
    parser.add_argument("--layer-passes", type=numbers, default=[])
    parser.add_argument("--ms", type=numbers, default=[])
    parser.add_argument("--answer-by", type=numbers, default=[])
    parser.add_argument("--limit", type=int, help="questions")
    parser.add_argument("--out", required=True, help="OUT.csv")
    args = parser.parse_args()
    path = pathlib.Path(f"{args.out}.csv")
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    wanted = [("none", "")]
    wanted += [("tokens", n) for n in args.tokens] + [("layer passes", n) for n in args.layer_passes]
    wanted += [("ms", n) for n in args.ms] + [("answer by, ms", n) for n in args.answer_by]
    for limit, value in wanted:
        if any((row["limit"], row["value"]) == (limit, str(value)) for row in rows):
            continue
        rows += [{field: str(row.get(field, "")) for field in FIELDS} for row in evaluate(args, limit, value)]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    table([row for row in rows if row["limit"] in ("none", "tokens", "layer passes")], args.routes)
    timed = [row for row in rows if row["in_time"]]
    if timed:
        print()
        table(timed, args.routes)
        print()
        deadlines(timed, args.routes)


if __name__ == "__main__":
    main()
