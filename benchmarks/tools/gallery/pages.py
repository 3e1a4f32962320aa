"""The pages about the algorithms: overview, map, one page each, the difference of any two, and the sources."""

import functools
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from pathlib import Path

from benchmarks import claims, judging, methods
from benchmarks.collapse import ARMS
from benchmarks.gallery import charts, diffs, equations, overview, weights
from benchmarks.gallery.algorithms import Algorithm, load_all
from benchmarks.gallery.site import Page, highlighted
from benchmarks.judging import Judged
from benchmarks.readings import Regime, load
from tests import sync

REGION_TITLES = {
    "args": "its flags",
    "credit": "rewards become advantages",
    "loss": "what is minimised",
    "setup": "what exists once",
    "sample": "drawing responses",
    "score": "what is measured under the policy that sampled",
    "update": "one minibatch",
    "end": "after the updates",
}
SHADES = 8  # steps of the map's colour
NEAREST = 4  # other files that a page names by their distance


def ordered(one: Algorithm, other: Algorithm) -> tuple[Algorithm, Algorithm]:
    """Parent before child; two others by the date of their papers."""
    if one.parent == other.name:
        return other, one
    if other.parent == one.name:
        return one, other
    return (one, other) if (one.arxiv, one.name) <= (other.arxiv, other.name) else (other, one)


def are_siblings(one: Algorithm, other: Algorithm) -> bool:
    """Two children of one parent in one family: their difference has a page of its own."""
    parents, families = {one.parent, other.parent}, {methods.method(each.name).family for each in (one, other)}
    return len(parents) == len(families) == 1


def diff_page_name(one: Algorithm, other: Algorithm) -> str:
    """Where their difference is shown: the child's page, a page of its own, or the one that is made on demand."""
    old, new = ordered(one, other)
    if new.parent == old.name:
        return f"algorithms/{new.name}.html#diff"
    return f"diffs/{old.name}-{new.name}.html" if are_siblings(one, other) else f"compare.html#{old.name}-{new.name}"


def files_by_line(everything: dict[str, Algorithm], counts: dict[tuple[str, str], int]) -> dict:
    """All files for the page that compares any two of them.

    `lines` has each highlighted line once, as most stand in every file; a file is a list of places in it, `head` of
    which are of its head docstring. `distance` has the changed lines of code of each pair.
    """
    places: dict[str, int] = {}
    found = {}
    for one in everything.values():
        at = [places.setdefault(line, len(places)) for line in highlighted(one.text)]
        regions = {name: lines for name, lines in one.regions.items() if name != "head"}
        found[one.name] = {"head": one.regions["head"][1], "lines": at, "regions": regions}
    distance = {f"{one}-{other}": count for (one, other), count in counts.items()}
    return {"lines": list(places), "files": found, "distance": distance, "regionTitles": REGION_TITLES}


@functools.cache
def distance(old: str, new: str) -> tuple[int, int]:
    """Changed lines of code and places of two files, by their texts."""
    return sync.changes(sync.code(old), sync.code(new))


def distances(everything: dict[str, Algorithm]) -> dict[tuple[str, str], int]:
    """Changed lines of code of any two, each pair once, as `ordered` has it."""
    pairs = [ordered(*pair) for pair in combinations(everything.values(), 2)]
    return {(old.name, new.name): distance(old.text, new.text)[0] for old, new in pairs}


def difference(old: Algorithm, new: Algorithm) -> dict:
    """What the macro `difference` of the templates shows."""
    code, head = (diffs.compare(old.text, new.text, part) for part in ("code", "head"))
    lines, places = distance(old.text, new.text)
    return {
        "old": old.name,
        "new": new.name,
        "lines": lines,
        "places": places,
        "regions": list(dict.fromkeys(row.region for row in code if row.kind == "changed" and row.region)),
        "code": diffs.stretches(code),
        "head": diffs.stretches(head),
        "head_lines": sync.changes(*(sync.own_parts(one.text)["head"] for one in (old, new)))[0],
    }


def judged_by_method(runs: dict[str, Regime]) -> dict[tuple[str, str], list[Judged]]:
    """(regime, method) -> its promises, then its primary outcomes beside its base and its own controls, if run."""
    found = defaultdict(list)
    for one in judging.promises(runs):
        found[one.regime, ARMS[one.arm][0]].append(one)
    for regime, some in runs.items():
        for table in (judging.against_bases, judging.against_controls):
            for (arm, _), outcomes in table(some, regime).items():
                found[regime, arm] += [one for one in outcomes if one.found]
    return found


def curves(one: Algorithm, runs: dict[str, Regime], judged: dict[tuple[str, str], list[Judged]]) -> list[dict]:
    """For each regime: panels, none where there are no runs, the tuned flag, and what is judged with its verdicts."""
    if not methods.method(one.name).arms:
        return []
    parts = []
    for regime, about in claims.UPDATES.items():
        mine = judged.get((regime, one.name), [])
        arms = charts.shown(runs[regime], one.name, mine)
        knob = judging.tuned_knob(runs[regime], one.name)
        shown = {"panels": charts.panels(one.name, arms, regime) if arms else [], "arms": [*arms]}
        parts.append({"regime": regime, "about": about, "knob": knob, "verdicts": charts.verdicts(mine)} | shown)
    return parts


def algorithm_page(
    one: Algorithm, everything: dict[str, Algorithm], comparison: list[dict], default: dict[str, float] | None = None
) -> dict:
    """Its method, diff, curves and relations; `default` is its row of `overview.default_runs`."""
    method = []
    for block in one.method:
        kind, body = block.kind, block.text
        if kind == "equations":
            try:
                body = equations.rows(block.lines)
            except equations.NotReadable as error:  # not shown wrong, but as it is written
                kind, body = "plain", "\n".join(block.lines)
                where = f"algos/{one.name}.py, the equations at line {block.line}"
                print(f"{where} are shown as written: {error}", file=sys.stderr)
        method.append((kind, body))
    parent = everything[one.parent] if one.parent else None
    far = {other.name: distance(*(each.text for each in ordered(one, other)))[0] for other in everything.values()}
    near = sorted((other for other in everything.values() if other is not one), key=lambda other: far[other.name])
    return {
        "one": one,
        "parent": parent,
        "method": method,
        "diff": difference(parent, one) if parent else None,
        "curves": comparison,
        "default": default,
        "others": [(other, diff_page_name(one, other)) for other in everything.values() if other is not one],
        "nearest": [(other, far[other.name], diff_page_name(one, other)) for other in near[:NEAREST]],
        "children": [other for other in everything.values() if other.parent == one.name],
        "region_titles": REGION_TITLES,
        "weight": weights.figure(one.name),
        "weight_rows": weights.table(one.name),
        "weight_ratios": [weights.number(ratio) for ratio in weights.TABLE],
    }


def source_page(one: Algorithm) -> dict:
    """All lines of a file, and which of them are its own: of the head or a region."""
    inside = {n for first, last in one.regions.values() for n in range(first, last + 1)}
    return {"one": one, "lines": [(n, html, n in inside) for n, html in enumerate(highlighted(one.text), 1)]}


@dataclass
class Descendant:
    """A file in the tree of all, with what it changes in its parent."""

    one: Algorithm
    family: str
    lines: int | None
    children: list["Descendant"]


def descent(everything: dict[str, Algorithm], parent: str | None = None) -> list[Descendant]:
    """The children of a file, by family and date, each with its own."""
    found = []
    for one in (one for members in by_family(everything).values() for one in members if one.parent == parent):
        lines = distance(everything[parent].text, one.text)[0] if parent else None
        found.append(Descendant(one, methods.method(one.name).family, lines, descent(everything, one.name)))
    return found


def by_family(everything: dict[str, Algorithm]) -> dict[str, list[Algorithm]]:
    """All methods in the order of the families, by date in each; those without a family last."""
    families = {
        family: [one for one in everything.values() if methods.method(one.name).family == family]
        for family in (*methods.FAMILIES, "")
    }
    return {family: members for family, members in families.items() if members}


def map_page(everything: dict[str, Algorithm], counts: dict[tuple[str, str], int]) -> dict:
    """Descent, levers, the papers in time, and changed lines between any two."""
    both = counts | {(other, one): count for (one, other), count in counts.items()}
    most = max(counts.values())
    months = {month: [*some] for month, some in groupby(everything.values(), key=lambda one: one.month)}
    gaps = [0, *(later - earlier for earlier, later in pairwise(months))]
    families = by_family(everything)
    return {
        "tree": descent(everything),
        "families": families,
        "by_family": [one for members in families.values() for one in members],
        "counts": both,
        "shades": {pair: round(SHADES * count / most) for pair, count in both.items()},
        "page_of": diff_page_name,
        "timeline": [(some[0].date, gap, some) for some, gap in zip(months.values(), gaps, strict=True)],
        "lever_titles": methods.LEVERS,
    }


def weights_page(everything: dict[str, Algorithm]) -> dict:
    """The figures of all methods, by family."""
    pictures = {
        family or "other": [(one, picture) for one in members if (picture := weights.figure(one.name))]
        for family, members in by_family(everything).items()
    }
    return {"families": {family: some for family, some in pictures.items() if some}}


def pages(results: Path) -> dict[str, Page]:
    everything = load_all()
    runs = load(results / "collapse" / "runs")
    judged = judged_by_method(runs)
    counts = distances(everything)
    defaults = overview.default_runs(results)
    lines = {name: counts[one.parent, name] if one.parent else None for name, one in everything.items()}
    made = {
        "index.html": Page("index.html", "index", overview.context(everything, lines, runs, judged, defaults)),
        "map.html": Page("map.html", "map", map_page(everything, counts)),
        "weights.html": Page("weights.html", "weights", weights_page(everything)),
        "compare.html": Page("compare.html", "map", {"families": by_family(everything), "pair": [*everything][:2]}),
        "static/files.js": Page("files.js", "", {"data": files_by_line(everything, counts)}),
    }
    for one in everything.values():
        context = algorithm_page(one, everything, curves(one, runs, judged), defaults.get(one.name))
        made[f"algorithms/{one.name}.html"] = Page("algorithm.html", "", context)
        made[f"source/{one.name}.html"] = Page("source.html", "", source_page(one))
    for one, other in (ordered(*pair) for pair in combinations(everything.values(), 2)):
        if are_siblings(one, other):
            context = {"diff": difference(one, other), "old": one, "new": other, "region_titles": REGION_TITLES}
            made[diff_page_name(one, other)] = Page("diff.html", "map", context)
    return made
