r"""Speed of the verifier: how many answers exact arithmetic decides, at what price, and the rest by math-verify.

Responses are made from gold answers, so that all answers are of the kind that a model would give. A quarter is the
gold in a box, a quarter another problem's gold, a quarter has another form of the gold (x as x + 0, a number as a
decimal) and a quarter has no box at all; a text of a thousand words comes before each.

    python -m benchmarks.verifier                                      # problems with answers that are written below
    python -m benchmarks.verifier --data math500.jsonl gsm8k.jsonl     # files with an answer column
"""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import RESULTS
from benchmarks.measure import environment
from common.maths import as_number, final_answer
from common.problems import Problem
from common.tasks import load_task
from common.verifier import UNDECIDED, Verifier

# The proportions of MATH: about two in three are numbers.
NUMBERS = [str(n) for n in range(2, 40)] + ["1,234", "0.75", r"\frac{3}{4}", r"\frac{17}{50}", "-7", r"10\%", r"\$32"]
OTHERS = """2\\sqrt{3} | x^2+2x+1 | \\frac{\\sqrt{21}}{5} | (2,\\infty) | \\left( 3, \\frac{\\pi}{2} \\right) | 6 - 5i
| 1,-2 | \\text{east} | \\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix} | 90^\\circ | 3 \\pm 2\\sqrt{2} | 12\\pi
| \\text{(C)} | (0,9) \\cup (9,36) | 2k+2 | 15x - 80 | \\frac{11+9a}{20} | y = 2x + 3 | 4343_6
| -\\frac{\\pi}{6} | 5r^5"""
WORDS = "so we add the two sides and find that " * 112


@dataclass
class Args:
    data: list[Path] = field(default_factory=list)
    """.jsonl or .parquet files with an answer column; without any, the answers in this file"""
    num_responses: int = 2048
    workers: int = 2
    repeats: int = 3


def make_responses(golds: list[str], n: int) -> tuple[list[Problem], list[str]]:
    rng = random.Random(0)
    problems, responses = [], []
    for i in range(n):
        gold = rng.choice(golds)
        value = as_number(gold)
        other_form = f"{gold} + 0" if value is None else f"{float(value)}"
        answer = [gold, rng.choice(golds), other_form, None][i % 4]
        problems.append(Problem("?", gold, f"b-{i}", "math"))
        responses.append(WORDS + (f"Thus the answer is \\boxed{{{answer}}}." if answer else "Thus we are done.\n"))
    return problems, responses


def main(args: Args) -> None:
    golds = [final_answer(p.answer) for path in args.data for p in load_task(str(path), "all")]
    golds = golds or NUMBERS + [gold.strip() for gold in OTHERS.split("|")]
    problems, responses = make_responses(golds, args.num_responses)
    with Verifier(workers=args.workers, timeout=5.0) as verifier:
        fast = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            checked = [verifier._check(*pair) for pair in zip(problems, responses, strict=True)]
            fast.append(time.perf_counter() - started)
        undecided = [(v.answer, p.answer) for v, p in zip(checked, problems, strict=True) if v.reason == UNDECIDED]
        seconds = []
        for _ in range(1 + args.repeats):  # the first starts the workers
            started = time.perf_counter()
            verdicts = verifier(problems, responses)
            seconds.append(time.perf_counter() - started)
    reasons = [v.reason for v in verdicts]
    results = {
        "responses": len(responses),
        "decided by exact arithmetic": 1 - len(undecided) / len(responses),
        "left to math-verify": len(undecided),
        "of which distinct": len(set(undecided)),
        "microseconds per response, extraction and exact part": 1e6 * min(fast) / len(responses),
        "milliseconds per distinct pair of the rest": 1e3 * (min(seconds[1:]) - min(fast)) / len(set(undecided)),
        "seconds in all, workers running": min(seconds[1:]),
        "seconds in all, with the start of the workers": seconds[0],
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
    }
    table = Table("", *["value"], title=f"{args.workers} worker processes, best of {args.repeats}")
    for name, value in results.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)
    packages = ("math-verify", "latex2sympy2_extended", "sympy", "pebble")
    (RESULTS / "verifier.json").write_text(
        json.dumps({"environment": environment("verifier", args, packages), "results": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
