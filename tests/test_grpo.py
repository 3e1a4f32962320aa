"""GRPO against its equations, the golden vectors and its own limits."""

import math

import pytest
import torch

from algos.grpo import Args, assign_credit, policy_loss

# verl 0.9.1's functions gave these numbers for one group of four responses; adv_estimator grpo, loss_mode vanilla,
# seq-mean-token-mean, clip 0.2/0.2. No ratio is high enough for verl's dual clip to act.
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])
OLD = [[-0.10, -2.0, -0.50, -4.0], [-0.20, -1.0, -0.05, 0], [-3.0, -0.30, -0.70, -0.40], [-0.60, -0.10, 0, 0]]
NEW = [[-0.05, -1.5, -0.55, -5.5], [-0.25, -0.70, -0.05, 0], [-4.5, -0.60, -0.71, -0.39], [-0.30, -0.40, 0, 0]]
OLD, NEW = torch.tensor(OLD), torch.tensor(NEW)


def golden_batch() -> dict:
    return {"mask": MASK, "rewards": REWARDS, "old_logprobs": OLD}


def random_batch(seed: int, groups: int = 3, size: int = 4, length: int = 6) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A float64 batch with ragged masks, mixed and equal groups, and ratios on both sides of the clip."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * size
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    rewards = (torch.rand(rows, generator=generator) < 0.5).double()
    rewards[:size] = 1.0  # one group without spread
    old = -3 * torch.rand(rows, length, generator=generator, dtype=torch.float64)
    batch = {
        "mask": torch.arange(length) < lengths[:, None],
        "rewards": rewards,
        "old_logprobs": old,
        "ref_logprobs": old + 0.5 * torch.randn(rows, length, generator=generator, dtype=torch.float64),
    }
    logprobs = old + 0.3 * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    entropy = 2 * torch.rand(rows, length, generator=generator, dtype=torch.float64)
    return batch, logprobs.requires_grad_(), entropy.requires_grad_()


def slow_grpo(batch: dict, logprobs: list, entropy: list, args: Args) -> float:
    """-J token by token, from Eq. 3 and 4 of DeepSeekMath, in Python floats."""
    size = args.num_generations
    rewards = batch["rewards"].tolist()
    total = 0.0
    for i, length in enumerate(batch["mask"].sum(1).tolist()):
        group = rewards[i // size * size : (i // size + 1) * size]
        average = sum(group) / size
        std = math.sqrt(sum((r - average) ** 2 for r in group) / (size - 1))
        advantage = (rewards[i] - average) / (std + 1e-6)
        response = 0.0
        for t in range(length):
            ratio = math.exp(logprobs[i][t] - batch["old_logprobs"][i, t].item())
            low, high = 1 - args.clip_ratio_low, 1 + args.clip_ratio_high
            surrogate = min(ratio * advantage, min(max(ratio, low), high) * advantage)
            d = batch["ref_logprobs"][i, t].item() - logprobs[i][t]
            response += surrogate - args.beta * (math.exp(d) - d - 1) + args.entropy_coef * entropy[i][t]
        total += response / length
    return -total / len(rewards)


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


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{}, {"beta": 0.3}, {"entropy_coef": 0.1, "clip_ratio_high": 0.28}])
def test_equals_the_equation(seed: int, options: dict) -> None:
    """I5: loss by a float64 loop, gradient by central differences of that loop."""
    args = Args(num_generations=4, **options)
    batch, logprobs, entropy = random_batch(seed)
    assign_credit(batch, args, {})
    loss, _ = policy_loss(logprobs, entropy, batch, args)
    assert loss.item() == pytest.approx(slow_grpo(batch, logprobs.tolist(), entropy.tolist(), args), abs=1e-12)
    grads = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
    values, step = (logprobs.tolist(), entropy.tolist()), 1e-6
    for which in (0, 1):
        for i, t in batch["mask"].nonzero().tolist():
            centre, sides = values[which][i][t], []
            for shift in (step, -step):
                values[which][i][t] = centre + shift
                sides.append(slow_grpo(batch, *values, args))
            values[which][i][t] = centre
            assert grads[which][i, t].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8)
        assert not grads[which][~batch["mask"]].any()


def test_first_update_is_policy_gradient() -> None:
    """I6: where logprobs are old_logprobs, the gradient is -A / (|o| B) on every token, whatever the clip range."""
    for clip in (0.0, 0.2, 1.0):
        args = Args(num_generations=4, clip_ratio_low=clip, clip_ratio_high=clip)
        batch, _, entropy = random_batch(0)
        assign_credit(batch, args, {})
        logprobs = batch["old_logprobs"].clone().requires_grad_()
        loss, stats = policy_loss(logprobs, entropy, batch, args)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        expected = -batch["advantages"] / batch["mask"].sum(1, keepdim=True) / len(logprobs)
        assert torch.allclose(gradient, expected, atol=1e-15)
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


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.0])
def test_equal_rewards_give_exactly_zero(value: float) -> None:
    """The mean of eight times 0.3 is not 0.3 in float32, and the guard 1e-6 would turn that into an advantage."""
    batch = {"mask": torch.ones(8, 3, dtype=torch.bool), "rewards": torch.full((8,), value)}
    assign_credit(batch, Args(num_generations=8), {})
    assert not batch["advantages"].any()


def test_zero_spread_groups_stay_in_the_mean() -> None:
    """Dropping a group without spread would raise the others' weight; here it does not."""
    batch, logprobs, entropy = random_batch(2)
    args = Args(num_generations=4)
    assign_credit(batch, args, {})
    whole = torch.autograd.grad(policy_loss(logprobs, entropy, batch, args)[0], logprobs)[0]
    assert not whole[:4].any()
    rest = {k: v[4:] for k, v in batch.items()}
    part = torch.autograd.grad(policy_loss(logprobs[4:], entropy[4:], rest, args)[0], logprobs)[0]
    assert torch.allclose(whole[4:], part[4:] * 8 / 12, atol=1e-15)


def test_padding_and_prompt_order_do_not_matter() -> None:
    """I3, on the two functions: extra columns change nothing, reordering the groups reorders the gradient."""
    batch, logprobs, entropy = random_batch(3)
    args = Args(num_generations=4, beta=0.1, entropy_coef=0.1)

    def gradient(rows: torch.Tensor, extra: int) -> torch.Tensor:
        pad = torch.nn.functional.pad
        moved = {k: pad(v[rows], (0, extra)) if v.ndim == 2 else v[rows] for k, v in batch.items()}
        assign_credit(moved, args, {})
        inputs = pad(logprobs[rows].detach(), (0, extra)).requires_grad_()
        loss, stats = policy_loss(inputs, pad(entropy[rows], (0, extra)), moved, args)
        return torch.autograd.grad(loss, inputs)[0], torch.tensor([loss.item(), *stats.values()])

    same = torch.arange(12)
    turned = torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    plain, numbers = gradient(same, 0)
    padded, padded_numbers = gradient(same, 5)
    reordered, reordered_numbers = gradient(turned, 0)
    assert torch.equal(padded[:, :6], plain) and not padded[:, 6:].any()
    assert torch.allclose(reordered, plain[turned], atol=1e-16)
    assert torch.allclose(padded_numbers, numbers) and torch.allclose(reordered_numbers, numbers)


def test_far_ratios_stay_finite() -> None:
    """Log-ratios are clamped to +-20 before exp, so a policy far from the old one gives no inf."""
    batch, logprobs, entropy = random_batch(4)
    args = Args(num_generations=4, beta=0.1)
    assign_credit(batch, args, {})
    batch["old_logprobs"] = batch["old_logprobs"] - 800
    batch["ref_logprobs"] = batch["ref_logprobs"] + 800
    loss, _ = policy_loss(logprobs, entropy, batch, args)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.isfinite() and gradient.isfinite().all()


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
