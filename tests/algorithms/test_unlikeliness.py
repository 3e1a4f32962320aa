"""Unlikeliness reward: right responses that are likely are paid less."""

import pytest
import torch

from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    group_of,
    k3,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"rank_coef": 0.25, "random_rank": False}
METRICS = {"right_rank"}
CASES = [{}, {"rank_coef": 1.0, "clip_ratio_high": 0.3}, {"rank_coef": 0.5, "beta": 0.3, "entropy_coef": 0.1}]
NEUTRAL = [
    Neutral({"rank_coef": 0.0}, "grpo", {}, "grpo"),
    Neutral({"rank_coef": 0.0, "random_rank": True}, "grpo", {}, "grpo"),
]


def places(batch: dict) -> list[int]:
    """How many of its group are less likely than a response, or as likely and earlier."""
    lengths = lengths_of(batch)
    means = [sum(old[:n]) / n for old, n in zip(batch["old_logprobs"], lengths, strict=True)]
    keys = [(mean, i) for i, mean in enumerate(means)]
    return [sum(other < key for other in group_of(keys, i)) for i, key in enumerate(keys)]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    rewards = [r * (1 - args.rank_coef * k / SIZE) for r, k in zip(batch["rewards"], places(batch), strict=True)]
    advantages, lengths, total = standardised(rewards), lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        advantage = advantages[i] if len(set(group_of(batch["rewards"], i))) > 1 else 0.0
        term = surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(lengths)


def test_golden_vectors() -> None:
    """Mean log-probabilities -.866667 -.6 -1.333333 -.6: places 1 2 0 3, the tie in the order of the rows."""
    batch, _, _ = toy()
    module, args = load("unlikeliness")
    metrics = module.assign_credit(batch, args, {})
    expected = [0.924651, 0.805341, -0.864996, -0.864996]
    assert [row[0] for row in batch["advantages"].tolist()] == pytest.approx(expected, abs=1e-6)
    assert metrics["algo/right_rank"] == pytest.approx((1 + 2) / 2 / 3)


def test_an_all_right_group_stays_silent() -> None:
    batch, _, _ = toy()
    batch["rewards"] = torch.ones_like(batch["rewards"])
    module, args = load("unlikeliness")
    module.assign_credit(batch, args, {})
    assert not batch["advantages"].any()


def test_random_places_are_places() -> None:
    module, args = load("unlikeliness", random_rank=True)
    found = set()
    for seed in range(10):
        torch.manual_seed(seed)
        batch, _, _ = random_batch(0)
        batch["rewards"] = torch.tensor([1.0, 1, 1, 0] * 3).double()
        module.assign_credit(batch, args, {})
        found.add(tuple(batch["advantages"][:, 0].tolist()))
    assert len(found) > 5
