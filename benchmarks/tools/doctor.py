"""Read a run and say what is wrong with it.

    python -m benchmarks.doctor runs/grpo-countdown-s1-20260101-120000

Prints where the run started and where it is, and every finding of common/health.py at the first step where it held;
of a run of the embedded model on countdown, also what the comparison's runs teach (benchmarks.evidence).
Exit status: 0 nothing found, 1 something found, 2 not a run.
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import evidence
from common import InputError
from common.arguments import exit_on_bad_input
from common.health import SHORT, findings, mean

SHOWN = {
    "reward": "rollout/reward",
    "entropy, nats per token": "policy/entropy",
    "response length": "rollout/response_length",
    "truncated": "rollout/truncated_ratio",
    "groups without spread": "rollout/zero_std_ratio",
    "seconds per step": "time/step",
}


def read(directory: Path) -> tuple[dict, list[dict]]:
    """Arguments and records; raises InputError for what is no run."""
    try:
        args = json.loads((directory / "args.json").read_text())
        records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{directory} is not a run that can be read ({type(error).__name__}: {error})") from None
    return args, records


def history(records: list[dict], args: dict, learned: dict | None = None) -> list[tuple[int, str, str]]:
    """(step at which it first held, name, what it said last) of every finding of the run; `learned`: the evidence."""
    first, texts = {}, {}
    for count in range(1, len(records) + 1):
        found = findings(records[:count], args)
        if learned and evidence.applies(args):
            found |= evidence.lessons(records[:count], learned)
        for name, text in found.items():
            first.setdefault(name, records[count - 1]["step"])
            texts[name] = text
    return [(step, name, texts[name]) for name, step in first.items()]


def summary(records: list[dict]) -> Table:
    """First and last steps side by side."""
    steps = [record for record in records if "rollout/reward" in record]
    table = Table("", f"first {SHORT} steps", f"last {SHORT}")
    for name, key in SHOWN.items():
        ends = [[r[key] for r in part if r.get(key) is not None] for part in (steps[:SHORT], steps[-SHORT:])]
        table.add_row(name, *(f"{mean(values):.3f}" if values else "" for values in ends))
    evaluations = [record for record in records if "eval/pass@1" in record]
    if evaluations:
        for key in [key for key in evaluations[0] if key.startswith("eval/pass@") and key[-1].isdigit()]:
            table.add_row(key.removeprefix("eval/"), *(f"{r[key]:.3f}" for r in (evaluations[0], evaluations[-1])))
    return table


if __name__ == "__main__":
    with exit_on_bad_input():
        if len(sys.argv) != 2:
            raise InputError("name one run directory: python -m benchmarks.doctor runs/x")
        args, records = read(Path(sys.argv[1]))
    console = Console(highlight=False)
    console.print(
        f"{args['algorithm']} on {args['task']}, seed {args['seed']}: {records[-1]['step'] if records else 0} of"
    )
    console.print(f"{args['num_steps']} steps", summary(records))
    learned = evidence.read()
    found = history(records, args, learned)
    for step, name, text in found:
        console.print(f"[bold]step {step}, {name}:[/bold] {text}")
    if not found:
        console.print("nothing looks wrong")
    if evidence.applies(args) and evidence.has_limits(learned):
        console.print(f"limits of recovery and signs of destruction: {evidence.where_from(learned)}", style="dim")
    raise SystemExit(bool(found))
