"""Clip-Cov: tokens of high covariance, drawn at random, are left out."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    covariances,
    credited_batch,
    grads_of,
    load,
    ratio_of,
    standardised,
    surrogate,
)
from tests.algorithms.test_kl_cov import assert_quota_of_nothing_is_said_once, assert_selection_metrics, covariance

FLAGS = {
    "clip_ratio_low": 1.0,
    "clip_ratio_high": 1.0,
    "max_resample": 9,
    "clip_cov_ratio": 1e-2,
    "clip_cov_lb": 1.0,
    "clip_cov_ub": 5.0,
    "random_selection": False,
}
METRICS = {"selected_ratio", "selected_negative_ratio", "cov_p50", "cov_p98", "candidate_ratio"}
NEEDS_TOKENS = True
# A quota as large as the candidates: the draw is then no matter of chance.
SCRIPT_FLAGS = {"clip-cov-ratio": 0.2, "clip-cov-lb": 0.01}
CASES = [{"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1}, {"clip_cov_ratio": 1.0, "clip_ratio_high": 0.2}]
WIDE = {"clip_ratio_low": 1.0, "clip_ratio_high": 1.0}
NEUTRAL = [
    Neutral({"clip_cov_ratio": 0.0}, "dapo", WIDE, "grpo"),
    Neutral({"clip_cov_ratio": 1.0, "clip_cov_lb": 50.0, "clip_cov_ub": 60.0}, "dapo", WIDE, "grpo"),
    Neutral({"clip_cov_ratio": 0.0, "random_selection": True}, "dapo", WIDE, "grpo"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """Eq. 10 to 12."""
    advantages, total = standardised(batch["rewards"]), 0.0
    cov = covariances(batch, logprobs, advantages)
    for (i, t), c in cov.items():
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        clipped = term < ratio * advantages[i]
        if clipped or not args.clip_cov_lb < c < args.clip_cov_ub:
            total += term
    return -total / len(cov)


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_leaves_out_a_random_quota_of_its_candidates(ratio: float) -> None:
    module, args = load("clip_cov", clip_cov_ratio=ratio, clip_cov_lb=0.2, clip_cov_ub=2.0)
    batch, logprobs, entropy = credited_batch()
    cov, mask = covariance(batch, logprobs), batch["mask"]
    ratios = (logprobs - batch["old_logprobs"]).detach().exp()
    candidates = mask & (cov > 0.2) & (cov < 2.0) & ~((batch["advantages"] > 0) & (ratios > 2))
    trained = mask & (batch["advantages"] != 0) & ~((batch["advantages"] > 0) & (ratios > 2))
    quota = math.floor(ratio * mask.sum().item())
    assert 0 < quota < candidates.sum()
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        left_out = trained & (grads_of(module, args, batch, logprobs, entropy)[1][0] == 0)
        assert left_out.sum() == quota and not (left_out & ~candidates).any()
        drawn.append(left_out)
    assert len({tuple(x.flatten().tolist()) for x in drawn}) > 10  # not always the same ones
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/selected_ratio"] == quota / mask.sum()
    assert stats["algo/candidate_ratio"] == candidates.sum() / mask.sum()


@pytest.mark.parametrize("ratio", [0.05, 1.0])
def test_random_selection_leaves_out_as_many(ratio: float) -> None:
    """As the window and the quota would, of all tokens that the clip lets through."""
    module, args = load("clip_cov", clip_cov_ratio=ratio, clip_cov_lb=0.2, clip_cov_ub=2.0)
    batch, logprobs, entropy = credited_batch()
    torch.manual_seed(0)
    plain = grads_of(module, args, batch, logprobs, entropy)[1][0]
    free = grads_of(*load("clip_cov", clip_cov_ratio=0.0), batch, logprobs, entropy)[1][0] != 0
    count = (free & (plain == 0)).sum()
    args.random_selection, found = True, set()
    for seed in range(10):
        torch.manual_seed(seed)
        out = free & (grads_of(module, args, batch, logprobs, entropy)[1][0] == 0)
        assert out.sum() == count > 0
        found.add(tuple(out.flatten().tolist()))
    assert len(found) == 10


def test_keeps_the_denominator() -> None:
    """What is left out stays in the mean: the others' gradients are those without selection."""
    module, args = load("clip_cov", clip_cov_ratio=1.0, clip_cov_lb=0.2, clip_cov_ub=2.0)
    batch, logprobs, entropy = credited_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    args.clip_cov_ratio = 0.0
    _, (everything, _) = grads_of(module, args, batch, logprobs, entropy)
    chosen = (gradient == 0) & (everything != 0)
    assert chosen.any() and torch.equal(gradient[~chosen], everything[~chosen])


def test_selection_metrics() -> None:
    assert_selection_metrics("clip_cov")


def test_quota_that_rounds_to_nothing_is_said_once(capsys: pytest.CaptureFixture) -> None:
    assert_quota_of_nothing_is_said_once("clip_cov", capsys)


def test_says_when_its_window_is_empty(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("clip_cov", clip_cov_lb=1.0, clip_cov_ub=2.0)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("clip_cov", clip_cov_lb=2.0, clip_cov_ub=2.0)
    assert capsys.readouterr().err.count("--clip-cov-lb") == 1
