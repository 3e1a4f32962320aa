"""The pages about the algorithms: overview, map, one page each, the difference of any two, and the sources."""

from itertools import pairwise
from pathlib import Path

from benchmarks.gallery import charts, diffs, equations
from benchmarks.gallery.algorithms import LEVER_TITLES, LEVERS, Algorithm, load_all
from benchmarks.gallery.site import Page, highlighted

REGION_TITLES = {
    "args": "flags",
    "sample": "sampling",
    "credit": "rewards to advantages",
    "loss": "the objective",
}


def ordered(one: Algorithm, other: Algorithm) -> tuple[Algorithm, Algorithm]:
    """Parent before child; two others by the date of their papers."""
    if one.parent == other.name:
        return other, one
    if other.parent == one.name:
        return one, other
    return (one, other) if (one.arxiv, one.name) <= (other.arxiv, other.name) else (other, one)


def diff_page_name(one: Algorithm, other: Algorithm) -> str:
    old, new = ordered(one, other)
    return f"diffs/{old.name}-{new.name}.html"


def difference(old: Algorithm, new: Algorithm) -> dict:
    """What the macro `difference` of the templates shows."""
    code, head = (diffs.compare(old.text, new.text, part) for part in ("code", "head"))
    lines, places = diffs.count(code)
    return {
        "old": old.name,
        "new": new.name,
        "lines": lines,
        "places": places,
        "code": diffs.stretches(code),
        "head": diffs.stretches(head),
        "head_lines": diffs.count(head)[0],
    }


def curves(one: Algorithm, results: Path, claims: dict[str, list[dict]]) -> list[dict]:
    """For each regime: the panels, or None where there are no runs, and the claims with their verdicts."""
    shown = []
    for regime, about in charts.REGIMES.items():
        arms = charts.read(results / "collapse" / f"{regime}.csv")
        mine = [row for row in claims.get(regime, []) if row["method"] == one.name]
        names = dict.fromkeys(name for name in (one.name, one.parent, *charts.baselines(mine)) if name in arms)
        chosen = {name: arms[name] for name in list(names)[: len(charts.COLORS)]}
        panels = charts.panels(one.name, chosen, regime) if one.name in arms else None
        shown.append({"regime": regime, "about": about, "panels": panels, "arms": list(chosen), "claims": mine})
    return shown


def algorithm_page(one: Algorithm, everything: dict[str, Algorithm], results: Path, claims: dict) -> dict:
    method = []
    for block in one.method:
        try:
            body = equations.rows(block.lines) if block.kind == "equations" else block.text
        except equations.NotReadable as error:
            raise ValueError(f"algos/{one.name}.py, the equations at line {block.line}: {error}") from error
        method.append((block.kind, body))
    parent = everything[one.parent] if one.parent else None
    return {
        "one": one,
        "parent": parent,
        "method": method,
        "diff": difference(parent, one) if parent else None,
        "curves": curves(one, results, claims),
        "others": [(other, diff_page_name(one, other)) for other in everything.values() if other is not one],
        "children": [other for other in everything.values() if other.parent == one.name],
        "region_titles": REGION_TITLES,
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
                old, new = ordered(one, other)
                count = diffs.count(diffs.compare(old.text, new.text))[0]
                counts[one.name, other.name] = counts[other.name, one.name] = count
    most, months = max(counts.values()), [one.month for one in everything.values()]
    gaps = [0, *(later - earlier for earlier, later in pairwise(months))]
    return {
        "everything": everything,
        "counts": counts,
        "shades": {pair: round(100 * count / most) for pair, count in counts.items()},
        "page_of": diff_page_name,
        "timeline": list(zip(everything.values(), gaps, strict=True)),
        "levers": LEVERS,
        "lever_titles": LEVER_TITLES,
    }


def pages(results: Path) -> dict[str, Page]:
    everything = load_all()
    claims = charts.claims(results / "collapse" / "CLAIMS.md")
    made = {
        "index.html": Page("index.html", "index", {"everything": everything, "levers": LEVERS, "titles": LEVER_TITLES}),
        "map.html": Page("map.html", "map", map_page(everything)),
    }
    for one in everything.values():
        context = algorithm_page(one, everything, results, claims)
        made[f"algorithms/{one.name}.html"] = Page("algorithm.html", "", context)
        made[f"source/{one.name}.html"] = Page("source.html", "", source_page(one))
        for other in everything.values():
            if ordered(one, other) == (one, other) and other is not one:
                context = {"diff": difference(one, other), "old": one, "new": other, "region_titles": REGION_TITLES}
                made[diff_page_name(one, other)] = Page("diff.html", "map", context)
    return made
