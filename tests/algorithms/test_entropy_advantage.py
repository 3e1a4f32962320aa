"""Entropy advantage: a bounded bonus for unsure tokens."""

import pytest
import torch

from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    load,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "max_resample": 0,
    "entropy_adv_coef": 0.4,
    "entropy_adv_kappa": 2.0,
    "shuffle_entropy": False,
}
METRICS = {"bonus_mean", "capped_ratio"}
CASES = [{}, {"entropy_adv_coef": 2.0, "entropy_adv_kappa": 3.0}, {"entropy_adv_coef": 0.1, "clip_ratio_high": 0.2}]
NEUTRAL = [
    Neutral({"entropy_adv_coef": 0.0}, "dapo", {}, "grpo"),
    Neutral({"entropy_adv_coef": 0.0, "shuffle_entropy": True}, "dapo", {}, "grpo"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total, tokens = standardised(batch["rewards"]), 0.0, tokens_of(batch)
    for i, t in tokens:
        bonus = min(args.entropy_adv_coef * batch["sg_entropy"][i][t], abs(advantages[i]) / args.entropy_adv_kappa)
        ratio = ratio_of(batch, logprobs, i, t)
        total += surrogate(ratio, advantages[i] + bonus, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(tokens)


def test_golden_loss() -> None:
    batch, logprobs, entropy = toy()
    module, args = load("entropy_advantage")
    module.assign_credit(batch, args, {})
    assert grads_of(module, args, batch, logprobs, entropy)[0].item() == pytest.approx(-0.358879, abs=1e-6)


@pytest.mark.parametrize(
    ("advantage", "expected"), [(1.2, [1.24, 1.6, 1.8]), (-0.3, [-0.26, -0.15, -0.15]), (0.0, [0, 0, 0])]
)
def test_golden_advantages(advantage: float, expected: list) -> None:
    """Entropies of .1, 1 and 3: what is capped is capped at half."""
    module, args = load("entropy_advantage")
    old = torch.full((1, 3), -1.0, dtype=torch.float64)
    entropy = torch.tensor([[0.1, 1.0, 3.0]], dtype=torch.float64).requires_grad_()
    batch = {"advantages": advantage * torch.ones_like(old), "loss_mask": old < 0, "old_logprobs": old}
    _, (gradient, by_entropy) = grads_of(module, args, batch, old.clone().requires_grad_(), entropy)
    assert (-3 * gradient[0]).tolist() == pytest.approx(expected) and not by_entropy.any()


def test_shuffled_bonuses_are_the_same_elsewhere() -> None:
    module, args = load("entropy_advantage", entropy_adv_kappa=1e6)
    args.entropy_adv_kappa = 1e-9  # no cap: the bonus is the entropy's
    batch, logprobs, entropy = credited_batch()
    batch["old_logprobs"] = logprobs.detach()
    count, found = batch["mask"].sum(), set()
    _, (plain, _) = grads_of(module, args, batch, logprobs, entropy)
    wanted = (-plain * count - batch["advantages"])[batch["mask"]].sort().values
    args.shuffle_entropy = True
    for seed in range(5):
        torch.manual_seed(seed)
        _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
        bonus = (-gradient * count - batch["advantages"])[batch["mask"]]
        torch.testing.assert_close(bonus.sort().values, wanted, rtol=0, atol=1e-9)
        found.add(tuple(bonus.tolist()))
    assert len(found) == 5


def test_what_has_no_advantage_is_not_capped() -> None:
    module, args = load("entropy_advantage")
    old = torch.full((2, 2), -1.0, dtype=torch.float64)
    batch = {"advantages": torch.tensor([[4.0, 4.0], [0.0, 0.0]]).double(), "loss_mask": old < 0, "old_logprobs": old}
    entropy = torch.tensor([[9.0, 0.1], [1.0, 1.0]], dtype=torch.float64)  # half of 4 is less than 0.4 * 9: the first
    assert module.policy_loss(old, entropy, batch, args)[1]["algo/capped_ratio"] == 0.5
