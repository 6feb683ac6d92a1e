"""A grid that is killed at random moments has the report of one that was left alone, and loses at most a checkpoint interval each time.

    cargo build --release -p skimstone-training
    python3 training/tools/kill_series.py training/experiments/smoke.toml --kills 10

Runs the experiment once undisturbed, then again with SIGKILL to the program and all that it started, at moments drawn from a seed over the time that
the first run took. Ends with status 1 if a report, plot or student differs or more was lost.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib


def start(arguments, out):
    command = [arguments.program, "experiment", arguments.experiment, "--out", out, "--jobs", str(arguments.jobs)]
    quiet = subprocess.DEVNULL
    # A session of its own: the kill reaches the processes of the cells, too.
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def finish(arguments, out):
    if status := start(arguments, out).wait():
        sys.exit(f"{out}: the experiment ended with status {status}")


def digests(out):
    """What must not depend on interruptions: the report with its plots, every cell's result, every student.

    `report.md` says the same as `report.json` and milliseconds besides, which are of the machine and the moment.
    """
    wanted = ["report.json", "*.svg", "cells/**/result.json", "cells/**/student.skim"]
    files = [path for pattern in wanted for path in out.glob(pattern)]
    return {path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def losses(out):
    """Optimizer steps made again, for each training that went on after a kill."""
    found = []
    for path in out.glob("cells/**/events.jsonl"):
        last = None
        for line in path.read_text().splitlines():
            # A line that the kill cut short tells nothing.
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            if event["event"] == "started":
                if last is not None and last > event["step"]:
                    found.append(last - event["step"])
            elif event["event"] == "step":
                last = event["step"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--program", default="target/release/skim-train")
    arguments = parser.parse_args()
    interval = tomllib.loads(pathlib.Path(arguments.experiment).read_text())["checkpoint_every"]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder, "whole"), pathlib.Path(folder, "killed")
        begun = time.monotonic()
        finish(arguments, whole)
        took = time.monotonic() - begun
        print(f"undisturbed: {took:.1f} s")
        draw = random.Random(arguments.seed)
        for kill in range(arguments.kills):
            # On average as much work as there is time between the kills, so that they fall all over the grid.
            moment = draw.uniform(0, 2 * took / (arguments.kills + 1))
            child = start(arguments, killed)
            try:
                child.wait(moment)
                print(f"kill {kill + 1}: it had ended before {moment:.2f} s")
                continue
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            done = len(list(killed.glob("cells/**/result.json")))
            print(f"kill {kill + 1}: after {moment:.2f} s, {done} cells finished")
        finish(arguments, killed)
        lost = losses(killed)
        print(f"steps made again after a kill: {sorted(lost)}, at most {interval} allowed")
        expected, found = digests(whole), digests(killed)
        different = sorted(str(path) for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
        print(f"{len(expected)} files compared, {len(different)} differ")
        if different or not expected or max(lost, default=0) > interval:
            sys.exit("\n".join(different) or "more than a checkpoint interval was lost")


if __name__ == "__main__":
    main()
