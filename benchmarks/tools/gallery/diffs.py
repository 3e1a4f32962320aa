"""The difference of two algorithm files as rows of two columns, what is unchanged folded away."""

import difflib
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from benchmarks.gallery.algorithms import regions
from benchmarks.gallery.site import highlighted

CONTEXT = 3  # unchanged lines that stay visible around a change


@dataclass
class Side:
    line: int  # of the file, from 1
    text: str
    html: Markup


@dataclass
class Row:
    """A line of the old file, of the new one, or both: "same", or "changed" with what stands side by side."""

    kind: str
    old: Side | None
    new: Side | None
    region: str  # "", or that of the new line, else of the old one
    label: str = ""  # its region, if a heading for it belongs above this row


@dataclass
class Stretch:
    """Neighbouring rows: a change with its surroundings, or unchanged lines to fold."""

    folded: bool
    rows: list[Row]


def sides(text: str, first: int, last: int) -> list[Side]:
    lines, html = text.splitlines(), highlighted(text)
    return [Side(n, lines[n - 1], html[n - 1]) for n in range(first, last + 1)]


def region_of(where: dict[str, tuple[int, int]], side: Side | None) -> str:
    return next((name for name, (a, b) in where.items() if side and a <= side.line <= b), "")


def compare(old: str, new: str, part: str = "code") -> list[Row]:
    """Rows of the head docstrings ("head") or of all that comes after them ("code"), in the order of the files."""
    where = regions(old), regions(new)
    columns = []
    for text, found in zip((old, new), where, strict=True):
        end = found["head"][1]
        columns.append(sides(text, 1, end) if part == "head" else sides(text, end + 1, len(text.splitlines())))
    left, right = columns
    rows = []
    matcher = difflib.SequenceMatcher(None, [s.text for s in left], [s.text for s in right], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        for k in range(max(b - a, d - c)):
            one, other = left[a + k] if a + k < b else None, right[c + k] if c + k < d else None
            region = region_of(where[1], other) or region_of(where[0], one)
            rows.append(Row("same" if kind == "equal" else "changed", one, other, region))
    return rows


def stretches(rows: list[Row], context: int = CONTEXT) -> list[Stretch]:
    """Cut rows into changes, each with `context` unchanged lines around it, and the folded rest."""
    shown = {
        near for at, row in enumerate(rows) if row.kind == "changed" for near in range(at - context, at + context + 1)
    }
    found: list[Stretch] = []
    for visible, group in groupby(enumerate(rows), key=lambda pair: pair[0] in shown):
        members = [row for _, row in group]
        visible |= len(members) <= 2  # a fold that would save a line or two is not made
        if visible and found and not found[-1].folded:
            found[-1].rows += members
        else:
            found.append(Stretch(not visible, members))
    for stretch in found:
        touched = {row.region for row in stretch.rows if row.kind == "changed"} - {"", "head"}
        for name in touched:
            next(row for row in stretch.rows if row.region == name).label = name
    return found
