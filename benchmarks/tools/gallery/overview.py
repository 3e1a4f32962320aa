"""The overview: of each method its idea, its curves in small, where it ended, and what came of its paper's promises."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from benchmarks import methods
from benchmarks.gallery import charts
from benchmarks.gallery.algorithms import Algorithm
from benchmarks.judging import Judged, decides, own_controls
from benchmarks.readings import MARGINS, Regime, Run, base_of

# What a method's runs say of it in a word, and what the word means. In the order of the filter.
VERDICTS = {
    "reproduced": "at least one promise of its paper is reproduced, and none contradicted",
    "contradicted": "at least one promise is contradicted, and none reproduced",
    "mixed": "of its promises some are reproduced, others contradicted",
    "differs": "no promise is on record; it ends above or below its base in an outcome",
    "no effect": "all that is judged lies inside the margins",
    "inconclusive": "nothing is beyond chance, and not all inside the margins",
    "inactive": "what shows the method active is trivial in its runs",
    "destroyed": "in one of its runs pass@1 fell under half of the start's",
    "no verdict yet": "one seed, or its base is not run",
    "not run": "no run is kept yet",
    "the base": "what the others are measured against",
}
SPARKS = ("entropy", "pass@32")
SORTED = ("entropy", "pass@1", "pass@32")  # where a run ended
DEFAULTS = ("entropy_start", "entropy_end", "pass@1", "pass@32")  # columns of benchmarks.defaults
MAIN = "off-policy"  # the regime that is shown, unless a method was run in the other alone


@dataclass
class Card:
    """A method in the overview."""

    one: Algorithm
    family: str
    levers: list[str]  # that it adds to its parent or changes there
    lines: int | None  # changed in its parent
    verdict: str  # key of VERDICTS
    words: str  # the verdict as the card has it
    regime: str = ""  # of what follows; "" where there is no run
    seeds: int = 0
    ends: dict[str, float] | None = None  # outcome -> mean over seeds at the last step
    sparks: tuple[Markup, ...] = ()
    default: dict[str, float] | None = None  # of its run without flags, column -> mean over seeds


def verdict(one: Algorithm, mine: Sequence[Run], judged: Sequence[Judged]) -> tuple[str, str]:
    """Key of VERDICTS and the words for it; where the method is not told from the control that decides, they say so."""
    controls = [control for control in own_controls(one.name) if control != base_of(one.name)]
    word, words = verdict_beside_base(one, mine, [judgement for judgement in judged if judgement.base not in controls])
    told = [j.says_more for j in judged if j.base in controls and decides(j.base) and j.found and j.found.seeds > 1]
    return word, words + "; not told from its control" * bool(told and not any(told) and word != "destroyed")


def verdict_beside_base(one: Algorithm, mine: Sequence[Run], judged: Sequence[Judged]) -> tuple[str, str]:
    """What is promised decides, else what is measured of the primary outcomes."""
    if not mine:
        return "not run", "not run yet"
    if not one.parent:
        return "the base", "the base"
    if any(run.destroyed() is not None for run in mine):
        return "destroyed", "destroyed"
    found = [judgement for judgement in judged if judgement.found]
    if not all(judgement.counts for judgement in found):
        return "inactive", "inactive here"
    promised = [judgement for judgement in found if judgement.claim and judgement.claim.direction]
    about = promised or [judgement for judgement in found if not judgement.claim]
    decided = [judgement for judgement in about if judgement.found.seeds > 1 and judgement.verdict != "not measured"]
    if not decided:
        return "no verdict yet", "one seed yet: no verdict" if len(mine) < 2 else "base not run yet: no verdict"
    kinds = [judgement.verdict.partition(",")[0] for judgement in decided]
    if promised:
        kept, broken = kinds.count("reproduced"), kinds.count("contradicted")
        if kept and broken:
            return "mixed", f"{kept} reproduced, {broken} contradicted"
        if kept or broken:
            word = "reproduced" if kept else "contradicted"
            some = f", {kept + broken} of {len(decided)} promises" * (kept + broken < len(decided))
            return word, word + some
    elif differs := [f"{j.found.outcome} {kind}" for j, kind in zip(decided, kinds, strict=True) if j.says_more]:
        return "differs", ", ".join(differs)
    word = "no effect" if set(kinds) == {"no effect"} else "inconclusive"
    return word, word


def default_runs(results: Path) -> dict[str, dict[str, float]]:
    """Method -> what benchmarks.defaults keeps of its run without flags, means over seeds; it may keep none."""
    path = results / "defaults.csv"
    if not path.exists():
        return {}
    by_method = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            by_method[row["algorithm"]].append([float(row[column]) for column in DEFAULTS])
    return {
        method: dict(zip(DEFAULTS, np.mean(rows, 0).tolist(), strict=True)) | {"seeds": len(rows)}
        for method, rows in by_method.items()
    }


def card(
    one: Algorithm,
    lines: int | None,
    runs: dict[str, Regime],
    judged: dict[tuple[str, str], list[Judged]],
    tops: dict[str, float],
    default: dict[str, float] | None,
) -> Card:
    """`tops`: where the pictures of each outcome end, the same for all methods, so that they can be compared."""
    regime = next((r for r in (MAIN, *runs) if one.name in runs.get(r, {})), "")
    mine = [*runs[regime][one.name].values()] if regime else []
    record = methods.method(one.name)
    levers = [lever for lever, what in record.levers.items() if what.startswith("*") or not one.parent]
    word, words = verdict(one, mine, judged.get((regime, one.name), []))
    made = Card(one, record.family, levers, lines, word, words, regime, len(mine), default=default)
    if mine:
        base = [*runs[regime].get("grpo", {}).values()] if one.parent else []
        made.ends = {key: float(np.mean([run.at(key, run.horizon).mean() for run in mine])) for key in SORTED}
        made.sparks = tuple(charts.sparkline(outcome, mine, base, tops[outcome]) for outcome in SPARKS)
    return made


def tops_of(runs: dict[str, Regime]) -> dict[str, float]:
    """Where sparklines end: all of pass@32, and of entropy half as much again as GRPO ever has, for all the same."""
    grpo = [run for regime in runs.values() for run in regime.get("grpo", {}).values()]
    highest = max((np.nanmax(run.training["entropy"]) for run in grpo), default=1.0)
    return {"entropy": 1.5 * float(highest), "pass@32": 1.0}


def context(
    everything: dict[str, Algorithm],
    lines: dict[str, int | None],
    runs: dict[str, Regime],
    judged: dict[tuple[str, str], list[Judged]],
    defaults: dict[str, dict[str, float]],
) -> dict:
    """What the template needs: cards by family, methods of no family first."""
    tops = tops_of(runs)
    cards = [card(one, lines[one.name], runs, judged, tops, defaults.get(one.name)) for one in everything.values()]
    families = {family: [c for c in cards if c.family == family] for family in ("", *methods.FAMILIES)}
    return {
        "families": {family: some for family, some in families.items() if some},
        "titles": methods.FAMILIES,
        "everything": everything,
        "levers": [lever for lever in methods.LEVERS if any(lever in c.levers for c in cards)],
        "verdicts": {word: about for word, about in VERDICTS.items() if any(c.verdict == word for c in cards)},
        "count": len(cards),
        "run": sum(bool(c.seeds) for c in cards),
        "sorted": SORTED,
        "top": tops["entropy"],
        "margins": MARGINS,
    }
