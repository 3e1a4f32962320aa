"""Dr. GRPO: centred rewards, and sums over responses instead of means."""

import pytest
import torch

from tests.algorithms.oracle import (
    LENGTH,
    Neutral,
    grads_of,
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
from tests.algorithms.test_grpo import NEW, golden_batch

FLAGS = GRPO | {"scale_by": "none", "length_norm": False}
METRICS = set()
CASES = [{}, {"length_norm": True}, {"scale_by": "std"}, {"beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.3}]
NEUTRAL = [
    Neutral({"scale_by": "std", "length_norm": True}, "grpo", {}, "grpo"),
    Neutral({"scale_by": "std", "length_norm": True, "beta": 0.1}, "grpo", {"beta": 0.1}, "grpo"),
]


def centred(rewards: list[float]) -> list[float]:
    return [r - sum(group_of(rewards, i)) / len(group_of(rewards, i)) for i, r in enumerate(rewards)]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = (standardised if args.scale_by == "std" else centred)(batch["rewards"])
    lengths, total = lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / (lengths[i] if args.length_norm else args.max_response_length)
    return -total / len(lengths)


def test_golden_vectors() -> None:
    """Those of verl with norm_adv_by_std_in_grpo False, seq-mean-token-sum-norm and a constant of 4."""
    module, args = load("dr_grpo", max_response_length=4)
    batch, logprobs = golden_batch(), NEW.clone().requires_grad_()
    module.assign_credit(batch, args, {})
    assert batch["advantages"][:, 0].tolist() == [0.5, -0.5, -0.5, 0.5]
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, torch.zeros(4, 4, requires_grad=True))
    assert loss.item() == pytest.approx(0.047961, abs=1e-6)
    expected = torch.tensor([[-0.032852, 0, -0.029726, -0.006973], [0, 0, 0.030939, 0.031564]])
    torch.testing.assert_close(gradient[[0, 2]], expected, rtol=0, atol=1e-6)


def test_one_right_of_four() -> None:
    module, args = load("dr_grpo")
    batch = {"rewards": torch.tensor([1.0, 0, 0, 0]), "mask": torch.ones(4, 1, dtype=torch.bool)}
    module.assign_credit(batch, args, {})
    assert batch["advantages"][:, 0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_a_token_weighs_the_same_in_short_and_long_responses() -> None:
    module, args = load("dr_grpo")
    lengths = torch.tensor([1, LENGTH, 2, 5])
    mask = torch.arange(LENGTH) < lengths[:, None]
    old = torch.full((4, LENGTH), -1.0, dtype=torch.float64)
    batch = {"rewards": torch.tensor([1.0, 1, 0, 0]).double(), "mask": mask, "old_logprobs": old}
    module.assign_credit(batch, args, {})
    _, (gradient, _) = grads_of(module, args, batch, old.clone().requires_grad_(), old.clone().requires_grad_())
    assert set(gradient[mask].abs().tolist()) == {0.5 / (4 * LENGTH)}
