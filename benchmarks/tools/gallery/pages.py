"""The pages about the algorithms: overview, map, one page each, the difference of any two, and the sources."""

import json
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from benchmarks import claims, methods
from benchmarks.claims import Judged
from benchmarks.gallery import charts, diffs, equations, weights
from benchmarks.gallery.algorithms import Algorithm, load_all
from benchmarks.gallery.site import Page, highlighted
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


def ordered(one: Algorithm, other: Algorithm) -> tuple[Algorithm, Algorithm]:
    """Parent before child; two others by the date of their papers."""
    if one.parent == other.name:
        return other, one
    if other.parent == one.name:
        return one, other
    return (one, other) if (one.arxiv, one.name) <= (other.arxiv, other.name) else (other, one)


def are_kin(one: Algorithm, other: Algorithm) -> bool:
    """Parent and child, or two children of one parent in one family: their difference has a page of its own."""
    parents, families = {one.parent, other.parent}, {methods.method(each.name).family for each in (one, other)}
    return one.parent == other.name or other.parent == one.name or (len(parents) == len(families) == 1)


def diff_page_name(one: Algorithm, other: Algorithm) -> str:
    """Where their difference is shown: a page of its own, or the one that is made on demand."""
    old, new = ordered(one, other)
    return f"diffs/{old.name}-{new.name}.html" if are_kin(one, other) else f"compare.html#{old.name}-{new.name}"


def files_by_line(everything: dict[str, Algorithm]) -> dict[str, dict[str, tuple[str, ...]]]:
    """All files for the page that compares any two of them: highlighted lines of the head docstring, and the rest."""
    found = {}
    for one in everything.values():
        end, lines = one.regions["head"][1], highlighted(one.text)
        found[one.name] = {"head": lines[:end], "code": lines[end:]}
    return found


def difference(old: Algorithm, new: Algorithm) -> dict:
    """What the macro `difference` of the templates shows."""
    code, head = (diffs.compare(old.text, new.text, part) for part in ("code", "head"))
    lines, places = sync.distance(old.name, new.name)
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
    """(regime, method) -> its promises, and below them its primary outcomes where it was run beside its base."""
    found = defaultdict(list)
    for one in claims.promises(runs):
        found[one.regime, one.arm].append(one)
    for regime, some in runs.items():
        for (arm, _), outcomes in claims.against_bases(some, regime).items():
            found[regime, arm] += [one for one in outcomes if one.found]
    return found


def curves(one: Algorithm, runs: dict[str, Regime], judged: dict[tuple[str, str], list[Judged]]) -> list[dict]:
    """For each regime: the panels, none where there are no runs, and what is judged with its verdicts."""
    if not methods.method(one.name).arms:
        return []
    parts = []
    for regime, about in claims.UPDATES.items():
        mine = judged.get((regime, one.name), [])
        arms = charts.shown(runs[regime], one.name, mine)
        shown = {"panels": charts.panels(one.name, arms, regime) if arms else [], "arms": [*arms]}
        parts.append({"regime": regime, "about": about, "verdicts": charts.verdicts(mine)} | shown)
    return parts


def algorithm_page(one: Algorithm, everything: dict[str, Algorithm], comparison: list[dict]) -> dict:
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
    return {
        "one": one,
        "parent": parent,
        "method": method,
        "diff": difference(parent, one) if parent else None,
        "curves": comparison,
        "others": [(other, diff_page_name(one, other)) for other in everything.values() if other is not one],
        "children": [other for other in everything.values() if other.parent == one.name],
        "region_titles": REGION_TITLES,
        "weight": weights.figure(one.name),
        "weight_rows": weights.table(one.name),
        "weight_ratios": [weights.number(ratio) for ratio in weights.TABLE],
    }


def source_page(one: Algorithm) -> dict:
    """All lines of a file, each with the region that it is part of."""
    where = {n: name for name, (a, b) in one.regions.items() for n in range(a, b + 1)}
    first = {a: name for name, (a, _) in one.regions.items()}
    lines = [(n, html, where.get(n, ""), n in first) for n, html in enumerate(highlighted(one.text), 1)]
    return {"one": one, "lines": lines, "region_titles": REGION_TITLES}


def map_page(everything: dict[str, Algorithm]) -> dict:
    """Changed lines between any two, the papers in time, and the levers."""
    counts = {}
    for one in everything.values():
        for other in everything.values():
            if one is not other and (one.name, other.name) not in counts:
                count = sync.distance(*(each.name for each in ordered(one, other)))[0]
                counts[one.name, other.name] = counts[other.name, one.name] = count
    most, months = max(counts.values()), [one.month for one in everything.values()]
    gaps = [0, *(later - earlier for earlier, later in pairwise(months))]
    return {
        "everything": everything,
        "counts": counts,
        "shades": {pair: round(100 * count / most) for pair, count in counts.items()},
        "page_of": diff_page_name,
        "timeline": list(zip(everything.values(), gaps, strict=True)),
        "lever_titles": methods.LEVERS,
    }


def weights_page(everything: dict[str, Algorithm]) -> dict:
    """The figures of all methods, by family."""
    families = {}
    for one in everything.values():
        if picture := weights.figure(one.name):
            families.setdefault(methods.method(one.name).family or "other", []).append((one, picture))
    order = [
        *(name for name in methods.FAMILIES if name in families),
        *(f for f in families if f not in methods.FAMILIES),
    ]
    return {"families": {name: families[name] for name in order}}


def pages(results: Path) -> dict[str, Page]:
    everything = load_all()
    runs = load(results / "collapse" / "runs")
    judged = judged_by_method(runs)
    families = {
        family: [one for one in everything.values() if methods.method(one.name).family == family]
        for family in ("", *methods.FAMILIES)
    }
    overview = {"everything": everything, "families": families, "titles": methods.FAMILIES}
    made = {
        "index.html": Page("index.html", "index", overview),
        "map.html": Page("map.html", "map", map_page(everything)),
        "weights.html": Page("weights.html", "weights", weights_page(everything)),
        "compare.html": Page("compare.html", "map", {"everything": everything}),
        "static/files.js": Page("files.js", "", {"files": Markup(json.dumps(files_by_line(everything)))}),
    }
    for one in everything.values():
        context = algorithm_page(one, everything, curves(one, runs, judged))
        made[f"algorithms/{one.name}.html"] = Page("algorithm.html", "", context)
        made[f"source/{one.name}.html"] = Page("source.html", "", source_page(one))
        for other in everything.values():
            if other is not one and are_kin(one, other) and ordered(one, other) == (one, other):
                context = {"diff": difference(one, other), "old": one, "new": other, "region_titles": REGION_TITLES}
                made[diff_page_name(one, other)] = Page("diff.html", "map", context)
    return made
