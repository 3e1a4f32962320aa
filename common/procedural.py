"""Procedural tasks: problems without end that need no download.

    problems = procedural_problems("countdown:numbers=4,high=20", "train", 100)

A task takes its difficulty after a colon and is a function of its name and knobs alone: the same on every machine and
for every `--seed`, which only shuffles the order.

Prompts are terse because the embedded model reads one byte per token. Two knobs of all tasks are for models that were
not pretrained on them. `instruct=1` puts English sentences in front, what is asked for and in which form it will be
found. `shots=3` makes chat messages of the prompt: three worked problems as turns of user and assistant, the same ones
before every question, and then the question. They are training problems, and asked no more.
"""

import inspect
import math
import random
import zlib
from collections.abc import Container
from fractions import Fraction

from common import InputError
from common.problems import EVAL_SHARE, Problem

FORM = 'End with "Answer:" and what was asked for, on one line.'  # common.maths.find_answer reads other marks too

# Each generator takes a random.Random and its knobs and returns (prompt, answer, key). Problems with equal keys are
# the same problem (the order of the numbers does not make a new one), so they fall on the same side of the split.
# An answer is written as a response that its checker pays in full, so it is the worked solution too.


def countdown_steps(rng: random.Random, numbers: list[int]) -> tuple[str, int]:
    """Combine all numbers by random exact operations: ("3*7=21,21+5=26", 26). Intermediate results stay positive."""
    pool, steps = list(numbers), []
    while len(pool) > 1:
        x, y = rng.sample(pool, 2)
        op = rng.choice([op for op in "+-*/" if not (op == "-" and x <= y) and not (op == "/" and x % y)])
        result = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[op]
        steps.append(f"{x}{op}{y}={result}")
        pool.remove(x)
        pool.remove(y)
        pool.append(result)
    return ",".join(steps), pool[0]


def countdown_prompt(numbers: list[int], target: int) -> str:
    return " ".join(map(str, numbers)) + f"={target}:"


def countdown_key(numbers: list[int], target: int) -> str:
    return countdown_prompt(sorted(numbers), target)


def countdown(rng: random.Random, numbers: int = 3, high: int = 10) -> tuple[str, str, str]:
    """Reach the number after '=' by + - * / using each number once. Write the steps, for example 3*7=21,21+5=26."""
    drawn = [rng.randint(1, high) for _ in range(numbers)]
    steps, target = countdown_steps(rng, drawn)
    return countdown_prompt(drawn, target), steps, countdown_key(drawn, target)


def arithmetic(rng: random.Random, terms: int = 3, high: int = 20) -> tuple[str, str, str]:
    """Give the value of the sum as one integer."""
    text, value = str(first := rng.randint(1, high)), first
    for _ in range(terms - 1):
        sign, term = rng.choice("+-"), rng.randint(1, high)
        text, value = f"{text}{sign}{term}", value + (term if sign == "+" else -term)
    return f"{text}=", str(value), text


def sums(rng: random.Random, terms: int = 2, high: int = 20) -> tuple[str, str, str]:
    """Give the sum as one integer."""
    numbers = [rng.randint(1, high) for _ in range(terms)]
    return f"{'+'.join(map(str, numbers))}=", str(sum(numbers)), f"{sorted(numbers)}"


def products(rng: random.Random, terms: int = 2, high: int = 20) -> tuple[str, str, str]:
    """Give the product as one integer."""
    numbers = [rng.randint(1, high) for _ in range(terms)]
    return f"{'*'.join(map(str, numbers))}=", str(math.prod(numbers)), f"{sorted(numbers)}"


def comparison(rng: random.Random, numbers: int = 2, high: int = 100, decimals: int = 0) -> tuple[str, str, str]:
    """Give the largest of the numbers."""
    drawn = [str(rng.randint(1, high)) for _ in range(numbers)]
    if decimals:  # one to so many, the last of which is not 0: having more of them, 9.11 is not larger than 9.8
        further = [rng.choices("0123456789", k=rng.randint(0, decimals - 1)) for _ in drawn]
        drawn = [f"{n}.{''.join(digits)}{rng.choice('123456789')}" for n, digits in zip(drawn, further, strict=True)]
    return f"max({','.join(drawn)})=", max(drawn, key=Fraction), f"{sorted(drawn)}"


def gcd(rng: random.Random, high: int = 200) -> tuple[str, str, str]:
    """Give the greatest common divisor as one integer."""
    factor = rng.randint(1, max(1, high // 4))  # a shared factor, or most answers would be 1
    a, b = (factor * rng.randint(1, max(1, high // factor)) for _ in range(2))
    return f"gcd({a},{b})=", str(math.gcd(a, b)), f"gcd({min(a, b)},{max(a, b)})"


def sorting(rng: random.Random, length: int = 4, high: int = 20) -> tuple[str, str, str]:
    """Give the numbers in ascending order, separated by spaces."""
    values = [rng.randint(1, high) for _ in range(length)]
    return f"sort {' '.join(map(str, values))}=", " ".join(map(str, sorted(values))), f"sort {values}"


def letter_counting(rng: random.Random, length: int = 8, letters: int = 4) -> tuple[str, str, str]:
    """Say how often the letter occurs in the word, as one integer."""
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz"[:letters]) for _ in range(length))
    letter = rng.choice(sorted(set(word)))
    return f"count {letter} in {word}=", str(word.count(letter)), f"{letter} {word}"


def reversing(rng: random.Random, length: int = 6) -> tuple[str, str, str]:
    """Give the word backwards."""
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))
    return f"reverse {word}=", word[::-1], word


# name: (generator, the checker that its answers need). Not "math" where a question is a formula: 9+9 equals 18 there.
PROCEDURAL = {
    "countdown": (countdown, "countdown"),
    "arithmetic": (arithmetic, "exact"),
    "sums": (sums, "exact"),
    "products": (products, "exact"),
    "comparison": (comparison, "exact"),
    "gcd": (gcd, "exact"),
    "sorting": (sorting, "exact"),
    "letter_counting": (letter_counting, "exact"),
    "reversing": (reversing, "exact"),
}
SHARED_KNOBS = {"instruct": 0, "shots": 0}  # how a problem is put, not which problems there are
KNOB_RANGES = {  # the checker reads results of ten numbers up to a million; longer words only make loading slow
    "numbers": (2, 10),
    "terms": (2, 100),
    "length": (2, 100),
    "high": (2, 1_000_000),
    "letters": (1, 26),
    "decimals": (0, 9),
    "instruct": (0, 1),
    "shots": (0, 20),
}


def held_out(key: str) -> bool:
    """Whether the problem with this key belongs to evaluation: a property of its content, not of any seed."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % EVAL_SHARE == 0


def parse_knobs(spec: str) -> tuple[str, dict[str, int]]:
    """Split "countdown:numbers=4,high=20" into its name and the knobs that differ from their defaults."""
    name, _, text = spec.partition(":")
    generator, _ = PROCEDURAL[name]
    own = {k: p.default for k, p in inspect.signature(generator).parameters.items() if k != "rng"}
    allowed = own | SHARED_KNOBS
    knobs = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        low, high = KNOB_RANGES[key] if key in allowed else (0, 0)
        if key not in allowed or not value.isdecimal() or len(value) > 9 or not low <= int(value) <= high:
            known = ", ".join(
                f"{k}={v} (at least {KNOB_RANGES[k][0]}, at most {KNOB_RANGES[k][1]})" for k, v in allowed.items()
            )
            raise InputError(f"task {spec!r}: cannot use {item!r}; the knobs of {name} with their defaults are {known}")
        knobs[key] = int(value)
    return name, {k: v for k, v in knobs.items() if v != allowed[k]}  # a default spelled out is the same task


def draw_problems(name: str, knobs: dict[str, int], split: str, limit: int, but: Container[str] = ()) -> dict:
    """key -> (prompt, answer) of `limit` distinct problems, or of as many as there are; none with a key in `but`."""
    generator, _ = PROCEDURAL[name]
    rng = random.Random(f"{name} {sorted(knobs.items())} {split}")
    found: dict[str, tuple[str, str]] = {}
    draws_without_news = 0
    while len(found) < limit and draws_without_news < 2000:  # a small task runs out of new problems
        draws_without_news += 1
        prompt, answer, key = generator(rng, **knobs)
        if key not in found and key not in but and (split == "all" or held_out(key) == (split == "eval")):
            found[key] = prompt, answer
            draws_without_news = 0
    return found


def procedural_problems(spec: str, split: str, limit: int) -> list[Problem]:
    """`limit` distinct problems of one split, or as many as the task has if that is fewer."""
    name, knobs = parse_knobs(spec)
    instruct, shots = (knobs.pop(knob, default) for knob, default in SHARED_KNOBS.items())
    generator, kind = PROCEDURAL[name]

    def ask(prompt: str) -> str:
        return f"{inspect.getdoc(generator)} {FORM}\n{prompt}" if instruct else prompt

    worked = draw_problems(name, knobs, "train", shots)
    turns = []
    for prompt, answer in worked.values():
        turns.append({"role": "user", "content": ask(prompt)})
        turns.append({"role": "assistant", "content": f"Answer: {answer}" if instruct else answer})
    drawn = draw_problems(name, knobs, split, limit, but=worked).values()
    asked = [[*turns, {"role": "user", "content": ask(prompt)}] if turns else ask(prompt) for prompt, _ in drawn]
    return [
        Problem(prompt, answer, f"{name}-{split}-{i}", kind, trace=answer)
        for i, (prompt, (_, answer)) in enumerate(zip(asked, drawn, strict=True))
    ]


def is_procedural(name: str) -> bool:
    return name.partition(":")[0] in PROCEDURAL
