"""What every file learns by its default command: one run each on the embedded task, to be seen side by side.

    python -m benchmarks.defaults                          # every file without a row yet, seed 1, two at a time
    python -m benchmarks.defaults --algorithms grpo t1 --seeds 1 2
    python -m benchmarks.defaults --runs DIR               # rows of finished runs DIR/<algorithm>, made by that command

Appends to benchmarks/results/defaults.csv and prints the table of all rows there. It goes on where it was stopped. One
seed a file says that the file learns, and nothing about which is better: for that there is benchmarks.collapse.
"""

import csv
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import RESULTS
from benchmarks.measure import check_known, read_metrics, run_script
from tests import sync

EDGE = 5  # training numbers are means over the first and last so many steps
COLUMNS = (
    "algorithm seed reward_start reward_end entropy_start entropy_end pass@1 pass@32 seconds threads commit".split()
)


@dataclass
class Args:
    algorithms: tuple[str, ...] = ()
    """by default all"""
    seeds: tuple[int, ...] = (1,)
    parallel: int = 2
    """runs at a time, each of one thread"""
    runs: Path | None = None
    """read the runs that are there instead of making any"""
    out: Path = RESULTS / "defaults.csv"


def row(directory: Path) -> dict[str, str] | None:
    """Start and end of a finished run; None for one that is not, or was made with other flags than a seed."""
    records = read_metrics(directory)
    steps = [r for r in records if r.get("rollout/reward") is not None]
    settings = json.loads((directory / "args.json").read_text()) if steps else {}
    made = json.loads((directory / "env.json").read_text()) if steps else {}
    given = {word for word in made.get("command", []) if word.startswith("--")}
    if len(steps) < settings.get("num_steps", 1) or given - {"--seed", "--output-dir"}:
        return None
    found = {"algorithm": settings["algorithm"], "seed": settings["seed"]}
    for name, key in (("reward", "rollout/reward"), ("entropy", "policy/entropy")):
        for edge, part in (("start", steps[:EDGE]), ("end", steps[-EDGE:])):
            found[f"{name}_{edge}"] = f"{sum(r[key] for r in part) / len(part):.4f}"
    last = [r for r in records if r.get("eval/pass@1") is not None][-1]
    found |= {f"pass@{k}": f"{last[f'eval/pass@{k}']:.4f}" for k in (1, 32)}
    seconds = sum(r["time/step"] for r in steps)  # of the steps alone: no start, no evaluation
    return found | {"seconds": f"{seconds:.0f}", "threads": made["threads"], "commit": made["commit"]}


def read(path: Path) -> dict[tuple[str, int], dict[str, str]]:
    if not path.exists():
        return {}
    with path.open() as file:
        return {(r["algorithm"], int(r["seed"])): r for r in csv.DictReader(file)}


def keep(path: Path, rows: dict) -> None:
    """Sorted, so that runs in any order make the same file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))


def table(rows: dict) -> str:
    lines = ["| file | seed | reward | entropy | pass@1 | pass@32 | seconds |", "|" + "---|" * 7]
    for r in (rows[key] for key in sorted(rows)):
        change = [f"{float(r[f'{name}_start']):.3f} to {float(r[f'{name}_end']):.3f}" for name in ("reward", "entropy")]
        ends = [f"{float(r[key]):.3f}" for key in ("pass@1", "pass@32")]
        lines.append("| " + " | ".join([r["algorithm"], str(r["seed"]), *change, *ends, r["seconds"]]) + " |")
    return "\n".join(lines)


def main(args: Args) -> None:
    check_known("algorithms", args.algorithms, sync.algorithms())
    rows = read(args.out)
    if args.runs:
        found = [row(path) for path in sorted(args.runs.iterdir()) if path.is_dir()]
        rows |= {(r["algorithm"], int(r["seed"])): r for r in found if r}
        keep(args.out, rows)
    else:
        wanted = [(name, seed) for name in args.algorithms or sync.algorithms() for seed in args.seeds]

        def run(job: tuple[str, int]) -> None:
            with tempfile.TemporaryDirectory() as directory:
                run_script(job[0], ["--seed", str(job[1])], Path(directory) / job[0])
                rows[job] = row(Path(directory) / job[0])
            keep(args.out, dict(rows))
            print(f"{job[0]}, seed {job[1]}: pass@1 {rows[job]['pass@1']}", flush=True)

        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with ThreadPoolExecutor(args.parallel) as pool:
            list(pool.map(run, [job for job in wanted if job not in rows]))
    print(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
