"""Read a run and say what is wrong with it.

    python -m benchmarks.doctor runs/grpo-countdown-s1-20260101-120000

Prints where the run started and where it is, and every finding of common/health.py at the first step where it held;
of a run of the embedded model on countdown, also what the comparison's runs teach (benchmarks.evidence).
Exit status: 0 nothing found, 1 something found, 2 not a run.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import evidence
from benchmarks.inputs import read_run
from common import InputError
from common.arguments import exit_on_bad_input
from common.health import SHORT, findings, mean

NEEDED = {"algorithm": str, "task": str, "seed": int, "num_steps": int, "max_response_length": int}
SHOWN = {
    "reward": "rollout/reward",
    "entropy, nats per token": "policy/entropy",
    "response length": "rollout/response_length",
    "truncated": "rollout/truncated_ratio",
    "groups without spread": "rollout/zero_std_ratio",
    "seconds per step": "time/step",
}


def read(directory: Path, needed: Mapping[str, type] = {}) -> tuple[dict, list[dict]]:
    """`read_run`; raises InputError, with the directory's name, for what is no run."""
    try:
        return read_run(directory, needed)
    except InputError as error:
        raise InputError(f"{directory} is not a run that can be read ({error})") from None


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
    evaluations = [record for record in records if "eval/pass@1" in record]
    parts = steps[:SHORT], steps[-SHORT:]
    rows = {name: (key, parts) for name, key in SHOWN.items()}
    for key in evaluations[0] if evaluations else ():
        if key.startswith("eval/pass@") and key[-1].isdigit():
            rows[key.removeprefix("eval/")] = key, (evaluations[:1], evaluations[-1:])
    table = Table("", f"first {SHORT} steps", f"last {SHORT}")
    for name, (key, ends) in rows.items():
        known = [[r[key] for r in part if r.get(key) is not None] for part in ends]
        table.add_row(name, *(f"{mean(values):.3f}" if values else "" for values in known))
    return table


def main(directory: Path) -> int:
    """Print it all; whether something is wrong."""
    args, records = read(directory, NEEDED)
    console = Console(highlight=False, markup=False, emoji=False)  # names of files are no markup
    last = records[-1]["step"] if records else 0
    console.print(f"{args['algorithm']} on {args['task']}, seed {args['seed']}: {last} of {args['num_steps']} steps")
    console.print(summary(records))
    learned = evidence.read()
    found = history(records, args, learned)
    for step, name, text in found:
        console.print(Text.assemble((f"step {step}, {name}:", "bold"), f" {text}"))
    if not found:
        console.print("nothing looks wrong")
    if evidence.applies(args) and evidence.has_limits(learned):
        console.print(f"limits of recovery and signs of destruction: {evidence.where_from(learned)}", style="dim")
    return int(bool(found))


if __name__ == "__main__":
    with exit_on_bad_input():
        if len(sys.argv) != 2:
            raise InputError("name one run directory: python -m benchmarks.doctor runs/x")
        status = main(Path(sys.argv[1]))
    raise SystemExit(status)
