"""RLRT: tokens of right responses weigh by what a teacher thinks of them who has read another right response.

Its pass over them is in tests/test_scripts.py.
"""

import itertools
import math

import pytest
import torch

from common import InputError
from common.arguments import check_args
from common.basics import warn_once
from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    k3,
    lengths_of,
    load,
    plain,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)
from tests.algorithms.test_grpo import FLAGS as GRPO
from tests.helpers import random_samples

FLAGS = GRPO | {"teacher_weight": 0.5, "teacher_clip": 1.0, "teacher_sign": 1}
METRICS = {"weight_mean", "surprise_ratio", "taught_ratio"}
SCRIPT_FLAGS = {"num-generations": 4}  # of three, two right ones in a mixed group are rare
CASES = [
    {},
    {"teacher_clip": 0.5},
    {"teacher_weight": 1.0, "teacher_clip": 0.2, "beta": 0.3, "entropy_coef": 0.1},
    {"teacher_sign": -1, "teacher_clip": 3.0},
]
NEUTRAL = [
    Neutral({"teacher_weight": 0.0}, "grpo", {}, "grpo"),
    Neutral({"teacher_weight": 0.0, "teacher_clip": 0.3, "teacher_sign": -1}, "grpo", {}, "grpo"),
]


def extra(batch: dict, generator: torch.Generator) -> dict:
    """What a teacher thinks of every row, also of those that have none: it must not matter there."""
    return {"teacher_logprobs": -2 * torch.rand(batch["mask"].shape, generator=generator, dtype=torch.float64)}


def taught_rows(rewards: list[float], size: int = SIZE) -> list[int]:
    """Right rows with another right one and a wrong one in their group."""
    found = []
    for i, reward in enumerate(rewards):
        others = [r for j, r in enumerate(rewards) if j // size == i // size and j != i]
        if reward == 1 and 1 in others and 0 in others:
            found.append(i)
    return found


def weight_of(batch: dict, i: int, t: int, args) -> float:
    ratio = math.exp(batch["old_logprobs"][i][t]) / math.exp(batch["teacher_logprobs"][i][t])
    weight = ratio if args.teacher_sign == 1 else 1 / ratio
    return max(min(weight, 1 + args.teacher_clip), 1 - args.teacher_clip)


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    taught = taught_rows(batch["rewards"])
    for i, t in tokens_of(batch):
        advantage = advantages[i]
        if i in taught:
            advantage *= (1 - args.teacher_weight) + args.teacher_weight * weight_of(batch, i, t, args)
        term = surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(lengths)


# --- Credit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "factors"),
    [
        ({}, [1.58923, 0.68120, 1.2]),
        ({"teacher_clip": 0.5}, [1.5, 0.9, 1.2]),
        ({"teacher_clip": 0.2}, [1.32, 1.08, 1.2]),
        ({"teacher_sign": -1, "teacher_weight": 1.0, "teacher_clip": 10.0}, [1.2 * 0.60653, 1.2 * 7.38906, 1.2]),
    ],
)
def test_golden_vectors(options: dict, factors: list[float]) -> None:
    """An advantage of 1.2 becomes these; the row without a sibling and the wrong ones keep theirs."""
    module, args = load("rlrt", num_generations=5, **options)
    old, teacher = torch.tensor([-1.0, -3.0, -0.2]).double(), torch.tensor([-1.5, -1.0, -0.2]).double()
    batch = {
        "rewards": torch.tensor([1.0, 0, 1, 0, 0, 0, 0, 1, 0, 0]).double(),
        "mask": torch.ones(10, 3, dtype=torch.bool),
        "old_logprobs": old.expand(10, 3).clone(),
        "teacher_logprobs": teacher.expand(10, 3).clone(),
    }
    metrics = module.assign_credit(batch, args, {})
    before = torch.tensor(standardised(batch["rewards"].tolist(), 5), dtype=torch.float64)[:, None].expand(10, 3)
    factor = batch["advantages"] / before
    torch.testing.assert_close(1.2 * factor[[0, 2]], torch.tensor([factors] * 2).double(), rtol=0, atol=2e-5)
    others = [1, 3, 4, 5, 6, 7, 8, 9]
    torch.testing.assert_close(batch["advantages"][others], before[others], rtol=0, atol=1e-12)
    assert metrics["algo/taught_ratio"] == 0.2 and metrics["algo/surprise_ratio"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("options", CASES)
def test_metrics_are_of_taught_tokens(options: dict) -> None:
    module, args = load("rlrt", **options)
    batch, logprobs, entropy = random_batch(3, groups=8, extra=extra)
    lists = plain(batch, logprobs, entropy)
    taught = taught_rows(lists["rewards"])
    weights = [weight_of(lists, i, t, args) for i, t in tokens_of(lists) if i in taught]
    metrics = module.assign_credit(batch, args, {})
    assert 2 < len(taught) < 16 and metrics["algo/taught_ratio"] == len(taught) / 32
    assert metrics["algo/weight_mean"] == pytest.approx(sum(weights) / len(weights))
    assert metrics["algo/surprise_ratio"] == pytest.approx(sum(w > 1 for w in weights) / len(weights))


def test_far_teachers_stay_finite() -> None:
    module, args = load("rlrt", teacher_clip=1e12)
    for shift in (-800, 800):
        batch, _, _ = random_batch(1, groups=6, extra=extra)
        batch["teacher_logprobs"] += shift
        metrics = module.assign_credit(batch, args, {})
        assert batch["advantages"].isfinite().all() and 0 < metrics["algo/weight_mean"] <= math.exp(20) * (1 + 1e-9)


def test_nobody_taught_has_no_weight() -> None:
    module, args = load("rlrt", num_generations=2)
    batch, _, _ = random_batch(1, groups=6, extra=extra)
    metrics = module.assign_credit(batch, args, {})
    assert math.isnan(metrics["algo/weight_mean"]) and math.isnan(metrics["algo/surprise_ratio"])
    assert metrics["algo/taught_ratio"] == 0


# --- Who teaches whom, and what the teacher reads ---------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [*itertools.product((0, 1), repeat=SIZE)])
def test_the_next_right_row_in_a_circle(rewards: tuple[int, ...]) -> None:
    """In the second of three groups, between one that is all right and one with a single right row."""
    module, _ = load("rlrt")
    rows = [1] * SIZE + list(rewards) + [0, 1, 0, 0]
    expected = {}
    for i in taught_rows(rows):
        steps = (SIZE + (i - SIZE + step) % SIZE for step in range(1, SIZE))
        expected[i] = next(j for j in steps if rows[j] == 1)
    assert module.teachers(torch.tensor(rows).float(), SIZE) == expected


def test_a_teacher_reads_prompt_other_response_prompt() -> None:
    module, _ = load("rlrt")
    samples = random_samples()
    batch = module.lessons(samples, {0: 1, 3: 2})
    for row, (i, j) in enumerate({0: 1, 3: 2}.items()):
        prompt, own = samples[i].prompt_ids, samples[i].response.token_ids.tolist()
        read = batch["prompt_ids"][row][batch["prompt_mask"][row]].tolist()
        assert read == prompt + samples[j].response.token_ids.tolist() + prompt
        assert batch["response_ids"][row][batch["mask"][row]].tolist() == own


@pytest.mark.parametrize("options", [{"teacher_clip": 0.0}, {"num_generations": 2}])
def test_says_when_a_teacher_has_nothing_to_weigh(options: dict, capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("rlrt")
    load("rlrt", teacher_weight=0.0, **options)
    assert not capsys.readouterr().err
    load("rlrt", **options)
    assert capsys.readouterr().err.count("this is GRPO") == 1


@pytest.mark.parametrize(("value", "good"), [(1, True), (-1, True), (-2, False)])
def test_a_sign_may_be_negative(value: int, good: bool) -> None:
    _, args = load("rlrt", teacher_sign=value)
    if good:
        return check_args(args)
    with pytest.raises(InputError, match="--teacher-sign"):
        check_args(args)
