"""CW-GRPO: advantages weighed by a Gaussian kernel on each token's covariance, group by group."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracle import (
    SIZE,
    Neutral,
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

FLAGS = GRPO | {"kernel_width": 1.0, "shuffle_weights": False}
METRICS = {"weight_min", "weight_max"}
CASES = [{}, {"kernel_width": 0.5}, {"kernel_width": 2.0, "beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.28}]
NEUTRAL = [
    Neutral({"kernel_width": 0.0}, "grpo", {}, "grpo"),
    Neutral({"kernel_width": 0.0, "shuffle_weights": True, "beta": 0.2}, "grpo", {"beta": 0.2}, "grpo"),
]


def kernel(batch: dict, width: float) -> dict[tuple[int, int], float]:
    """w / mean w of each token, group by group."""
    advantages, out = standardised(batch["rewards"]), {}
    for first in range(0, len(advantages), SIZE):
        tokens = [(i, t) for i, t in tokens_of(batch) if i // SIZE == first // SIZE]
        mean_log = statistics.fmean(batch["old_logprobs"][i][t] for i, t in tokens)
        mean_advantage = statistics.fmean(advantages[i] for i, _ in tokens)
        cov = [(batch["old_logprobs"][i][t] - mean_log) * (advantages[i] - mean_advantage) for i, t in tokens]
        sigma = width * statistics.pstdev(cov)
        weights = [math.exp(-(c**2) / (2 * sigma**2)) if sigma else 1.0 for c in cov]
        out |= {token: w * len(tokens) / sum(weights) for token, w in zip(tokens, weights, strict=True)}
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    for (i, t), weight in kernel(batch, args.kernel_width).items():
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, weight * advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def weights_of(batch: dict, **options) -> Tensor:
    """The weights that the method gives, from its advantages and GRPO's; NaN on padding and where A is 0."""
    ours, plain = dict(batch), dict(batch)
    for name, b, flags in (("cw_grpo", ours, options), ("grpo", plain, {})):
        module, args = load(name, **flags)
        module.assign_credit(b, args, {})
    return ours["advantages"] / plain["advantages"]


def test_golden_vectors() -> None:
    """Three tokens of a right response, one of a wrong one: mean l -0.95, mean A 0.5, sigma 0.382426."""
    logprobs = torch.tensor([-0.1, -2.0, -0.5, -1.2], dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    got = load("cw_grpo")[0].kernel_weights(logprobs, advantages, 1.0)
    expected = torch.tensor([0.90317, 0.65270, 1.40860, 1.03552], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # by Bessel's deviation the first is 0.93296
    assert got.sum().item() == pytest.approx(4)


def test_metrics_and_mean_weight() -> None:
    """The weights of each group have mean 1, and the largest exceeds 1."""
    batch, _, _ = toy()
    module, args = load("cw_grpo")
    metrics = module.assign_credit(dict(batch), args, {})
    weights = weights_of(batch)[batch["mask"]]
    assert weights.mean().item() == pytest.approx(1)
    assert metrics["algo/weight_min"] == pytest.approx(weights.min().item())
    assert metrics["algo/weight_max"] == pytest.approx(weights.max().item()) and metrics["algo/weight_max"] > 1.1


def test_extreme_tokens_lose_and_a_wide_kernel_is_flat() -> None:
    """One rare token of a right response, far from the others; the sign of its covariance does not matter."""
    batch, _, _ = random_batch(1)
    batch["old_logprobs"] = -0.5 - 0.1 * batch["entropy"]
    for reward in (1, 0):
        row = (batch["likely_trained"] & (batch["rewards"] == reward)).nonzero()[0].item()
        moved = batch | {"old_logprobs": batch["old_logprobs"].clone()}
        moved["old_logprobs"][row, 0] = -9.0
        weights = weights_of(moved)
        assert weights[row, 0] < 0.05 and weights[row, 0] == weights[~weights.isnan()].min()
        flat = weights_of(moved, kernel_width=1e4)
        torch.testing.assert_close(flat[~flat.isnan()], torch.ones_like(flat[~flat.isnan()]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["equal logprobs", "equal covariances", "one token"])
def test_no_spread_is_weight_one(kind: str, dtype: torch.dtype) -> None:
    """Also where means of equal numbers round: the spread of what is left is no spread."""
    logprobs = {"equal logprobs": [-0.1] * 7, "equal covariances": [-0.1, -0.7], "one token": [-0.3]}[kind]
    logprobs = torch.tensor(logprobs, dtype=dtype)
    advantages = torch.where(torch.arange(len(logprobs)) % 2 == 0, 0.866024, -0.577349).to(dtype)
    got = load("cw_grpo")[0].kernel_weights(logprobs, advantages, 1.0)
    assert got.dtype == dtype and torch.equal(got, torch.ones_like(got))


def test_a_narrow_kernel_stays_finite() -> None:
    """Every exp underflows; the token nearest to 0 takes all the weight."""
    logprobs, advantages = torch.tensor([-1.0, -2.0, -4.0, -9.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    got = load("cw_grpo")[0].kernel_weights(logprobs, advantages, 1e-3)
    assert got.tolist() == [0, 0, 4, 0]


def test_shuffled_weights_are_the_same_ones_elsewhere_in_the_group() -> None:
    """By torch's generator; no weight leaves its group."""
    batch, _, _ = random_batch(0, groups=6, length=12)
    straight, drawn = weights_of(batch), []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(weights_of(batch, shuffle_weights=True))
        for first in range(SIZE, len(straight), SIZE):  # the first group is all right
            ours, theirs = (x[first : first + SIZE][batch["mask"][first : first + SIZE]] for x in (drawn[-1], straight))
            torch.testing.assert_close(ours.sort().values, theirs.sort().values, rtol=0, atol=1e-12, equal_nan=True)
            assert ours.isnan().all() or ((ours - theirs).abs() > 1e-6).any()
    assert torch.equal(drawn[0].nan_to_num(), drawn[2].nan_to_num())
    assert not torch.equal(drawn[0].nan_to_num(), drawn[1].nan_to_num())
