"""What the default run of an algorithm does on the embedded task, over several seeds.

    python -m benchmarks.learning                        # algos/grpo.py, seeds 1 2 3, one after the other
    python -m benchmarks.learning --seeds 1 2 --parallel 2 --num-steps 50

What is not a flag of this command goes to the script, and the results to benchmarks/results/<algorithm>-custom/.
Writes benchmarks/results/<algorithm>/: seed-N.jsonl (the run's metrics), curves.png (first seed) and summary.json, and
prints the table that the README shows. Finished seeds are kept, so an interrupted benchmark goes on where it stopped.
"""

import json
import os
import shlex
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks import RESULTS
from benchmarks.measure import run_script
from benchmarks.report import markdown, plus_minus, spread
from common.records import environment

EDGE = 5  # training metrics of single steps are noisy: "start" and "end" are means over this many steps


@dataclass
class Args:
    algorithm: str = "grpo"
    seeds: tuple[int, ...] = (1, 2, 3)
    parallel: int = 1
    """runs at a time; each gets its share of the cores"""
    flags: tyro.conf.Suppress[tuple[str, ...]] = ()  # of the script: what tyro does not know


def run_seed(args: Args, seed: int, results: Path) -> None:
    """One run in a process of its own; leaves seed-N.jsonl with the seconds it took in a last line."""
    done = results / f"seed-{seed}.jsonl"
    if done.exists():
        return
    threads = max(1, (os.cpu_count() or 1) // args.parallel)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary) / f"{args.algorithm}, seed {seed}"
        flags = ["--seed", str(seed), *args.flags]
        seconds = run_script(args.algorithm, flags, directory, threads, quiet=False)
        lines = (directory / "metrics.jsonl").read_text()
        done.write_text(lines + json.dumps({"wall_seconds": round(seconds, 1), "threads": threads}) + "\n")
        if seed == args.seeds[0]:
            (directory / "curves.png").rename(results / "curves.png")


def summarise(path: Path) -> dict[str, float]:
    """Start and end of one seed's run."""
    *records, last = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [r for r in records if "rollout/reward" in r]
    evaluations = [r for r in records if "eval/pass@1" in r]
    n = max(int(key.partition("@")[2]) for key in evaluations[0] if key.startswith("eval/pass@") and key[-1].isdigit())
    row = {"wall_seconds": last["wall_seconds"]}
    for name, key in (("reward", "rollout/reward"), ("entropy", "policy/entropy")):
        row[f"{name}_start"] = float(np.mean([r[key] for r in steps[:EDGE]]))
        row[f"{name}_end"] = float(np.mean([r[key] for r in steps[-EDGE:]]))
    for k in (1, n):
        row[f"pass@{k}_start"], row[f"pass@{k}_end"] = (r[f"eval/pass@{k}"] for r in (evaluations[0], evaluations[-1]))
    return row


if __name__ == "__main__":
    args, flags = tyro.cli(Args, return_unknown_args=True)
    args.flags = tuple(flags)
    results = RESULTS / (args.algorithm + ("-custom" if args.flags else ""))
    results.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda seed: run_seed(args, seed, results), args.seeds))
    rows = {seed: summarise(results / f"seed-{seed}.jsonl") for seed in args.seeds}
    columns = {key: [row[key] for row in rows.values()] for key in rows[args.seeds[0]]}
    mean = {key: float(np.mean(values)) for key, values in columns.items()}
    std = {key: spread(values) if len(values) > 1 else 0.0 for key, values in columns.items()}
    command = shlex.join(["python", "-m", "benchmarks.learning", *sys.argv[1:]])
    made = {key: value for key, value in environment().items() if key != "command"}
    summary = {"command": command, "environment": made, "flags": args.flags, "seeds": rows, "mean": mean, "std": std}
    (results / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"mean ± standard deviation over seeds {', '.join(map(str, args.seeds))}\n")
    names = [key.removesuffix("_start") for key in mean if key.endswith("_start")]
    table = [(name, *(plus_minus(columns[f"{name}_{end}"]) for end in ("start", "end"))) for name in names]
    print("\n".join(markdown(("", "start", "end"), table)))
    print(f"\n{mean['wall_seconds']:.0f} ± {std['wall_seconds']:.0f} seconds a run")
