"""MaxRL: centred rewards over the group's mean."""

import pytest
import torch

from tests.algorithms.oracle import Neutral, group_of, k3, lengths_of, load, ratio_of, surrogate, tokens_of
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"scale_by": "mean"}
METRICS = {"weight_max"}
CASES = [{}, {"clip_ratio_high": 0.3}, {"beta": 0.3, "entropy_coef": 0.1}]
NEUTRAL = [Neutral({"scale_by": "std"}, "grpo", {}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    lengths, total = lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        group = group_of(batch["rewards"], i)
        mean = sum(group) / len(group)
        advantage = (batch["rewards"][i] - mean) / mean if mean else 0.0
        term = surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(lengths)


@pytest.mark.parametrize(
    ("right", "of_right", "of_wrong"), [(1, 7, -1), (2, 3, -1), (4, 1, -1), (7, 1 / 7, -1), (0, 0, 0), (8, 0, 0)]
)
def test_golden_vectors(right: int, of_right: float, of_wrong: float) -> None:
    """A group of eight: (1 - p) / p for right ones and -1 for wrong ones, and nothing where all are equal."""
    module, args = load("maxrl", num_generations=8)
    rewards = torch.tensor([1.0] * right + [0.0] * (8 - right), dtype=torch.float64)
    batch = {"rewards": rewards, "mask": torch.ones(8, 2, dtype=torch.bool)}
    metrics = module.assign_credit(batch, args, {})
    expected = of_right * rewards + of_wrong * (1 - rewards)
    torch.testing.assert_close(batch["advantages"], expected[:, None].expand(8, 2), rtol=1e-12, atol=1e-12)
    assert metrics["algo/weight_max"] == pytest.approx(max(of_right, 0))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_expected_gradient_is_the_sum_of_pass_at_k(p: float) -> None:
    """Over all outcomes of a group: d/dp of sum_k -(1-p)^k / k for k = 1 .. G - 1, the beginning of log p, times G."""
    size = 4
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * size)
    module, args = load("maxrl", num_generations=size)
    batch = {"rewards": outcomes.flatten(), "mask": torch.ones(outcomes.numel(), 1, dtype=torch.bool)}
    module.assign_credit(batch, args, {})
    probability = torch.where(outcomes > 0, p, 1 - p).prod(1, keepdim=True)
    score = torch.where(outcomes > 0, 1 / p, -1 / (1 - p))
    gradient = (probability * score * batch["advantages"].view(-1, size)).sum().item()
    assert gradient / size == pytest.approx(sum((1 - p) ** (k - 1) for k in range(1, size)))
