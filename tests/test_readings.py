"""benchmarks.readings: outcomes of kept counts, the steps of a reading, intervals, Holm, verdicts, activity."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import readings
from benchmarks.collapse import encode
from benchmarks.readings import (
    STOPPED,
    Asked,
    Effect,
    Prior,
    Regime,
    Variances,
    activity,
    can_be_read,
    effect,
    effect_of,
    holm,
    load,
    prior_of,
    read,
    seeds_for,
    stopped,
    unlike,
    variances,
    verdict,
)
from benchmarks.report import f_p, student_p, student_t

NAN = math.nan


def record(
    passed: list[list[int]], arm: str = "grpo", seed: int = 1, every: int = 50, active: tuple = (), **training
) -> dict:
    """A kept run of 4 samples a problem, with an evaluation each `every` steps; columns are constant if a number."""
    steps = [*range(0, every * len(passed), every)]
    windows = [*range(5, steps[-1] + 1, 5)]
    columns = {"reward": 0.3, "entropy": 0.2, "length": 14.0, "all_right": 0.1, "all_wrong": 0.5}
    columns |= {"samples": [10 * step for step in windows], "tokens": [*windows]} | training
    return {
        "arm": arm,
        "group": "off-policy",
        "seed": seed,
        "setting": "",
        "flags": {"eval_samples": 4, "num_steps": steps[-1]},
        "active": [*active],
        "ended": None,
        "total": encode([1, 2]),
        "evaluations": [
            {"step": step, "right": encode(right), "distinct": encode([min(right[0], 1), min(right[1], 2)])}
            for step, right in zip(steps, passed, strict=True)
        ],
        "training": {"step": windows}
        | {name: value if isinstance(value, list) else [value] * len(windows) for name, value in columns.items()},
    }


# --- Outcomes ---------------------------------------------------------------------------------------------------------


def test_outcomes_of_each_problem() -> None:
    run = read(record([[1, 1], [0, 3], [4, 1]]))
    assert run.at("pass@1", 50).tolist() == [0, 0.75] and run.at("coverage", 50).tolist() == [0, 1]
    assert run.at("coverage, two and more", 100).tolist() == [0.5]
    assert run.at("pass@1", 60) == pytest.approx([0.2, 0.65])  # a fifth of the way to the next evaluation
    assert run.at("pass@1", 1000).tolist() == run.at("pass@1", 100).tolist()
    assert run.at("area under pass@1", 0) == pytest.approx([(0.125 + 0.5) / 2, (0.5 + 0.5) / 2])


def test_pass_at_32_is_the_chance_of_a_draw() -> None:
    """Against the share of all choices of 3 from 5 samples that hold one of the 2 right ones."""
    drawn = [*itertools.combinations([1, 1, 0, 0, 0], 3)]
    assert readings.pass_at_k(5, np.array([2]), 3) == pytest.approx(np.mean([any(one) for one in drawn]))
    one = record([[1, 0]] * 2)
    one["flags"]["eval_samples"] = 64
    one["evaluations"][1]["right"] = encode([1, 33])
    assert read(one).at("pass@32", 50) == pytest.approx([0.5, 1])


def test_entropy_is_a_mean_over_25_steps() -> None:
    entropy = [float(value) for value in range(20)]  # of windows of five steps, 100 in all
    run = read(record([[1, 1]] * 3, entropy=entropy))
    assert run.at("entropy", 100).tolist() == [np.mean(entropy[-5:])]
    assert run.at("entropy", 50).tolist() == [np.mean(entropy[5:10])]
    assert run.at("distance of entropy from a target", 50, 10).tolist() == [3]
    assert run.at("entropy", 0).tolist() == [np.mean(entropy[:5])]  # there is none before


def test_a_run_that_ended_itself_keeps_its_last_values() -> None:
    one = record([[4, 4], [2, 2]], entropy=[*np.linspace(0.5, 0, 10)])
    one["flags"]["num_steps"] = 100
    run = read(one)
    assert run.at("pass@1", 100).tolist() == [0.5, 0.5] and run.at("entropy", 100) == pytest.approx([1 / 9])
    assert run.at("area under pass@1", 100) == pytest.approx([(0.75 + 0.5) / 2] * 2)
    assert run.drawn("samples") == 500


def test_best_evaluation_and_destruction() -> None:
    run = read(record([[2, 2], [3, 3], [2, 4], [1, 0], [4, 0]]))
    assert run.best() == 1 and run.destroyed() == 150
    assert read(record([[2, 2], [1, 1]])).destroyed() is None  # half is not under half
    short = stopped(run)
    assert short.at("pass@1", 200).tolist() == [0.75, 0.75] and short.drawn("samples") == 500
    assert stopped(read(record([[4, 4], [0, 0]]))).at("entropy", 50) == pytest.approx([0.2])  # at the very start


# --- Readings ---------------------------------------------------------------------------------------------------------


def two_arms(**training) -> Regime:
    """dapo draws twice as much and is right three times in four; grpo once in four, at the start as at the end."""
    arm = [record([[0, 0], [3, 3], [3, 3]], "dapo", seed, **training) for seed in (1, 2)]
    for one in arm:
        one["training"]["samples"] = [20 * step for step in one["training"]["step"]]
    base = [record([[1, 1], [1, 1], [1, 1]], seed=seed) for seed in (1, 2, 3)]
    return Regime({name: {one["seed"]: read(one) for one in some} for name, some in (("dapo", arm), ("grpo", base))})


def test_equal_steps_samples_and_tokens() -> None:
    runs = two_arms()
    found = effect(runs, "dapo", "grpo", "pass@1")
    assert (found.mean, found.seeds) == (0.5, 2) and found.words == "pass@1 at step 100, less grpo"
    found = effect(runs, "dapo", "grpo", "pass@1", "equal samples")  # step 50 of dapo, 100 of grpo
    assert found.mean == 0.5 and found.words == "pass@1 after 1,000 samples, less grpo"
    for run in runs["grpo"].values():
        run.record["training"]["samples"] = [5 * step for step in run.record["training"]["step"]]
    assert effect(runs, "dapo", "grpo", "pass@1", "equal samples").mean == pytest.approx(0.75 / 2 - 0.25)  # step 25
    assert effect(runs, "dapo", "grpo", "pass@1", "equal tokens").mean == 0.5
    assert effect(runs, "dapo", "opo", "pass@1") is None


def test_equal_reward() -> None:
    """The highest whole hundredth that all reach, where the mean over 25 steps first reaches it."""
    runs = two_arms(reward=[*np.linspace(0.12, 0.5, 20)], entropy=[*np.linspace(0.4, 0.02, 20)])
    found = effect(runs, "dapo", "grpo", "entropy", "equal reward")
    assert found.words == "entropy where reward reaches 0.30, less grpo"  # which grpo has from its 25th step on
    assert found.mean == pytest.approx(0.4 - 0.02 * 10 + 0.02 - 0.2)  # dapo: windows 8 to 12


@pytest.mark.parametrize(
    ("arm", "base", "means"),
    [
        ("dapo", "grpo", True),
        (STOPPED, "grpo", True),
        ("heal", "heal, no bonus", True),  # both train on another task
        ("heal, no bonus", "grpo", False),
        ("grpo, random reward", "grpo", False),
        ("grpo, random reward", "grpo, random reward, wide above", False),  # a coin toss is a reward of nothing
        ("cuts", "grpo", False),
        ("sent", "grpo, mixed groups", False),
        ("sent", "sent, random selection", True),
    ],
)
def test_rewards_are_equal_where_they_are_of_one_thing(arm: str, base: str, means: bool) -> None:
    assert can_be_read(arm, base, "equal reward") == means and can_be_read(arm, base, "equal samples")
    runs = Regime({name: {seed: read(record([[1, 1]] * 2, seed=seed)) for seed in (1, 2)} for name in (arm, base)})
    assert bool(effect(runs, arm, base, "entropy", "equal reward")) == means and effect(runs, arm, base, "entropy")


def test_where_arms_end_or_were_after_as_many_samples() -> None:
    """dapo has drawn grpo's samples of 100 steps after 50."""
    runs = two_arms(entropy=[float(step) for step in range(20)])
    runs["dapo"] = {1: read(record([[4, 4], [2, 2], [3, 3]], samples=[20 * step for step in range(5, 101, 5)]))}
    assert readings.ends(runs)["dapo"]["pass@1"] == 0.75 and readings.ends(runs, 1000)["dapo"]["pass@1"] == 0.5
    assert readings.ends(runs)["grpo"] == readings.ends(runs, 1000)["grpo"]


def test_best_evaluation_of_each() -> None:
    runs = two_arms()
    runs["dapo"] = {1: read(record([[0, 0], [3, 3], [2, 2]], "dapo"))}
    assert effect(runs, "dapo", "grpo", "pass@1", "best evaluation").mean == 0.5
    one = effect(runs, "dapo", "grpo", "pass@1")
    assert one.mean == 0.25 and math.isnan(one.low) and math.isnan(one.p)


def test_an_outcome_without_a_base_is_held_against_zero() -> None:
    run = read(record([[1, 1]] * 2, "kl_cov", **{"algo/selected_negative_ratio": [0.7, None] * 5}))
    found = effect(Regime({"kl_cov": {1: run}}), "kl_cov", "", "share of selected tokens with A < 0, less 1/2")
    assert found.mean == pytest.approx(0.2) and found.words.endswith("1/2 over the run")


def test_rows_are_loaded_by_regime(tmp_path: Path) -> None:
    """OPO, on-policy by definition, stands in both; GRPO has its stopped runs beside; the tuning is no run."""
    places = {("off-policy", "grpo", 1), ("off-policy", "grpo", 2), ("on-policy", "opo", 1), ("tuning", "dapo", 101)}
    for group, arm, seed in places:
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / f"{arm}-s{seed}.json").write_text(json.dumps(record([[4, 4], [0, 0]], arm, seed)))
    found = load(tmp_path)
    seeds = {arm: [*runs] for arm, runs in found["off-policy"].items()}
    assert seeds == {
        "grpo": [1, 2],
        "opo": [1],
        STOPPED: [1, 2],
    }
    assert [*found["on-policy"]] == ["opo"]
    assert effect(found["off-policy"], STOPPED, "grpo", "pass@1").mean == 1
    assert load(tmp_path / "none") == {"off-policy": {}, "on-policy": {}}


def test_outcomes_of_training_and_none_by_another_name() -> None:
    """Reward and entropy are means over 25 steps; what is no outcome is not taken for one."""
    run = read(record([[1, 1], [0, 3]], reward=[0.1] * 5 + [0.4] * 5, entropy=0.25))
    assert run.at("reward", 50) == pytest.approx([0.4]) and run.at("reward", 25) == pytest.approx([0.1])
    assert run.at("distance of entropy from a target", 50, 0.3) == pytest.approx([0.05])
    with pytest.raises(KeyError):
        run.at("distance", 50)


def test_outcomes_of_whole_runs_and_of_lengths() -> None:
    run = read(record([[1, 1], [0, 3]], length=[12.0] * 5 + [16.0] * 5, all_wrong=[0.2] * 9 + [0.7]))
    assert run.at("response length", 25) == pytest.approx([12]) and run.at("response length", 50) == pytest.approx([16])
    assert run.at("share of groups of equal rewards", 50) == pytest.approx([0.35])
    run = read(record([[1, 1], [0, 3]], entropy=[0.3, 0.2] * 5))  # changes of -0.1 and 0.1 in turn, five and four
    assert run.at("unsteadiness of entropy", 50) == pytest.approx([np.std([-0.1, 0.1] * 4 + [-0.1], ddof=1)])


# --- Effects ----------------------------------------------------------------------------------------------------------


def test_variance_by_hand() -> None:
    """2 x 2 differences 0, 2, 4, 10: seeds' means 1 and 7, problems' 2 and 6, residuals 1, -1, -1, 1."""
    differences = np.array([[0.0, 2.0], [4.0, 10.0]])
    assert variances(differences).total == pytest.approx(18 / 2 + 8 / 2 - 4 / 1 / 4)
    assert variances(differences[:, :1]).total == pytest.approx(8 / 2)
    noise = np.array([[1.0, -1.0], [-1.0, 1.0]])  # both means are 0: the difference of estimates would be negative
    assert variances(noise).total == 0 and variances(noise + np.array([[0.0], [1.0]])).total == pytest.approx(0.25)
    assert variances(noise + np.array([0.0, 1.0])).total == pytest.approx(0.25)


def test_seeds_that_would_decide() -> None:
    """Seeds' variance 0.04 alone: t(n - 1) sqrt(0.04 / n) is 0.248 with five and 0.210 with six; problems stay."""

    def needed(mean: float, margin: float, level: float = 0.05, **problems: float) -> int | None:
        found = Variances(4, 0.01, **problems)
        return seeds_for(Effect(mean, NAN, NAN, NAN, 4, variances=found), margin, level)

    assert [needed(0.0, margin) for margin in (0.25, 0.22, 2.0, 1e-3)] == [5, 6, 2, None]
    assert needed(0.05, 0.27) == 6  # 0.22 are left of the margin
    assert needed(-0.25, 0.02) == 5 and needed(-0.25, 0.02, 0.005) > 5
    assert needed(0.0, 0.25, borrowed=20) == 3 and needed(0.0, 0.22, borrowed=20) == 4  # t(22) and t(23) are 2.07
    problems = {"of_problems": 0.011, "of_both": 0.001}  # which leave 0.01: 0.196 to each side
    assert needed(0.0, 0.19, **problems) is None and needed(0.0, 0.25, **problems) > 5


def test_expected_variance_with_more_seeds_is_that_of_more_seeds() -> None:
    """Over many simulated experiments, what four seeds expect of sixteen is what sixteen have."""
    rng, problems, expected, had = np.random.default_rng(1), 40, [], []
    for _ in range(500):
        differences = (
            0.05 * rng.normal(size=(16, 1)) + 0.2 * rng.normal(size=problems) + 0.3 * rng.normal(size=(16, problems))
        )
        expected.append(variances(differences[:4]).with_seeds(16))
        had.append(variances(differences).total)
    assert np.mean(expected) == pytest.approx(np.mean(had), rel=0.05)


def test_interval_covers_where_seeds_and_problems_are_random() -> None:
    """Of simulated differences, 95 % of the intervals or a little more hold the true one; over seeds alone, few do."""
    rng, seeds, problems, hits, bare = np.random.default_rng(0), 5, 40, 0, 0
    for _ in range(600):
        spread = 0.02 * rng.normal(size=(seeds, 1)) + 0.2 * rng.normal(size=problems)
        found = effect_of(0.1 + spread + 0.1 * rng.normal(size=(seeds, problems)))
        hits += found.low <= 0.1 <= found.high
        alone = effect_of(0.1 + spread.mean(1, keepdims=True))
        bare += alone.low <= 0.1 <= alone.high
    assert 0.93 < hits / 600 <= 1 and bare / 600 < 0.6


@pytest.mark.parametrize(
    ("freedom", "quantile"), {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 99: 1.984}.items()
)
def test_p_value_is_students(freedom: int, quantile: float) -> None:
    """At the quantile that tables print; and against the density's integral."""
    assert student_t(freedom) == pytest.approx(quantile, abs=6e-4)
    assert student_p(student_t(freedom, 0.01), freedom) == pytest.approx(0.01)
    angles = np.linspace(math.atan(1.3 / math.sqrt(freedom)), math.pi / 2, 20001)  # t = sqrt(freedom) tan(angle)
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(math.pi) / math.gamma(freedom / 2)
    assert student_p(-1.3, freedom) == pytest.approx(2 * scale * np.trapezoid(np.cos(angles) ** (freedom - 1), angles))


@pytest.mark.parametrize("below", [1, 3, 59])
def test_a_ratio_of_variances(below: int) -> None:
    """With one degree of freedom above it is the square of Student's t; with two its tail has a closed form."""
    assert f_p(2.3**2, 1, below) == pytest.approx(student_p(2.3, below))
    assert f_p(7.0, 2, below) == pytest.approx((1 + 14 / below) ** (-below / 2))
    assert f_p(0.0, 4, below) == pytest.approx(1)


# --- What other arms say of a variance --------------------------------------------------------------------------------


def test_prior_is_found_again() -> None:
    """Variances of 1e-4, 8 degrees of freedom, behind the estimates of three seeds each; and none but chance."""
    rng, arms = np.random.default_rng(0), 4000
    true = 1e-4 * 8 / rng.chisquare(8, arms)
    found = prior_of([*zip(true * rng.chisquare(2, arms) / 2, [2] * arms, strict=True)])
    assert 7 <= found.freedom <= 9 and found.variance == pytest.approx(1e-4, rel=0.1)
    mixed = [2, 4] * (arms // 2)  # of three seeds and of five
    alike = prior_of([*zip(1e-4 * rng.chisquare(mixed) / mixed, mixed, strict=True)])
    assert alike.freedom > 100 and alike.variance == pytest.approx(1e-4, rel=0.05)
    few = prior_of([(1e-4, 2), (1.1e-4, 2), (0.9e-4, 2)])  # three that differ by less than chance are still three
    assert 1 <= few.freedom < 6 and few.variance == pytest.approx(1e-4, rel=0.05)


def test_estimates_near_zero_take_no_freedom() -> None:
    """Two seeds that happen to end alike say little: some such among many leave the prior about as it was."""
    rng = np.random.default_rng(0)
    estimates = [(1e-4 * rng.chisquare(1), 1) for _ in range(50)]
    usual, with_alike = prior_of(estimates), prior_of(estimates + [(1e-12, 1)] * 4)
    assert usual.freedom >= 8 and abs(with_alike.freedom - usual.freedom) <= usual.freedom / 2
    assert with_alike.variance == pytest.approx(usual.variance, rel=0.2)


@pytest.mark.parametrize("true_freedom", [6, 30])
def test_p_values_hold_far_out(true_freedom: int) -> None:
    """Where nothing differs, p-values below 0.001 are about one in a thousand: it is there that Holm decides."""
    rng, freedom, tables, chances = np.random.default_rng(0), np.array([1] * 36 + [2] * 10 + [4] * 8), 400, []
    for _ in range(tables):
        true = true_freedom / rng.chisquare(true_freedom, len(freedom))
        estimates = true * rng.chisquare(freedom) / freedom
        prior = prior_of([*zip(estimates, freedom.tolist(), strict=True)])
        scales = [math.sqrt(prior.moderate(*one)) for one in zip(estimates, freedom.tolist(), strict=True)]
        ratios = rng.normal(size=len(freedom)) * np.sqrt(true) / scales
        chances += [student_p(float(t), int(prior.freedom + own)) for t, own in zip(ratios, freedom, strict=True)]
    assert np.mean(np.array(chances) < 0.05) == pytest.approx(0.05, abs=0.007)
    assert 1e-4 < np.mean(np.array(chances) < 1e-3) < 1.7e-3


def test_two_arms_say_nothing_of_a_third() -> None:
    assert prior_of([(1e-4, 2), (2e-4, 2), (0.0, 2), (NAN, 2)]) == Prior() and prior_of([]) == Prior()


def test_moderated_variance_by_hand() -> None:
    """0.5, 0.7, 0.9 have the variance 0.04 with 2 degrees of freedom; with 6 of 0.02: 0.025 and 8."""
    differences, prior = np.array([[0.5], [0.7], [0.9]]), Prior(0.02, 6)
    found = effect_of(differences, prior)
    assert found.variances == Variances(3, pytest.approx(0.025 / 3), borrowed=6)
    assert found.high - 0.7 == pytest.approx(student_t(8) * math.sqrt(0.025 / 3))
    assert found.p == pytest.approx(student_p(0.7 / math.sqrt(0.025 / 3), 8))
    assert effect_of(differences[:1], prior).variances is None  # one seed has no interval, whatever others have


def test_moderated_intervals_cover_and_decide() -> None:
    """Of many arms with three seeds: 95 % of intervals hold the true effect, and large ones outlast 140 promises."""
    rng, arms, level = np.random.default_rng(0), 2000, 0.05 / 140
    true = np.sqrt(1e-4 * 8 / rng.chisquare(8, arms))
    values = 0.08 + true[:, None] * rng.normal(size=(arms, 3))
    prior = prior_of([(float(one.var(ddof=1)), 2) for one in values])
    moderated, alone = ([effect_of(one[:, None], some) for one in values] for some in (prior, Prior()))
    for found in (moderated, alone):
        assert 0.93 < np.mean([one.low <= 0.08 <= one.high for one in found]) < 0.97
    assert np.mean([one.p < level for one in moderated]) > 0.9 > 0.2 > np.mean([one.p < level for one in alone])


def spread_arms(**last: list) -> Regime:
    """Four arms of three seeds, whose entropies end 0.01, 0.02, 0.01 and 0.02 apart."""
    apart = {"grpo": 0.01, "opo": 0.02, "sapo": 0.01, "gmpo": 0.02}
    return Regime(
        {
            arm: {
                seed: read(record([[4, 4], last.get(arm, [3, 3])], arm, seed, entropy=0.1 + one * seed))
                for seed in (1, 2, 3)
            }
            for arm, one in apart.items()
        }
    )


def same(prior: Prior) -> Prior:
    """To compare with: what follows from the same variances to within rounding."""
    return Prior(pytest.approx(prior.variance), prior.freedom)


def test_what_is_usual_among_the_arms_moderates_a_difference() -> None:
    """Twice an arm's variance; a destroyed arm neither gives nor takes, and nothing is lent to what has no base."""
    runs = spread_arms()
    usual = runs.prior("entropy", "equal steps")
    assert usual == same(prior_of([(1e-4, 2), (4e-4, 2)] * 2))
    assert runs.prior("distance of entropy from a target", "equal steps") == usual
    found, alone = (effect(runs, "opo", "grpo", "entropy", pooled=pooled) for pooled in (True, False))
    expected = (usual.freedom * 2 * usual.variance + 2 * 1e-4) / (usual.freedom + 2)
    assert found.variances == Variances(3, pytest.approx(expected / 3), borrowed=usual.freedom)
    assert alone.variances == Variances(3, pytest.approx(1e-4 / 3)) and found.mean == alone.mean
    assert effect(runs, "opo", "", "entropy").variances.borrowed == 0
    ruined = spread_arms(sapo=[1, 1])
    assert ruined.prior("entropy", "equal steps") == same(prior_of([(1e-4, 2), (4e-4, 2), (4e-4, 2)]))
    assert effect(ruined, "sapo", "grpo", "entropy").variances.borrowed == 0
    assert effect(ruined, "gmpo", "sapo", "entropy").variances.borrowed == 0
    assert effect(ruined, "opo", "grpo", "entropy").variances.borrowed > 0
    ruined[STOPPED] = runs["grpo"]
    assert effect(ruined, STOPPED, "grpo", "entropy").variances.borrowed == 0


def test_an_arm_that_varies_more_than_the_others_neither_gives_nor_takes() -> None:
    """Of thirty arms of one variance chance leaves one out in about one table of twenty, and always one far away."""
    rng, left_out = np.random.default_rng(0), 0
    for _ in range(60):
        estimates = {str(arm): (1e-4 * rng.chisquare(2) / 2, 2) for arm in range(30)}
        left_out += bool(unlike(estimates))
        assert "far" in unlike(estimates | {"far": (10.0, 1), "none": (0.0, 2), "lost": (NAN, 2)})
    assert left_out <= 8
    assert unlike({"a": (1e-4, 2), "b": (1e-4, 2), "c": (1.0, 2)}) == set()  # two say nothing of a third

    runs = spread_arms()
    runs |= dict.fromkeys(("aem", "archer", "clip_b", "clip_v", "dr_grpo", "gspo", "gxpo", "still3"), runs["grpo"])
    wild = {seed: read(record([[4, 4], [3, 3]], "maxrl", seed, entropy=0.1 + seed)) for seed in (1, 2, 3)}
    apart, usual = Regime(runs | {"maxrl": wild}), Regime(runs)
    assert apart.usual("entropy", "equal steps") == (usual.prior("entropy", "equal steps"), {"maxrl"})
    assert effect(apart, "maxrl", "grpo", "entropy").variances.borrowed == 0
    assert effect(apart, "maxrl", "grpo", "pass@1").variances == effect(apart, "opo", "grpo", "pass@1").variances
    assert effect(apart, "opo", "maxrl", "entropy").variances.borrowed == 0
    assert effect(apart, "opo", "grpo", "entropy") == effect(usual, "opo", "grpo", "entropy")


def test_equal_differences_have_no_width() -> None:
    found = effect_of(np.full((3, 1), 0.5))
    assert (found.low, found.high, found.p) == (0.5, 0.5, 0) and effect_of(np.zeros((3, 1))).p == 1


def test_ranks_share_what_is_equal() -> None:
    assert readings.ranks([0.3, 0.1, 0.3, 0.2]).tolist() == [2.5, 0, 2.5, 1]


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Five of six were tested: 0.01 x 5, 0.011 x 4 is less and rises to it, 0.02 x 3, 0.04 x 2, 0.9 x 1."""
    found = holm([0.02, 0.9, 0.01, NAN, 0.04, 0.011])
    assert found == pytest.approx([0.06, 0.9, 0.05, NAN, 0.08, 0.05], nan_ok=True)
    assert holm([0.6, 0.7]).tolist() == [1, 1] and holm([]).size == 0


def seen(low: float, high: float, seeds: int = 5) -> Effect:
    return Effect((low + high) / 2, low, high, 0.01, seeds, "pass@1")


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "direction", "expected"),
    [
        (0.03, 0.05, 0.04, 1, "reproduced"),
        (0.03, 0.05, 0.04, -1, "contradicted"),
        (-0.05, -0.03, 0.05, -1, "reproduced"),
        (-0.05, -0.03, 0.05, 1, "contradicted"),
        (-0.05, -0.03, 0.05, 0, "lower"),
        (0.03, 0.05, 0.05, 0, "higher"),
        (0.03, 0.05, 0.051, 1, "inconclusive"),  # beyond 0, but not after Holm
        (0.005, 0.019, 0.051, 1, "no effect"),
        (0.005, 0.019, 0.05, 1, "reproduced, small"),
        (-0.015, -0.005, 0.05, 0, "lower, small"),
        (-0.0199, 0.0199, 0.5, 1, "no effect"),
        (-0.0199, 0.02, 0.5, 1, "inconclusive"),
        (-0.02, 0.0199, 0.5, 1, "inconclusive"),
    ],
)
def test_verdict(low: float, high: float, adjusted: float, direction: int, expected: str) -> None:
    assert verdict(Asked(seen(low, high), direction), adjusted) == expected


@pytest.mark.parametrize(
    ("low", "high", "adjusted", "expected"),
    [
        (-0.01, 0.005, 0.05, "reproduced"),  # above -0.02, whatever it is beside 0, and small is what was promised
        (0.03, 0.05, 0.05, "reproduced"),
        (-0.01, 0.03, 0.051, "inconclusive"),
        (-0.01, 0.01, 0.051, "no effect"),
        (-0.03, -0.01, 0.05, "inconclusive"),  # below 0 and not told from the margin: it may be lost or not
        (-0.05, -0.03, 0.05, "contradicted"),
    ],
)
def test_a_promise_to_lose_nothing_is_held_against_the_margin(
    low: float, high: float, adjusted: float, expected: str
) -> None:
    assert verdict(Asked(seen(low, high), 1, no_less=True), adjusted) == expected


def test_p_value_beside_the_margin() -> None:
    """Differences of 0.01 and 0.03 are 0.04 above -0.02, four times their error."""
    found = replace(effect_of(np.array([[0.01], [0.03]])), outcome="pass@1")
    assert Asked(found, 1).p == found.p == pytest.approx(student_p(2, 1))
    assert Asked(found, 1, no_less=True).p == pytest.approx(student_p(4, 1))
    assert math.isnan(Asked(found, 1, counts=False).p) and math.isnan(Asked(None, no_less=True).p)
    assert seeds_for(found, 0.02, 0.05, -0.02) < seeds_for(found, 0.02, 0.05)


def test_without_seeds_there_is_no_verdict() -> None:
    assert verdict(Asked(None, 1), NAN) == "not run"
    one, nothing = (
        replace(effect_of(values), outcome="pass@1") for values in (np.full((1, 3), 0.4), np.full((2, 1), NAN))
    )
    assert verdict(Asked(one, 1), NAN) == "one seed" and verdict(Asked(nothing, 1), NAN) == "not measured"


def test_a_table_is_judged_as_a_whole() -> None:
    """An effect that is significant by itself is not beside many others."""
    clear = Effect(0.04, 0.01, 0.07, 0.02, 5, "pass@1")
    tests, none = [Asked(clear, 1)], Effect(0.0, -0.01, 0.01, 0.9, 5, "pass@1")
    assert readings.judge(tests) == ["reproduced"]
    others = [Asked(none, 1), Asked(None, 1), Asked(Effect(0.1, NAN, NAN, NAN, 1, "pass@1"), 1)]
    assert readings.judge(tests + 2 * others) == ["inconclusive", *(2 * ["no effect", "not run", "one seed"])]
    apart = [Asked(one, 1, counts=False) for one in (none, none, clear)]  # which neither costs the others nor is told
    assert readings.judge(tests + apart) == ["reproduced", "no effect", "no effect", "inconclusive"]


# --- Activity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "value", "active"),
    [
        ("algo/selected_ratio", 0.02, True),
        ("algo/selected_ratio", 0.0005, False),
        ("trained_groups", 1.0, False),
        ("algo/weight_mean", 1.0005, False),
        ("algo/weight_mean", 0.99, True),
        ("algo/coef", 0.0, False),
        ("algo/alpha", -0.1, True),  # a coefficient may be of either sign
        ("algo/alpha", None, False),
        ("algo/clip_high", 1.2005, False),  # a bound that hardly leaves its start
        ("algo/clip_high", 1.19, True),
        ("algo/explained_variance", 0.0009, False),
        ("algo/explained_variance", 0.4, True),
    ],
)
def test_activity(column: str, value: float | None, active: bool) -> None:
    run = read(record([[1, 1]] * 2, active=[column], **{column: [value] * 10}))
    found, words = activity({1: run}, [column], {"algo/clip_high": 1.2})
    assert found == active and words.startswith("inactive here: ") != active
    assert column.removeprefix("algo/") in words


def test_one_active_column_is_enough_and_every_run_has_to_be() -> None:
    both = {"algo/masked_low_ratio": 0.0, "algo/masked_high_ratio": 0.1}
    run = read(record([[1, 1]] * 2, active=both, **both))
    idle = read(record([[1, 1]] * 2, active=both, **(both | {"algo/masked_high_ratio": 0.0})))
    assert activity({1: run}, [*both])[0] and not activity({1: run, 2: idle}, [*both])[0]
    assert activity({1: run}, []) == (True, "by definition")
    begun = read(record([[1, 1]] * 2, active=["algo/clip_low"], **{"algo/clip_low": [0.6, 0.7] * 5}))
    assert activity({1: begun}, ["algo/clip_low"], {"algo/clip_low": 0.6}) == (True, "clip_low 0.65 (start 0.6)")
