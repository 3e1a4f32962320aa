"""GRPO, the parent of all: its equations, verl's numbers, and its own limits."""

import pytest
import torch

from algos.grpo import Args, assign_credit, policy_loss
from tests.algorithms.oracle import k3, lengths_of, random_batch, ratio_of, standardised, surrogate, tokens_of

FLAGS = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "beta": 0.0, "entropy_coef": 0.0}
METRICS = set()
CASES = [{}, {"beta": 0.3}, {"beta": 0.1, "entropy_coef": 0.1}, {"entropy_coef": 0.1, "clip_ratio_high": 0.28}]

# verl 0.9.1's functions gave these numbers for one group of four responses; adv_estimator grpo, loss_mode vanilla,
# seq-mean-token-mean, clip 0.2/0.2. No ratio is high enough for verl's dual clip to act.
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])
OLD = [[-0.10, -2.0, -0.50, -4.0], [-0.20, -1.0, -0.05, 0], [-3.0, -0.30, -0.70, -0.40], [-0.60, -0.10, 0, 0]]
NEW = [[-0.05, -1.5, -0.55, -5.5], [-0.25, -0.70, -0.05, 0], [-4.5, -0.60, -0.71, -0.39], [-0.30, -0.40, 0, 0]]
OLD, NEW = torch.tensor(OLD), torch.tensor(NEW)


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """-J token by token, from Eq. 3 and 4 of DeepSeekMath."""
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def golden_batch() -> dict:
    return {"mask": MASK, "rewards": REWARDS, "old_logprobs": OLD}


def test_golden_vectors() -> None:
    batch, args = golden_batch(), Args(num_generations=4)
    assign_credit(batch, args, {})
    expected = torch.tensor([0.866024, -0.866024, -0.866024, 0.866024])
    assert torch.allclose(batch["advantages"][:, 0], expected, atol=1e-6)
    logprobs = NEW.clone().requires_grad_()
    loss, _ = policy_loss(logprobs, torch.zeros_like(NEW), batch, args)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(0.037579, abs=1e-6)
    assert torch.allclose(gradient[0], torch.tensor([-0.056902, 0, -0.051487, -0.012077]), atol=1e-6)
    assert torch.allclose(gradient[2], torch.tensor([0, 0, 0.053588, 0.054670]), atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.2, 1.0])
def test_first_update_is_policy_gradient(clip: float) -> None:
    """I6: where logprobs are old_logprobs, the gradient is -A / (|o| B) on every token, whatever the clip range."""
    args = Args(num_generations=4, clip_ratio_low=clip, clip_ratio_high=clip)
    batch, _, entropy = random_batch(0)
    assign_credit(batch, args, {})
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    loss, stats = policy_loss(logprobs, entropy, batch, args)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    expected = -batch["advantages"] / batch["mask"].sum(1, keepdim=True) / len(logprobs)
    assert torch.allclose(gradient, expected, atol=1e-15) and gradient.any()
    assert stats["policy/clip_high_ratio"] == stats["policy/clip_low_ratio"] == 0


def test_neutral_settings_are_exact() -> None:
    """I6: beta 0 never reads a reference, and a reference equal to the policy adds no gradient."""
    batch, logprobs, entropy = random_batch(1)
    args = Args(num_generations=4)
    assign_credit(batch, args, {})
    plain = torch.autograd.grad(policy_loss(logprobs, entropy, batch, args)[0], logprobs)[0]
    without = {k: v for k, v in batch.items() if k != "ref_logprobs"}
    assert torch.equal(plain, torch.autograd.grad(policy_loss(logprobs, entropy, without, args)[0], logprobs)[0])
    batch["ref_logprobs"] = logprobs.detach().clone()
    with_beta = policy_loss(logprobs, entropy, batch, Args(num_generations=4, beta=0.5))[0]
    assert torch.allclose(plain, torch.autograd.grad(with_beta, logprobs)[0], atol=1e-15)


def test_zero_spread_groups_stay_in_the_mean() -> None:
    """Dropping a group without spread would raise the others' weight; here it does not."""
    batch, logprobs, entropy = random_batch(2)
    args = Args(num_generations=4)
    assign_credit(batch, args, {})
    whole = torch.autograd.grad(policy_loss(logprobs, entropy, batch, args)[0], logprobs)[0]
    assert not whole[:4].any()
    rest = {k: v[4:] for k, v in batch.items()}
    part = torch.autograd.grad(policy_loss(logprobs[4:], entropy[4:], rest, args)[0], logprobs)[0]
    assert torch.allclose(whole[4:], part[4:] * 8 / 12, atol=1e-15) and part.any()


def test_clip_ratios_count_the_bound_tokens() -> None:
    """Upper clip: A > 0 and ratio > 1 + eps; lower clip: A < 0 and ratio < 1 - eps; shares of all loss tokens."""
    batch = golden_batch()
    args = Args(num_generations=4)
    assign_credit(batch, args, {})
    _, stats = policy_loss(NEW, torch.zeros_like(NEW), batch, args)
    ratio = (NEW - OLD).exp()
    up = ((ratio > 1.2) & (REWARDS == 1)[:, None] & MASK).sum() / MASK.sum()
    low = ((ratio < 0.8) & (REWARDS == 0)[:, None] & MASK).sum() / MASK.sum()
    assert stats["policy/clip_high_ratio"] == pytest.approx(up.item())
    assert stats["policy/clip_low_ratio"] == pytest.approx(low.item())
    assert up > 0 and low > 0
