"""GRPO-S: rewards shared out over responses by entropy; ratio and clip of a whole response."""

import math

import pytest
import torch

from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    grads_of,
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
from tests.algorithms.test_gtpo import SHARES

FLAGS = GRPO | SHARES | {"clip_ratio_high": 0.28}
METRICS = {"weight_right_max"}
CASES = [{}, {"entropy_share": 0.9, "base_share": 0.3}, {"entropy_floor": 1.0, "beta": 0.3, "entropy_coef": 0.1}]
ON_POLICY = [Neutral({"entropy_share": 0.0, "base_share": 0.5}, "grpo", {}, "grpo")]


def shaped(batch: dict, args) -> list[float]:
    lengths = lengths_of(batch)
    means = [max(sum(h[:n]) / n, args.entropy_floor) for h, n in zip(batch["entropy"], lengths, strict=True)]
    out = []
    for i, reward in enumerate(batch["rewards"]):
        first = i // SIZE * SIZE
        own = [k for k in range(first, first + SIZE) if batch["rewards"][k] == reward]
        if reward:
            out.append(args.base_share + args.entropy_share * len(own) * means[i] / sum(means[k] for k in own))
        else:
            share = len(own) / means[i] / sum(1 / means[k] for k in own)
            out.append(-args.base_share - args.entropy_share * share)
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(shaped(batch, args)), lengths_of(batch), 0.0
    weights = [0.0] * len(lengths)
    for i, t in tokens_of(batch):
        weights[i] += ratio_of(batch, logprobs, i, t) / lengths[i]
        total += (args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    for i, weight in enumerate(weights):
        mixed = len(set(batch["rewards"][i // SIZE * SIZE : (i // SIZE + 1) * SIZE])) > 1
        total += surrogate(weight, advantages[i] * mixed, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(weights)


def test_golden_vectors() -> None:
    """Weights 1.217074, 1.150544, .759893 and 1.349859, clipped to .8 and 1.28."""
    batch, logprobs, entropy = toy()
    module, args = load("grpo_s", max_response_length=3)
    module.assign_credit(batch, args, {})
    expected = [0.87162, 0.859514, -0.904911, -0.826223]
    assert [row[0] for row in batch["advantages"].tolist()] == pytest.approx(expected, abs=1e-5)
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert loss.item() == pytest.approx(-0.05263, abs=1e-5)
    assert not gradient[2].any() and all(gradient[row].any() for row in (0, 1, 3))


def test_entropies_are_permuted_in_their_group() -> None:
    module, args = load("grpo_s", shuffle_entropy=True, entropy_share=0.5)
    found = set()
    for seed in range(5):
        torch.manual_seed(seed)
        batch, _, _ = random_batch(3)
        module.assign_credit(batch, args, {})
        found.add(tuple(batch["advantages"].flatten().tolist()))
    assert len(found) > 2


def test_weights_are_those_of_mixed_groups() -> None:
    """In a group that is all right the surest response would weigh most, and nothing is trained on it."""
    module, args = load("grpo_s", num_generations=2, entropy_share=1.0)
    entropy = torch.tensor([[1.0], [1.0], [0.1], [9.0]], dtype=torch.float64)
    batch = {"rewards": torch.tensor([1.0, 0.0, 1.0, 1.0]).double(), "mask": entropy > 0, "entropy": entropy}
    found = module.assign_credit(batch, args, {})["algo/weight_right_max"]
    assert found == pytest.approx(args.base_share + args.entropy_share)
    batch["rewards"] = torch.ones(4, dtype=torch.float64)
    assert math.isnan(module.assign_credit(batch, args, {})["algo/weight_right_max"])
