"""Answers: what is right, what is wrong, and that no text can hang, crash or execute anything."""

import ast
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import common
from common import maths
from common.maths import as_number, compare, final_answer, split_unit
from common.problems import Problem
from common.tasks import load_task
from common.text import opens_thought, silent_ids
from common.verifier import CHECKERS, Verdict, Verifier

VERIFIER = Verifier(timeout=20.0, workers=1)  # one for all tests: its worker takes seconds to start


@pytest.fixture(scope="module", autouse=True)
def close_verifier() -> Iterator[None]:
    yield
    VERIFIER.close()


KINDS = sorted(CHECKERS.keys() - {"rg"})  # which has test_gym.py, because its library is optional


def check(kind: str, response: str, gold: str) -> Verdict:
    [verdict] = VERIFIER([Problem("?", gold, "t-1", kind)], [response])
    return verdict


def boxed(answer: str, gold: str) -> Verdict:
    return check("math", f"thus \\boxed{{{answer}}}.", gold)


# --- Extraction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        ("  so it is\n42 \n", "so it is\n42"),
        ("", None),
        (" \n\t ", None),
        # \boxed
        (r"Thus \boxed{42}.", "42"),
        (r"\boxed{ 42 }", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{3} or rather \boxed{4} I think", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        ("\\boxed{a\\\\}", "a\\\\"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{42", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{4} and then \boxed{5", None),
        (r"\boxed{5\}", None),
        (r"\boxed", r"\boxed"),
        (r"{\boxed{7}}}}", "7"),
        (r"\fbox{5}", "5"),
        (r"\boxed{4} or \fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"so $\boxed 5$.", "5"),
        (r"it is \boxed 12.", "12"),
        (r"\boxedfoo{5}", r"\boxedfoo{5}"),
        (r"\fbox{5", None),
        (r"#### 1 Answer: 2 \boxed{3}", "3"),
        # tags
        ("<answer>42</answer>", "42"),
        ("<answer>1</answer> no <answer> 2 </answer>.", "2"),
        (r"<answer>\boxed{3}</answer>", "3"),
        ("<answer>42", None),
        ("<answer>1</answer> no, <answer>2", None),
        ("I use <answer> tags: <answer>5</answer>", "5"),
        ("Answer: 3 <answer>4</answer>", "4"),
        (r"\boxed{3} Answer: 2", "2"),
        # thinking
        (r"<think> \boxed{4} </think> \boxed{5}", "5"),
        (r"<think> \boxed{4} </think> 5", "5"),
        (r"<think> \boxed{4} </think>", None),
        ("a </think> b </think> c", "c"),
        (r"<think> maybe \boxed{4}", None),
        (r"<think> a </think> \boxed{4} <think> b", None),
        (r"\boxed{4}</think>Answer: 5", "5"),
        (r"<thinking>\boxed{4}</thinking>5", "5"),
        (r"<thought>\boxed{4}</thought>5", "5"),
        (r"<THINK>\boxed{4}</THINK>5", "5"),
        (r"[THINK]\boxed{4}[/THINK]5", "5"),
        (r"[THINK]\boxed{4}", None),
        (r"<thought>\boxed{4}", None),
        # sentences
        ("The answer is\n\\[18\\]", "\\[18\\]"),
        ("The answer is\n$$18$$", "$$18$$"),
        ("The answer is\n\n18\nas was to be shown", "18"),
        ("The answer is\nnot known", "The answer is\nnot known"),
        ("The correct option is B.", "B."),
        ("The correct choice is (B).", "(B)."),
        ("The answer should be 5.", "5."),
        ("\u7b54\u6848\u662f5", "5"),
        ("The correct option is C. No, the answer is D", "D"),
        ("The answer is C. No, the correct option is D", "D"),
        # marks
        ("3 * 14 = 42\n#### 42", "42"),
        ("<Answer>5</Answer>", "5"),
        ("<ANSWER>5", None),
        ("Answer: 18 \u2713", "18"),
        ("Answer: **18** \u2705", "18"),
        ("#### 1,234\nthat is all", "1,234"),
        ("#### 1\n#### 2", "2"),
        ("#### ", None),
        ("Answer: 42", "42"),
        ("answer:42", "42"),
        ("The final ANSWER:   x = 4  \nDone.", "x = 4"),
        ("Answer: 1. No. Answer: 2.", "2."),
        ("Answer:\n\n42\nDone", "42"),
        ("Answer:", None),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**", "42"),
        ("Answer : 42", "42"),
        ("Answer 42", "Answer 42"),
        # the later mark counts: "####" is also a heading
        ("#### Solution\n1+1\nAnswer: 2", "2"),
        ("Answer: see below\n#### 2", "2"),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize("mark", ["<think>", "<thinking>", "<THOUGHT>", "[THINK]"])
def test_marks_of_thought_stay_in_decoded_text(mark):
    """A tokenizer may have them as special tokens; without them "3</think>4" would be 34."""
    closed = mark[0] + "/" + mark[1:]
    tokens = {i: SimpleNamespace(content=text, special=True) for i, text in enumerate(["<eos>", mark, closed])}
    tokenizer = SimpleNamespace(
        added_tokens_decoder=tokens, decode=lambda ids: "".join(tokens[i].content for i in ids) + "\n"
    )
    assert silent_ids(tokenizer) == {0}
    assert [opens_thought(tokenizer, [0, i]) for i in (0, 1, 2)] == [False, True, False]


# --- Countdown --------------------------------------------------------------------------------------------------


GOLD = "3*7=21,21+5=26"


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        (GOLD, GOLD),
        ("7*3=21,5+21=26", GOLD),
        ("  3*7=21 , 21+5=26\n", GOLD),
        ("3*7=21,\n21+5=26", GOLD),
        ("1+2=3,3+4=7,3+7=10", "1+2=3,3+3=6,6+4=10"),
        ("2+3=5,4*6=24,5+24=29", "6*4=24,24+2=26,26+3=29"),
        ("4*6=24,2+3=5,24+5=29", "6*4=24,24+2=26,26+3=29"),
        ("8/4=2,2*5=10", "5*8=40,40/4=10"),
        ("4/4=1,4*1=4", "4*4=16,16/4=4"),
        ("2+2=4,4+4=8", "2*2=4,4+4=8"),
        (f"{10**30}*{10**29}={10**59},{10**59}-1={10**59 - 1}", f"{10**29}*{10**30}={10**59},{10**59}-1={10**59 - 1}"),
        ("3-7=-4,-4+30=26", "30+3=33,33-7=26"),
        ("5-5=0,0+3=3", "5/5=1,1*3=3"),
        ("3--4=7,7+1=8", "3--4=7,7+1=8"),
        ("<think>3+7=10, 10+5=15, no</think>3*7=21,21+5=26", GOLD),
        (r"\boxed{3*7=21,21+5=26}", GOLD),
        ("Answer: 3*7=21, 21+5=26", GOLD),
    ],
)
def test_countdown_accepts(response, gold):
    verdict = check("countdown", response, gold)
    assert verdict == Verdict(1.0, "match", gold.rpartition("=")[2])


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        # right steps, but not with these numbers to this target: the answer is what they reach
        ("3*7=21,21-5=16", "mismatch"),
        ("3*7=21", "mismatch"),
        ("21+5=26", "mismatch"),
        ("3*7=21,21+6=27", "mismatch"),
        ("3*7=21,21+6=27,27-1=26", "mismatch"),
        ("3*7=21,21+5=26,26*1=26", "mismatch"),
        ("3*7=21,21+5=26,26+0=26", "mismatch"),
        ("3+3=6,6+20=26", "mismatch"),
        ("21+5=26,3*7=21,26+21=47", "mismatch"),
        ("-3*-7=21,21+5=26", "mismatch"),
        # steps that are wrong, or leave more than one result, or are no steps: no answer
        ("3*7=22,22+5=27", "no_answer"),
        ("3*7=21,21+5=27", "no_answer"),
        ("3*7=26,26+5=26", "no_answer"),
        ("7/3=2,2+5=7", "no_answer"),
        ("3/7=0,0+5=5", "no_answer"),
        ("5/0=0,0+26=26", "no_answer"),
        ("0/0=26", "no_answer"),
        ("0/0=0", "no_answer"),
        ("3*7=21,3+5=8", "no_answer"),
        ("21+5=26,3*7=21", "no_answer"),
        ("3*7=21,21+5=26,", "no_answer"),
        (",3*7=21,21+5=26", "no_answer"),
        ("3*7=21,,21+5=26", "no_answer"),
        ("3*7=21;21+5=26", "no_answer"),
        ("3*7=21 21+5=26", "no_answer"),
        ("3 * 7 = 21, 21 + 5 = 26", "no_answer"),
        ("3*7=21,21+5", "no_answer"),
        ("3*7+5=26", "no_answer"),
        ("(3*7)+5=26", "no_answer"),
        ("3**7=2187", "no_answer"),
        ("21//5=4", "no_answer"),
        ("21%5=1", "no_answer"),
        ("3x7=21,21+5=26", "no_answer"),
        ("3\u00d77=21,21+5=26", "no_answer"),
        ("03*7=21,21+5=26", "no_answer"),
        ("3*7=021,21+5=26", "no_answer"),
        ("3*7=21,21+5=+26", "no_answer"),
        ("3*7=21.0,21+5=26", "no_answer"),
        ("5--0=5", "no_answer"),
        ("\u0663*7=21,21+5=26", "no_answer"),
        ("3*7=21,21+5=\u0662\u0666", "no_answer"),
        ("\uff13*7=21,21+5=26", "no_answer"),
        ("3*7=21,21+5=26 done", "no_answer"),
        ("26", "no_answer"),
        ("=26", "no_answer"),
        ("", "no_answer"),
        (",", "no_answer"),
        (" \n", "no_answer"),
        ("<think>3*7=21,21+5=26", "no_answer"),
        ("1" * 61 + "*1=" + "1" * 61, "no_answer"),
        ("9" * 5000 + "*1=" + "9" * 5000, "no_answer"),
    ],
)
def test_countdown_rejects(response, reason):
    verdict = check("countdown", response, GOLD)
    assert (verdict.reward, verdict.reason) == (0.0, reason)
    assert verdict.answer == (response.rpartition("=")[2] if reason == "mismatch" else None)


def test_countdown_counts_equal_numbers():
    """3 3 3: each of them once, a result of 3 among them."""
    gold = "3*3=9,9/3=3"
    assert check("countdown", "3/3=1,1*3=3", gold).reward == 1
    assert check("countdown", "3-3=0,0+3=3", gold).reward == 1
    assert check("countdown", "3*3=9,9-3=6,6-3=3", gold).reward == 0
    assert check("countdown", "3/3=1,3*1=3,3*1=3", gold).reward == 0


def test_countdown_agrees_with_brute_force():
    """Random steps, good and spoilt, against a checker that knows the numbers and searches them."""
    rng = random.Random(0)
    problems = load_task("countdown:numbers=3,high=5", limit=150)
    responses = []
    for problem in problems:
        characters = list(rng.choice([problem, rng.choice(problems)]).answer)
        if rng.random() < 0.7:
            characters[rng.randrange(len(characters))] = rng.choice("0123456789+-*/=,")
        responses.append("".join(characters))

    def slow(problem: Problem, response: str) -> bool:
        left, right = problem.prompt.removesuffix(":").split("=")
        pool = left.split()
        for step in response.split(","):
            term, equals, result = step.partition("=")
            op = next((op for op in "+-*/" if op in term[1:]), None)
            if not equals or op is None:
                return False
            x, _, y = term.rpartition(op)
            if x not in pool or (x == y and pool.count(x) < 2) or y not in pool:
                return False
            pool.remove(x)
            pool.remove(y)
            a, b = int(x), int(y)
            exact = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else None}[op]
            if result != str(exact):
                return False
            pool.append(result)
        return pool == [right]

    right = [verdict.reward == 1 for verdict in Verifier()(problems, responses)]
    assert right == [slow(*pair) for pair in zip(problems, responses, strict=True)]
    assert 20 < sum(right) < 130


# --- Exact words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("12", "12", True),
        (" 1  2\n3 ", "1 2 3", True),
        ("Answer: 1 2 3", "1 2 3", True),
        (r"\boxed{tac}", "tac", True),
        ("123", "1 2 3", False),
        ("1 2 3", "1 3 2", False),
        ("012", "12", False),
        ("12.0", "12", False),
        ("1 2", "1 2 3", False),
        ("the answer is 12", "12", True),
        ("cat", "act", False),
        ("Cat", "cat", False),
        ("-3", "3", False),
        ("\u0663", "3", False),
    ],
)
def test_exact(response, gold, right):
    verdict = check("exact", response, gold)
    assert (verdict.reward, verdict.reason) == ((1.0, "match") if right else (0.0, "mismatch"))
    assert verdict.answer == final_answer(response)


# --- Math -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1,234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("1/2", "0.5"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac{2}{4}", "1/2"),
        (r"-\tfrac{1}{2}", "-.5"),
        (r"\frac{-1}{2}", "-1/2"),
        ("2/4", "1/2"),
        ("1 / 2", "1/2"),
        ("$5", "5"),
        (r"\$5", "5"),
        (r"$\$5$", "5.00"),
        ("$5$.", "5"),
        ("$5.$", "5"),
        ("12.", "12"),
        (" 12 . ", "12"),
        ("3.0", "3"),
        ("0.50", ".5"),
        ("007", "7"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("+5", "5"),
        ("- 5", "-5"),
        ("0/7", "0"),
        ("9" * 40, "9" * 40),
        ("x" * 199, "x" * 199),
        ("x + 1", "x+1"),
        ("$x+1$", "x + 1"),
        ("(1, 2)", "( 1,2 )"),
        ("50%", "50 %"),
        ("50%", "50"),
        (r"50\%", "0.5"),
        ("50 percent", "50%"),
        (r"2\frac{1}{2}", "2.5"),
        (r"-1\frac12", "-3/2"),
        (r"\frac 34", "0.75"),
        (r"1\,234", "1234"),
        (r"11,\! 111,\! 111", "11111111"),
        ("1{,}234", "1234"),
        ("5 apples", "5"),
        ("5 cm", r"5\text{ centimeters}"),
        (r"864", r"864 \mbox{ inches}^2"),
        ("864 square inches", r"864 \mbox{ inches}^2"),
        ("90\u00b0", r"90^\circ"),
        ("90 degrees", r"90^{\circ}"),
        ("New York", r"\text{new york}"),
        ("C", r"\text{(C)}"),
        ("1010_2", "1010"),
        ("cat", "cat"),
        ("new  york", "new york"),
        ("1 2", "1  2"),
        ("1/0", "1/0"),
    ],
)
def test_math_equal(answer, gold):
    for gold_text in (gold, rf"so \boxed{{{gold}}}", f"long\n#### {gold}"):
        assert check("math", answer, gold_text) == Verdict(1.0, "match", answer.strip())
        verdict = check("math", rf"thus \boxed{{{answer}}} holds", gold_text)
        assert (verdict.reward, verdict.reason) == (1.0, "match")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("1,23", "123"),
        ("12,34,567", "1234567"),
        ("1234,567", "1234567"),
        ("0,001", "1"),
        ("1,2", "1.2"),
        ("1.5,234", "1.5234"),
        ("1 2", "12"),
        ("1 234", "1234"),
        ("50%", "5"),
        ("50", "0.5"),
        ("100, 200", "100200"),
        ("5 cm", "5 m"),
        ("5 cm", r"5\text{ cm}^2"),
        ("10 am", "10 pm"),
        ("52_8", "52_9"),
        ("5 million", "5"),
        ("5m", "5"),
        ("(C)", "(D)"),
        ("1/2/3", "1/6"),
        ("1/0", "0"),
        ("0/0", "0"),
        (r"2\frac{1}{2}", "21/2"),
        (r"2\frac{1}{2}", "1/2"),
        (r"2\frac{1}{2}", "1"),
        (r"1\frac{1}{2}3", "11/23"),
        ("2*3", "6"),
        ("--5", "5"),
        ("-5", "5"),
        ("5-", "-5"),
        ("3.0000001", "3"),
        ("0.333", "1/3"),
        ("0.333...", "0.333"),
        ("5=18", "18"),
        ("9" * 40, "9" * 39 + "8"),
        ("1" + "0" * 39, "1" + "0" * 40),
        ("\u0663", "3"),
        ("\u00b2", "2"),
        ("cat", "act"),
        ("listen", "silent"),
        ("X", "x"),
        ("True", "1"),
        ("inf", "nan"),
        ("x+1", "1+x"),
        (".", "0"),
        ("-", "0"),
        ("$", "0"),
    ],
)
def test_math_different(answer, gold):
    """Some of these mean the same. Algebra is for marked answers alone: these texts have no mark."""
    for first, second in ((answer, gold), (gold, answer)):
        verdict = check("math", first, second)
        assert (verdict.reward, verdict.reason, verdict.answer) == (0.0, "mismatch", first)


@pytest.mark.parametrize(
    "text", ["", ".", "-", "/", "1/", "/2", ",", "1.", "\n", "$", "1..2", "+-1", "0x10", "1_000", "inf"]
)
def test_as_number_takes_numbers_only(text):
    assert as_number(text) == (1 if text == "1." else None)


@pytest.mark.parametrize("response", ["", " ", r"\boxed{}", r"\boxed{5", "####", "Answer:", "5</think>"])
@pytest.mark.parametrize("kind", ["math", "exact"])
def test_no_answer(kind, response):
    assert check(kind, response, "5") == Verdict(0.0, "no_answer", None)


# --- Algebra ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\sqrt{12}", r"2\sqrt{3}"),
        (r"3\sqrt2", r"\sqrt{18}"),
        ("2*sqrt(3)", r"\sqrt{12}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("2**10", "1024"),
        ("-6, 6", "6,-6"),
        (r"\pm 6", "6,-6"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("5", "x=5"),
        ("2x+3", "y = 2x + 3"),
        ("[-2,7]", r"x \in [-2,7]"),
        (r"\begin{pmatrix}1/5\\-18/5\end{pmatrix}", r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}"),
        ("$1+1$", "2"),
        # leniencies, listed in the head of common/maths.py
        ("9+9", "18"),
        ("5=18", "18"),
        ("1.5707963", r"\frac{\pi}{2}"),
    ],
)
def test_algebra_accepts(answer, gold):
    assert compare(answer, gold) is None
    assert boxed(answer, gold) == Verdict(1.0, "match", answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("6", "6,-6"),
        ("5,6", "5"),
        ("5 or 6", "5"),
        (r"\{5,6\}", "5"),
        ("x=5, x=6", "5"),
        ("2", r"2\sqrt{3}"),
        ("5t", "5"),
        ("5x", "5"),
        ("5 m", "5"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        (r"x\ge3", r"[3,\infty)"),
        (r"\pm 3", "3"),
        ("2,5", "2.5"),
        ("q-p", "p - q"),
        (r"\text{listen}", "silent"),
        ("listen", "silent"),
        ("9+\u0669", "18"),
        ("0.333333", "1/3"),
        ("7 times 6 is 43", "43"),
        ("{{{}}}", "x+1"),
        ("x\ud800", "x+1"),
        ("1\x002", "x+1"),
    ],
)
def test_algebra_rejects(answer, gold):
    assert boxed(answer, gold) == Verdict(0.0, "mismatch", answer)


def test_two_boxes_are_not_a_set():
    """math-verify alone reads {9, 10} here, and takes neither."""
    assert check("math", r"\boxed{9} no, \boxed{10}", "10").reward == 1
    assert check("math", r"\boxed{9} no, \boxed{10}", "9").reward == 0


@pytest.mark.parametrize("response", ["7 times 6 is 43", "so it is\n43", "x+1", "1" * 201])
def test_prose_is_no_answer_to_algebra(response):
    """Without a mark only a short line counts, and only as number or words."""
    gold = {"x+1": "1+x"}.get(response, "43")
    verdict = check("math", response, gold)
    short = len(response) <= 200 and "\n" not in response
    assert verdict == Verdict(0.0, "mismatch" if short else "no_answer", response if short else None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"864 \mbox{ inches}^2", ("864", "inch^2")),
        (r"\frac{270}7\text{ degrees}", (r"\frac{270}7", "degree")),
        ("3 cubic feet", ("3", "foot^3")),
        (r"x\text{ cm}", ("x", "cm")),
        (r"\text{cm}", (r"\text{cm}", "")),
        ("5 million", ("5 million", "")),
        ("5m", ("5m", "")),
        (r"5\text{ m}", ("5", "m")),
        ("4210_{5}", ("4210", "base 5")),
        (r"50\%", ("50", "%")),
        (r"\$36", ("36", "dollar")),
        (r"\$36\text{ per hour}", ("36", "dollar hour^-1")),
        (r"x = \$36", ("x = 36", "dollar")),
        (r"5\text{ red marbles}", ("5", "red marble")),
        (r"5\text{ million}", (r"5\text{ million}", "")),
        (r"10\text{ am}", (r"10\text{ am}", "")),
        ("5^{\\text{th}}", ("5", "th")),
        (r"10\mathrm{Mg}", (r"10\mathrm{Mg}", "")),
        ("x_2", ("x_2", "")),
    ],
)
def test_split_unit(text, parts):
    assert split_unit(text) == parts


def test_long_answers_are_compared_as_text():
    long = "x+" * 150 + "1"
    assert boxed(long, long).reward == 1
    assert compare(long, "1+" + "x+" * 149 + "x") is False


def test_golds_that_verify():
    golds = ["5", "#### 1,234", r"11\sqrt2", r"\text{east}", "6,-6", r"so \boxed{x^2}", "x^{", r"\boxed{5", "1/0", "?!"]
    problems = [Problem("?", gold, "t-1", "math") for gold in [*golds, "x+" * 150 + "1"]]
    assert VERIFIER.verifiable(problems) == [True] * 6 + [False] * 5
    others = [Problem("?", "3*7=21", "t-1", "countdown"), Problem("?", "3*7=22", "t-1", "countdown")]
    assert VERIFIER.verifiable([*others, Problem("?", "tac", "t-1", "exact")]) == [True, False, True]


def read_golds(name: str) -> list[Problem]:
    folder = Path(os.environ.get("MATH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip(f"{name} is not in {folder}; the variable MATH_DATA names the folder that holds it")
    return [Problem("?", json.loads(line)["answer"], name, "math") for line in (folder / name).open()]


@pytest.mark.parametrize(
    "name", ["gsm8k_train.jsonl", "gsm8k_test.jsonl", pytest.param("math500_test.jsonl", marks=pytest.mark.slow)]
)
def test_golds_of_real_data(name):
    """Each verifies against itself, as read by math-verify too; another problem's does not."""
    problems = read_golds(name)
    golds = [final_answer(problem.answer) for problem in problems]
    right = [verdict.reward for verdict in VERIFIER(problems, [f"\\boxed{{{gold}}}" for gold in golds])]
    assert sum(right) >= 0.998 * len(golds)
    assert sum(VERIFIER.verifiable(problems)) >= 0.998 * len(golds)
    shuffled = random.Random(0).sample(golds, len(golds))
    verdicts = VERIFIER(problems, [f"\\boxed{{{gold}}}" for gold in shuffled])
    wrong = [v.reward for v, a, b in zip(verdicts, golds, shuffled, strict=True) if a != b]
    assert len(wrong) > 0.9 * len(golds) and sum(wrong) <= 0.01 * len(wrong)


# --- Worker processes -------------------------------------------------------------------------------------------

HUNG = r"\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}"  # one integer power of hours, in C: no signal handler gets a turn


def test_a_hung_comparison_is_killed_and_the_others_are_not():
    with Verifier(timeout=1.0, workers=1) as verifier:
        problems = [Problem("?", "x+1", "t-1", "math")] * 3
        verifier(problems[:1], [r"\boxed{1+x}"])
        started = time.monotonic()
        verdicts = verifier(problems, [r"\boxed{1+x}", f"\\boxed{{{HUNG}}}", r"\boxed{x+2}"])
        assert time.monotonic() - started < 1 + 2 + 5  # its last pair waits for the start of a new worker
        assert [v.reason for v in verdicts] == ["match", "timeout", "mismatch"]
        assert verdicts[1] == Verdict(0.0, "timeout", HUNG)
    assert multiprocessing.active_children() == [] or VERIFIER._pool is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "bomb",
    [
        "{" * 20 + "}" * 20,
        "9^{9^{9^9}}",
        "(10^6)!",
        "(((((9!)!)!)!)!)!",
        r"\binom{10^9}{10^8}",
        "(x+y+z+w)^{500}",
        r"\prod_{i=1}^{10^7} i",
    ],
)
def test_no_bomb_outlives_its_time(bomb):
    with Verifier(timeout=2.0, workers=1) as verifier:
        problem = Problem("?", "x+1", "t-1", "math")
        verifier([problem], [r"\boxed{1+x}"])
        started = time.monotonic()
        [verdict] = verifier([problem], [f"\\boxed{{{bomb}}}"])
        assert time.monotonic() - started < 2 + 2
        assert verdict.reward == 0 and verdict.reason in ("timeout", "mismatch", "error")


def test_workers_start_only_when_needed_and_stop(monkeypatch):
    before = multiprocessing.active_children()
    with Verifier(timeout=20, workers=1) as verifier:
        problems = [Problem("?", g, "t-1", k) for g, k in ((GOLD, "countdown"), ("5", "math"), ("5", "exact"))]
        verifier(problems, [GOLD, r"\boxed{\frac{10}{2}}", "4"])
        assert multiprocessing.active_children() == before
        # an idle worker that dies is replaced
        problem = Problem("?", "x+1", "t-1", "math")
        for _ in range(2):
            assert verifier([problem], [r"\boxed{1+x}"])[0].reason == "match"
            [worker] = set(multiprocessing.active_children()) - set(before)
            worker.kill()
            worker.join()
        assert verifier([problem], [r"\boxed{x+2}"])[0].reason == "mismatch"
    assert set(multiprocessing.active_children()) <= set(before)


def test_any_thread_can_ask():
    results = {}

    def ask(i: int) -> None:
        results[i] = boxed(f"{i}+x", f"x+{i % 3}").reward

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {0: 1, 1: 1, 2: 1, 3: 0, 4: 0, 5: 0}


SCRIPT = """
import multiprocessing, sys, threading, time
print("read", __name__, flush=True)
import common.verifier
from common.problems import Problem
verifier = common.verifier.Verifier(timeout=1.5, workers=1)
problem = Problem("?", "x+1", "t-1", "math")
print(verifier([problem], [r"\\\\boxed{1+x}"])[0].reason, flush=True)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "busy":
    threading.Thread(target=verifier, args=([problem], [r"\\\\boxed{HUNG}"]), daemon=True).start()
    time.sleep(0.5)
print("ready", flush=True)
if sys.argv[2] != "exit":
    time.sleep(60)
""".replace("HUNG", HUNG)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("idle", "exit"),
        ("idle", "SIGKILL"),
        ("busy", "SIGTERM"),
        pytest.param("idle", "SIGTERM", marks=pytest.mark.slow),
        pytest.param("busy", "SIGINT", marks=pytest.mark.slow),
        pytest.param("busy", "exit", marks=pytest.mark.slow),
        pytest.param("busy", "SIGKILL", marks=pytest.mark.slow),
    ],
)
def test_workers_die_with_the_process(state, end, tmp_path):
    """However it ends; and a worker does not run the main script, which has no guard here, nor import torch."""
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), state, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(common.__file__).parents[1])},
    )
    assert process.stdout.readline() == "read __main__\n"
    assert process.stdout.readline() == "match\n"
    [worker] = map(int, process.stdout.readline().split())
    assert process.stdout.readline() == "ready\n"
    if end != "exit":
        assert alive(worker)
        assert "torch" not in Path(f"/proc/{worker}/maps").read_text()
        process.send_signal(signal.Signals[end])
    assert process.stdout.read() == ""
    process.wait(10)
    deadline = time.monotonic() + 1.5 + 2.0
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


# --- Hostile text -----------------------------------------------------------------------------------------------


CODE = [
    "__import__('os').system('touch {0}')",
    "__import__('pathlib').Path('{0}').touch()",
    "exec(\"open('{0}','w')\")",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0](['touch','{0}'])",
    "$(touch {0})",
    "`touch {0}`",
    "; touch {0} #",
    "\\write18{{touch {0}}}\\input{{|touch {0}}}",
    "{{{{''.__class__}}}}%s%n{0}",
    "!!python/object/apply:os.system ['touch {0}']",
]
PLACES = [
    "{}",
    r"\boxed{{{}}}",
    "#### {}",
    "Answer: {}",
    "<think></think>{}",
    "3*7={},21+5=26",
    "{}*7=21,21+5=26",
    "3*7=21,21+5={}",
    "1/{}",
    r"\frac{{{}}}{{1}}",
    r"\frac{{1}}{{{}}}",
    "1,{}",
    "$ {} $",
]


@pytest.mark.parametrize("kind", KINDS)
def test_code_in_an_answer_does_not_run(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payloads = [code.format(tmp_path / "pwned") for code in CODE] + [code.format("pwned") for code in CODE]
    responses = [place.format(payload) for payload in payloads for place in PLACES]
    for gold in (GOLD, "26", *payloads[:2]):
        verdicts = VERIFIER([Problem("?", gold, "t-1", kind)] * len(responses), responses)
        assert all(
            v.reason in ("mismatch", "no_answer") or gold in response
            for v, response in zip(verdicts, responses, strict=True)
        )
    assert list(tmp_path.iterdir()) == []


MEGA = 1_000_000
BAIT = {
    "tower of powers": "9**9**9**9**9",
    "latex tower": "9^{9^{9^{9^{9}}}}",
    "long tower": "9^" * 100_000 + "9",
    "factorials": "9" + "!" * 1000 + "=(10^6)!",
    "text": "abc de\n" * (MEGA // 7),
    "digits": "7" * MEGA,
    "decimals": "0." + "7" * MEGA,
    "commas": "," * MEGA,
    "thousands": "1" + ",234" * (MEGA // 4),
    "slashes": "1/" * (MEGA // 2),
    "minus": "-" * MEGA,
    "dots": "." * MEGA,
    "dollars": "$" * MEGA,
    "steps": "1+1=2," * (MEGA // 6),
    "steps under the limit": ",".join(["1+1=2"] * 1600),
    "operators": "1" + "+1" * (MEGA // 2) + "=2",
    "long product": "9" * 4000 + "*" + "9" * 4000 + "=1",
    "spaces": " " * MEGA,
    "spaces inside": "1" + " " * MEGA + "2",
    "spaces and digits": "1 " * (MEGA // 2),
    "newlines": "\n" * MEGA + "x",
    "white space of all kinds": "\t\r\n\x0b\x0c\x1c\u2028\u3000 " * 100_000,
    "open braces": "{" * 100_000,
    "closed braces": "}" * 100_000,
    "nested braces": "{" * 100_000 + "}" * 100_000,
    "boxed, open": "\\boxed{" + "{" * MEGA,
    "boxed, closed": "\\boxed{" + "}" * MEGA,
    "boxed, nested": "\\boxed{" + "{" * 100_000 + "}" * 100_001,
    "boxed, alternating": "\\boxed{" + "{}" * 100_000,
    "boxed, backslashes": "\\boxed{" + "\\" * MEGA,
    "boxed many": "\\boxed{" * 100_000,
    "boxed, then space": ("\\boxed" + " " * 1000) * 1000,
    "boxed, no braces": "\\boxed 9^9" * 100_000,
    "fbox, nested": "\\fbox{" * 100_000 + "}" * 100_000,
    "tags": "<answer>" * 100_000,
    "tags, closed": "<answer>" * 100_000 + "9^9^9" * 1000 + "</answer>" * 100_000,
    "answer, spaced far": ("answer" + " " * 1000 + "x") * 1000,
    "boxed text": "\\boxed{" + "abc de " * (MEGA // 7) + "}",
    "boxed units": "\\boxed{" + "\\text{cm}" * 100_000 + "}",
    "boxed thousands": "\\boxed{" + ", 1" * 100_000 + "}",
    "boxed many, closed": "\\boxed{" * 100_000 + "}" * 100_000,
    "frac many": "\\frac{" * 100_000,
    "frac of digits": "\\frac{" + "1" * MEGA + "}{2}",
    "hashes": "####" * 100_000,
    "hashes and spaces": "#### " * 100_000,
    "answers": "answer:" * 100_000,
    "answers, half": "answe" * 100_000,
    "answers, spaced": "answer :" * 100_000,
    "answer, then space": "answer:" + " " * MEGA,
    "thoughts": "</think>" * 100_000,
    "open thoughts": "<think>" * 100_000,
    "nul": "\x00" * 1000,
    "nul inside": "3*7=21\x00,21+5=26",
    "half characters": "\ud800\udc00\udfff",
    "half characters boxed": "\\boxed{\ud800}",
    "answer of half a character": "Answer: \udfff",
    "emoji": "\U0001f600" * 10_000,
    "combining": "e" + "\u0301" * 100_000,
    "right to left": "\u202e62",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAIT)
def test_hostile_text_is_wrong_and_quickly_so(kind, name):
    """I10. Every one takes milliseconds; a pattern that is quadratic would take minutes at these lengths."""
    started = time.process_time()
    verdict = check(kind, BAIT[name], GOLD if kind == "countdown" else "26")
    assert time.process_time() - started < 3
    assert (verdict.reward, verdict.reason in ("mismatch", "no_answer")) == (0.0, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BAIT)
def test_hostile_gold_is_harmless(kind, name):
    """A row of a data set may be as bad as a model's answer."""
    gold = BAIT[name][:100_000]
    assert check(kind, "26", gold).reason in ("mismatch", "no_answer")
    assert check(kind, "\\boxed{" + gold + "}", gold).reason in ("match", "mismatch", "no_answer")


# --- The verifier -----------------------------------------------------------------------------------------------


def test_one_verdict_for_each_pair_in_order():
    problems = [Problem("?", "1", "a", "exact"), Problem("?", "1/2", "b", "math"), Problem("?", GOLD, "c", "countdown")]
    assert Verifier()(problems, ["1", "0.5", "nothing"]) == [
        Verdict(1.0, "match", "1"),
        Verdict(1.0, "match", "0.5"),
        Verdict(0.0, "no_answer", None),
    ]
    assert Verifier()([], []) == []
    with pytest.raises(ValueError):
        Verifier()(problems, ["1"])


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError, ZeroDivisionError, KeyError])
def test_a_checker_that_raises_is_counted_and_the_next_one_works(error, monkeypatch):
    def broken(text: str, gold: str) -> tuple[bool, str | None]:
        raise error("no")

    monkeypatch.setitem(CHECKERS, "broken", broken)
    problems = [Problem("?", "1", str(i), kind) for i, kind in enumerate(["exact", "broken", "exact", "broken"])]
    right, wrong = Verdict(1.0, "match", "1"), Verdict(0.0, "error", None)
    assert Verifier()(problems, ["1"] * 4) == [right, wrong, right, wrong]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_not_swallowed(error, monkeypatch):
    def interrupted(text: str, gold: str) -> tuple[bool, str | None]:
        raise error

    monkeypatch.setitem(CHECKERS, "interrupted", interrupted)
    with pytest.raises(error):
        check("interrupted", "1", "1")


def test_an_unknown_kind_is_a_mistake_of_ours():
    """Not of the model's: it must not become a reward of 0 for every answer."""
    with pytest.raises(KeyError):
        check("no such kind", "1", "1")


# --- Random rewards ---------------------------------------------------------------------------------------------


def tosses(seed: int, problems: list[Problem], responses: list[str]) -> list[float]:
    return [verdict.reward for verdict in Verifier("random", seed)(problems, responses)]


def test_random_rewards_are_fair_and_repeat():
    problems = [Problem("?", "1", f"t-{i // 8}", "exact") for i in range(2000)]
    responses = [str(i % 3) for i in range(2000)]
    first = tosses(0, problems, responses)
    random.seed(1)
    state = random.getstate()
    assert tosses(0, problems, responses) == first and random.getstate() == state
    assert 0.46 < sum(first) / 2000 < 0.54 and set(first) == {0.0, 1.0}
    other = tosses(1, problems, responses)
    assert 0.4 < sum(a == b for a, b in zip(first, other, strict=True)) / 2000 < 0.6


def test_random_rewards_are_pinned():
    """Locks them: a resumed run, in another process, meets the same ones."""
    problems = [Problem("?", "1", f"t-{i // 4}", "exact") for i in range(16)]
    assert "".join(f"{toss:.0f}" for toss in tosses(7, problems, ["1"] * 16)) == "0100010010100000"


@pytest.mark.parametrize("what", ["problem", "position", "response"])
def test_a_toss_depends_on_problem_position_and_response(what):
    ids = [f"t-{i}" if what == "problem" else "t-0" for i in range(64)]
    responses = [str(i) if what == "response" else "1" for i in range(64)]
    batches = [([Problem("?", "1", i, "exact")], [r]) for i, r in zip(ids, responses, strict=True)]
    if what == "position":
        batches = [([Problem("?", "1", "t-0", "exact")] * 64, ["1"] * 64)]
    rewards = [reward for batch in batches for reward in tosses(0, *batch)]
    assert len(rewards) == 64 and 16 < sum(rewards) < 48


def test_random_rewards_say_nothing_of_the_gold():
    problems = [Problem("?", gold, "t-0", "exact") for gold in ("1", "2") for _ in range(200)]
    rewards = tosses(0, problems, ["1"] * 400)
    assert 70 < sum(rewards[:200]) < 130 and 70 < sum(rewards[200:]) < 130
    verdicts = Verifier("random", 0)(problems, ["Answer: 1"] * 400)
    assert {v.answer for v in verdicts} == {"1"}
    assert [v.reason for v in verdicts] == ["match"] * 200 + ["mismatch"] * 200


@pytest.mark.parametrize("text", ["\ud800", "\x00", "x" * 1_000_000, ""])
def test_random_rewards_take_any_text(text):
    """A path that is not UTF-8 gives the id of its problems half characters."""
    [verdict] = Verifier("random")([Problem("?", "1", "t\udcff-1", "math")], [text])
    assert verdict.reward in (0.0, 1.0)


@pytest.mark.parametrize("name", ["maths", "verifier"])
def test_the_verifier_evaluates_nothing(name):
    """Locks a decision: no name that evaluates text occurs where a model's text is read."""
    tree = ast.parse((Path(maths.__file__).parent / f"{name}.py").read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
    }
    forbidden = "eval exec sympify parse_expr sympy subprocess pickle system popen ExprExtractionConfig __import__"
    assert not names & set(forbidden.split())


def test_only_numbers_reach_the_evaluating_parser(tmp_path):
    """sympy makes a number of digits by way of its parser, which evaluates: nothing but digits may come that far."""
    code = """if True:
        import json, sys
        import sympy.parsing.sympy_parser as parser
        seen, plain = [], parser.eval_expr
        def watch(code, *rest):
            seen.append(code)
            return plain(code, *rest)
        parser.eval_expr = watch
        from common.maths import symbolic
        for text in json.loads(sys.argv[1]):
            try:
                symbolic(text, text)
            except Exception:
                pass
        print(json.dumps(seen))
    """
    texts = ["x+1", "9+9.5", r"\frac{x}{2}", "f(1)", "exec(1)", "exec{1}", "x.__class__", *CODE]
    texts = [text.format(tmp_path / "pwned") if "{0}" in text else text for text in texts]
    root = Path(common.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, json.dumps(texts)], capture_output=True, text=True, cwd=root)
    seen = json.loads(done.stdout)
    assert len(seen) > 3 and not [c for c in seen if not re.fullmatch(r"(Integer|Float) \('?[0-9.]+'?\s*\)", c.strip())]
    assert list(tmp_path.iterdir()) == []


def test_workers_do_not_import_torch():
    """What a worker imports is what this module imports; torch would take it seconds and 200 MB."""
    code = "import sys, common.verifier; assert not {'torch', 'transformers', 'datasets'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(common.__file__).parents[1], check=True)
