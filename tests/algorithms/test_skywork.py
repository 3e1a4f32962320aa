"""Skywork-OR1: mixed groups alone, and an entropy bonus that a controller switches and sizes."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    grads_of,
    group_of,
    k3,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    take,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"target_entropy": 0.25, "coef_step": 1e-3, "coef_max": 0.05}
METRICS = {"coef", "surprisal"}
SCRIPT_FLAGS = {"target-entropy": 9.0, "coef-step": 0.02}  # a random model's entropy is below: the second step has one
CASES = [
    {},
    {"entropy_coef": 0.1},
    {"entropy_coef": 0.3, "beta": 0.3, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
]
# Of the mixed groups, GRPO with the mean over all tokens, which is DAPO's loss at equal clips.
NEUTRAL = [
    Neutral({"coef_step": 0.0}, "dapo", {"clip_ratio_high": 0.2}),
    Neutral({}, "dapo", {"clip_ratio_high": 0.2}),  # in the first step
]


def kept(batch: dict) -> list[tuple[int, int]]:
    """Tokens of groups that are neither all right nor all wrong."""
    return [(i, t) for i, t in tokens_of(batch) if len(set(group_of(batch["rewards"], i))) > 1]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step, whose bonus has the coefficient that it starts with."""
    advantages, tokens, total = standardised(batch["rewards"]), kept(batch), 0.0
    for i, t in tokens:
        ratio = ratio_of(batch, logprobs, i, t)
        total += surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


def coefficients(surprisals: list[float | None], state: dict | None = None, **options) -> list[float]:
    """The coefficient that each step uses, for rollouts of these surprisals; None: a step without a mixed group."""
    module, args = load("skywork", **options)
    state, out = {} if state is None else state, []
    for value in surprisals:
        batch, _, _ = random_batch(0)
        batch["old_logprobs"] = torch.full_like(batch["old_logprobs"], -(value or 0.0))
        batch["old_logprobs"][~batch["mask"]] = -1e9  # padding does not count,
        batch["old_logprobs"][:SIZE] = -1e9  # nor does a group that is all right
        batch["entropy"] = torch.full_like(batch["entropy"], torch.nan)  # nor what is pushed
        if value is None:
            batch["rewards"] = torch.ones_like(batch["rewards"])
        metrics = module.assign_credit(batch, args, state)
        assert type(batch["entropy_coef"]) is float and metrics["algo/coef"] == batch["entropy_coef"]
        measured = metrics["algo/surprisal"]
        assert math.isnan(measured) if value is None else measured == pytest.approx(value)
        assert {type(number) for number in state.values()} <= {int, float}
        out.append(batch["entropy_coef"])
    return out


GOLDEN = {"target_entropy": 0.2, "coef_step": 1e-4, "coef_max": 0.005}  # those of the authors' scripts


def test_golden_controller() -> None:
    """Above the target the coefficient falls and the next step has no bonus; below it rises, and the next step has."""
    state = {}
    used = coefficients([0.3, 0.18, 0.15, 0.19, 0.25, 0.1], state, **GOLDEN)
    assert used == pytest.approx([0, 0, 1e-4, 2e-4, 3e-4, 0], abs=1e-12)
    assert used[0] == used[1] == used[5] == 0  # exactly
    assert state["coef"] * state["gate"] == pytest.approx(3e-4) and state.keys() == {"coef", "gate"}


def test_golden_loss() -> None:
    """The toy's clipped mean over tokens, -.136045, less a tenth of its mean entropy, 4.2/9."""
    batch, logprobs, entropy = toy()
    module, args = load("skywork", entropy_coef=0.1)
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/surprisal"] == pytest.approx(8.4 / 9)
    loss, (_, by_entropy) = grads_of(module, args, batch, logprobs, entropy)
    assert loss.item() == pytest.approx(-0.136045 - 0.42 / 9, abs=1e-6)
    torch.testing.assert_close(by_entropy, -0.1 / 9 * batch["mask"].double(), rtol=0, atol=1e-15)


def test_at_the_target_there_is_no_bonus() -> None:
    """Below is below: a surprisal of exactly the target lowers the coefficient and closes the gate."""
    state = {}
    assert coefficients([0.125, 0.25], state, entropy_coef=0.02) == [0.02, 0.021]
    assert state == {"coef": 0.02, "gate": 0}


@pytest.mark.parametrize(
    ("surprisals", "expected"),
    [
        ([0.9, 0.1, 0.1], [0.02, 0, 0.02]),  # the coefficient itself goes on behind the closed gate
        ([0.9, 0.9, 0.9, 0.1, 0.1], [0.02, 0, 0, 0, 0.01]),  # at 0 it has no memory of how long,
        ([0.1, 0.1, 0.1, 0.1, 0.9, 0.1], [0.02, 0.03, 0.04, 0.04, 0.04, 0]),  # nor at its most
    ],
)
def test_coefficient_stays_in_its_bounds(surprisals: list[float], expected: list[float]) -> None:
    options = {"target_entropy": 0.5, "entropy_coef": 0.02, "coef_step": 0.01, "coef_max": 0.04}
    assert coefficients(surprisals, **options) == pytest.approx(expected, abs=1e-12)


def test_a_step_without_a_mixed_group_does_not_tick() -> None:
    """It changes nothing, and what it uses is what the next step uses too."""
    state = {}
    with_gaps = coefficients([None, 0.1, None, None, 0.1, 0.9, None, 0.1], state, entropy_coef=0.01)
    assert with_gaps == [*[with_gaps[0]] * 2, *[with_gaps[2]] * 3, with_gaps[5], 0, 0]
    assert [with_gaps[i] for i in (1, 4, 5, 7)] == coefficients([0.1, 0.1, 0.9, 0.1], entropy_coef=0.01)
    first = {}
    coefficients([None], first)
    assert not first


def test_a_step_goes_on_from_its_state() -> None:
    whole = coefficients([0.1, 0.1, 0.9, 0.1, 0.1])
    state = {}
    assert coefficients([0.1, 0.1, 0.9], state) + coefficients([0.1, 0.1], dict(state)) == whole


def test_groups_without_spread_leave_the_mean() -> None:
    """The others weigh as much as if those had not been sampled; a bonus acts on them neither."""
    module, args = load("skywork", entropy_coef=0.1)
    batch, logprobs, entropy = random_batch(2)
    module.assign_credit(batch, args, {})
    assert torch.equal(batch["loss_mask"], batch["mask"] & batch["likely_trained"][:, None])
    whole = grads_of(module, args, batch, logprobs, entropy)[1]
    rows = torch.arange(SIZE, 3 * SIZE)
    inputs = logprobs[rows].detach().requires_grad_(), entropy[rows].detach().requires_grad_()
    part = grads_of(module, args, take(batch, rows), *inputs)[1]
    for one, other in zip(whole, part, strict=True):
        assert not one[:SIZE].any() and other.any()
        torch.testing.assert_close(one[SIZE:], other, rtol=0, atol=1e-15)


def test_says_when_there_is_never_a_bonus(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("skywork")
    load("skywork", coef_step=0.0, entropy_coef=0.01)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("skywork", coef_step=0.0)
        load("skywork", coef_max=0.0)
    assert capsys.readouterr().err.count("never a bonus") == 1
