"""Forking tokens: the loss runs over the most uncertain tokens alone."""

import math

import pytest
import torch

from tests.algorithms.oracle import Neutral, credited_batch, grads_of, load, ratio_of, surrogate, tokens_of
from tests.algorithms.test_dapo import FLAGS as DAPO
from tests.algorithms.test_dapo import credited

FLAGS = DAPO | {"top_entropy_ratio": 0.2, "normalize_by": "selected"}
METRICS = {"overlong_penalty", "selected_ratio", "entropy_threshold", "selected_entropy_ratio"}
CASES = [{}, {"top_entropy_ratio": 0.5, "normalize_by": "all"}, {"overlong_buffer_length": 3}]
NEUTRAL = [Neutral({"top_entropy_ratio": 1.0}, "dapo", {}, "dapo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens = credited(batch, args), tokens_of(batch)
    count = math.ceil(args.top_entropy_ratio * len(tokens))
    forks = sorted(tokens, key=lambda token: entropy[token[0]][token[1]], reverse=True)[:count]
    clip = args.clip_ratio_low, args.clip_ratio_high
    total = sum(surrogate(ratio_of(batch, logprobs, i, t), advantages[i], *clip) for i, t in forks)
    return -total / (len(tokens) if args.normalize_by == "all" else len(forks))


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.37, 1.0])
def test_count_is_exact_with_ties(ratio: float) -> None:
    module, args = load("forking_tokens", top_entropy_ratio=ratio)
    batch, logprobs, entropy = credited_batch()
    tied = torch.zeros_like(entropy)
    stats = module.policy_loss(logprobs, tied, batch, args)[1]
    n = batch["mask"].sum().item()
    assert stats["algo/selected_ratio"] * n == pytest.approx(math.ceil(ratio * n))


def test_trains_the_uncertain_ones_alone() -> None:
    module, args = load("forking_tokens")
    batch, logprobs, entropy = credited_batch()
    _, (gradient, by_entropy) = grads_of(module, args, batch, logprobs, entropy)
    n = batch["mask"].sum().item()
    threshold = entropy[batch["mask"]].detach().topk(math.ceil(0.2 * n)).values[-1]
    assert gradient.any() and not gradient[(entropy < threshold) | ~batch["mask"]].any()
    assert not by_entropy.any()
