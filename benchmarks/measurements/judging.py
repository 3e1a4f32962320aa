"""What the comparison judges: promises of papers, arms beside their bases, methods beside their own controls.

Effects and verdicts are those of benchmarks.readings; what a paper promises stands in its record in benchmarks.methods.
benchmarks.claims makes tables of what comes out, benchmarks.sentences words, the gallery its cards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.collapse import ARMS, ON_POLICY, REGIMES
from benchmarks.methods import FAMILIES, METHODS, Claim
from benchmarks.methods import method as record_of
from benchmarks.readings import LEVEL, MARGINS, OUTCOMES, STOPPED, Effect, Regime, base_of, effect, judge, seeds_for

DESTROYED = ", policy destroyed"  # after the verdict of an arm with such a run: an entropy kept so is no success


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

    @property
    def says_more(self) -> bool:
        return self.verdict.startswith(("reproduced", "contradicted", "higher", "lower"))


def planned(regime: str) -> list[str]:
    """The arms that PLAN.md has in a regime, by families, and GRPO stopped after it."""
    arms = [*ARMS] if regime == "off-policy" else [arm for arm in ARMS if arm in ON_POLICY]
    return [one for arm in arms for one in ((arm, STOPPED) if arm == "grpo" else (arm,))]


def family_of(arm: str) -> str:
    return METHODS["grpo" if arm == STOPPED else ARMS[arm][0]].family


def promises(runs: dict[str, Regime]) -> list[Judged]:
    """Every promise of a record in both regimes, judged as one table; a verdict on a destroyed policy says so."""
    asked = [
        (regime, claim.arm or arm, claim)
        for regime in REGIMES
        for arm in planned(regime)
        if arm in METHODS
        for claim in METHODS[arm].claims
    ]

    def judged_by(pooled: bool) -> tuple[list[Effect | None], list[str]]:
        found = [effect(runs[r], arm, c.base, c.outcome, c.reading, c.target, pooled) for r, arm, c in asked]
        return found, judge([(one, claim.direction) for one, (_, _, claim) in zip(found, asked, strict=True)])

    (found, verdicts), (_, alone) = judged_by(pooled=True), judged_by(pooled=False)
    judged = []
    for (regime, arm, claim), one, verdict, other in zip(asked, found, verdicts, alone, strict=True):
        suffix = DESTROYED * bool(one and runs[regime].destroyed(arm))
        judged.append(Judged(regime, arm, claim.base, one, verdict + suffix, claim, other * (other != verdict)))
    return judged


def compared(runs: Regime, regime: str, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Judged]]:
    """The primary outcomes of (arm, base) at equal steps, judged as one table."""
    asked = [(arm, base, outcome) for arm, base in pairs for outcome in MARGINS]
    found = [effect(runs, arm, base, outcome) for arm, base, outcome in asked]
    verdicts = judge([(one, 0) for one in found])
    judged: dict[tuple[str, str], list[Judged]] = {pair: [] for pair in pairs}
    for (arm, base, _), one, verdict in zip(asked, found, verdicts, strict=True):
        suffix = DESTROYED * bool(one and runs.destroyed(arm))
        judged[arm, base].append(Judged(regime, arm, base, one, verdict + suffix))
    return judged


def against_bases(runs: Regime, regime: str) -> dict[tuple[str, str], list[Judged]]:
    """All arms of a regime less their bases; each family is a table."""
    pairs = [(arm, base_of(arm)) for arm in planned(regime) if base_of(arm)]
    judged = {}
    for family in FAMILIES:
        judged |= compared(runs, regime, [pair for pair in pairs if family_of(pair[0]) == family])
    return judged


def own_controls(method: str) -> list[str]:
    """Arms of a method with a part of it changed; those in GRPO's name are no method's."""
    return [arm for arm in record_of(method).arms if arm.startswith(f"{method}, ") and method != "grpo"]


def decides(control: str) -> bool:
    """Whether a control answers before the paper does: it draws at random, or shuffles, what the method chooses."""
    return "random" in control or "shuffled" in control


def against_controls(runs: Regime, regime: str) -> dict[tuple[str, str], list[Judged]]:
    return compared(runs, regime, [(method, control) for method in METHODS for control in own_controls(method)])


def seeds_due(runs: Regime) -> list[str]:
    """Arms of three seeds with an inconclusive effect on a primary outcome within twice the margin of 0."""
    due = []
    for (arm, _), judged in against_bases(runs, "off-policy").items():
        near = [
            one
            for one in judged
            if one.verdict == "inconclusive" and abs(one.found.mean) < 2 * MARGINS[one.found.outcome]
        ]
        if near and len(runs[arm]) == 3:
            due.append(f"{arm} ({', '.join(one.found.outcome for one in near)})")
    return due


def would_take(one: Judged, tests: int) -> str:
    """What would decide an inconclusive effect in a table of so many tests, were it and its variances as estimated."""
    if not one.verdict.startswith("inconclusive"):
        return ""
    seeds = seeds_for(one.found, OUTCOMES[one.found.outcome], LEVEL / tests)
    if seeds:
        return f"{seeds} seeds"
    return "more problems" if one.found.variances.of_problems else "over 100 seeds"


def number_of_tests(judged: Sequence[Judged]) -> int:
    """Those that Holm's correction counts."""
    return sum(one.found is not None and math.isfinite(one.found.p) for one in judged)
