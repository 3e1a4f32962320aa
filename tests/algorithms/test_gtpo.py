"""GTPO: rewards shared out over tokens by entropy, standardised in each group by class."""

import math
import statistics

import pytest
import torch

from tests.algorithms.oracle import SIZE, Neutral, load, random_batch, ratio_of, surrogate, tokens_of, toy

SHARES = {"base_share": 1.0, "entropy_share": 0.1, "entropy_floor": 0.01, "shuffle_entropy": False}
FLAGS = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "max_resample": 9} | SHARES
METRICS = {"right_spearman"}
CASES = [{}, {"entropy_share": 0.9, "base_share": 0.3}, {"entropy_floor": 1.0}, {"entropy_share": 0.0}]
NEUTRAL = [Neutral({}, "dapo")]  # the loss, on a credit of its own


def shaped(batch: dict, args) -> dict[tuple[int, int], float]:
    """Eq. 3 and 5."""
    out, tokens = {}, set(tokens_of(batch))
    for i, t in tokens:
        first = i // SIZE * SIZE
        own = [k for k in range(first, first + SIZE) if batch["rewards"][k] == batch["rewards"][i] and (k, t) in tokens]
        entropy = {k: max(batch["entropy"][k][t], args.entropy_floor) for k in own}
        if batch["rewards"][i]:
            share = len(own) * entropy[i] / sum(entropy.values())
            out[i, t] = args.base_share + args.entropy_share * share
        else:
            share = len(own) / entropy[i] / sum(1 / value for value in entropy.values())
            out[i, t] = -args.base_share - args.entropy_share * share
    return out


def advantages_of(batch: dict, args) -> dict[tuple[int, int], float]:
    """Eq. 6, the other class's zeros counted."""
    paid, out = shaped(batch, args), {}
    for i, t in paid:
        group = [token for token in paid if token[0] // SIZE == i // SIZE]
        values = [paid[token] * (batch["rewards"][token[0]] == batch["rewards"][i]) for token in group]
        mixed = len({batch["rewards"][token[0]] for token in group}) > 1
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        out[i, t] = (paid[i, t] - statistics.mean(values)) / (spread + 1e-6) if mixed else 0.0
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, clip = advantages_of(batch, args), (args.clip_ratio_low, args.clip_ratio_high)
    total = sum(surrogate(ratio_of(batch, logprobs, i, t), a, *clip) for (i, t), a in advantages.items())
    return -total / len(advantages)


def test_golden_vectors() -> None:
    """Each token keeps its own class's score; inside a class alone the right ones would have -.905 and 1.086."""
    batch, _, _ = toy()
    module, args = load("gtpo", max_response_length=3)
    module.assign_credit(batch, args, {})
    expected = [
        [0.755317, 0.944625, 0.841366],
        [0.927415, 0.738107, 0],
        [-1.111128, -1.053655, -1.053655],
        [-0.996183, 0, 0],
    ]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected).double(), rtol=0, atol=2e-6)
    lists = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in toy()[0].items()}
    paid = shaped(lists, args)
    assert [paid[0, t] for t in range(3)] == pytest.approx([1.05, 1.16, 1.1])
    assert paid[2, 0] == pytest.approx(-1.133333, abs=1e-6) and paid[3, 0] == pytest.approx(-1.066667, abs=1e-6)


def test_without_shares_and_with_equal_lengths_it_is_grpo_but_for_bessel() -> None:
    batch, _, _ = random_batch(0)
    batch["mask"] = torch.ones_like(batch["mask"])
    module, args = load("gtpo", entropy_share=0.0)
    grpo, standard = load("grpo")
    grpo.assign_credit(theirs := dict(batch), standard, {})
    module.assign_credit(batch, args, {})
    n, tokens = SIZE, SIZE * batch["mask"].shape[1]
    factor = math.sqrt((n / (n - 1)) / (tokens / (tokens - 1)))
    torch.testing.assert_close(batch["advantages"], theirs["advantages"] * factor, rtol=1e-5, atol=1e-9)


def test_right_is_better_than_wrong_and_unsure_better_than_sure() -> None:
    batch, _, _ = random_batch(3, groups=6)
    module, args = load("gtpo", entropy_share=0.5)
    metrics = module.assign_credit(batch, args, {})
    right = (batch["rewards"] > 0)[:, None] & batch["mask"] & (batch["advantages"] != 0)
    wrong = (batch["rewards"] == 0)[:, None] & batch["mask"] & (batch["advantages"] != 0)
    assert batch["advantages"][right].mean() > 0 > batch["advantages"][wrong].mean()
    assert metrics["algo/right_spearman"] > 0.1


def test_entropies_are_permuted_in_their_group() -> None:
    module, args = load("gtpo", shuffle_entropy=True, entropy_share=0.5)
    found = set()
    for seed in range(5):
        torch.manual_seed(seed)
        batch, _, _ = random_batch(3)
        before = batch["entropy"].clone()
        module.assign_credit(batch, args, {})
        assert torch.equal(batch["entropy"], before)
        found.add(tuple(batch["advantages"].flatten().tolist()))
    assert len(found) == 5
