"""How the benchmarks write numbers: mean and spread over seeds, intervals, tables in Markdown and as csv."""

import csv
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np


def finite(values: Iterable[float]) -> np.ndarray:
    values = np.array(list(values), dtype=float)
    return values[np.isfinite(values)]


def spread(values: Iterable[float]) -> float:
    """Standard deviation over seeds; NaN where there is one."""
    values = finite(values)
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def plus_minus(values: Iterable[float]) -> str:
    """Mean and standard deviation; the mean alone of one value, and a dash where there is none."""
    values = finite(values)
    if not len(values):
        return "-"
    return f"{values.mean():.3f}" + (f" ± {spread(values):.3f}" if len(values) > 1 else "")


def number_word(count: int, one: str) -> str:
    """3 seeds, 1 seed."""
    return f"{count} {one}{'s' * (count != 1)}"


def student_p(t: float, freedom: int) -> float:
    """Two-sided p-value of Student's t, degrees of freedom a whole number (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    for i in range(odd, freedom - 1, 2):
        total += term
        term *= cosine**2 * (i + 1) / (i + 2)
    inside = 2 / math.pi * (angle + math.sin(angle) * cosine * total) if odd else math.sin(angle) * total
    return max(0.0, 1 - inside)


def correlation_p(correlation: float, count: int) -> float:
    """Two-sided p-value of a correlation of so many pairs, of values or of ranks, by Student's t."""
    return student_p(correlation * math.sqrt((count - 2) / max(1 - correlation**2, 1e-12)), count - 2)


@cache
def student_t(freedom: int, level: float = 0.05) -> float:
    """The t beyond which, on both sides together, Student's distribution has `level`: by halving, to a billionth."""
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_p(middle, freedom) > level else (low, middle)
    return high


def f_p(ratio: float, above: int, below: int) -> float:
    """The chance that a ratio of two variances exceeds this one, degrees of freedom above and below (A. & S. 26.6.1).

    The density in the angle whose squared tangent is above ratio / below, summed by trapezoids.
    """
    angles = np.linspace(math.atan(math.sqrt(above * ratio / below)), math.pi / 2, 10_001)
    scale = 2 * math.exp(math.lgamma((above + below) / 2) - math.lgamma(above / 2) - math.lgamma(below / 2))
    return scale * float(np.trapezoid(np.sin(angles) ** (above - 1) * np.cos(angles) ** (below - 1), angles))


def interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % t-interval over seeds; one seed has none."""
    values = finite(values)
    mean = float(values.mean()) if len(values) else float("nan")
    half = student_t(len(values) - 1) * spread(values) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return mean, mean - half, mean + half


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table."""
    head, *body = (re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(map(str, cells))} |") for cells in (heads, *rows))
    return [head, "|---" * len(heads) + "|", *body]


def put_between(path: Path, mark: str, text: str) -> None:
    """Replace what a page has between its lines <!-- mark --> and <!-- /mark -->; SystemExit where there are none."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
    before, begun, rest = path.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"error: {path} has no {begin.strip()} and {end.strip()} to write between")
    path.write_text(f"{before}{begin}{text.rstrip()}\n\n{end}{after}")  # behind a table a blank line ends it


def write_csv(path: Path, rows: Sequence[dict], digits: int | None = None) -> None:
    """Rows of the same keys as a table, fractions with so many significant digits; its folder is made."""
    if digits:
        rows = [{k: f"{v:.{digits}g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
