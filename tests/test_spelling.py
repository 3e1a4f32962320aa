"""One number in every usual spelling: all are the same answer, and another number in any of them is another."""

import itertools

import pytest

from common.problems import Problem
from common.verifier import Verifier

SPELLINGS = {
    "450000": [
        "450000",
        "450,000",
        "450\u202f000",
        "4.5e5",
        "4.5E5",
        r"4.5 \times 10^5",
        r"4.5\cdot10^{5}",
        "4.5 x 10^5",
        "4.5\u00d710\u2075",
        "\uff14\uff15\uff10\uff10\uff10\uff10",
        r"450{,}000",
        r"450\,000",
        "$450,000",
        "450000.0",
    ],
    "-0.25": ["-0.25", "-1/4", "\u22120.25", r"-\frac{1}{4}", r"-\frac14", "-.25", "\u20130.25", "-2.5e-1", "-25%"],
    "3/2": ["3/2", "1.5", "1 1/2", r"1\frac{1}{2}", "1\u00bd", r"\dfrac{3}{2}", r"\frac32", "1.50", "15e-1"],
    "0.00000000000000000016": ["1.6e-19", r"1.6\times 10^{-19}", "1.6 \u00d7 10^-19", "1.6E-19"],
    r"\sqrt{2}": [r"\sqrt{2}", "\u221a2", "sqrt(2)", r"\sqrt2"],
    "x^2": ["x^2", "x\u00b2", "x**2", r"x^{2}"],
}


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as made:
        yield made


def rewards(verifier, pairs: list[tuple[str, str]], kind: str = "math") -> list[float]:
    problems = [Problem("q", gold, str(i), kind) for i, (gold, _) in enumerate(pairs)]
    return [verdict.reward for verdict in verifier(problems, [answer for _, answer in pairs])]


def test_every_spelling_of_a_number_is_every_other(verifier) -> None:
    pairs = [pair for same in SPELLINGS.values() for pair in itertools.product(same, same)]
    found = rewards(verifier, [(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])
    assert not [pair for pair, reward in zip(pairs, found, strict=True) if reward != 1]


def test_different_numbers_are_different_in_every_spelling(verifier) -> None:
    pairs = [
        pair
        for one, other in itertools.permutations(SPELLINGS, 2)
        for pair in itertools.product(SPELLINGS[one][:4], SPELLINGS[other])
    ]
    found = rewards(verifier, [(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])
    assert not [pair for pair, reward in zip(pairs, found, strict=True) if reward]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3e8", "24e", False),
        (r"6.63\times 10^{-34}", r"1.6\times 10^{-19}", False),
        (r"\frac{1}{10^{12}}", "0.0", False),
        ("1e-9", "-1e-9", False),
        (r"5 \mathrm{~cm}", "5 cm", True),
        (r"5\text{ m/s}", r"5~\mathrm{m\,s^{-1}}", True),
        ("5", "5 USD", True),
        ("5", "5 \u00b0C", True),
        ("5", "5 cm", True),
        ("5 kg", "5 cm", False),
    ],
)
def test_scale_sign_and_units(verifier, gold: str, answer: str, right: bool) -> None:
    assert rewards(verifier, [(gold, rf"\boxed{{{answer}}}")]) == [float(right)]


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("5", "**Answer**: 5"),
        ("5", "**Answer:** 5"),
        ("5", "Answer:\n\\[\n5\n\\]"),
        ("5", r"\boxed{4}, no: answer: 5"),
        ("D", r"First \boxed{C}. Answer: D"),
        ("E", r"\boxed{(E) 25}"),
        ("E", r"\boxed{E: by symmetry}"),
    ],
)
def test_the_last_mark_counts_whatever_its_kind(verifier, gold: str, response: str) -> None:
    assert rewards(verifier, [(gold, response)]) == [1.0]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("28 + 13 = 41.", True),
        ("The answer is 41.", True),
        (r"So \boxed{41}", True),
        ("<answer>41</answer>", True),
        ("Answer: 41", True),
        ("28 + 13 = 42", False),
        ("41 is not it: 42", False),
    ],
)
def test_procedural_tasks_pay_a_real_models_answer(verifier, response: str, right: bool) -> None:
    assert rewards(verifier, [("41", response)], "exact") == [float(right)]
