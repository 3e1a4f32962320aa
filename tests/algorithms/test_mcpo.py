"""MCPO: flattened weights of easy prompts, and a hinge on what was mastered."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    grads_of,
    group_of,
    k3,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    take,
    tokens_of,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"clip_ratio_high": 0.28, "mastery_beta": 1.0, "mastery_delta": 0.01, "flatten": True}
METRICS = {"mastered_ratio", "hinge", "beyond_ratio"}
CASES = [
    {},
    {"mastery_beta": 2.0, "mastery_delta": 0.2},
    {"mastery_beta": 0.0, "beta": 0.3, "entropy_coef": 0.1},
    {"flatten": False, "mastery_beta": 0.5, "beta": 0.1, "clip_ratio_high": 0.2},
]
PLAIN = {"mastery_beta": 0.0, "flatten": False}
NEUTRAL = [
    Neutral(PLAIN, "grpo", {"clip_ratio_high": 0.28}, "grpo"),
    Neutral(PLAIN | {"beta": 0.2}, "grpo", {"clip_ratio_high": 0.28, "beta": 0.2}, "grpo"),
    Neutral({"flatten": False, "mastery_delta": 25.0}, "grpo", {"clip_ratio_high": 0.28}, "grpo"),
]
ON_POLICY = [Neutral({"flatten": False}, "grpo", {}, "grpo")]


def extra(batch: dict, generator: torch.Generator) -> dict:
    """The first group is all right; the second is easy, with one wrong response, and the third hard."""
    rewards = batch["rewards"].clone()
    rewards[SIZE : 3 * SIZE] = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 0], dtype=rewards.dtype)
    likely = batch["likely_trained"].clone()
    likely[SIZE : 3 * SIZE] = True
    return {"rewards": rewards, "likely_trained": likely}


def phi(d: float, delta: float) -> float:
    """The hinge of one log-ratio."""
    if abs(d) <= delta:
        return 0.0
    edge = math.copysign(delta, d)
    return (math.exp(d) - d - 1) - (math.exp(edge) - edge - 1)


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths = standardised(batch["rewards"]), lengths_of(batch)
    total, hinge, mastered = 0.0, 0.0, set()
    for i, t in tokens_of(batch):
        p = sum(group_of(batch["rewards"], i)) / SIZE
        advantage = advantages[i] / (2 * math.sqrt(p * (1 - p))) if args.flatten and 0.5 < p < 1 else advantages[i]
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantage, args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
        if p == 1:
            mastered.add(i)
            hinge += phi(math.log(ratio), args.mastery_delta) / lengths[i]
    return -total / len(lengths) + args.mastery_beta * hinge / max(1, len(mastered))


def hinge_of(log_ratio: float, **options) -> tuple[float, float, dict]:
    """Loss, its gradient by one token, and metrics, of one mastered group of one token a row."""
    module, args = load("mcpo", **options)
    old = torch.full((SIZE, 1), -1.0, dtype=torch.float64)
    batch = {"mask": torch.ones(SIZE, 1, dtype=torch.bool), "rewards": torch.ones(SIZE).double(), "old_logprobs": old}
    module.assign_credit(batch, args, {})
    logprobs = (old + log_ratio).requires_grad_()
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, torch.zeros_like(old).requires_grad_())
    return loss.item(), SIZE * gradient[0, 0].item(), module.policy_loss(logprobs, old, batch, args)[1]


@pytest.mark.parametrize(
    ("log_ratio", "value", "slope"),
    [(0.02, 1.51173e-4, 0.0202013), (-0.02, 1.48840e-4, -0.0198013), (0.009, 0, 0), (-0.009, 0, 0), (0, 0, 0)],
)
def test_golden_hinge(log_ratio: float, value: float, slope: float) -> None:
    """delta 0.01: continuous at the edge, where the gradient jumps to about 0.01."""
    loss, gradient, stats = hinge_of(log_ratio)
    assert loss == pytest.approx(value, abs=1e-9) and gradient == pytest.approx(slope, abs=1e-7)
    assert stats["algo/hinge"] == pytest.approx(value, abs=1e-9)
    assert stats["algo/beyond_ratio"] == (abs(log_ratio) > 0.01)
    assert hinge_of(log_ratio, mastery_beta=3.0)[0] == pytest.approx(3 * value, abs=3e-9)
    assert value or loss == gradient == 0


def test_hinge_is_continuous_and_its_slope_jumps() -> None:
    for sign in (1, -1):
        loss, gradient, _ = hinge_of(sign * (0.01 + 1e-9))
        assert loss < 1e-10 and gradient == pytest.approx(sign * 0.01, rel=1e-2)


def advantages_of(right: int, **options) -> tuple[float, float]:
    """Of right and wrong responses, with eight in a group."""
    module, args = load("mcpo", num_generations=8, **options)
    batch = {"mask": torch.ones(8, 1, dtype=torch.bool), "rewards": (torch.arange(8) < right).double()}
    module.assign_credit(batch, args, {})
    assert batch["accuracy"].tolist() == [right / 8] * 8
    return batch["advantages"][0, 0].item(), batch["advantages"][7, 0].item()


@pytest.mark.parametrize(
    ("right", "flat", "plain"),
    [
        (6, (0.62361, -1.87083), (0.54006, -1.62019)),
        (7, (0.53453, -3.74166), (0.35355, -2.47487)),
        (4, (0.93541, -0.93541), (0.93541, -0.93541)),
        (1, (2.47487, -0.35355), (2.47487, -0.35355)),
    ],
)
def test_golden_flattening(right: int, flat: tuple, plain: tuple) -> None:
    """Above one half right all prompts have a positive mass of 0.46771 by the sample's deviation (the paper: 0.5)."""
    assert advantages_of(right) == pytest.approx(flat, abs=2e-5)
    assert advantages_of(right, flatten=False) == pytest.approx(plain, abs=2e-5)
    if right > 4:
        assert right / 8 * advantages_of(right)[0] == pytest.approx(0.46771, abs=2e-5)


def test_the_hinge_is_over_the_mastered_of_the_minibatch() -> None:
    """Each mastered row is its mean over tokens, whatever else is there; a minibatch without one has none."""
    module, args = load("mcpo")
    batch, logprobs, entropy = random_batch(2, extra=extra)
    assert module.assign_credit(batch, args, {}) == {"algo/mastered_ratio": pytest.approx(1 / 3)}
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    log_ratio = (logprobs - batch["old_logprobs"]).detach()
    slope = log_ratio.expm1() * (log_ratio.abs() > 0.01) * batch["mask"] / batch["mask"].sum(1, keepdim=True) / SIZE
    torch.testing.assert_close(gradient[:SIZE], slope[:SIZE], rtol=0, atol=1e-12)
    rest, inputs = take(batch, torch.arange(SIZE, 3 * SIZE)), (logprobs[SIZE:], entropy[SIZE:])
    loss, stats = module.policy_loss(*inputs, rest, args)
    assert torch.equal(loss, module.policy_loss(*inputs, rest, load("mcpo", mastery_beta=0.0)[1])[0])
    assert math.isnan(stats["algo/hinge"]) and math.isnan(stats["algo/beyond_ratio"])


def test_says_when_its_hinge_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("mcpo")
    load("mcpo", num_minibatches=1, update_epochs=2)
    load("mcpo", num_minibatches=1, mastery_beta=0.0)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("mcpo", num_minibatches=1)
    assert capsys.readouterr().err.count("--mastery-beta") == 1
