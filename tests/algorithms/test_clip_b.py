"""Clip_B: tokens of wrong responses whose push would lower entropy most are left out."""

import math
import statistics

import pytest
import torch

from tests.algorithms.oracle import (
    Neutral,
    k3,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"clip_b_mu": 2.5, "random_selection": False}
METRICS = {"dropped_ratio", "dropped_prob"}
CASES = [{"clip_b_mu": 0.5}, {"clip_b_mu": 1.0, "beta": 0.3, "entropy_coef": 0.1}, {}]
NEUTRAL = [
    Neutral({"clip_b_mu": 0.0}, "grpo", {}, "grpo"),
    Neutral({"clip_b_mu": 0.0, "random_selection": True}, "grpo", {}, "grpo"),
    Neutral({"clip_b_mu": 100.0}, "grpo", {}, "grpo"),
]


def changes(batch: dict) -> dict[tuple[int, int], float]:
    old, entropy = batch["old_logprobs"], batch["entropy"]
    return {(i, t): math.exp(old[i][t]) * (old[i][t] + entropy[i][t]) for i, t in tokens_of(batch)}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, change = standardised(batch["rewards"]), changes(batch)
    mean, spread = statistics.mean(change.values()), statistics.pstdev(change.values())
    kept = [(i, t) for (i, t), s in change.items() if not (advantages[i] < 0 and s - mean < -args.clip_b_mu * spread)]
    lengths = {i: sum(row == i for row, _ in kept) for i, _ in kept}
    total = 0.0
    for i, t in kept:
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(batch["rewards"])


@pytest.mark.parametrize(("mu", "dropped"), [(1.0, [2, 4]), (0.8, [1, 2, 4]), (2.5, [])])
def test_golden_vectors(mu: float, dropped: list[int]) -> None:
    """Two states, (.6, .3, .1) and (.95, .04, .01), and six draws; rows are responses of one token."""
    states = {"a": (0.6, 0.3, 0.1), "b": (0.95, 0.04, 0.01)}
    entropies = {name: -sum(p * math.log(p) for p in state) for name, state in states.items()}
    draws = ["a0", "a1", "a2", "b0", "b1", "b0"]
    batch = {
        "rewards": torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64),
        "mask": torch.ones(6, 1, dtype=torch.bool),
        "old_logprobs": torch.tensor([[math.log(states[s][int(v)])] for s, v in draws], dtype=torch.float64),
        "entropy": torch.tensor([[entropies[s]] for s, _ in draws], dtype=torch.float64),
    }
    module, args = load("clip_b", num_generations=6, clip_b_mu=mu)
    metrics = module.assign_credit(batch, args, {})
    assert (~batch["loss_mask"][:, 0]).nonzero()[:, 0].tolist() == dropped
    assert metrics["algo/dropped_ratio"] == pytest.approx(len(dropped) / 6)
    probs = [states[draws[i][0]][int(draws[i][1])] for i in dropped]
    assert metrics["algo/dropped_prob"] == pytest.approx(statistics.mean(probs) if probs else math.nan, nan_ok=True)
    change = [s for _, s in sorted(changes({k: v.tolist() for k, v in batch.items()}).items())]
    assert change == pytest.approx([0.23227, -0.09181, -0.14046, 0.16363, -0.11981, 0.16363], abs=1e-5)


def test_a_random_choice_of_as_many_wrong_tokens() -> None:
    batch, _, _ = random_batch(0, groups=8, length=12)
    module, args = load("clip_b", clip_b_mu=0.8)
    module.assign_credit(chosen := dict(batch), args, {})
    args.random_selection, drawn = True, []
    for seed in range(10):
        torch.manual_seed(seed)
        module.assign_credit(one := dict(batch), args, {})
        out = batch["mask"] & ~one["loss_mask"]
        assert out.sum() == (batch["mask"] & ~chosen["loss_mask"]).sum() > 0
        assert (one["advantages"][out] < 0).all()
        drawn.append(tuple(out.flatten().tolist()))
    assert len(set(drawn)) > 5


def test_every_token_alike_leaves_nothing_out() -> None:
    batch, _, _ = random_batch(1)
    batch |= {"old_logprobs": torch.full_like(batch["old_logprobs"], -1.0), "entropy": batch["entropy"] * 0 + 0.7}
    module, args = load("clip_b", clip_b_mu=1e-9)
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/dropped_ratio"] == 0 and torch.equal(batch["loss_mask"], batch["mask"])
