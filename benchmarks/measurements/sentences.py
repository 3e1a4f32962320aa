"""The comparison through the collapse in ten sentences, each of which follows from the runs by rule."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import law
from benchmarks.collapse import ARMS
from benchmarks.judging import (
    DESTROYED,
    Judged,
    against_bases,
    against_controls,
    against_started,
    decides,
    number_of_tests,
    planned,
    promises,
    would_take,
)
from benchmarks.methods import METHODS
from benchmarks.readings import LEVEL, MARGINS, STOPPED, Regime, ends, load_group, ranks
from benchmarks.report import correlation_p, number_word


def listed(arms: Sequence[str], most: int = 6) -> str:
    """`a`, `b` and `c`; of more than `most` the first ones and how many there are besides."""
    quoted = [f"`{arm}`" for arm in dict.fromkeys(arms)]
    if len(quoted) > most:
        quoted[most - 1 :] = [f"{len(quoted) - most + 1} more"]
    return ", ".join(quoted[:-1]) + (" and " if len(quoted) > 1 else "") + (quoted[-1] if quoted else "none")


def of_runs(runs: Regime) -> Iterator[str]:
    """How much was run, and where GRPO goes."""
    done = [arm for arm in planned("off-policy") if arm in runs and arm != STOPPED]
    most = max(map(len, runs.values()), default=0)
    yield (
        f"{'All' if len(done) == len(ARMS) else f'{len(done)} of the'} {len(ARMS)} arms have been run off-policy, the "
        f"first methods with up to {number_word(most, 'seed')}; with one seed there is no verdict."
    )
    if grpo := [*runs.get("grpo", {}).values()]:
        start, end = (
            [np.mean([run.at(key, step(run)).mean() for run in grpo]) for key in ("pass@1", "pass@32")]
            for step in (lambda run: 0, lambda run: run.horizon)
        )
        entropy = [np.mean([run.training["entropy"][at] for run in grpo]) for at in (0, -1)]
        best = ", ".join(f"{run.steps[run.best()]}" for run in grpo)
        yield (
            f"GRPO ({number_word(len(grpo), 'seed')}) takes pass@1 from {start[0]:.2f} to {end[0]:.2f} and pass@32 "
            f"from {start[1]:.2f} to {end[1]:.2f}, while entropy falls from {entropy[0]:.2f} to {entropy[1]:.2f}; its "
            f"best evaluation by pass@1 is at step {best}."
        )


def of_ends(runs: Regime) -> Iterator[str]:
    """Who ends highest of the arms with the most seeds, two arms at least, without a verdict; what was drawn for it."""
    by_seeds = sorted((len(seeds) for arm, seeds in runs.items() if arm != STOPPED), reverse=True)
    if len(by_seeds) < 2:
        return
    least = by_seeds[1]
    some = {arm: [*seeds.values()] for arm, seeds in runs.items() if len(seeds) >= least and arm != STOPPED}
    highest: dict[str, list[str]] = {}
    for key in ("pass@1", "pass@32", "coverage"):
        means = {arm: np.mean([run.at(key, run.horizon).mean() for run in mine]) for arm, mine in some.items()}
        arm = max(means, key=means.get)
        highest.setdefault(arm, []).append(f"{key} ({means[arm]:.2f})")
    words = ", ".join(f"`{arm}` in {' and '.join(outcomes)}" for arm, outcomes in highest.items())
    cost = ""
    if "grpo" in some:
        drawn = {arm: np.mean([run.drawn("samples") for run in mine]) for arm, mine in some.items()}
        ratios = {arm: number / drawn["grpo"] for arm, number in drawn.items() if number > 1.1 * drawn["grpo"]}
        if ratios:
            extremes = dict.fromkeys((min(ratios, key=ratios.get), max(ratios, key=ratios.get)))
            times = " to ".join(f"{ratios[arm]:.1f} (`{arm}`)" for arm in extremes)
            cost = f"; dynamic sampling draws GRPO's samples times {times}"
    count = f"{len(some)} arms with {number_word(least, 'seed')}"
    yield f"Of {count} or more, the highest mean at the end has {words}{cost}."


def of_entropy(runs: Regime, least: int = 10) -> Iterator[str]:
    """Whether what keeps entropy keeps what many samples find, over at least so many arms; and who does not.

    At the end and after as many samples for all, as some arms draw several times as many as others until their end.
    """
    found = ends(runs)
    if len(found) < least:
        return
    fewest = min(run.drawn("samples") for arm in found for run in runs[arm].values())

    def correlations(some: dict[str, dict[str, float]]) -> list[float]:
        entropy, *others = (ranks([end[key] for end in some.values()]) for key in ("entropy", "pass@32", "pass@1"))
        return [float(np.corrcoef(entropy, other)[0, 1]) for other in others]

    many, first = correlations(found)
    said = []
    for outcome, value in zip(("pass@32", "pass@1"), correlations(ends(runs, fewest)), strict=True):
        told = correlation_p(value, len(found)) <= LEVEL
        said.append(f"{value:+.2f} with {outcome}" + ("" if told else ", which is not told from 0"))
    entropy, passed = (ranks([end[key] for end in found.values()]) for key in ("entropy", "pass@32"))
    far = [*found][int(np.argmax(np.abs(entropy - passed)))]
    yield (
        f"Over {len(found)} arms that keep a policy, entropy at the end correlates {many:+.2f} with pass@32 and "
        f"{first:+.2f} with pass@1 (Spearman); where each has drawn {fewest:,} samples, {' and '.join(said)}. "
        f"The farthest off is `{far}`, with an entropy of {found[far]['entropy']:.2f} and pass@32 of "
        f"{found[far]['pass@32']:.2f}."
    )


def by_promise(judged: Sequence[Judged]) -> str:
    """What was promised, in the order of how often, and whose promise it was."""
    arms: dict[str, list[str]] = {}
    for one in judged:
        arms.setdefault(one.claim.promise.partition(" (")[0], []).append(one.arm)
    often = sorted(arms.items(), key=lambda one: -len(one[1]))
    return ", ".join(f"*{promise}* ({listed(some)})" for promise, some in often)


def of_promises(judged: Sequence[Judged]) -> Iterator[str]:
    """How many promises came out how, which, and whose.

    What a destroyed policy keeps is not counted among the reproduced; what a method promises that does nothing here,
    not at all.
    """
    tested = [one for one in judged if one.found and one.found.seeds > 1 and one.claim.direction]
    decided = [one for one in tested if one.counts]
    hollow = "reproduced by a destroyed policy"

    def came_out(one: Judged) -> str:
        word = one.verdict.partition(",")[0]
        return hollow if word == "reproduced" and one.verdict.endswith(DESTROYED) else word

    def said(word: str, some: list[Judged]) -> str:
        text = f"{len(some)} {'is' if len(some) == 1 else 'are'} {word}"
        if word == "reproduced":
            alone = sum(not one.alone for one in some)
            text += f" ({alone} of them also by the variance of their own seeds alone, as first planned)"
        return text + (f": {by_promise(some)}" if word not in ("no effect", "inconclusive") else "")

    if decided:
        counts = {
            word: [one for one in decided if came_out(one) == word]
            for word in ("reproduced", hollow, "contradicted", "no effect", "inconclusive")
        }
        idle = len(tested) - len(decided)
        tests = number_of_tests(judged)
        hopeless = sum(would_take(one, tests) in ("more problems", "over 100 seeds") for one in decided)
        yield (
            f"Of {number_word(len(decided), 'promise')} with two or more seeds"
            + (f" ({idle} more are of methods that are inactive there)" if idle else "")
            + f", {'; '.join(said(word, some) for word, some in counts.items() if some)}"
            + (f"; for {hopeless} of these a hundred seeds would not do." if hopeless else ".")
        )


def of_effects(runs: Regime) -> Iterator[str]:
    """Which arms end higher or lower than their bases, after the correction; the largest effects first."""
    tested = [one for some in against_bases(runs, "off-policy").values() for one in some]
    if not any(one.found and one.found.seeds > 1 for one in tested):
        return
    words = []
    for outcome in MARGINS:
        some = [one for one in tested if one.found and one.found.outcome == outcome]
        some.sort(key=lambda one: -abs(one.found.mean))
        sides = {word: [one.arm for one in some if one.verdict.startswith(word)] for word in ("higher", "lower")}
        said = ", ".join(f"{word} for {listed(arms)}" for word, arms in sides.items() if arms)
        words += [f"{outcome} is {said}"] if said else []
    yield f"Beside its base at the end, {'; '.join(words) or 'no arm differs after the correction'}."


def of_controls(runs: Regime) -> Iterator[str]:
    """Which methods are told apart from random selection or shuffled weights."""
    controls = against_controls(runs, "off-policy")
    tested = {pair: some for pair, some in controls.items() if some[0].found and some[0].found.seeds > 1}
    placebo = {method: some for (method, control), some in tested.items() if decides(control)}
    apart = {method: [one.found for one in some if one.says_more] for method, some in placebo.items()}
    if placebo:
        said = [
            f"`{method}` ({', '.join(f'{found.outcome} {found.mean:+.2f}' for found in some)})"
            for method, some in apart.items()
            if some
        ]
        yield (
            f"Of {number_word(len(placebo), 'method')} held against random selection or shuffled weights, "
            f"{len(said)} {'is' if len(said) == 1 else 'are'} told apart from it: {', '.join(said) or 'none'}."
        )


def of_destruction(runs: Regime) -> Iterator[str]:
    """Which runs lose half of the pass@1 that they began with, and when."""
    gone = {
        arm: [step for run in some.values() if (step := run.destroyed()) is not None]
        for arm, some in runs.items()
        if arm != STOPPED
    }
    words = [
        f"`{arm}` ({len(steps)} of {number_word(len(runs[arm]), 'run')}, from step {min(steps)}"
        + (f", trained on {other})" if (other := METHODS[ARMS[arm][0]].trained_on) else ")")
        for arm, steps in gone.items()
        if steps
    ]
    if words:
        yield f"Runs with pass@1 under half of the start's: {', '.join(words)}."


def of_started(started: Regime) -> Iterator[str]:
    """The same methods from GRPO's checkpoint."""
    if "nsr" in started and "grpo" in started:
        last = {
            arm: np.mean([r.at("pass@1", r.horizon).mean() for r in started[arm].values()]) for arm in ("nsr", "grpo")
        }
        begun = np.mean([run.at("pass@1", 0).mean() for run in started["nsr"].values()])
        gone = sum(run.destroyed() is not None for run in started["nsr"].values())
        [judged] = [one for one in against_started(started)["nsr", "grpo"] if one.found.outcome == "pass@1"]
        yield (
            f"From GRPO's checkpoint (pass@1 {begun:.2f}) `nsr` ends at {last['nsr']:.2f} where GRPO goes on to "
            f"{last['grpo']:.2f} ({judged.verdict}); {gone} of {number_word(len(started['nsr']), 'run')} destroyed."
        )


def of_law(records: Sequence[dict]) -> Iterator[str]:
    """What the law R = -a exp(H) + b can tell of the end from the first part of a run."""
    share = law.SHARES[0]
    if some := [row for row in law.guesses_of(records) if row["share"] == share]:
        error = {name: np.median(law.misses(some, name)) for name in ("law", "ceiling", "last value")}
        yield (
            f"R = -a exp(H) + b, fitted on the first {share:.0%} of a run, is off by {error['ceiling']:.2f} (median of "
            f"{number_word(len(some), 'run')}) as a forecast of the reward at the end, the reward at that "
            f"point by {error['last value']:.2f}; told the entropy at the end, by {error['law']:.2f}."
        )


def of_all(rows: Path, runs: dict[str, Regime]) -> list[str]:
    """At most ten, each there only if the runs carry it."""
    if not any(runs.values()):
        return ["No run of the comparison is kept yet."]
    off = runs["off-policy"]
    parts = (
        of_runs(off),
        of_ends(off),
        of_entropy(off),
        of_promises(promises(runs)),
        of_effects(off),
        of_controls(off),
        of_destruction(off),
        of_started(load_group(rows, "from-grpo")),
        of_law(law.kept_runs(rows)),
    )
    return [sentence for part in parts for sentence in part][:10]
