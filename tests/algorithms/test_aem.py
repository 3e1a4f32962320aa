"""AEM: each response weighed by its mean entropy inside its group."""

import math

import pytest
import torch
from torch import Tensor

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

FLAGS = GRPO | {"entropy_modulation": 1.0, "min_range": 0.02, "shuffle_weights": False}
METRICS = {"inactive_ratio", "weight_max"}
# Of seed 0's mixed groups one lies below a range of 0.5 nats, one above.
CASES = [
    {},
    {"entropy_modulation": -2.0, "min_range": 0.5},
    {"entropy_modulation": 3.0, "beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.28},
]
NEUTRAL = [
    Neutral({"entropy_modulation": 0.0}, "grpo", {}, "grpo"),
    Neutral({"entropy_modulation": 0.0, "shuffle_weights": True, "beta": 0.2}, "grpo", {"beta": 0.2}, "grpo"),
    Neutral({"min_range": 100.0}, "grpo", {}, "grpo"),
]


def weigh(group: list[float], args) -> list[float]:
    """w / mean w of responses with these mean entropies."""
    if max(group) == min(group) or max(group) - min(group) < args.min_range:
        return [1.0] * len(group)
    weights = [math.exp(-args.entropy_modulation * (h - min(group)) / (max(group) - min(group))) for h in group]
    return [w * len(group) / sum(weights) for w in weights]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    means = [sum(row[:n]) / n for row, n in zip(batch["entropy"], lengths, strict=True)]
    for i, t in tokens_of(batch):
        weight = weigh(group_of(means, i), args)[i % SIZE]
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, weight * advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def credited(entropies: list[float], **options) -> tuple[Tensor, dict]:
    """Weights of the responses of one group, half of it right, and metrics; each response has two tokens."""
    module, args = load("aem", num_generations=len(entropies), **options)
    mean = torch.tensor(entropies, dtype=torch.float64)[:, None]
    rewards = (torch.arange(len(entropies)) % 2).double()
    batch = {"mask": torch.ones(len(entropies), 2, dtype=torch.bool), "rewards": rewards}
    batch["entropy"] = mean + torch.tensor([0.05, -0.05])
    metrics = module.assign_credit(batch, args, {})
    plain = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    return batch["advantages"][:, 0] / plain, metrics


def weights_of(batch: dict, **options) -> Tensor:
    """Weights (P, G) from the advantages of the first token, which is that of every other."""
    batch = dict(batch)
    module, args = load("aem", **options)
    module.assign_credit(batch, args, {})
    first = batch["advantages"][:, :1]
    assert torch.equal(batch["advantages"], first * batch["mask"])
    return first.view(-1, SIZE) / torch.tensor(standardised(batch["rewards"].tolist())).view(-1, SIZE)


@pytest.mark.parametrize(
    ("entropies", "options", "expected"),
    [
        ([0.2, 0.4, 0.6], {}, [1.51944, 0.92159, 0.55897]),
        ([0.2, 0.4, 0.6], {"entropy_modulation": 0.0}, [1, 1, 1]),
        ([0.2, 0.4, 0.6], {"entropy_modulation": -1.0}, [0.55897, 0.92159, 1.51944]),
        ([0.50, 0.55, 0.58], {"min_range": 0.1}, [1, 1, 1]),
        ([0.50, 0.55, 0.58], {}, [1.57634, 0.84375, 0.57990]),
        ([0.3, 0.3, 0.3], {"min_range": 0.0}, [1, 1, 1]),
    ],
)
def test_golden_vectors(entropies: list, options: dict, expected: list) -> None:
    """Min-max over the group, exp(-lambda z), mean 1."""
    weights, metrics = credited(entropies, **options)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)
    assert weights.mean().item() == pytest.approx(1)
    assert metrics["algo/weight_max"] == pytest.approx(max(expected), abs=1e-5)
    assert metrics["algo/inactive_ratio"] == (max(expected) == 1 and "entropy_modulation" not in options)


def test_entropy_is_a_mean_over_a_responses_own_tokens() -> None:
    """The toy's rows, of 3, 2, 3 and 1 tokens, have means 1.4/3, 0.4, 1/3 and 1; padding is not read."""
    batch, _, _ = toy()
    batch["entropy"] = batch["entropy"].where(batch["mask"], 50.0)
    plain = dict(batch)
    for name, b in (("aem", batch), ("grpo", plain)):
        module, args = load(name)
        module.assign_credit(b, args, {})
    z = [(h - 1 / 3) / (2 / 3) for h in (1.4 / 3, 0.4, 1 / 3, 1.0)]
    weights = [4 * math.exp(-x) / sum(math.exp(-y) for y in z) for x in z]
    got = (batch["advantages"] / plain["advantages"])[:, 0]
    torch.testing.assert_close(got, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=1e-12)


def test_far_ends_stay_finite() -> None:
    for sign in (-50.0, 50.0):
        weights, _ = credited([0.1, 0.2, 0.9], entropy_modulation=sign)
        assert weights.isfinite().all() and weights.max().item() == pytest.approx(3, rel=1e-2)


def test_shuffled_weights_are_the_same_ones_elsewhere_in_the_group() -> None:
    """One weight for a whole response, by torch's generator; no weight leaves its group."""
    batch, _, _ = random_batch(0, groups=6)
    batch["rewards"] = (torch.arange(len(batch["rewards"])) % 2).double()
    straight = weights_of(batch)
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(weights_of(batch, shuffle_weights=True))
        torch.testing.assert_close(drawn[-1].sort(1).values, straight.sort(1).values, rtol=0, atol=1e-12)
        assert ((drawn[-1] - straight).abs() > 1e-6).any(1).sum() > 3
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
