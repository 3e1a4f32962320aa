"""SEED-GRPO: groups whose answers disagree weigh less."""

import math
from collections import Counter

import pytest
import torch

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
)
from tests.algorithms.test_dr_grpo import FLAGS as DR_GRPO
from tests.algorithms.test_dr_grpo import centred

FLAGS = DR_GRPO | {"uncertainty_coef": 1.0, "same_scale": False}
METRICS = {"semantic_entropy", "scale_mean"}
SCRIPT_FLAGS = {"uncertainty-coef": 0.5}  # no two answers of a random model agree
CASES = [{}, {"uncertainty_coef": 0.3, "scale_by": "std"}, {"same_scale": True}, {"beta": 0.3, "entropy_coef": 0.1}]
NEUTRAL = [
    Neutral({"uncertainty_coef": 0.0}, "dr_grpo", {}, "dr_grpo"),
    Neutral({"uncertainty_coef": 0.0, "same_scale": True}, "dr_grpo", {}, "dr_grpo"),
]


def semantic_entropy(answers: list) -> float:
    clusters = Counter(f"none {i}" if a is None else a for i, a in enumerate(answers))
    return -sum(n / len(answers) * math.log(n / len(answers)) for n in clusters.values())


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = (standardised if args.scale_by == "std" else centred)(batch["rewards"])
    groups = [batch["answers"][first : first + SIZE] for first in range(0, len(advantages), SIZE)]
    scales = [1 - args.uncertainty_coef * semantic_entropy(group) / math.log(SIZE) for group in groups]
    if args.same_scale:
        scales = [sum(scales) / len(scales)] * len(scales)
    lengths, total = lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i] * scales[i // SIZE], args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / (
            lengths[i] if args.length_norm else args.max_response_length
        )
    return -total / len(lengths)


@pytest.mark.parametrize(
    ("answers", "entropy", "scale"),
    [
        (["a", "a", "a", "b"], 0.562335, 0.983098),
        (["a", "a", "b", "b"], math.log(2), 0.979167),
        (["a", "b", "c", "d"], math.log(4), 0.958333),
        (["a", "a", "a", "a"], 0.0, 1.0),
        (["a", "a", None, None], 1.5 * math.log(2), 1 - 0.75 / 24),  # each without an answer is alone
    ],
)
def test_golden_vectors(answers: list, entropy: float, scale: float) -> None:
    module, args = load("seed_grpo", uncertainty_coef=1 / 24)
    batch = {
        "rewards": torch.tensor([1.0, 0, 0, 0]).double(),
        "mask": torch.ones(4, 1, dtype=torch.bool),
        "answers": answers,
    }
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/semantic_entropy"] == pytest.approx(entropy, abs=1e-6)
    assert metrics["algo/scale_mean"] == pytest.approx(scale, abs=1e-6)
    assert batch["advantages"][0, 0].item() == pytest.approx(0.75 * scale, abs=1e-6)


def test_the_control_has_one_scale() -> None:
    module, args = load("seed_grpo")
    scales = []
    for args.same_scale in (False, True):
        batch, _, _ = random_batch(1, groups=6)
        module.assign_credit(batch, args, {})
        plain = torch.tensor(centred(batch["rewards"].tolist()), dtype=torch.float64)
        scales.append((batch["advantages"].abs().amax(1) / plain.abs())[plain != 0].unique())
    assert len(scales[0]) > 1 and scales[1].max() - scales[1].min() < 1e-12
