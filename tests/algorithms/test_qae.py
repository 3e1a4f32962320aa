"""QAE: a quantile of the group's rewards is the baseline."""

import math
import statistics

import pytest
import torch

from tests.algorithms.oracle import Neutral, group_of, load, ratio_of, surrogate, tokens_of
from tests.algorithms.test_dapo import FLAGS as DAPO
from tests.algorithms.test_dapo import charged

FLAGS = DAPO | {"baseline_quantile": 0.4}
METRICS = {"overlong_penalty", "zero_advantage_ratio"}
CASES = [
    {},
    {"baseline_quantile": 0.6, "max_resample": 0},
    {"baseline_quantile": 1.0, "overlong_buffer_length": 0},
    {"baseline_quantile": 0.25, "overlong_buffer_length": 4, "overlong_penalty_factor": 0.7},
]
NEUTRAL = [Neutral({"baseline_quantile": 0.0}, "dapo", {}, "dapo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    rewards, total, tokens = charged(batch, args), 0.0, tokens_of(batch)
    for i, t in tokens:
        group = group_of(rewards, i)
        baseline = sorted(group)[math.ceil(args.baseline_quantile * len(group)) - 1]
        advantage = (rewards[i] - baseline) / (statistics.stdev(group) + 1e-6)
        if args.max_resample and len(set(group_of(batch["rewards"], i))) == 1:
            advantage = 0.0
        total += surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(tokens)


@pytest.mark.parametrize(
    ("right", "of_right", "of_wrong"),
    [(1, 2.828419, 0), (4, 1.870825, 0), (5, 0, -1.93218), (7, 0, -2.828419), (0, 0, 0), (8, 0, 0)],
)
def test_golden_vectors(right: int, of_right: float, of_wrong: float) -> None:
    """Eight responses, K = .4: right ones alone move up to four of eight, wrong ones alone from five. The library's
    torch.quantile would give the fifth case a baseline of .8 and move both."""
    module, args = load("qae", num_generations=8, overlong_buffer_length=0)
    rewards = torch.tensor([1.0] * right + [0.0] * (8 - right), dtype=torch.float64)
    batch = {"rewards": rewards, "mask": torch.ones(8, 1, dtype=torch.bool)}
    metrics = module.assign_credit(batch, args, {})
    expected = of_right * rewards + of_wrong * (1 - rewards)
    torch.testing.assert_close(batch["advantages"][:, 0], expected, rtol=0, atol=1e-5)
    assert metrics["algo/zero_advantage_ratio"] == (expected == 0).double().mean()


@pytest.mark.parametrize(
    ("quantile", "size", "place"), [(0.28, 25, 7), (0.4, 8, 4), (0.5, 8, 4), (1.0, 8, 8), (1e-12, 8, 1)]
)
def test_the_place_is_exact(quantile: float, size: int, place: int) -> None:
    """0.28 * 25 is 7.000000000000001."""
    module, args = load("qae", num_generations=size, baseline_quantile=quantile, max_response_length=size)
    args.overlong_buffer_length, args.max_resample = size, 0
    # One response of each length: the charges, and so the rewards, are all different.
    mask = torch.arange(size) < torch.arange(1, size + 1)[:, None]
    batch = {"rewards": torch.ones(size, dtype=torch.float64), "mask": mask}
    module.assign_credit(batch, args, {})
    zero = (batch["advantages"][:, 0] == 0).nonzero()[:, 0].tolist()
    assert zero == [size - place]  # the longest has the smallest reward
