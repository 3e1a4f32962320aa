"""What the comparison judges: promises of papers, arms beside their bases, methods beside their own controls.

Effects and verdicts are those of benchmarks.readings; what a paper promises stands in its record in benchmarks.methods.
benchmarks.claims makes tables of what comes out, benchmarks.sentences words, the gallery its cards.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.collapse import ARMS, EVERY, ON_POLICY, REGIMES, STARTED, active_columns, knob_of
from benchmarks.methods import FAMILIES, METHODS, Claim
from benchmarks.methods import method as record_of
from benchmarks.readings import (
    LEVEL,
    MARGINS,
    STOPPED,
    Asked,
    Effect,
    Regime,
    activity,
    base_of,
    effect,
    judge,
    seeds_for,
)

# After a verdict. An entropy that a destroyed policy keeps is no success; a method that does nothing keeps no promise.
DESTROYED, INACTIVE = ", policy destroyed", ", inactive here"


@dataclass(frozen=True)
class Judged:
    """An effect with its verdict: of a promise, or of an arm's primary outcome."""

    regime: str
    arm: str
    base: str
    found: Effect | None
    verdict: str
    claim: Claim | None = None
    alone: str = ""  # the verdict by the variance of its own seeds alone, as PLAN.md had it at first, if another one
    counts: bool = True  # in Holm's correction and in sentences

    @property
    def asked(self) -> Asked:
        claim = self.claim or Claim("", "", direction=0)
        return Asked(self.found, claim.direction, claim.no_less, self.counts)

    @property
    def words(self) -> str:
        """What was measured and where, and beside what, if that is not 0."""
        beside = f": above {self.asked.beside:g}" if self.asked.no_less else ""
        return f"{self.found.words}{beside}" if self.found else ""

    @property
    def says_more(self) -> bool:
        return self.verdict.startswith(("reproduced", "contradicted", "higher", "lower"))


def at_one_update() -> list[str]:
    """Methods that make one update per rollout by definition, so that their runs stand in both regimes."""
    return [name for name, record in METHODS.items() if record.one_update]


def planned(regime: str) -> list[str]:
    """The arms that PLAN.md has in a regime, by families, and GRPO stopped after it."""
    arms = [arm for arm in ARMS if regime == "off-policy" or arm in (*ON_POLICY, *at_one_update())]
    return [one for arm in arms for one in ((arm, STOPPED) if arm == "grpo" else (arm,))]


def family_of(arm: str) -> str:
    return METHODS["grpo" if arm == STOPPED else ARMS[arm][0]].family


def activity_of(runs: Regime, regime: str, arm: str) -> tuple[bool, str]:
    """Whether what an arm is named after does anything in its runs, and what shows it.

    A flag of GRPO's shows nothing, nor does the arm that a method is held against.
    """
    if arm.startswith("grpo, "):
        return True, ""
    script = ARMS[arm][0]
    if regime == "on-policy" and (inert := METHODS[script].inert_at_one_update):
        return False, f"inactive here: {inert}"
    if base_of(script) == arm:
        return True, f"{script}'s base"
    return activity(runs[arm], active_columns(script), METHODS[script].starts)


def tuned_knob(runs: Regime, arm: str) -> tuple[str, object, object] | None:
    """The flag that was tuned for an arm's runs, its value in them, and its default; None where none was."""
    script, name = EVERY["grpo" if arm == STOPPED else arm][0], "" if arm == STOPPED else knob_of(arm)[0]
    values = [run.record["flags"][name] for run in runs.get(arm, {}).values() if name in run.record["flags"]]
    return (name, values[0], getattr(importlib.import_module(f"algos.{script}").Args(), name)) if values else None


def judged_by(runs: dict[str, Regime], rows: Sequence[Judged]) -> list[Judged]:
    """One table with its verdicts: a destroyed policy and an inactive method are named, the latter does not count.

    Of an inactive method what it selects counts all the same.
    """
    keys = {(one.regime, one.arm) for one in rows if one.arm in runs[one.regime]}
    inactive = {(regime, arm) for regime, arm in keys if not activity_of(runs[regime], regime, arm)[0]}

    def counts(one: Judged) -> bool:
        about_selection = bool(one.claim and one.claim.outcome.startswith("share of selected"))
        return about_selection or (one.regime, one.arm) not in inactive

    def marks(one: Judged) -> str:
        gone = runs[one.regime].destroyed(one.arm)
        return INACTIVE * (not one.counts) + DESTROYED * gone if one.found else ""

    rows = [replace(one, counts=counts(one)) for one in rows]
    verdicts = judge([one.asked for one in rows])
    return [replace(one, verdict=word + marks(one)) for one, word in zip(rows, verdicts, strict=True)]


def promises(runs: dict[str, Regime]) -> list[Judged]:
    """Every promise of a record in both regimes, judged as one table."""

    def table(pooled: bool) -> list[Judged]:
        asked = [
            (r, c.arm or arm, c) for r in REGIMES for arm in planned(r) if arm in METHODS for c in METHODS[arm].claims
        ]
        rows = [
            Judged(r, arm, c.base, effect(runs[r], arm, c.base, c.outcome, c.reading, c.target, pooled), "", c)
            for r, arm, c in asked
        ]
        return judged_by(runs, rows)

    return [
        replace(one, alone=alone.verdict.removesuffix(DESTROYED) * (one.counts and one.verdict != alone.verdict))
        for one, alone in zip(table(pooled=True), table(pooled=False), strict=True)
    ]


def compared(runs: Regime, regime: str, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Judged]]:
    """The primary outcomes of (arm, base) at equal steps, judged as one table."""
    rows = [
        Judged(regime, arm, base, effect(runs, arm, base, outcome), "") for arm, base in pairs for outcome in MARGINS
    ]
    judged: dict[tuple[str, str], list[Judged]] = {pair: [] for pair in pairs}
    for one in judged_by({regime: runs}, rows):
        judged[one.arm, one.base].append(one)
    return judged


def against_bases(runs: Regime, regime: str) -> dict[tuple[str, str], list[Judged]]:
    """All arms of a regime less their bases; each family is a table."""
    pairs = [(arm, base_of(arm)) for arm in planned(regime) if base_of(arm)]
    judged = {}
    for family in FAMILIES:
        judged |= compared(runs, regime, [pair for pair in pairs if family_of(pair[0]) == family])
    return judged


def against_started(started: Regime) -> dict[tuple[str, str], list[Judged]]:
    """The arms that begin at GRPO's checkpoint less their bases."""
    return compared(started, "from-grpo", [(arm, base_of(arm)) for arm in STARTED if base_of(arm)])


def own_controls(method: str) -> list[str]:
    """Arms of a method with a part of it changed; those in GRPO's name are no method's."""
    return [arm for arm in record_of(method).arms if arm.startswith(f"{method}, ") and method != "grpo"]


def decides(control: str) -> bool:
    """Whether a control answers before the paper does: it draws at random, or shuffles, what the method chooses."""
    return "random" in control or "shuffled" in control


def against_controls(runs: Regime, regime: str) -> dict[tuple[str, str], list[Judged]]:
    return compared(runs, regime, [(method, control) for method in METHODS for control in own_controls(method)])


def seeds_due(runs: Regime, regime: str) -> list[str]:
    """Arms of three seeds with an inconclusive effect on a primary outcome within twice the margin of 0."""
    due = []
    for (arm, _), judged in against_bases(runs, regime).items():
        near = [
            one
            for one in judged
            if one.verdict == "inconclusive" and abs(one.found.mean) < 2 * MARGINS[one.found.outcome]
        ]
        if near and len(runs[arm]) == 3 and arm != STOPPED:
            due.append(f"{arm} ({', '.join(one.found.outcome for one in near)})")
    return due


def would_take(one: Judged, tests: int) -> str:
    """What would decide an inconclusive effect in a table of so many tests, were it and its variances as estimated."""
    if not one.verdict.startswith("inconclusive") or not one.counts:
        return ""
    seeds = seeds_for(one.found, one.asked.margin, LEVEL / tests, one.asked.beside)
    if seeds:
        return f"{seeds} seeds"
    return "more problems" if one.found.variances.of_problems else "over 100 seeds"


def number_of_tests(judged: Sequence[Judged]) -> int:
    """Those that Holm's correction counts."""
    return sum(math.isfinite(one.asked.p) for one in judged)
