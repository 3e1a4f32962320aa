"""The law R = -a exp(H) + b: the fit, the guesses of a run's end, and the page that is written of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import law
from benchmarks.law import END, SHARES, explained, fit_law, guess

STEPS = np.arange(5.0, 405, 5)  # eighty windows, as of a kept run
A, B = 0.4, 0.9


def falling(half: float = 60.0) -> np.ndarray:
    """An entropy that falls by half every so many steps."""
    return 0.9 * 0.5 ** (STEPS / half)


def keep(
    place: Path, arm: str, seed: int, entropy: np.ndarray, reward: np.ndarray, group: str = "off-policy", **flags: str
) -> None:
    """A finished run's file, with what the law reads."""
    training = {"step": STEPS.tolist(), "entropy": entropy.tolist(), "reward": [*reward[:-1].tolist(), None]}
    (place / group).mkdir(parents=True, exist_ok=True)
    record = {"arm": arm, "group": group, "seed": seed, "training": training, "flags": flags}
    (place / group / f"{arm}-s{seed}.json").write_text(json.dumps(record))


def test_fit_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    entropy = rng.uniform(0.1, 2, 50)
    reward = 0.9 - 0.2 * np.exp(entropy) + 0.05 * rng.normal(size=50)
    a, b = fit_law(np.append(entropy, np.nan), np.append(reward, 0.3))
    design = np.stack([-np.exp(entropy), np.ones(50)], 1)
    assert (a, b) == pytest.approx(tuple(np.linalg.lstsq(design, reward, rcond=None)[0]))
    assert np.isnan(fit_law(np.full(9, 0.3), np.arange(9.0))[0]) and np.isnan(fit_law(entropy[:2], reward[:2])[0])
    residual = reward - (b - a * np.exp(entropy))
    assert explained(entropy, reward) == pytest.approx(1 - residual.var() / reward.var())
    assert np.isnan(explained(entropy, np.full(50, 0.5)))


@pytest.mark.parametrize("share", SHARES)
def test_on_a_run_of_the_law_its_guess_is_exact(share: float) -> None:
    entropy = falling()
    reward = B - A * np.exp(entropy)
    found = guess(STEPS, entropy, reward, share)
    assert (found["a"], found["b"], found["ceiling"]) == pytest.approx((A, B, B - A))
    assert found["measured"] == pytest.approx(reward[-5:].mean()) and END * len(STEPS) == 5
    errors = {name: abs(found[name] - found["measured"]) for name in law.GUESSES}
    assert errors["law"] < 1e-9 < 1e-3 < errors["line in H"] < min(errors[name] for name in law.RIVALS)
    fitted = round(share * 80)
    assert found["last value"] == pytest.approx(reward[fitted - 5 : fitted].mean())


def test_where_reward_rises_by_steps_the_line_is_exact_and_the_law_is_not() -> None:
    reward = 0.1 + 0.001 * STEPS
    found = guess(STEPS, falling(20), reward, 0.36)
    assert found["line over steps"] == pytest.approx(found["measured"])
    assert abs(found["law"] - found["measured"]) > 0.1


def test_missing_points_and_short_runs() -> None:
    entropy, reward = falling(), B - A * np.exp(falling())
    entropy[[3, 40]], reward[-1] = np.nan, np.nan
    assert guess(STEPS, entropy, reward, 0.15)["a"] == pytest.approx(A)
    assert guess(STEPS[:15], entropy[:15], reward[:15], 0.15) is None  # two points
    assert guess(STEPS[:4], reward[:4], reward[:4], 0.99) is None  # nothing is left


def test_page_of_some_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for seed in (1, 2):
        entropy = falling(50 + 10 * seed)
        keep(tmp_path / "runs", "grpo", seed, entropy, B - A * np.exp(entropy) + 1e-3 * rng.normal(size=80))
        keep(tmp_path / "runs", "nsr", seed, entropy, np.full(80, 0.2), "on-policy")
    keep(tmp_path / "runs", "kl_cov", 101, falling(), falling(), "tuning")
    law.main(law.Args(rows=tmp_path / "runs", out=tmp_path / "out"))
    text = (tmp_path / "out" / "law.md").read_text()
    assert "in 2 of 4 runs" in text and "kl_cov" not in text
    assert "| off-policy | first 36% | 2 |" in text and "| grpo | off-policy | 2 | 0.40 | 0.90 | 1.00 |" in text
    assert "| 2 of 2 |" in text and "| 0 of 2 |" in text  # of grpo's runs, and of those where nothing moves
    assert (tmp_path / "out" / "law.png").exists()


def test_kept_runs_are_in_the_order_of_methods(tmp_path: Path) -> None:
    """A method before its controls, whose files are named before its own, and before what is further down there."""
    for arm, seed, group in (
        ("dapo", 1, "on-policy"),
        ("clip_cov, random selection", 1, "off-policy"),
        ("clip_cov", 2, "off-policy"),
        ("clip_cov", 1, "off-policy"),
        ("grpo", 1, "off-policy"),
    ):
        keep(tmp_path, arm, seed, falling(), falling(), group)
    kept = [(record["arm"], record["seed"]) for record in law.kept_runs(tmp_path)]
    assert kept == [("grpo", 1), ("clip_cov", 1), ("clip_cov", 2), ("clip_cov, random selection", 1), ("dapo", 1)]


def test_coin_tosses_are_no_evidence(tmp_path: Path) -> None:
    keep(tmp_path, "grpo", 1, falling(), falling())
    keep(tmp_path, "grpo, random reward", 1, falling(), falling(), reward_mode="random")
    assert [record["arm"] for record in law.kept_runs(tmp_path)] == ["grpo"]


def test_page_of_none(tmp_path: Path) -> None:
    law.main(law.Args(rows=tmp_path, out=tmp_path))
    assert "No run of the comparison is kept yet" in (tmp_path / "law.md").read_text()
