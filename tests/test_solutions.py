"""Solutions of countdown: told apart as they should be, enumerated without a gap, found in what a model writes."""

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest

from common import evaluate as evaluation
from common.batch import Response, Sample
from common.evaluate import count_solutions, evaluate
from common.problems import Problem
from common.procedural import countdown_steps, procedural_problems
from common.solutions import solution, solutions
from common.verifier import Verifier, check_countdown, read_steps


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2+3=5,5+4=9", "4+3=7,2+7=9", True),
        ("2-3=-1,7-(-1)=8", "7+3=10,10-2=8", None),  # brackets are not the verifier's
        ("2-3=-1,7--1=8", "7+3=10,10-2=8", True),  # a-(b-c) = (a+c)-b
        ("8/4=2,6/2=3", "6*4=24,24/8=3", True),  # a/(b/c) = (a*c)/b
        ("1-3=-2,5-9=-4,-2*-4=8", "3-1=2,9-5=4,2*4=8", True),  # (a-b)*(c-d) = (b-a)*(d-c)
        ("1-3=-2,7*-2=-14,20--14=34", "3-1=2,2*7=14,20+14=34", True),  # a sign that a product carries out
        ("4-4=0,0*7=0,3+0=3", "4-4=0,7*0=0,3-0=3", True),  # nothing has no sign
        ("2*1=2,5+2=7", "2/1=2,5+2=7", False),
        ("4-4=0,3+0=3", "4/4=1,3*1=3", False),
        ("2+3=5,5*4=20", "4*3=12,12+2=14", False),
        ("6-2=4,4-1=3", "6-1=5,5-2=3", True),
        ("6-2=4,4-1=3", "2-1=1,6-1=5", False),
        ("2+3=5,5-5=0", "2-5=-3,-3+3=0", True),  # the first 5 is the result, the second the given number
    ],
)
def test_which_derivations_are_one(one: str, other: str, same: bool | None) -> None:
    if same is None:
        assert read_steps(one) is None
    else:
        assert (solution(one) == solution(other)) == same


def texts(values: list[int]) -> Iterator[str]:
    """All derivations from these numbers that the verifier can follow, as a model would write them."""
    if len(values) == 1:
        yield ""
    for i, j in permutations(range(len(values)), 2):
        x, y, rest = values[i], values[j], [v for k, v in enumerate(values) if k not in (i, j)]
        for op in "+-*/":
            if op == "/" and (y == 0 or x % y):
                continue
            result = {"+": x + y, "-": x - y, "*": x * y}.get(op) if op != "/" else x // y
            for end in texts([*rest, result]):
                yield f"{x}{op}{y}={result}" + ("," + end if end else "")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_right_text_is_a_solution_and_every_solution_has_one(size: int) -> None:
    rng = random.Random(size)
    for _ in range({2: 40, 3: 40, 4: 2}[size]):
        numbers = [rng.randint(1, 6) for _ in range(size)]
        gold, _ = countdown_steps(rng, numbers)
        found = {solution(text) for text in set(texts(numbers)) if check_countdown(text, gold)[0]}
        assert found == solutions(gold) and solution(gold) in found


def functions(numbers: tuple[int, ...], at_random: tuple[int, ...]) -> set[tuple[Fraction, int]]:
    """(value at the random numbers, value at ours) of every tree over all numbers whose divisions leave no remainder.

    Two trees are one function if their values at random numbers of ten digits agree.
    """
    if len(numbers) == 1:
        return {(Fraction(at_random[0]), numbers[0])}
    found = set()
    for mask in range(1, 2 ** len(numbers) - 1):
        sides = [
            functions(*(tuple(n for k, n in enumerate(all_) if mask >> k & 1 == side) for all_ in (numbers, at_random)))
            for side in (1, 0)
        ]
        for (a, x), (b, y) in product(*sides):
            found |= {(a + b, x + y), (a - b, x - y), (a * b, x * y)}
            if y and x % y == 0:
                found.add((a / b, x // y))
    return found


@pytest.mark.parametrize("numbers", [(3, 5, 8), (2, 7, 11), (12, 3, 2), (40, 90, 7, 13)])
def test_as_many_as_there_are_functions(numbers: tuple[int, ...]) -> None:
    """Where no number occurs twice, solutions are the same exactly if they are one function of the numbers.

    A result that equals a given number can be read in one way only: there the solutions are fewer.
    """
    rng = random.Random(0)
    found = functions(numbers, tuple(rng.randint(10**9, 10**10) for _ in numbers))
    by_target = Counter(value for _, value in found)
    golds, unclear = {}, set()
    for text in texts(list(numbers)):
        *steps, (_, _, _, target) = read_steps(text)
        golds.setdefault(target, text)
        if len({*numbers} & {step[3] for step in steps}) or len({step[3] for step in steps}) < len(steps):
            unclear.add(target)
    assert by_target.keys() == golds.keys() and len(unclear) < len(golds) / 2
    for target in [*golds][:: 1 if len(numbers) < 4 else 40]:
        count = len(solutions(golds[target]))
        assert count == by_target[target] or (target in unclear and count < by_target[target])


def test_large_problems_are_not_enumerated() -> None:
    assert solutions("1+2=3,3+4=7,7+5=12,12+6=18") is None


def sample(problem: Problem, text: str) -> Sample:
    [verdict] = Verifier()([problem], [text])
    return Sample(problem, [1], Response([5], [-1.0], False), text, verdict)


def test_counts_of_what_a_model_writes() -> None:
    """Right responses alone count, the same solution once, in any form that the verifier takes."""
    one = Problem("2 2 4=8:", "2+2=4,4+4=8", "a", "countdown")
    two = Problem("3 7 5=26:", "3*7=21,21+5=26", "b", "countdown")
    large = Problem("1 2 4 5 6=18:", "1+2=3,3+4=7,7+5=12,12+6=18", "c", "countdown")
    other = Problem("1+1=", "2", "d", "exact")
    written = {one: ["2+2=4,4+4=8", "Answer: 4+2=6,6+2=8", "2*2=4,4+4=8", "2+2=5,5+4=8"]}
    written |= {two: ["7*3=21,5+21=26", "nothing", "", "3+7=10"]}
    written |= {large: [large.answer] * 4, other: ["2"] * 4}
    samples = [sample(problem, text) for problem, found in written.items() for text in found]
    assert [s.verdict.reason == "match" for s in samples[:4]] == [True, True, True, False]
    counts = count_solutions(list(written), samples, 4)
    assert counts["distinct"] == [2, 1, None, None]
    assert counts["total"] == [2, 1, None, None]


def test_coverage_is_of_countdown_alone_and_each_problem_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    countdown = procedural_problems("countdown", "eval", 4)
    sums = procedural_problems("arithmetic", "eval", 3)
    monkeypatch.setattr(evaluation, "sampled_entropy", lambda samples: 0.5)
    drawn = lambda problems, sampler, verifier, timer, n, *_, **__: [  # noqa: E731
        sample(p, p.answer if g else "?") for p in problems for g in range(n)
    ]
    monkeypatch.setattr(evaluation, "sample_groups", drawn)
    kept, args = [], SimpleNamespace(eval_samples=2, temperature=1.0, max_response_length=24)
    sampler = SimpleNamespace(rest=lambda: None)
    found = evaluate(sampler, None, countdown, args, lambda step, counts: kept.append((step, counts)), 50)
    totals = [len(solutions(p.answer)) for p in countdown]
    assert kept == [(50, {"right": [1] * 4, "distinct": [1] * 4, "total": totals})]
    assert found["eval/coverage"] == pytest.approx(np.mean([1 / total for total in totals]))
    assert found["eval/coverage_low"] <= found["eval/coverage"] <= found["eval/coverage_high"]
    both = evaluate(sampler, None, countdown + sums, args, lambda *_: None, 0)
    assert both["eval/coverage"] == found["eval/coverage"] and both["eval/pass@1"] == 0.5
    kept.clear()
    assert "eval/coverage" not in evaluate(sampler, None, sums, args, lambda *both: kept.append(both), 0)
    assert kept == [(0, {"right": [1] * 3})]
