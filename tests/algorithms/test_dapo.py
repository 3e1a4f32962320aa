"""DAPO: clip-higher, a charge for length, the mean over all tokens. Its sampling is in tests/test_scripts.py."""

import pytest
import torch

from tests.algorithms.oracle import (
    grads_of,
    group_of,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "max_resample": 9,
    "overlong_buffer_length": 5,
    "overlong_penalty_factor": 1.0,
}
METRICS = {"overlong_penalty"}
CASES = [{}, {"overlong_buffer_length": 4, "overlong_penalty_factor": 0.7, "max_resample": 0}]


def charged(batch: dict, args) -> list[float]:
    """Eq. 7 and 13: +-1, less what the last tokens before the limit cost."""
    rewards = []
    for reward, length in zip(batch["rewards"], lengths_of(batch), strict=True):
        free = args.max_response_length - args.overlong_buffer_length
        charge = 0.0 if length <= free else (free - length) / args.overlong_buffer_length
        rewards.append((1 if reward > 0 else -1) + args.overlong_penalty_factor * charge)
    return rewards


def credited(batch: dict, args) -> list[float]:
    """With dynamic sampling on, a group that is all right or all wrong has no advantage (Eq. 11)."""
    advantages = standardised(charged(batch, args))
    for i in range(len(advantages)):
        if args.max_resample and len(set(group_of(batch["rewards"], i))) == 1:
            advantages[i] = 0.0
    return advantages


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """Eq. 8."""
    advantages, tokens = credited(batch, args), tokens_of(batch)
    clip = args.clip_ratio_low, args.clip_ratio_high
    return -sum(surrogate(ratio_of(batch, logprobs, i, t), advantages[i], *clip) for i, t in tokens) / len(tokens)


def test_without_its_parts_it_is_grpo() -> None:
    """Same clips, no charge, equal lengths: all that is left is rewards of +-1, to which 1e-6 is half as much."""
    batch, logprobs, entropy = random_batch(0)
    batch["mask"] = torch.ones_like(batch["mask"])
    ours, other = load("dapo", clip_ratio_high=0.2, overlong_buffer_length=0), load("grpo")
    parent = dict(batch)
    other[0].assign_credit(parent, other[1], {})
    ours[0].assign_credit(batch, ours[1], {})
    torch.testing.assert_close(batch["advantages"], parent["advantages"], rtol=2e-6, atol=0)
    loss, grads = grads_of(*ours, parent, logprobs, entropy)
    expected, expected_grads = grads_of(*other, parent, logprobs, entropy)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grads[0], expected_grads[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("length", "charge"), [(1, 0.0), (12, 0.0), (16, 0.0), (17, 0.25), (18, 0.5), (20, 1.0)])
def test_charge_for_length(length: int, charge: float) -> None:
    """Eq. 13 with L = 20 and c = 4, in reward units of +-1."""
    module, args = load("dapo", overlong_buffer_length=4, max_resample=0, max_response_length=20)
    lengths = torch.tensor([length, 1, 1, 1])
    batch = {"mask": torch.arange(20) < lengths[:, None], "rewards": torch.ones(4)}
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/overlong_penalty"] == pytest.approx(charge / 4)
    if charge:
        assert batch["advantages"][0, 0] == pytest.approx(-1.5, rel=1e-4)  # one below three: -(3/4) / (1/2)
    else:
        assert not batch["advantages"].any()
