"""AEPO (agentic): uncertain tokens weigh more, and tokens beyond the upper clip keep their gradient.

Its branching is in tests/test_scripts.py.
"""

import math
import statistics

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    load,
    random_batch,
    ratio_of,
    standardised,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {
    "entropy_weight": 0.2,
    "keep_clipped_gradient": True,
    "branch_ratio": 0.25,
    "shuffle_entropy": False,
}
METRICS = {"clipped_ratio", "multiplier_min"}
SCRIPT_METRICS = {"branch_reward", "own_reward"}
SCRIPT_FLAGS = {"branch-ratio": 0.4}  # one of three
CASES = [
    {},
    {"entropy_weight": 0.0},
    {"keep_clipped_gradient": False, "entropy_weight": 0.5},
    {"beta": 0.3, "entropy_coef": 0.1, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
]
# GRPO with the mean over all tokens, which is DAPO's loss at equal clips.
NEUTRAL = [
    Neutral({"entropy_weight": 0.0, "keep_clipped_gradient": False}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
    Neutral(
        {"entropy_weight": 0.0, "keep_clipped_gradient": False, "shuffle_entropy": True, "branch_ratio": 0.0},
        "dapo",
        {"clip_ratio_high": 0.2},
        "grpo",
    ),
]
ON_POLICY = [Neutral({"entropy_weight": 0.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens, total = standardised(batch["rewards"]), tokens_of(batch), 0.0
    values = [batch["sg_entropy"][i][t] for i, t in tokens]
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    for (i, t), value in zip(tokens, values, strict=True):
        advantage = advantages[i] * (1 + args.entropy_weight * (value - mean) / sd)
        ratio, now = ratio_of(batch, logprobs, i, t), ratio_of(batch, batch["sg_logprobs"], i, t)
        # The bound's value is 1 + eps; its gradient is that of a ratio of this size.
        top = (1 + args.clip_ratio_high) * (ratio / now if args.keep_clipped_gradient else 1)
        clipped = min(max(ratio, 1 - args.clip_ratio_low), top)
        total += max(-advantage * ratio, -advantage * clipped)
        total += args.beta * k3(batch, logprobs, i, t) - args.entropy_coef * entropy[i][t]
    return total / len(tokens)


def multipliers(module, args, batch: dict, entropy: Tensor) -> Tensor:
    """1 + weight z of each token: at old_logprobs the gradient is -A (1 + weight z) / N; NaN on padding."""
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    return -gradient * batch["mask"].sum() / batch["advantages"].where(batch["mask"], math.nan)


def test_golden_vectors() -> None:
    batch, logprobs, entropy = toy()
    module, args = load("aepo")
    module.assign_credit(batch, args, {})
    loss, stats = module.policy_loss(logprobs, entropy, batch, args)
    assert loss.item() == pytest.approx(-0.101942, abs=1e-6)
    assert stats["algo/multiplier_min"] == pytest.approx(0.752088, abs=1e-6)
    expected = [[0.8197, 1.225374, 0.954925], [1.09015, 0.8197, 0], [1.022537, 0.752088, 0.954925], [1.360599, 0, 0]]
    expected = torch.tensor(expected, dtype=torch.float64)
    got = multipliers(module, args, batch, entropy)
    torch.testing.assert_close(got[batch["mask"]], expected[batch["mask"]], rtol=0, atol=1e-6)
    assert got[batch["mask"]].mean().item() == pytest.approx(1)  # no direction of entropy
    # Right tokens beyond 1.2 push with 1.2, whatever their ratio; wrong ones below 0.8 not at all.
    (gradient,) = torch.autograd.grad(loss, logprobs)
    ratio = torch.tensor([[1.051271, 1.2, 0.951229], [0.951229, 1.2, 0], [0, 0, 0.99005], [1.349859, 0, 0]])
    torch.testing.assert_close(gradient, -batch["advantages"] * expected * ratio / 9, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("advantage", "ratio", "kept", "ppo"),
    [
        (1, 1.5, -1.2, 0),
        (1, 3.0, -1.2, 0),
        (1, 1.1, -1.1, -1.1),
        (1, 0.5, -0.5, -0.5),
        (-1, 0.5, 0, 0),
        (-1, 1.5, 1.5, 1.5),
    ],
)
def test_gradient_beyond_the_clip(advantage: float, ratio: float, kept: float, ppo: float) -> None:
    """The size does not grow with the ratio; the value stays PPO's; the lower clip stays as it is."""
    batch, _, entropy = random_batch(0, groups=1)
    mask = batch["mask"].double()
    batch["advantages"], batch["loss_mask"] = advantage * mask, batch["mask"]
    logprobs = (batch["old_logprobs"] + math.log(ratio)).requires_grad_()
    losses = []
    for keep, expected in ((True, kept), (False, ppo)):
        module, args = load("aepo", entropy_weight=0.0, keep_clipped_gradient=keep)
        loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
        losses.append(loss.item())
        torch.testing.assert_close(gradient, expected * mask / mask.sum(), rtol=0, atol=1e-12)
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_metrics() -> None:
    """Nothing is clipped before the first update; on the toy two of nine tokens are above the clip, two below."""
    module, args = load("aepo")
    batch, logprobs, entropy = toy()
    module.assign_credit(batch, args, {})
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert any(stats["algo/clipped_ratio"] == pytest.approx(count / 9) for count in (2, 4))
    stats = module.policy_loss(batch["old_logprobs"], entropy, batch, args)[1]
    assert stats["algo/clipped_ratio"] == 0
    batch["loss_mask"] = torch.zeros_like(batch["mask"])
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert math.isnan(stats["algo/clipped_ratio"]) and math.isnan(stats["algo/multiplier_min"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3])
def test_equal_entropies_weigh_alike(value: float, dtype: torch.dtype) -> None:
    """A mean of equal numbers can round, and the spread of what is left is no spread."""
    batch, logprobs, _ = credited_batch()
    batch = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    logprobs = logprobs.detach().to(dtype).requires_grad_()
    entropy = torch.full_like(logprobs, value).masked_fill(~batch["mask"], 5.0).detach().requires_grad_()
    loss, grads = grads_of(*load("aepo"), batch, logprobs, entropy)
    expected, expected_grads = grads_of(*load("aepo", entropy_weight=0.0), batch, logprobs, entropy)
    assert torch.equal(loss, expected) and torch.equal(grads[0], expected_grads[0]) and grads[0].any()


def test_one_token_has_no_spread() -> None:
    module, args = load("aepo")
    batch, logprobs, entropy = random_batch(0, groups=1)
    module.assign_credit(batch, args, {})
    batch["advantages"] = torch.ones_like(batch["advantages"]) * batch["mask"]
    batch["loss_mask"] = torch.zeros_like(batch["mask"])
    batch["loss_mask"][0, 0] = True
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert loss.isfinite() and gradient.isfinite().all() and gradient[0, 0] < 0


def test_entropy_is_todays_and_of_the_minibatch() -> None:
    """The old policy's entropy plays no part, nor what stands on padding."""
    module, args = load("aepo")
    batch, logprobs, entropy = random_batch(2)
    module.assign_credit(batch, args, {})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    batch["entropy"] = batch["entropy"] + 1e3
    padded = entropy.detach().masked_fill(~batch["mask"], 1e6).requires_grad_()
    other, other_grads = grads_of(module, args, batch, logprobs, padded)
    assert torch.equal(loss, other) and torch.equal(grads[0], other_grads[0])


def test_shuffled_entropies_are_the_same_ones_elsewhere() -> None:
    """Over all valid tokens of the minibatch, anew in every call, by torch's generator."""
    batch, _, entropy = credited_batch()
    mask = batch["mask"]
    straight = multipliers(*load("aepo"), batch, entropy)[mask]
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(multipliers(*load("aepo", shuffle_entropy=True), batch, entropy)[mask])
        torch.testing.assert_close(drawn[-1].sort().values, straight.sort().values, rtol=0, atol=1e-12)
        assert ((drawn[-1] - straight).abs() > 1e-6).sum() > 0.5 * mask.sum()
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
