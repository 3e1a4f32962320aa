"""Countdown: all right solutions of a problem, and which of them a response is.

    every = solutions("3*7=21,21+5=26")     # all of the problem with these numbers and this target
    solution("5+7*3=26") in every           # of a right response, in any words that the verifier takes

Two derivations are the same solution if they differ only in the order of steps, by commutativity and associativity, and
in where a minus sign stands: - adds the opposite and / multiplies by the inverse. So a+b = b+a, a-(b-c) = (a+c)-b,
a/(b/c) = (a*c)/b, (a-b)*(c-d) = (b-a)*(d-c). Nothing else makes two of them one: 2*1 and 2/1 are two solutions, and so
are 3+(4-4) and 3*(4/4). Equal numbers are not told apart.

A step names its operands by their values. Where a value is both a result and a given number, the result is meant, as to
the verifier; where it is two results, the one whose form sorts first.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

from common.verifier import countdown_result, countdown_text, read_steps

MOST_NUMBERS = 4  # five would take seconds a problem

# A form is ("", number), ("+", ((form, sign), ...)) or ("*", ((form, exponent), ...)) with sorted parts, none of
# them of the form's own kind. A sum is the one of itself and its opposite that sorts first. A term is (form, sign).
Form = tuple[str, object]
Term = tuple[Form, int]
Item = tuple[int, bool, Term]  # value, whether it is a given number, what it was made of; results sort first
Pool = tuple[Item, ...]  # sorted


@lru_cache(maxsize=65536)
def vanishes(form: Form) -> bool:
    """Whether it is its own opposite, as a-a and (a-a)*b: then a sign says nothing and is written as 1."""
    kind, parts = form
    if kind == "*":
        return any(vanishes(part) for part, _ in parts)
    return kind == "+" and parts == opposite(parts)


def opposite(terms: tuple[Term, ...]) -> tuple[Term, ...]:
    return tuple(sorted((form, 1 if vanishes(form) else -sign) for form, sign in terms))


def join(op: str, x: Term, y: Term) -> Term:
    """The term x op y."""
    turn = -1 if op in "-/" else 1
    (xf, xs), (yf, ys) = x, y
    if op in "+-":
        terms = [(form, sign * xs) for form, sign in (xf[1] if xf[0] == "+" else [(xf, 1)])]
        terms += [(form, sign * ys * turn) for form, sign in (yf[1] if yf[0] == "+" else [(yf, 1)])]
        parts = tuple(sorted((form, 1 if vanishes(form) else sign) for form, sign in terms))
        other = opposite(parts)
        return ("+", min(parts, other)), 1 if parts <= other else -1
    parts = [*(xf[1] if xf[0] == "*" else [(xf, 1)])]
    parts += [(form, power * turn) for form, power in (yf[1] if yf[0] == "*" else [(yf, 1)])]
    form = "*", tuple(sorted(parts))
    return form, 1 if vanishes(form) else xs * ys


def advance(pool: Pool, x: int, op: str, y: int, result: int) -> Pool:
    """What is at hand after the step x op y = result."""
    left, taken = list(pool), []
    for value in (x, y):
        item = next(item for item in left if item[0] == value)
        left.remove(item)
        taken.append(item[2])
    return tuple(sorted([*left, (result, False, join(op, *taken))]))


def start(numbers: Iterator[int]) -> Pool:
    return tuple(sorted((number, True, (("", abs(number)), 1 if number >= 0 else -1)) for number in numbers))


def next_pools(pool: Pool) -> Iterator[Pool]:
    for x, y in set(permutations([value for value, _, _ in pool], 2)):
        results = {"+": x + y, "-": x - y, "*": x * y} | ({"/": x // y} if y and x % y == 0 else {})
        yield from (advance(pool, x, op, y, result) for op, result in results.items())


@lru_cache(maxsize=4096)
def solutions(gold: str) -> frozenset[Term] | None:
    """All solutions with the numbers and the target of these gold steps; None for more than MOST_NUMBERS numbers."""
    numbers, target = countdown_result(gold)
    if numbers.total() > MOST_NUMBERS:
        return None
    pools = {start(numbers.elements())}
    for _ in range(numbers.total() - 1):
        pools = {after for pool in pools for after in next_pools(pool)}
    return frozenset(term for ((value, _, term),) in pools if value == target)


@lru_cache(maxsize=65536)
def solution(text: str) -> Term:
    """What a response that the verifier takes for right has done."""
    steps = countdown_text(text)
    pool = start(countdown_result(steps)[0].elements())
    for step in read_steps(steps):
        pool = advance(pool, *step)
    ((_, _, term),) = pool
    return term
