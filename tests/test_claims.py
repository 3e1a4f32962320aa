"""The arithmetic behind benchmarks/results/collapse: intervals, verdicts, matched reward, the law, the theorem."""

import math

import numpy as np
import pytest

from benchmarks import claims
from benchmarks.claims import Runs, interval, law, rank, theorem_lines, verdict


def rows(arm: str, seed: int, reward: np.ndarray, entropy: np.ndarray, samples: int = 10) -> list[dict]:
    """A run as the csv files hold it: an evaluation at step 0 and at the end, training in between."""
    blank = dict.fromkeys([*claims.COLUMNS, "samples", "tokens"], math.nan)
    out = [blank | {"arm": arm, "seed": seed, "step": 0, "samples": 0, "pass@1": 0.1, "pass@32": 0.9}]
    for step, (r, h) in enumerate(zip(reward, entropy, strict=True), 1):
        out.append(
            blank | {"arm": arm, "seed": seed, "step": step, "samples": step * samples, "reward": r, "entropy": h}
        )
    out[-1] |= {"pass@1": 0.1 + 0.1 * seed, "pass@32": 0.8}
    return out


def two_arms() -> Runs:
    """kl_cov learns as its baseline does and keeps 0.1 nats more; its third seed is not finished."""
    ramp = np.linspace(0.1, 0.5, 40)
    data = []
    for seed in (1, 2, 3):
        data += rows("grpo, mixed groups", seed, ramp, 0.5 - ramp / 2 + seed / 100)
    for seed in (1, 2):
        data += rows("kl_cov", seed, ramp, 0.6 - ramp / 2 + seed / 100, samples=20)
    return Runs(data)


def test_interval_is_students() -> None:
    """Five numbers of mean 3 and standard deviation sqrt(2.5): half width 2.776 sqrt(2.5 / 5)."""
    mean, low, high = interval([1, 2, 3, 4, 5])
    assert mean == 3 and high - 3 == pytest.approx(2.776 * math.sqrt(0.5)) and 3 - low == pytest.approx(high - 3)
    assert math.isnan(interval([1.0, math.nan])[1])  # one seed has no interval


@pytest.mark.parametrize(
    ("low", "high", "direction", "expected"),
    [
        (0.1, 0.2, 1, "reproduced"),
        (0.1, 0.2, -1, "contradicted"),
        (-0.2, -0.1, 1, "contradicted"),
        (-0.2, -0.1, -1, "reproduced"),
        (-0.1, 0.2, 1, "not seen"),
        (math.nan, math.nan, 1, "not seen"),
    ],
)
def test_verdict(low: float, high: float, direction: int, expected: str) -> None:
    assert verdict(low, high, direction) == expected


def test_only_seeds_that_both_have_are_compared() -> None:
    runs = two_arms()
    assert runs.seeds("kl_cov", "grpo, mixed groups") == [1, 2] and runs.seeds("grpo, mixed groups") == [1, 2, 3]
    assert runs.seeds("kl_cov", "opo") == []


def test_entropy_at_matched_reward() -> None:
    runs = two_arms()
    level = runs.common_reward("kl_cov", "grpo, mixed groups")
    assert level == pytest.approx(0.47)  # the highest smoothed reward, rounded down
    for seed in (1, 2):
        gap = runs.at_reward("kl_cov", seed, "entropy", level) - runs.at_reward(
            "grpo, mixed groups", seed, "entropy", level
        )
        assert gap == pytest.approx(0.1)
    assert math.isnan(runs.at_reward("kl_cov", 1, "entropy", 0.9))


def test_equal_samples_interpolates_between_evaluations() -> None:
    runs = two_arms()
    assert runs.at_samples("kl_cov", 2, "pass@1", 400) == pytest.approx(0.2)  # half way from 0.1 to 0.3
    assert runs.at_samples("kl_cov", 2, "pass@1", 800) == pytest.approx(0.3)


def test_claims_judge_what_is_there() -> None:
    found = {(arm, reading): (effect, word) for arm, _, reading, effect, word in claims.claims(two_arms())}
    effect, word = found["kl_cov", "entropy at the last steps, less grpo, mixed groups"]
    assert effect[0] == pytest.approx(0.1) and word == "reproduced"
    assert {arm for arm, _ in found} == {"kl_cov"}  # nothing is said of methods without runs


def test_law_beats_its_rivals_where_it_holds() -> None:
    entropy = np.linspace(1.5, 0.1, 100)
    errors = law({"reward": 2 - 0.4 * np.exp(entropy), "entropy": entropy}, 0.15)
    assert errors["R = -a exp(H) + b"] < 1e-10
    assert 0.01 < errors["straight line in H"] < errors["last value"]
    straight = law({"reward": 1 - 0.4 * entropy, "entropy": entropy}, 0.36)
    assert straight["straight line in H"] < 1e-10 < straight["R = -a exp(H) + b"]


def test_theorem_table() -> None:
    assert rank(np.array([0.3, -1.0, 7.0])).tolist() == [1, 0, 2]
    values = np.array([-3.0, -1.0, 2.0, 4.0])
    data = [
        {"seed": seed, "minus_covariance": v, "entropy_change": v**3 * sign}
        for seed, sign in ((1, 1), (2, -1))
        for v in values
    ]
    text = "\n".join(theorem_lines(data))
    assert "same sign | 0.50 | 1.00, 0.00" in text and "Spearman | 0.00 | 1.00, -1.00" in text


def test_readme_shows_the_tables_of_the_report() -> None:
    """Numbers in the README are those of the last report."""
    readme, page = claims.ROOT / "README.md", claims.RESULTS / "CLAIMS.md"
    shown = readme.read_text().partition("<!-- claims -->")[2].partition("<!-- /claims -->")[0]
    section = page.read_text().partition("## Off-policy")[2].partition("## On-policy")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10 and [line for line in shown.splitlines() if line.startswith("| ")] == rows
