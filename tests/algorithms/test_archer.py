"""Archer: sure and unsure tokens have a clip and a KL of their own."""

import math

import pytest
import torch

from common import InputError
from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    lengths_of,
    load,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"beta": 0.01, "hard_quantile": 0.8, "hard_clip_ratio": 0.5, "hard_beta": 0.0, "shuffle_entropy": False}
METRICS = {"hard_ratio", "easy_kl", "hard_kl", "hard_clip_ratio"}
CASES = [
    {},
    {"beta": 0.3, "hard_beta": 0.1, "hard_quantile": 0.5, "entropy_coef": 0.1},
    {"beta": 0.0, "hard_clip_ratio": 0.05, "clip_ratio_high": 0.4},
]
NEUTRAL = [
    Neutral({"hard_clip_ratio": 0.2, "beta": 0.0}, "grpo", {}, "grpo"),
    Neutral({"hard_clip_ratio": 0.2, "beta": 0.0, "shuffle_entropy": True}, "grpo", {}, "grpo"),
]


def quantile(values: list[float], q: float) -> float:
    """Linear between the order statistics."""
    ordered, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def hard_tokens(batch: dict, args) -> set[tuple[int, int]]:
    entropy, hard = batch["sg_entropy"], set()
    for i, n in enumerate(lengths_of(batch)):
        bound = quantile(entropy[i][:n], args.hard_quantile)
        hard |= {(i, t) for t in range(n) if entropy[i][t] > bound}
    return hard


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    hard = hard_tokens(batch, args)
    for i, t in tokens_of(batch):
        easy = (args.clip_ratio_low, args.clip_ratio_high)
        clip = (args.hard_clip_ratio, args.hard_clip_ratio) if (i, t) in hard else easy
        total += surrogate(ratio_of(batch, logprobs, i, t), advantages[i], *clip) / lengths[i]
        total += args.entropy_coef * entropy[i][t] / lengths[i]
        same = sum(((i, s) in hard) == ((i, t) in hard) for s in range(lengths[i]))
        total -= (args.hard_beta if (i, t) in hard else args.beta) * k3(batch, logprobs, i, t) / same
    return -total / len(lengths)


def test_golden_selection() -> None:
    """Quantiles .64 .52 .46 and 1: one hard token each but for the row of one token."""
    batch, logprobs, entropy = toy()
    module, args = load("archer", beta=0.0, hard_clip_ratio=0.9)
    module.assign_credit(batch, args, {})
    _, (wide, _) = grads_of(module, args, batch, logprobs, entropy)
    args.hard_clip_ratio = 1e-9
    _, (narrow, _) = grads_of(module, args, batch, logprobs, entropy)
    assert {tuple(place) for place in (wide != narrow).nonzero().tolist()} <= {(0, 1), (1, 0), (2, 0)}
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/hard_ratio"] == pytest.approx(3 / 9)
    lists = {"sg_entropy": entropy.tolist(), "mask": batch["mask"].tolist()}
    assert hard_tokens(lists, args) == {(0, 1), (1, 0), (2, 0)}


def test_entropies_are_permuted_inside_a_response() -> None:
    module, args = load("archer", beta=0.0, hard_clip_ratio=0.01, shuffle_entropy=True)
    batch, logprobs, entropy = credited_batch()
    found, shares = set(), set()
    for seed in range(6):
        torch.manual_seed(seed)
        found.add(tuple(grads_of(module, args, batch, logprobs, entropy)[1][0].flatten().tolist()))
        shares.add(module.policy_loss(logprobs, entropy, batch, args)[1]["algo/hard_ratio"])
    args.shuffle_entropy = False
    shares.add(module.policy_loss(logprobs, entropy, batch, args)[1]["algo/hard_ratio"])
    assert len(found) > 3 and len(shares) == 1


def test_a_leash_on_hard_tokens_alone_is_refused() -> None:
    with pytest.raises(InputError, match="--hard-beta needs a reference model"):
        load("archer", beta=0.0, hard_beta=0.1)


def test_says_when_it_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("archer")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("archer", num_minibatches=1)
    assert capsys.readouterr().err.count("one update per rollout") == 1
