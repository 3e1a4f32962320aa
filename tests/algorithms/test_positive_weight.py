"""Positive-advantage reweighting: the loss of positive advantages is weighed, by entropy or by the clock."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    grads_of,
    k3,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"schedule": "entropy", "positive_weight": 0.0, "target_entropy": 0.25, "weight_step": 0.05}
METRICS = {"positive_weight"}
SCRIPT_FLAGS = {"positive-weight": 0.3}
CASES = [
    {},
    {"positive_weight": 0.3},
    {"positive_weight": 0.7, "beta": 0.3, "entropy_coef": 0.1, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
    {"schedule": "constant", "positive_weight": 0.25},
    {"schedule": "stage"},
]
# GRPO with the mean over all tokens, which is DAPO's loss at equal clips.
NEUTRAL = [
    Neutral({"schedule": "constant", "positive_weight": 1.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
    Neutral({"positive_weight": 1.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),  # in the first step
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step, which uses the weight that the schedule starts with."""
    advantages, tokens, total = standardised(batch["rewards"]), tokens_of(batch), 0.0
    weight = 0.0 if args.schedule == "stage" else args.positive_weight
    for i, t in tokens:
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += weight * term if advantages[i] > 0 else term
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


def weights(entropies: list[float], state: dict | None = None, **options) -> list[float]:
    """The weight that each step uses, for rollouts of these mean entropies."""
    module, args = load("positive_weight", **options)
    state, out = {} if state is None else state, []
    for step, value in enumerate(entropies):
        batch, _, _ = random_batch(0)
        batch["entropy"] = torch.full_like(batch["old_logprobs"], value)
        batch["entropy"][~batch["mask"]] = 1e9  # padding does not count
        metrics = module.assign_credit(batch, args, state)
        assert type(batch["positive_weight"]) is float and metrics == {"algo/positive_weight": batch["positive_weight"]}
        assert state["steps"] == step + 1 and {type(value) for value in state.values()} <= {int, float}
        out.append(batch["positive_weight"])
    return out


@pytest.mark.parametrize(("weight", "loss"), [(0.25, 0.250327), (1.0, -0.136045), (0.0, 0.379117)])
def test_golden_vectors(weight: float, loss: float) -> None:
    batch, logprobs, entropy = toy()
    module, args = load("positive_weight", schedule="constant", positive_weight=weight)
    module.assign_credit(batch, args, {})
    value, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    # On right tokens weight times GRPO's, on wrong ones all of it; over nine tokens, 0 where the clip binds.
    ratio = torch.tensor([[1.051271, 0, 0.951229], [0.951229, 0, 0], [0, 0, 0.99005], [1.349859, 0, 0]])
    share = torch.tensor([weight, weight, 1, 1])[:, None]
    torch.testing.assert_close(gradient, -batch["advantages"] * share * ratio / 9, rtol=0, atol=1e-6)


def test_weight_follows_entropy() -> None:
    """A step's entropy moves what the next one uses: down below the target, up at it and above."""
    state = {}
    used = weights([0.35, 0.3, 0.26, 0.24, 0.2, 0.25], state)
    assert used == pytest.approx([0, 0.05, 0.1, 0.15, 0.1, 0.05], abs=1e-12)
    assert state.keys() == {"steps", "weight"} and state["weight"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("entropies", "start", "expected"),
    [
        ([0.1] * 3, 0.0, [0, 0, 0]),
        ([0.1] * 3, 0.5, [0.5, 0.2, 0]),
        ([0.9] * 4, 0.5, [0.5, 0.8, 1, 1]),
        ([0.9, 0.9, 0.1], 1.0, [1, 1, 1]),
        ([0.9, 0.1, 0.1], 1.0, [1, 1, 0.7]),  # from the bound it moves at once
    ],
)
def test_weight_stays_between_0_and_1(entropies: list[float], start: float, expected: list[float]) -> None:
    used = weights(entropies, target_entropy=0.5, weight_step=0.3, positive_weight=start)
    assert used == pytest.approx(expected, abs=1e-12)
    assert min(used) >= 0 and max(used) <= 1


@pytest.mark.parametrize("entropy", [0.0, 0.9])
def test_other_schedules_do_not_read_entropy(entropy: float) -> None:
    """Stage: 0 in the first half of num_steps, then on the line that would end at 1."""
    used = weights([entropy] * 8, schedule="stage", num_steps=8)
    assert used == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75]
    assert weights([entropy] * 3, schedule="constant", positive_weight=0.4) == [0.4] * 3
    assert weights([entropy] * 3, weight_step=0.0, positive_weight=0.4) == [0.4] * 3


def test_a_step_goes_on_from_its_state() -> None:
    """What a checkpoint holds is all that the schedules remember."""
    whole = weights([0.9, 0.9, 0.9, 0.1])
    state = {"steps": 0, "weight": whole[2]}
    assert weights([0.9, 0.1], state) == whole[2:]


def test_weight_0_leaves_tokens_in_the_denominator() -> None:
    """Positive advantages lose their gradient, not their place; negative ones keep theirs, and those of 0 have none."""
    batch, logprobs, entropy = random_batch(1)
    module, args = load("positive_weight")
    module.assign_credit(batch, args, {})
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    _, (whole, _) = grads_of(module, args, batch | {"positive_weight": 1.0}, logprobs, entropy)
    positive = batch["advantages"] > 0
    assert whole[positive].any() and not gradient[positive].any()
    assert torch.equal(gradient[~positive], whole[~positive]) and gradient.any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_on_policy_it_scales_a_prompts_gradient(p: float, weight: float) -> None:
    """Advantages of a prompt that is solved with probability p: the gradient's size is lambda (1 - p) + p of GRPO's."""
    right, wrong = (1 - p) / math.sqrt(p * (1 - p)), -p / math.sqrt(p * (1 - p))
    module, args = load("positive_weight")
    batch = {"advantages": torch.tensor([[right], [wrong]]), "loss_mask": torch.ones(2, 1, dtype=torch.bool)}
    batch |= {"old_logprobs": torch.tensor([[p], [1 - p]]).log()}

    def gradient(weight: float) -> float:
        logprobs, entropy = batch["old_logprobs"].clone().requires_grad_(), torch.zeros(2, 1, requires_grad=True)
        _, (by_row, _) = grads_of(module, args, batch | {"positive_weight": weight}, logprobs, entropy)
        # Expected over answers; d log p / d logit is 1 - p, d log(1 - p) / d logit is -p.
        return p * by_row[0].item() * (1 - p) + (1 - p) * by_row[1].item() * -p

    assert gradient(weight) == pytest.approx((weight * (1 - p) + p) * gradient(1.0), rel=1e-5)


def test_says_what_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("positive_weight")
    load("positive_weight", positive_weight=1.0)
    load("positive_weight", schedule="stage")
    load("positive_weight", schedule="constant", positive_weight=0.5)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("positive_weight", schedule="constant", positive_weight=1.0)
        load("positive_weight", schedule="stage", positive_weight=0.1)
    said = capsys.readouterr().err
    assert said.count("--schedule constant") == said.count("--schedule stage") == 1
