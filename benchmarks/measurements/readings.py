"""How the runs of the comparison are read: outcomes, readings, effects with intervals, verdicts, activity.

What this computes is laid down in benchmarks/results/collapse/PLAN.md, which was written before the runs. A reading
chooses one step of each run, an outcome is measured there, and an effect is the difference to the base on the same
seeds and problems. benchmarks.claims and the gallery show what comes out.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.collapse import ARMS, EVERY, REGIMES, decode, regime_of
from benchmarks.methods import METHODS
from benchmarks.report import f_p, student_p, student_t
from common.evaluate import pass_at_k

# Primary outcome -> the margin below which a difference is of no interest.
MARGINS = {"pass@1": 0.02, "pass@32": 0.04, "coverage": 0.04, "entropy": 0.02}
# What single promises and tables are about besides, measured as a primary outcome is and with its margin; 0: none.
MARGINS_OF_OTHERS = {
    "area under pass@1": MARGINS["pass@1"],
    "coverage, two and more": MARGINS["coverage"],
    "distance of entropy from a target": MARGINS["entropy"],
    "response length": 0.5,
    "share of selected tokens with A < 0, less 1/2": 0.0,
    "share of groups of equal rewards": 0.0,
    "unsteadiness of entropy": 0.0,
}
OVER_THE_RUN = ("area under", "share of", "unsteadiness of")  # outcomes of a whole run, which have no step
OUTCOMES = MARGINS | MARGINS_OF_OTHERS
WINDOWS = 5  # of five steps each: what training shows is a mean over the last 25 steps
TRAINED = {"entropy": "entropy", "reward": "reward", "response length": "length"}  # such an outcome -> its column
LEVEL = 0.05
STOPPED = "grpo, stopped at its best"  # a reading of GRPO's runs that stands beside the arms


# --- Runs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One finished run: E evaluations of P problems, W windows of training steps.

    A run that ended itself keeps its last values from there on.
    """

    record: dict  # its file
    steps: np.ndarray  # of the evaluations, (E,)
    counts: dict[str, np.ndarray]  # pass@1, pass@32, coverage, by problem, (E, P)
    total: np.ndarray  # solutions that each problem has, (P,)
    windows: np.ndarray  # last step of each trailing mean, (W,)
    training: dict[str, np.ndarray] = field(default_factory=dict)  # of TRAINED: trailing means, (W,)

    @property
    def horizon(self) -> int:
        """The step at which it was to end."""
        return self.record["flags"]["num_steps"]

    def step_after(self, count: str, number: float) -> float:
        """The step until which so many "samples" or "tokens" had been drawn, interpolated."""
        drawn = self.record["training"]
        return float(np.interp(number, [0, *drawn[count]], [0, *drawn["step"]]))

    def drawn(self, count: str) -> int:
        """Samples or tokens up to its end."""
        return int(
            np.interp(self.steps[-1], [0, *self.record["training"]["step"]], [0, *self.record["training"][count]])
        )

    def best(self) -> int:
        """The evaluation with the highest pass@1, the first of equals."""
        return int(self.counts["pass@1"].mean(1).argmax())

    def destroyed(self) -> int | None:
        """The step of destruction: of the first evaluation with pass@1 under half of the start's."""
        passed = self.counts["pass@1"].mean(1)
        return next((int(step) for step, p in zip(self.steps, passed, strict=True) if p < passed[0] / 2), None)

    def at(self, outcome: str, step: float, target: float = 0.0) -> np.ndarray:
        """An outcome at a step, linear between evaluations: by problem (P,), or (1,) where it is of no problems.

        Raises KeyError for a name that is none.
        """
        if outcome in self.counts:
            return between(step, self.steps, self.counts[outcome])
        if outcome == "coverage, two and more":
            return between(step, self.steps, self.counts["coverage"])[self.total > 1]
        if outcome == "area under pass@1":
            steps, passed = self.steps, self.counts["pass@1"]
            if steps[-1] < self.horizon:
                steps, passed = np.append(steps, self.horizon), np.vstack([passed, passed[-1]])
            return np.trapezoid(passed, steps, axis=0) / self.horizon
        if outcome.startswith("share of selected"):
            shares = column(self.record, "algo/selected_negative_ratio")
            return np.array([np.nanmean(shares) - 0.5 if np.isfinite(shares).any() else math.nan])
        if outcome == "share of groups of equal rewards":
            return np.array([np.nanmean(column(self.record, "all_right") + column(self.record, "all_wrong"))])
        if outcome == "unsteadiness of entropy":  # the spread of its changes from five steps to the next five
            return np.array([np.nanstd(np.diff(column(self.record, "entropy")), ddof=1)])
        if outcome == "distance of entropy from a target":
            return abs(self.at("entropy", step) - target)
        return np.array([np.interp(step, self.windows, self.training[outcome])])


def between(step: float, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rows of (E, P) interpolated linearly at a step, (P,); the first or last one beyond the ends."""
    position = np.interp(step, steps, np.arange(len(steps)))
    low = int(position)
    high, share = min(low + 1, len(steps) - 1), position - low
    return (1 - share) * values[low] + share * values[high]


def column(record: dict, name: str) -> np.ndarray:
    """A training column, NaN where it holds no number; all NaN where there is none."""
    values = record["training"].get(name) or [None] * len(record["training"]["step"])
    return np.array([math.nan if value is None else value for value in values], dtype=float)


def trailing(values: np.ndarray, width: int = WINDOWS) -> np.ndarray:
    """Means over each `width` neighbours, (W,) -> (W - width + 1,); one mean of all where there are fewer."""
    width = min(width, len(values))
    return np.nanmean(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)


def read(record: dict) -> Run:
    """A run from the record that benchmarks.collapse keeps."""
    samples, total = record["flags"]["eval_samples"], np.array(decode(record["total"]))
    right, distinct = (np.array([decode(one[name]) for one in record["evaluations"]]) for name in ("right", "distinct"))
    return Run(
        record=record,
        steps=np.array([one["step"] for one in record["evaluations"]]),
        counts={
            "pass@1": right / samples,
            "pass@32": pass_at_k(samples, right, min(32, samples)),
            "coverage": distinct / total,
        },
        total=total,
        windows=np.array(record["training"]["step"])[min(WINDOWS, len(record["training"]["step"])) - 1 :],
        training={outcome: trailing(column(record, name)) for outcome, name in TRAINED.items()},
    )


def stopped(run: Run) -> Run:
    """The run as if it had ended at its best evaluation."""
    end = run.best() + 1
    kept = max(1, int(np.searchsorted(run.windows, run.steps[end - 1], side="right")))
    return replace(
        run,
        steps=run.steps[:end],
        counts={name: values[:end] for name, values in run.counts.items()},
        windows=run.windows[:kept],
        training={name: values[:kept] for name, values in run.training.items()},
    )


class Regime(dict[str, dict[int, Run]]):
    """Arm -> seed -> run; and what all arms together say of the variance over seeds."""

    def __init__(self, runs: dict[str, dict[int, Run]]) -> None:
        super().__init__(runs)
        self.known: dict[tuple[str, str], tuple[Prior, set[str]]] = {}

    def usual(self, outcome: str, reading: str) -> "tuple[Prior, set[str]]":
        """What arms say together of an outcome, by a key of READINGS, and those that vary more than the others do.

        Of neither are arms with a destroyed run. A distance's is that of the distance from 0.
        """
        if (outcome, reading) not in self.known:
            found = {arm: variance_of(self, arm, outcome, reading) for arm in self if self.steady(arm, base_of(arm))}
            estimates = {arm: one for arm, one in found.items() if one}
            apart = unlike(estimates)
            self.known[outcome, reading] = prior_of([e for arm, e in estimates.items() if arm not in apart]), apart
        return self.known[outcome, reading]

    def prior(self, outcome: str, reading: str, *arms: str) -> "Prior":
        """Of an outcome in each of these arms; it says nothing where one was destroyed or varies too much."""
        usual, apart = self.usual(outcome, reading)
        return usual if self.steady(*arms) and not apart & {*arms} else Prior()

    def destroyed(self, arm: str) -> bool:
        """Whether an arm has a run that destroyed the policy."""
        return any(run.destroyed() is not None for run in self.get(arm, {}).values())

    def steady(self, *arms: str) -> bool:
        """Whether these are arms of their own, none of whose runs was destroyed."""
        return STOPPED not in arms and not any(map(self.destroyed, arms))


def load_group(rows: Path, group: str) -> Regime:
    """The kept runs of one folder, but for those of tuning and the one that others start from."""
    runs: dict[str, dict[int, Run]] = {}
    for path in sorted((rows / group).glob("*.json")):
        record = json.loads(path.read_text())
        if not record["setting"]:
            runs.setdefault(record["arm"], {})[record["seed"]] = read(record)
    return Regime({arm: dict(sorted(runs[arm].items())) for arm in EVERY if arm in runs})


def load(rows: Path) -> dict[str, Regime]:
    """All kept runs, by regime; what makes one update by definition stands in both. GRPO, stopped, is an arm too."""
    kept, found = {regime: load_group(rows, regime) for regime in REGIMES}, {}
    for regime in REGIMES:
        own = {arm: kept[regime_of(arm, regime)].get(arm) for arm in ARMS}
        runs = Regime({arm: seeds for arm, seeds in own.items() if seeds})
        if "grpo" in runs:
            runs[STOPPED] = {seed: stopped(run) for seed, run in runs["grpo"].items()}
        found[regime] = runs
    return found


def base_of(arm: str) -> str:
    """The arm that it is held against; "" for GRPO."""
    return "grpo" if arm == STOPPED else EVERY[arm][1].base


# --- Readings ---------------------------------------------------------------------------------------------------------

Pairs = Sequence[tuple[Run, Run]]  # an arm's runs and its base's, of the same seeds
Steps = list[tuple[float, float]]  # of both, where an outcome is measured


def equal_steps(pairs: Pairs) -> tuple[Steps, str]:
    return [(arm.horizon, base.horizon) for arm, base in pairs], f"at step {pairs[0][0].horizon}"


def equal_drawn(count: str) -> Callable[[Pairs], tuple[Steps, str]]:
    def choose(pairs: Pairs) -> tuple[Steps, str]:
        numbers = [min(arm.drawn(count), base.drawn(count)) for arm, base in pairs]
        steps = [(a.step_after(count, n), b.step_after(count, n)) for (a, b), n in zip(pairs, numbers, strict=True)]
        return steps, f"after {np.mean(numbers):,.0f} {count}"

    return choose


def equal_reward(pairs: Pairs) -> tuple[Steps, str]:
    """Where reward first reaches the highest level, in steps of 0.01, that every one of these runs reaches."""
    runs = [run for pair in pairs for run in pair]
    level = math.floor(min(run.training["reward"].max() for run in runs) * 100 + 1e-9) / 100

    def reached(run: Run) -> float:
        return float(run.windows[np.flatnonzero(run.training["reward"] >= level - 1e-12)[0]])

    return [(reached(arm), reached(base)) for arm, base in pairs], f"where reward reaches {level:.2f}"


def best_evaluation(pairs: Pairs) -> tuple[Steps, str]:
    return [(a.steps[a.best()], b.steps[b.best()]) for a, b in pairs], "at the best evaluation of each"


# Each chooses the steps at which both runs of a pair are looked at, and says so in words.
READINGS: dict[str, Callable[[Pairs], tuple[Steps, str]]] = {
    "equal steps": equal_steps,
    "equal samples": equal_drawn("samples"),
    "equal tokens": equal_drawn("tokens"),
    "equal reward": equal_reward,
    "best evaluation": best_evaluation,
}


# --- Variances --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prior:
    """What other arms say of a variance over seeds: this one, as if it had been estimated with so much freedom.

    Freedom 0 says nothing.
    """

    variance: float = 0.0
    freedom: int = 0

    def moderate(self, variance: float, freedom: int) -> float:
        """An estimate and this one, each by its degrees of freedom."""
        return (self.freedom * self.variance + freedom * variance) / (self.freedom + freedom)


def prior_of(estimates: Sequence[tuple[float, int]]) -> Prior:
    """From arms' variances over seeds and their degrees of freedom; of fewer than three arms, none.

    The true variances are taken to be drawn from a scaled inverse chi-square distribution (Smyth 2004, Statistical
    Applications in Genetics and Molecular Biology 3(1)), so that the estimates follow an F distribution. Its scale is
    the likeliest, and its degrees of freedom are the fewest whose log-likelihood is within 1/2 of the highest: arms of
    two seeds can hardly tell ten from a hundred, and too many make intervals that are too narrow far out, where Holm's
    correction looks.
    """
    estimates = [one for one in estimates if math.isfinite(one[0]) and one[0] > 0]
    if len(estimates) < 3:
        return Prior()
    variance, own = np.array(estimates, dtype=float).T  # (N,)
    freedom = np.unique(np.geomspace(1, own.sum(), 100).round())[:, None]  # (F, 1), at most what all arms have together
    low, high = (np.full_like(freedom, math.log(end)) for end in (variance.min(), variance.max()))
    for _ in range(50):  # the derivative of the log-likelihood by the logarithm of the scale falls with it
        middle = (low + high) / 2
        ratio = own * variance / np.exp(middle)
        rises = ((freedom + own) * ratio / (freedom + ratio)).sum(1, keepdims=True) > own.sum()
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    ratio = own * variance / (freedom * np.exp(low))
    both, alone = (torch.lgamma(torch.from_numpy(one / 2)).numpy() for one in (freedom + own, freedom))
    likelihood = (both - alone + own / 2 * np.log(ratio) - (freedom + own) / 2 * np.log1p(ratio)).sum(1)
    fewest = int((likelihood >= likelihood.max() - 0.5).argmax())
    return Prior(math.exp(low[fewest, 0]), int(freedom[fewest, 0]))


def unlike(estimates: dict[str, tuple[float, int]]) -> set[str]:
    """Arms of a larger variance over seeds than the others' prior explains, by F tests at LEVEL over all of them.

    The least likely one is held against the others, and left out if they do not explain it; and so on until they do.
    One such arm among many would leave the prior next to no degrees of freedom (Phipson et al. 2016, Annals of Applied
    Statistics 10(2)).
    """
    rest = {arm: one for arm, one in estimates.items() if math.isfinite(one[0]) and one[0] > 0}
    apart: set[str] = set()

    def chance(arm: str, usual: Prior) -> float:
        variance, freedom = rest[arm]
        return f_p(variance / usual.variance, freedom, usual.freedom) if usual.freedom else 1.0

    while rest:
        usual = prior_of([*rest.values()])
        least = min(rest, key=lambda arm: chance(arm, usual))
        others = prior_of([one for arm, one in rest.items() if arm != least])
        if chance(least, others) * len(estimates) > LEVEL:
            break
        apart.add(least)
        del rest[least]
    return apart


@dataclass(frozen=True)
class Variances:
    """Of the mean of (S, P) differences, S > 1, where seeds and problems are both random.

    of_seeds: that of the seeds' means over S; of_problems: that of the problems' means over P; of_both: the residual's
    over S P, which the first two have both counted. With P = 1 the first alone. borrowed: the degrees of freedom that a
    prior has added to those of the seeds.
    """

    seeds: int
    of_seeds: float
    of_problems: float = 0.0
    of_both: float = 0.0
    borrowed: int = 0

    @property
    def total(self) -> float:
        """At least the larger of the first two, as a difference of estimates may come out too small."""
        return max(self.of_seeds + self.of_problems - self.of_both, self.of_seeds, self.of_problems)

    def with_seeds(self, seeds: int) -> float:
        """What `total` is expected to be with so many seeds and the same problems."""
        return self.of_seeds * self.seeds / seeds + max(0.0, self.of_problems - self.of_both)


def variances(differences: np.ndarray, prior: Prior = Prior()) -> Variances:
    """Of differences (S, P), S > 1; the prior is one of the seeds' mean differences."""
    seeds, problems = differences.shape
    by_seed, by_problem = differences.mean(1), differences.mean(0)
    of_seeds = prior.moderate(float(by_seed.var(ddof=1)), seeds - 1) / seeds
    if problems == 1:
        return Variances(seeds, of_seeds, borrowed=prior.freedom)
    residual = differences - by_seed[:, None] - by_problem + differences.mean()
    of_both = float((residual**2).sum() / ((seeds - 1) * (problems - 1)) / (seeds * problems))
    return Variances(seeds, of_seeds, float(by_problem.var(ddof=1) / problems), of_both, prior.freedom)


# --- Effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """The mean difference over seeds (and problems), its 95 % interval and p-value: NaN with one seed."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    outcome: str = ""
    words: str = ""  # what was measured, and where
    variances: Variances | None = None  # of the mean, with two seeds or more

    def p_beside(self, value: float) -> float:
        """The p-value, were the true difference this one instead of 0."""
        if not value or not self.variances:
            return self.p
        error, freedom = math.sqrt(self.variances.total), self.seeds - 1 + self.variances.borrowed
        return student_p((self.mean - value) / error, freedom) if error else float(self.mean == value)


def effect_of(differences: np.ndarray, prior: Prior = Prior()) -> Effect:
    """Mean, Student's 95 % interval and p-value of differences (S, P); S - 1 degrees of freedom and the prior's."""
    seeds, mean = len(differences), float(differences.mean())
    if seeds < 2:
        return Effect(mean, math.nan, math.nan, math.nan, seeds)
    found, freedom = variances(differences, prior), seeds - 1 + prior.freedom
    error = math.sqrt(found.total)
    p = student_p(mean / error, freedom) if error else float(mean == 0)
    half = student_t(freedom) * error
    return Effect(mean, mean - half, mean + half, p, seeds, variances=found)


def shared(runs: Regime, *arms: str) -> list[int]:
    """Seeds that all of these arms have."""
    return sorted(set.intersection(*({*runs.get(arm, {})} for arm in arms)))


def measured(
    runs: Regime, arm: str, base: str, outcome: str, reading: str, target: float = 0.0
) -> tuple[np.ndarray, np.ndarray, str]:
    """An outcome of an arm and of its base on the seeds that both have, (S, P) each, and where it was read, in words.

    With no base ("") the arm stands in its place.
    """
    seeds = shared(runs, arm, base or arm)
    pairs = [(runs[arm][seed], runs[base or arm][seed]) for seed in seeds]
    steps, words = READINGS[reading](pairs)
    both = [
        (a.at(outcome, at, target), b.at(outcome, there, target))
        for (a, b), (at, there) in zip(pairs, steps, strict=True)
    ]
    return *map(np.array, zip(*both, strict=True)), "over the run" if outcome.startswith(OVER_THE_RUN) else words


def kind_of_reward(arm: str) -> tuple[str, ...]:
    """What an arm's training reward is a mean of; two rewards are compared only where it is the same."""
    script, one = ARMS["grpo"] if arm == STOPPED else EVERY[arm]
    return METHODS[script].trained_on, METHODS[script].reward_of, one.flags.get("reward_mode", "")


def can_be_read(arm: str, base: str, reading: str) -> bool:
    """Whether a reading of an arm and its base means something: equal rewards do where both are of one thing.

    A coin toss is a reward of nothing.
    """
    kinds = {kind_of_reward(one) for one in (arm, base or arm)}
    return reading != "equal reward" or (len(kinds) == 1 and "random" not in kinds.pop())


def variance_of(runs: Regime, arm: str, outcome: str, reading: str) -> tuple[float, int] | None:
    """The variance over seeds of an arm's outcome, read as against its base, and its degrees of freedom, if any."""
    base = base_of(arm)
    if len(shared(runs, arm, base or arm)) < 2 or not can_be_read(arm, base, reading):
        return None
    values = measured(runs, arm, base_of(arm), outcome, reading)[0].mean(1)
    return float(values.var(ddof=1)), len(values) - 1


def effect(
    runs: Regime,
    arm: str,
    base: str,
    outcome: str,
    reading: str = "equal steps",
    target: float = 0.0,
    pooled: bool = True,
) -> Effect | None:
    """An arm's outcome less its base's, on the seeds that both have; with no base ("") the outcome itself.

    A difference has twice the variance of an arm: that of all arms is its prior, unless one of the two is of another
    kind (Regime.prior) or `pooled` is False. None where they share no seed, or the reading means nothing of them.
    """
    if not shared(runs, arm, base or arm) or not can_be_read(arm, base, reading):
        return None
    own, others, where = measured(runs, arm, base, outcome, reading, target)
    prior = Prior()
    if pooled and base:
        of_one = runs.prior(outcome, reading, arm, base)
        prior = Prior(2 * of_one.variance, of_one.freedom)
    words = f"{outcome.replace('a target', f'{target:g}')} {where}" + (f", less {base}" if base else "")
    return replace(effect_of(own - others if base else own, prior), outcome=outcome, words=words)


def ends(runs: Regime, samples: int | None = None) -> dict[str, dict[str, float]]:
    """The primary outcomes at the last step, means over seeds, of arms without a destroyed run.

    And without those that train on another task. With `samples` at the step until which a run had drawn so many.
    """

    def mean(arm: str, outcome: str) -> float:
        steps = {
            seed: run.horizon if samples is None else run.step_after("samples", samples)
            for seed, run in runs[arm].items()
        }
        return float(np.mean([run.at(outcome, steps[seed]).mean() for seed, run in runs[arm].items()]))

    kept = [arm for arm in runs if runs.steady(arm) and not METHODS[EVERY[arm][0]].trained_on]
    return {arm: {outcome: mean(arm, outcome) for outcome in MARGINS} for arm in kept}


def ranks(values: Sequence[float]) -> np.ndarray:
    """0 for the smallest; equal values share the mean of theirs."""
    values = np.array(values)
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p-values; what is NaN was not tested, stays NaN and does not count."""
    p = np.array(p, dtype=float)
    adjusted, tested = np.full(len(p), math.nan), np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


@dataclass(frozen=True)
class Asked:
    """What an effect is asked: whether it is more (direction 1) or less (-1) as promised, or which of both (0)."""

    found: Effect | None
    direction: int = 0
    no_less: bool = False  # held against minus the margin instead of 0: the promise is to lose nothing
    counts: bool = True  # else it takes no part in the correction, and nothing is told apart by it

    @property
    def margin(self) -> float:
        return OUTCOMES[self.found.outcome] if self.found else 0.0

    @property
    def beside(self) -> float:
        """What the true difference would be if there were nothing in the promise."""
        return -self.margin if self.no_less else 0.0

    @property
    def p(self) -> float:
        return self.found.p_beside(self.beside) if self.found and self.counts else math.nan


def verdict(asked: Asked, adjusted: float) -> str:
    """The answer; `adjusted` is the p-value after Holm's correction."""
    found, margin, beside = asked.found, asked.margin, asked.beside
    if found is None:
        return "not run"
    if not math.isfinite(found.mean):
        return "not measured"
    if found.seeds < 2:
        return "one seed"
    if (found.low > beside or found.high < beside) and adjusted <= LEVEL:
        up = found.mean > beside
        kept = "reproduced" if up == (asked.direction > 0) else "contradicted"
        word = kept if asked.direction else ("higher" if up else "lower")
        return word + ", small" * (abs(found.mean) < margin and not asked.no_less)
    return "no effect" if -margin < found.low and found.high < margin else "inconclusive"


def judge(table: Sequence[Asked]) -> list[str]:
    """The verdicts of one table; Holm's correction is over all of it that counts."""
    return [verdict(asked, p) for asked, p in zip(table, holm([asked.p for asked in table]), strict=True)]


def seeds_for(found: Effect, margin: float, level: float, beside: float = 0.0, most: int = 100) -> int | None:
    """The least number of seeds that would decide an effect, were it and its variances as estimated; None: over `most`.

    Decided: the interval inside the margin, or the effect told from `beside` at a corrected level.
    """
    for seeds in range(2, most + 1):
        error = math.sqrt(found.variances.with_seeds(seeds))
        freedom = seeds - 1 + found.variances.borrowed
        inside = abs(found.mean) + student_t(freedom) * error < margin
        if inside or student_t(freedom, level) * error < abs(found.mean - beside):
            return seeds
    return None


# --- Activity ---------------------------------------------------------------------------------------------------------


SHARES = ("_ratio", "_share", "_prob", "_variance", "_spearman")  # ends of their names


def kind_of(name: str) -> str:
    """Whether a column is a "share", a "weight" around 1, or a "coefficient"."""
    if name.endswith(SHARES) or name in ("clip_high", "clip_low", "trained_groups", "trained"):
        return "share"
    weighs = any(word in name for word in ("weight_", "scale_", "multiplier_", "gate_"))
    return "weight" if weighs or name == "algo/positive_weight" else "coefficient"


def acts(name: str, values: np.ndarray, start: float | None = None) -> bool:
    """Whether a column that shows a method active is not trivial over a run; a bound acts where it leaves its start."""
    if not np.isfinite(values).any():
        return False
    mean = float(np.nanmean(values))
    if kind_of(name) == "share":
        return 0.001 <= mean <= 0.999
    idle = 1.0 if kind_of(name) == "weight" else start
    return float(np.nanmax(np.abs(values))) > 0 if idle is None else abs(mean - idle) >= 0.001


def activity(runs: dict[int, Run], names: Sequence[str], starts: Mapping[str, float] = {}) -> tuple[bool, str]:
    """Whether any of the columns that show a method active says so in every run, and the means of all in words.

    `starts`: where those that are bounds begin.
    """
    if not names:
        return True, "by definition"
    records = [run.record for run in runs.values()]
    active = all(any(acts(name, column(record, name), starts.get(name)) for name in names) for record in records)
    means = []
    for name in names:
        values = np.concatenate([column(record, name) for record in records])
        mean = f"{np.nanmean(values):.3g}" if np.isfinite(values).any() else "-"
        begun = f" (start {starts[name]:g})" if name in starts else ""
        means.append(f"{name.removeprefix('algo/')} {mean}{begun}")
    return active, ("" if active else "inactive here: ") + ", ".join(means)
