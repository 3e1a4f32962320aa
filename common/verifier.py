"""Answers: is a response right, and if not, why.

    verdicts = Verifier()(problems, responses)       # one Verdict per response

Model text is never evaluated. Each checker is a few regular expressions and exact arithmetic on bounded numbers, linear
in the length of the text, so nothing a model writes can hang, crash or execute code here.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.tasks import Problem


@dataclass(frozen=True)
class Verdict:
    """Reward 0.0 or 1.0, its reason (match, mismatch, no_answer, timeout, error), and the answer that was extracted."""

    reward: float
    reason: str
    answer: str | None


# --- Extraction -------------------------------------------------------------------------------------------------


def last_boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} with balanced braces (\{ and \} aside); None if none is there or it is open."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    text = text[start + len("\\boxed") :]
    depth = 0
    for run in re.finditer(r"(?:\\.)+|\{+|\}+", text, re.DOTALL):
        if run[0][0] == "{":
            depth += len(run[0])
        elif run[0][0] == "}":
            if len(run[0]) >= depth:
                return text[1 : run.start() + depth - 1]
            depth -= len(run[0])
    return None


def final_answer(text: str) -> str | None:
    r"""The marked answer: the last \boxed{}, else the line after the last "####" or "Answer:", else the whole text.

    Only what comes after a closing </think> counts. None if nothing is left.
    """
    text = text.rpartition("</think>")[2]
    if "\\boxed{" in text:
        text = last_boxed(text) or ""
    elif mark := re.match(r".*(?:####|answer:)", text, re.DOTALL | re.IGNORECASE):
        text = text[mark.end() :].strip().partition("\n")[0]
    return text.strip() or None


# --- Checkers: (response, gold) -> (right, answer) -----------------------------------------------------------------
# Digits are ASCII: Python's \d and int() also take Arabic-Indic and other digits.

COUNTDOWN_NUMBER = r"(0|-?[1-9][0-9]{0,59})"
STEP = re.compile("([-+*/])".join([COUNTDOWN_NUMBER] * 2) + "=" + COUNTDOWN_NUMBER)
# 1234 or 1,234 or nothing before a decimal point; then decimals.
NUMBER = re.compile(r"([-+]?)([0-9]{1,30}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,9}|(?=\.))(?:\.([0-9]{1,30}))?")
LATEX_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?[0-9]{1,30})\}\{([0-9]{1,30})\}")


def countdown_result(text: str) -> tuple[Counter, int] | None:
    """The numbers that the steps consume and the number they end in; None unless every step is right.

    Steps are "3*7=21,21+5=26": each operand is a given number or a result not used before. Results may be zero or
    negative; numbers have no leading zeros. Taking a result wherever its value fits loses nothing: all but the last
    result are used up in the end, so the given numbers are the same for every choice.
    """
    given, open_results, result = Counter(), Counter(), None
    for part in text.split(","):
        step = STEP.fullmatch(part.strip())
        if step is None:
            return None
        x, op, y, result = int(step[1]), step[2], int(step[3]), int(step[4])
        for operand in (x, y):
            if open_results[operand]:
                open_results[operand] -= 1
            else:
                given[operand] += 1
        if op == "/":
            if y == 0 or x != y * result:
                return None
        elif result != {"+": x + y, "-": x - y, "*": x * y}[op]:
            return None
        open_results[result] += 1
    return (given, result) if open_results.total() == 1 else None


def check_countdown(text: str, gold: str) -> tuple[bool, str | None]:
    """Same numbers, each used once, and the same final result as the gold steps. The answer is that result."""
    steps = final_answer(text)
    found = countdown_result(steps) if steps is not None and len(steps) < 10_000 else None
    return found is not None and found == countdown_result(gold), None if found is None else str(found[1])


def check_exact(text: str, gold: str) -> tuple[bool, str | None]:
    """The same words, white space aside."""
    answer = final_answer(text)
    return answer is not None and answer.split() == gold.split(), answer


def tidy(text: str) -> str:
    """Without "$" around it, a final period and white space; only a space between two digits stays: "1 2" is not 12."""
    text = " ".join(text.split()).strip("$ ").removeprefix("\\$").removesuffix(".").strip("$ ")
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", text)


def as_number(text: str) -> Fraction | None:
    r"""Integers, decimals and fractions ("1,234", "$5.0", "-3/4", "\frac{1}{2}") as exact numbers; else None.

    "50%" is none: whether it means 50 or 0.5 depends on the question.
    """
    text = tidy(text)
    if latex := LATEX_FRACTION.fullmatch(text):  # the whole of it: 2\frac{1}{2} is not 21/2
        text = "{}{}/{}".format(*latex.groups())
    parts = [NUMBER.fullmatch(part) for part in text.split("/", 2)]
    if len(parts) > 2 or not all(parts):
        return None
    values = []
    for sign, whole, decimals in (part.groups(default="") for part in parts):
        value = Fraction(int(whole.replace(",", "") + decimals), 10 ** len(decimals))
        values.append(-value if sign == "-" else value)
    return values[0] if len(values) == 1 else values[0] / values[1] if values[1] else None


def check_math(text: str, gold: str) -> tuple[bool, str | None]:
    """Equal as exact numbers, or the same characters where either is not a plain number."""
    answer, wanted = final_answer(text), final_answer(gold)
    if answer is None or wanted is None:
        return False, answer
    a, b = as_number(answer), as_number(wanted)
    if a is not None and b is not None:
        return a == b, answer
    return tidy(answer) == tidy(wanted), answer


CHECKERS = {"countdown": check_countdown, "exact": check_exact, "math": check_math}


class Verifier:
    """Checks responses. With `reward_mode="random"` the reward is a coin toss: a control, with nothing to learn.

    The coin is a function of (seed, problem, position, response), so that a resumed run repeats it.
    """

    def __init__(self, reward_mode: str = "verifier", seed: int = 0):
        self.reward_mode = reward_mode
        self.seed = seed

    def __call__(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
        """One verdict per (problem, response) pair; never raises on what a response contains."""
        verdicts = [self._check(*pair) for pair in zip(problems, responses, strict=True)]
        if self.reward_mode == "verifier":
            return verdicts
        tosses = (
            random.Random(f"{self.seed} {problem.id!r} {index} {response!r}").random() < 0.5
            for index, (problem, response) in enumerate(zip(problems, responses, strict=True))
        )
        return [Verdict(float(toss), v.reason, v.answer) for toss, v in zip(tosses, verdicts, strict=True)]

    def _check(self, problem: Problem, response: str) -> Verdict:
        checker = CHECKERS[problem.kind]
        try:
            right, answer = checker(response, problem.answer)
        except Exception:  # a checker that fails on some text must not stop a run; the reason is counted
            return Verdict(0.0, "error", None)
        if right:
            return Verdict(1.0, "match", answer)
        return Verdict(0.0, "no_answer" if answer is None else "mismatch", answer)
