"""Entrocraft: which answers teach is decided by where entropy stands in a band that moves with the steps."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    grads_of,
    k3,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)
from tests.algorithms.test_grpo import FLAGS as GRPO
from tests.algorithms.test_reinforce_rej import extra  # noqa: F401  (one group all right, one all wrong)

FLAGS = GRPO | {
    "band": "linear",
    "band_low_start": 0.24,
    "band_low_end": 0.16,
    "band_high_start": 0.30,
    "band_high_end": 0.20,
}
METRICS = {"band_low", "band_high", "branch"}
UNMIXED = (0.0, 1.0)  # outside the band rewards are not compared with others
BELOW = {"band_low_start": 3.0, "band_high_start": 4.0}  # than which the random batch's entropy is lower,
INSIDE = {"band_low_start": 0.0, "band_high_start": 4.0}  # and between which it lies
CASES = [
    {},  # above the band
    BELOW,
    INSIDE,
    {"band": "off"},
    BELOW | {"band": "cosine", "beta": 0.3, "entropy_coef": 0.1, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
]
SCRIPT_FLAGS = {"band-low-start": 9.0, "band-high-start": 9.5}  # where the random model is below in the first step
NEUTRAL = [Neutral({"band": "off"}, "grpo", {}, "grpo"), Neutral(INSIDE, "grpo", {}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step, in which the bounds are at their starts."""
    tokens, lengths, total = tokens_of(batch), lengths_of(batch), 0.0
    mean = sum(batch["entropy"][i][t] for i, t in tokens) / len(tokens)
    advantages = standardised(batch["rewards"])
    if args.band != "off" and mean > args.band_high_start:
        advantages = [1.0 if reward == 1 else 0.0 for reward in batch["rewards"]]
    elif args.band != "off" and mean < args.band_low_start:
        advantages = [0.0 if reward == 1 else -1.0 for reward in batch["rewards"]]
    for i, t in tokens:
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def steps(entropies: list[float], state: dict | None = None, **options) -> list[dict[str, float]]:
    """The metrics of steps whose rollouts have these mean entropies."""
    module, args = load("entrocraft", **options)
    state, out = {} if state is None else state, []
    for value in entropies:
        batch, _, _ = random_batch(0)
        batch["entropy"] = torch.full_like(batch["old_logprobs"], value)
        batch["entropy"][~batch["mask"]] = 1e9  # padding does not count
        before = state.get("steps", 0)
        out.append(module.assign_credit(batch, args, state))
        assert state == {"steps": before + 1}
    return out


PAPER = {"band_low_start": 0.6, "band_low_end": 0.4, "band_high_start": 0.7, "band_high_end": 0.5}
COSINE = {"band": "cosine", "band_low_start": 0.6, "band_low_end": 0.1, "band_high_start": 0.7, "band_high_end": 0.2}


@pytest.mark.parametrize(
    ("options", "done", "low", "high"),
    [
        (PAPER, 0, 0.6, 0.7),
        (PAPER, 50, 0.5, 0.6),
        (PAPER, 100, 0.4, 0.5),
        (COSINE, 0, 0.6, 0.7),
        (COSINE, 50, 0.35, 0.45),
        (COSINE, 100, 0.1, 0.2),
        (COSINE, 25, 0.6 - 0.5 * (1 - math.cos(math.pi / 4)) / 2, 0.7 - 0.5 * (1 - math.cos(math.pi / 4)) / 2),
    ],
)
def test_golden_bounds(options: dict, done: int, low: float, high: float) -> None:
    """After so many of a hundred steps."""
    [metrics] = steps([0.5], {"steps": done}, num_steps=100, **options)
    assert metrics["algo/band_low"] == pytest.approx(low) and metrics["algo/band_high"] == pytest.approx(high)


@pytest.mark.parametrize(
    ("entropy", "branch", "right", "wrong"),
    [(0.75, 1, 1, 0), (0.5, -1, 0, -1), (0.65, 0, 0.707106, -0.707106)],
)
def test_golden_advantages(entropy: float, branch: int, right: float, wrong: float) -> None:
    """One right and one wrong answer, and a band from 0.6 to 0.7."""
    module, args = load("entrocraft", num_generations=2, **PAPER)
    batch = {"rewards": torch.tensor([1.0, 0.0], dtype=torch.float64), "mask": torch.ones(2, 1, dtype=torch.bool)}
    batch["entropy"] = torch.full((2, 1), entropy, dtype=torch.float64)
    assert module.assign_credit(batch, args, {})["algo/branch"] == branch
    assert batch["advantages"].flatten().tolist() == pytest.approx([right, wrong], abs=1e-6)


def test_branch_follows_entropy_and_the_sinking_band() -> None:
    """The same entropy is below the band at first, then in it, then above; both bounds belong to the band."""
    got = steps([0.5] * 5, num_steps=4, band_low_start=1.0, band_low_end=0.0, band_high_start=1.25, band_high_end=0.25)
    assert [metrics["algo/branch"] for metrics in got] == [-1, -1, 0, 0, 1]
    assert [metrics["algo/band_low"] for metrics in got] == [1.0, 0.75, 0.5, 0.25, 0.0]
    options = {"num_steps": 1, "band_low_start": 0.25, "band_high_start": 0.5}
    assert [steps([value], **options)[0]["algo/branch"] for value in (0.125, 0.25, 0.5, 0.75)] == [-1, 0, 0, 1]


def test_off_has_no_band() -> None:
    for value in (0.0, 9.0):
        [metrics] = steps([value], band="off")
        assert metrics.pop("algo/branch") == 0 and all(math.isnan(bound) for bound in metrics.values())


@pytest.mark.parametrize(("options", "taught"), [({}, 1.0), (BELOW, 0.0), (INSIDE, None)])
def test_groups_without_spread(options: dict, taught: float | None) -> None:
    """Outside the band they teach like the others; what does not teach stays in the mean."""
    module, args = load("entrocraft", **options)
    batch, _, entropy = random_batch(0)
    batch["rewards"] = torch.tensor([1.0] * SIZE + [0.0, 1.0, 0.0, 1.0] + [0.0] * SIZE, dtype=torch.float64)
    module.assign_credit(batch, args, {})
    rows = batch["rewards"] == taught if taught is not None else torch.arange(12) // SIZE == 1
    assert torch.equal((batch["advantages"] != 0).any(1), rows) and torch.equal(batch["loss_mask"], batch["mask"])
    old = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, old, entropy)
    expected = -batch["advantages"] / batch["mask"].sum(1, keepdim=True) / 12
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-15)


def test_says_when_there_is_no_band(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("entrocraft")
    load("entrocraft", band_low_start=0.3, band_low_end=0.2)  # a line, not a band
    assert not capsys.readouterr().err
    for _ in range(2):
        load("entrocraft", band="off")
        load("entrocraft", band_low_end=0.21)
        load("entrocraft", band="cosine", band_high_start=0.2)
    said = capsys.readouterr().err
    assert said.count("--band off") == 1 and said.count("--band-low-*") == 1
