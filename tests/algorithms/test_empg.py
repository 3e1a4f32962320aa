"""EMPG: steps weighed by their entropy, and paid for what comes after."""

import math
import statistics

import pytest
import torch

from tests.algorithms.oracle import (
    Neutral,
    group_of,
    k3,
    lengths_of,
    load,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"step_separator": ",", "confidence_scale": 1.0, "bonus_scale": 1.0, "future_bonus": 0.05}
METRICS = {"scale_max", "bonus_mean", "shift"}
CASES = [
    {},
    {"confidence_scale": 2.0, "future_bonus": 0.5, "bonus_scale": 0.5},
    {"future_bonus": 0.0, "beta": 0.3, "entropy_coef": 0.1},
    {"confidence_scale": 0.0, "future_bonus": 0.3},
]
NEUTRAL = [Neutral({"confidence_scale": 0.0, "future_bonus": 0.0}, "grpo", {}, "grpo")]


def extra(batch: dict, generator: torch.Generator) -> dict:
    ends = torch.rand(batch["mask"].shape, generator=generator) < 0.4
    before = ends.cumsum(1).roll(1, 1)
    before[:, 0] = 0
    return {"step_index": before * batch["mask"]}


def advantages_of(batch: dict, args) -> list[dict[int, float]]:
    """The advantage of each step of each response."""
    lengths, plain = lengths_of(batch), standardised(batch["rewards"])
    means = []
    for i, n in enumerate(lengths):
        steps = batch["step_index"][i][:n]
        means.append(
            {s: statistics.mean(batch["entropy"][i][t] for t in range(n) if steps[t] == s) for s in set(steps)}
        )
    if args.confidence_scale == args.future_bonus == 0:
        return [dict.fromkeys(mean, a) for mean, a in zip(means, plain, strict=True)]
    trained = [i for i in range(len(lengths)) if len(set(group_of(batch["rewards"], i))) > 1]
    every = [h for i in trained for h in means[i].values()]
    place = [{s: (h - min(every)) / (max(every) - min(every) + 1e-8) for s, h in mean.items()} for mean in means]
    average = statistics.mean(math.exp(-args.confidence_scale * h) for i in trained for h in place[i].values())
    shaped = []
    for i, steps in enumerate(place):
        row = {}
        for s, h in steps.items():
            bonus = args.future_bonus * math.exp(-args.bonus_scale * steps[s + 1]) if s + 1 in steps else 0.0
            row[s] = plain[i] * math.exp(-args.confidence_scale * h) / average + bonus
        shaped.append(row)
    shift = statistics.mean(a for i in trained for a in shaped[i].values())
    return [{s: a - shift if i in trained else 0.0 for s, a in row.items()} for i, row in enumerate(shaped)]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = advantages_of(batch, args), lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        advantage = advantages[i][batch["step_index"][i][t]]
        term = surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(lengths)


def test_golden_vectors() -> None:
    """Two responses of two steps, a token each; the advantages of a group of two."""
    module, args = load("empg", num_generations=2)
    batch = {
        "rewards": torch.tensor([1.0, 0.0]).double(),
        "mask": torch.ones(2, 2, dtype=torch.bool),
        "entropy": torch.tensor([[0.2, 0.6], [0.4, 0.1]]).double(),
        "step_index": torch.tensor([[0, 1], [0, 1]]),
    }
    metrics = module.assign_credit(batch, args, {})
    expected = torch.tensor([[0.941491, 0.456918], [-0.44094, -0.957469]]).double()
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=2e-6)
    assert metrics["algo/scale_max"] == pytest.approx(1.462297, abs=1e-5)


def test_one_step_a_response_has_no_bonus() -> None:
    module, args = load("empg", num_generations=2)
    batch = {
        "rewards": torch.tensor([1.0, 0.0]).double(),
        "mask": torch.ones(2, 2, dtype=torch.bool),
        "entropy": torch.tensor([[0.2, 0.6], [0.4, 0.1]]).double(),
        "step_index": torch.zeros(2, 2, dtype=torch.int64),
    }
    assert module.assign_credit(batch, args, {})["algo/bonus_mean"] == 0


def test_a_step_may_be_far_above_those_that_count() -> None:
    """Of a group that is all right, whose steps set no range: exp of it overflows, and no advantage may know."""
    module, args = load("empg", num_generations=2)
    entropy = torch.tensor([[0.5, 0.50001], [0.49999, 0.5], [0.0, 3.0], [0.0, 3.0]])
    batch = {
        "rewards": torch.tensor([1.0, 0.0, 1.0, 1.0]),
        "mask": torch.ones(4, 2, dtype=torch.bool),
        "entropy": entropy,
        "step_index": torch.tensor([[0, 1]] * 4),
    }
    module.assign_credit(batch, args, {})
    assert batch["advantages"].isfinite().all() and batch["advantages"][:2].all() and not batch["advantages"][2:].any()
