"""T1: rewards against the others of a group, junk, and a leash to an anchor that follows."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import Neutral, group_of, load, random_batch, ratio_of, surrogate, tokens_of, toy

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.2,
    "beta": 0.05,
    "entropy_coef": 0.01,
    "reference_share": 0.01,
    "bad_reward": -1.0,
    "repeat_ngram": 8,
}
METRICS = {"bad_ratio", "anchor_kl"}
SCRIPT_FLAGS = {"repeat-ngram": 2, "reference-share": 0.3}
CASES = [
    {"repeat_ngram": 1, "beta": 0.3},
    {"repeat_ngram": 2, "bad_reward": -0.5, "entropy_coef": 0.2},
    {"bad_reward": 0.0, "beta": 0.5, "clip_ratio_high": 0.1},
    {"repeat_ngram": 0, "beta": 0.0},
]
UNMIXED = (0.0, 0.3, 1.0)  # a group of wrong responses of which one is junk is trained on


def extra(batch: dict, generator: torch.Generator) -> dict:
    """Two words, so that some responses repeat themselves."""
    return {"response_ids": torch.randint(2, batch["mask"].shape, generator=generator)}


def is_junk(ids: list[int], truncated: bool, n: int) -> bool:
    grams = [tuple(ids[k : k + n]) for k in range(len(ids) - n + 1)] if n else []
    return truncated or any(grams.count(gram) >= 3 for gram in grams)


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    lengths = [sum(row) for row in batch["mask"]]
    paid = [
        args.bad_reward if args.bad_reward and is_junk(ids[:n], cut, args.repeat_ngram) else reward
        for ids, n, cut, reward in zip(
            batch["response_ids"], lengths, batch["truncated"], batch["rewards"], strict=True
        )
    ]
    gone = [
        sum(o - r for o, r in zip(old[:n], ref[:n], strict=True)) if args.beta else 0.0
        for old, ref, n in zip(batch["old_logprobs"], batch["ref_logprobs"], lengths, strict=True)
    ]
    mean, advantages = sum(gone) / len(gone), []
    for i, reward in enumerate(paid):
        group = group_of(paid, i)
        others = (sum(group) - reward) / (len(group) - 1)
        advantages.append(reward - others - args.beta * (gone[i] - mean) if len(set(group)) > 1 else 0.0)
    tokens, total = tokens_of(batch), 0.0
    for i, t in tokens:
        total += surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += args.entropy_coef * entropy[i][t]
    return -total / len(tokens)


@pytest.mark.parametrize("seed", range(3))
def test_without_junk_and_leash_it_is_dr_grpo(seed: int) -> None:
    """Its advantages times G / (G - 1)."""
    batch, _, _ = random_batch(seed, extra=extra)
    module, args = load("t1", bad_reward=0.0, beta=0.0)
    plain, parent = load("dr_grpo")
    one, other = dict(batch), dict(batch)
    module.assign_credit(one, args, {})
    plain.assign_credit(other, parent, {})
    size = args.num_generations
    torch.testing.assert_close(one["advantages"], other["advantages"] * size / (size - 1), rtol=0, atol=1e-12)


def test_golden_advantages() -> None:
    """R' of 1, 1, 0 and junk's -1; K of 0.2, 0.1, 0.4 and 0.1 less their mean."""
    batch, _, _ = toy()
    batch["rewards"] = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    batch["truncated"] = torch.tensor([False, False, False, True])
    batch["response_ids"] = torch.arange(batch["mask"].numel()).view_as(batch["mask"])
    module, args = load("t1", beta=0.0)
    assert math.isnan(module.assign_credit(batch, args, {})["algo/anchor_kl"])
    assert batch["advantages"][:, 0].tolist() == pytest.approx([1, 1, -1 / 3, -5 / 3])
    args.beta = 1.0
    drift = torch.tensor([0.2, 0.1, 0.4, 0.1], dtype=torch.float64)
    first = torch.zeros_like(batch["old_logprobs"])
    first[:, 0] = drift
    batch["ref_logprobs"] = batch["old_logprobs"] - first
    assert module.assign_credit(batch, args, {})["algo/anchor_kl"] == pytest.approx(0.2)
    assert batch["advantages"][:, 0].tolist() == pytest.approx([1, 1.1, -1 / 3 - 0.2, -5 / 3 + 0.1])


@pytest.mark.parametrize(
    ("ids", "n", "found"),
    [
        ([1, 2, 1, 2, 1, 2], 2, True),
        ([1, 1, 1, 1], 2, True),  # overlapping ones count
        ([1, 1, 1], 2, False),
        ([1, 2, 1, 2, 1], 2, False),
        ([1, 2, 3], 1, False),
        ([1, 2, 1, 1], 1, True),
        ([7] * 9, 0, False),
        ([], 3, False),
        ([7] * 9, 10**9, False),  # nor does it take long
    ],
)
def test_repeats(ids: list[int], n: int, found: bool) -> None:
    module, _ = load("t1")
    assert module.repeats(ids, n) is found


def test_says_what_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("t1", max_response_length=20)
    assert not capsys.readouterr().err
    load("t1", max_response_length=9)
    assert "--repeat-ngram" in capsys.readouterr().err


NEUTRAL: list[Neutral] = []  # none to the bit: the parent's credit divides by the standard deviation
