"""EntroPIC: a PI controller on entropy, whose lever are the likely tokens."""

import math

import pytest
import torch

from tests.algorithms.oracle import Neutral, grads_of, load, random_batch, ratio_of, standardised, surrogate, tokens_of

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.2,
    "target_entropy": 0.25,
    "kp": 1.0,
    "ki": 0.01,
    "high_prob_threshold": 0.95,
}
METRICS = {"alpha", "integral", "entropy_error", "high_prob_ratio", "authority"}
SCRIPT_FLAGS = {"target-entropy": 4.9, "ki": 1.0, "high-prob-threshold": 0.01}  # of a random model, not at a bound
CASES = [{"target_entropy": 0.5}, {"target_entropy": 1.5, "high_prob_threshold": 0.3}, {"kp": 0.1}]
# GRPO averages over responses; with the mean over tokens it is DAPO's loss at equal clips.
NEUTRAL = [Neutral({"kp": 0.0, "ki": 0.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step: no past errors."""
    advantages, tokens = standardised(batch["rewards"]), tokens_of(batch)
    error = sum(batch["entropy"][i][t] for i, t in tokens) / len(tokens) - args.target_entropy
    alpha = min(max(args.kp * error, -1), 1)
    total, lever, likely = 0.0, 0.0, 0
    for i, t in tokens:
        ratio = ratio_of(batch, logprobs, i, t)
        total += surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        if math.exp(logprobs[i][t]) > args.high_prob_threshold:
            lever += ratio * abs(advantages[i])
            likely += 1
    return -total / len(tokens) - (alpha * lever / likely if likely else 0.0)


def controlled(entropies: list[float], **options) -> list[tuple[float, float]]:
    """alpha and the integral it was made with, for rollouts of these mean entropies."""
    module, args = load("entropic", **options)
    state, out = {}, []
    for value in entropies:
        batch, _, _ = random_batch(0)
        batch["entropy"] = torch.full_like(batch["old_logprobs"], value)
        batch["entropy"][~batch["mask"]] = 1e9  # padding does not count
        metrics = module.assign_credit(batch, args, state)
        assert type(batch["alpha"]) is float and batch["alpha"] == metrics["algo/alpha"]
        out.append((metrics["algo/alpha"], metrics["algo/integral"]))
    assert state.keys() == {"integral"} and type(state["integral"]) is float  # plain numbers, for checkpoints
    return out


def test_controller_both_signs() -> None:
    """alpha = kp e + ki (sum of past errors): above the target positive, below it negative."""
    got = controlled([0.5, 0.5, 0.3, 0.2, 0.1], target_entropy=0.3, kp=2.0, ki=0.5)
    errors, integral = [0.2, 0.2, 0.0, -0.1, -0.2], 0.0
    for (alpha, used), error in zip(got, errors, strict=True):
        assert used == pytest.approx(integral, abs=1e-9)
        assert alpha == pytest.approx(2.0 * error + 0.5 * integral, abs=1e-9)
        integral += error
    assert got[0][0] > 0 > got[4][0]


@pytest.mark.parametrize("sign", [1, -1])
def test_controller_does_not_wind_up(sign: int) -> None:
    """At a bound the integral stands still; an error that leads away from the bound moves it at once."""
    outside = [0.5 + sign * 0.4] * 5
    got = controlled([*outside, 0.5 - sign * 0.1, 0.5], target_entropy=0.5, kp=5.0, ki=1.0)
    assert [alpha for alpha, _ in got[:5]] == [sign] * 5
    assert [integral for _, integral in got[:6]] == [0.0] * 6
    assert got[5][0] == pytest.approx(-sign * 0.5) and got[6][1] == pytest.approx(-sign * 0.1)


def test_controller_unwinds_from_the_bound() -> None:
    """A large integral holds alpha at 1 while the error is already negative: it must be allowed to shrink."""
    got = controlled([0.9, 0.9, 0.9, 0.4, 0.4, 0.4], target_entropy=0.5, kp=0.0, ki=1.0)
    assert [round(integral, 9) for _, integral in got] == [0.0, 0.4, 0.8, 1.2, 1.1, 1.0]
    assert [round(alpha, 9) for alpha, _ in got] == [0.0, 0.4, 0.8, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("above", [True, False])
def test_lever(above: bool) -> None:
    """Entropy too high: likely tokens of right responses are pushed up more, of wrong ones down less; else reversed."""
    module, args = load("entropic", target_entropy=0.1 if above else 2.0)
    batch, _, entropy = random_batch(1)
    batch["old_logprobs"] *= 0.02
    module.assign_credit(batch, args, {})
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    likely = batch["mask"] & (logprobs.exp() > 0.95)
    assert likely.any() and (batch["mask"] & ~likely).any()
    _, (steered, _) = grads_of(module, args, batch, logprobs, entropy)
    _, (plain, _) = grads_of(module, args, batch | {"alpha": 0.0}, logprobs, entropy)
    moved = (steered - plain)[likely & (batch["advantages"] != 0)]
    assert ((moved < 0) == above).all() and moved.all()  # a negative gradient raises the token
    assert torch.equal(steered[~likely], plain[~likely])
