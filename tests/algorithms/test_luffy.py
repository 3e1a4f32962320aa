"""LUFFY: a given solution in each group, whose tokens have a weight of their own.

Where it comes from, and what the metrics leave out, is in tests/test_scripts.py.
"""

import math

import pytest
import torch

from common import InputError
from tests.algorithms.oracle import (
    LENGTH,
    SIZE,
    Neutral,
    grads_of,
    k3,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    tokens_of,
)
from tests.algorithms.test_dr_grpo import centred

FLAGS = {
    "beta": 0.0,
    "entropy_coef": 0.0,
    "scale_by": "none",
    "length_norm": False,
    "num_expert": 1,
    "expert_gamma": 0.1,
}
METRICS = {"expert_prob"}
SCRIPT_METRICS = {"expert_reward", "own_reward"}
SCRIPT_FLAGS = {"max-response-length": 16}  # most solutions are whole
CASES = [
    {},
    {"num_expert": 3, "expert_gamma": 0.5},
    {"scale_by": "std", "length_norm": True, "num_expert": 2},
    {"beta": 0.3, "entropy_coef": 0.1},
]
UNCLIPPED = {"clip_ratio_low": 1e9, "clip_ratio_high": 1e9}
NEUTRAL = [
    Neutral({"num_expert": 0}, "dr_grpo", UNCLIPPED, "dr_grpo"),
    Neutral(
        {"num_expert": 0, "scale_by": "std", "beta": 0.1},
        "dr_grpo",
        UNCLIPPED | {"scale_by": "std", "beta": 0.1},
        "dr_grpo",
    ),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = (standardised if args.scale_by == "std" else centred)(batch["rewards"])
    lengths, total = lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        if i % SIZE < SIZE - args.num_expert:
            factor = ratio_of(batch, logprobs, i, t)
        else:
            factor = math.exp(logprobs[i][t]) / (math.exp(logprobs[i][t]) + args.expert_gamma)
        term = factor * advantages[i] + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / (lengths[i] if args.length_norm else args.max_response_length)
    return -total / len(lengths)


@pytest.mark.parametrize(
    ("prob", "value", "slope"),
    [(0.001, 0.009901, 0.009803), (0.1, 0.5, 0.25), (0.216228, 0.683772, 0.216228), (0.5, 0.833333, 0.138889)],
)
def test_golden_weights(prob: float, value: float, slope: float) -> None:
    """f and its gradient by log p, gamma p / (p + gamma)^2: p itself where p is sqrt(gamma) - gamma."""
    module, args = load("luffy", max_response_length=1)
    batch = {
        "mask": torch.ones(4, 1, dtype=torch.bool),
        "rewards": torch.tensor([0.0, 0, 0, 1]).double(),
        "old_logprobs": torch.zeros(4, 1).double(),
    }
    module.assign_credit(batch, args, {})
    assert batch["expert"].tolist() == [False, False, False, True]
    assert batch["advantages"][:, 0].tolist() == [-0.25, -0.25, -0.25, 0.75]  # the mean is over all four
    logprobs = torch.full((4, 1), math.log(prob), dtype=torch.float64, requires_grad=True)
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, torch.zeros(4, 1, requires_grad=True))
    assert loss.item() == pytest.approx(-(0.75 * value - 3 * 0.25 * prob) / 4, abs=1e-6)
    assert gradient[3].item() == pytest.approx(-0.75 * slope / 4, abs=1e-6)
    assert gradient[0].item() == pytest.approx(0.25 * prob / 4, abs=1e-6)  # the ratio is p here


def test_given_tokens_have_no_old_policy() -> None:
    """What they had as log-probability when they were given plays no part; that of drawn tokens does."""
    module, args = load("luffy")
    batch, logprobs, entropy = random_batch(0)
    module.assign_credit(batch, args, {})
    loss = module.policy_loss(logprobs, entropy, batch, args)[0]
    other = batch | {"old_logprobs": batch["old_logprobs"] - 5.0 * batch["expert"][:, None]}
    assert torch.equal(module.policy_loss(logprobs, entropy, other, args)[0], loss)
    other = batch | {"old_logprobs": batch["old_logprobs"] - 5.0 * ~batch["expert"][:, None]}
    assert not torch.equal(module.policy_loss(logprobs, entropy, other, args)[0], loss)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_nothing_is_clipped(advantage: float) -> None:
    """The gradient of a drawn token is its ratio, however far that is from 1."""
    module, args = load("luffy")
    batch, logprobs, entropy = random_batch(1)
    module.assign_credit(batch, args, {})
    drawn = batch["mask"] & ~batch["expert"][:, None]
    batch["advantages"] = advantage * batch["mask"].double()
    logprobs = (batch["old_logprobs"] + 3.0).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    expected = -advantage * math.exp(3.0) / (len(drawn) * LENGTH)
    torch.testing.assert_close(gradient[drawn], torch.full_like(gradient[drawn], expected), rtol=1e-12, atol=0)


def test_a_right_solution_teaches_where_nothing_else_is_right() -> None:
    """It is pushed up, all others down; where all are right nothing moves."""
    module, args = load("luffy")
    batch, logprobs, entropy = random_batch(2, groups=2)
    batch["rewards"] = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1]).double()
    module.assign_credit(batch, args, {})
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    mask = batch["mask"]
    assert (gradient[3][mask[3]] < 0).all() and (gradient[:3][mask[:3]] > 0).all() and not gradient[4:].any()


def test_metric() -> None:
    """The mean probability of given tokens; of none it is no number."""
    module, args = load("luffy", num_expert=2)
    batch, logprobs, entropy = random_batch(3)
    module.assign_credit(batch, args, {})
    given = [math.exp(logprobs[i, t].item()) for i, t in tokens_of(batch) if i % SIZE >= 2]
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/expert_prob"] == pytest.approx(sum(given) / len(given))
    module, args = load("luffy", num_expert=0)
    module.assign_credit(batch, args, {})
    assert math.isnan(module.policy_loss(logprobs, entropy, batch, args)[1]["algo/expert_prob"])


def test_the_policy_keeps_a_response_of_its_own() -> None:
    load("luffy", num_expert=SIZE - 1)
    with pytest.raises(InputError, match="--num-expert leaves the policy none"):
        load("luffy", num_expert=SIZE)
