"""Forking tokens: the loss runs over the most uncertain tokens alone."""

import math

import pytest
import torch

from tests.algorithms.oracle import Neutral, credited_batch, grads_of, load, ratio_of, surrogate, tokens_of
from tests.algorithms.test_dapo import FLAGS as DAPO
from tests.algorithms.test_dapo import credited

FLAGS = DAPO | {
    "top_entropy_ratio": 0.2,
    "normalize_by": "selected",
    "entropy_scope": "minibatch",
    "random_selection": False,
}
METRICS = {"overlong_penalty", "selected_ratio", "entropy_threshold", "selected_entropy_ratio"}
CASES = [
    {},
    {"top_entropy_ratio": 0.5, "normalize_by": "all"},
    {"overlong_buffer_length": 3},
    {"entropy_scope": "response", "top_entropy_ratio": 0.4},
]
NEUTRAL = [
    Neutral({"top_entropy_ratio": 1.0}, "dapo", {}, "dapo"),
    Neutral({"top_entropy_ratio": 1.0, "entropy_scope": "response"}, "dapo", {}, "dapo"),
    Neutral({"top_entropy_ratio": 1.0, "random_selection": True}, "dapo", {}, "dapo"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens = credited(batch, args), tokens_of(batch)
    pools = [tokens]
    if args.entropy_scope == "response":
        pools = [[(i, t) for i, t in tokens if i == row] for row in range(len(logprobs))]
    forks = []
    for pool in pools:
        count = math.ceil(args.top_entropy_ratio * len(pool))
        forks += sorted(pool, key=lambda token: entropy[token[0]][token[1]], reverse=True)[:count]
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


@pytest.mark.parametrize("scope", ["minibatch", "response"])
def test_random_selection_trains_on_as_many(scope: str) -> None:
    module, args = load("forking_tokens", entropy_scope=scope)
    batch, logprobs, entropy = credited_batch()
    batch["old_logprobs"] = logprobs.detach()  # nothing is clipped
    chosen = grads_of(module, args, batch, logprobs, entropy)[1][0] != 0
    args.random_selection, found = True, set()
    for seed in range(10):
        torch.manual_seed(seed)
        drawn = grads_of(module, args, batch, logprobs, entropy)[1][0] != 0
        assert drawn.sum() == chosen.sum() and not (drawn & ~batch["mask"]).any()
        assert scope == "minibatch" or torch.equal(drawn.sum(1), chosen.sum(1))
        found.add(tuple(drawn.flatten().tolist()))
    assert len(found) == 10


def test_trains_the_uncertain_ones_alone() -> None:
    module, args = load("forking_tokens")
    batch, logprobs, entropy = credited_batch()
    _, (gradient, by_entropy) = grads_of(module, args, batch, logprobs, entropy)
    n = batch["mask"].sum().item()
    threshold = entropy[batch["mask"]].detach().topk(math.ceil(0.2 * n)).values[-1]
    assert gradient.any() and not gradient[(entropy < threshold) | ~batch["mask"]].any()
    assert not by_entropy.any()
