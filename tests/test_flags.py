"""Every number that a method's own flags may be leaves credit, loss and gradients finite, also on sure tokens."""

import dataclasses
import importlib
import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.exercise import GROUPS, LENGTH, SIZE, Kind, copied, random_batch
from benchmarks.methods import method
from common import InputError
from common.arguments import Range, check_args, declared_ranges
from tests import sync

KINDS = (
    Kind("of all sorts", padding=True, equal_groups=1, log_ratio=0.5),
    Kind("far from what sampled", padding=True, log_ratio=40.0),
    Kind("of right and wrong groups only", padding=True, equal_groups=GROUPS),
)
TRIED = (-1, 0, 1e-9, 1e-6, 0.5, 1, 2, 5, 200, 1e6)  # and the ends of what a flag may be
SHAPE = {"num_generations": SIZE, "max_response_length": LENGTH, "num_prompts": GROUPS, "num_minibatches": 1}


def own_numbers(args_class: type) -> Iterator[tuple[str, float]]:
    """(flag, value) for every number that a method's own flags may be and that is tried."""
    ranges = declared_ranges(args_class)
    shared = {field.name for field in dataclasses.fields(importlib.import_module("algos.grpo").Args)}
    shared -= {"clip_ratio_low", "clip_ratio_high", "beta", "entropy_coef"}
    for field in dataclasses.fields(args_class):
        if field.name in shared or type(field.default) not in (int, float):
            continue
        limits = ranges.get(field.name, Range(0))
        values = {value for value in (*TRIED, limits.low, limits.high) if limits.holds(value)}
        yield from ((field.name, value) for value in sorted({type(field.default)(value) for value in values}))


def sure_batch(kind: Kind) -> tuple[dict, Tensor, Tensor]:
    """A random batch in the trainer's float32; of some tokens, and of a whole response, the policy was certain."""
    batch, logprobs, entropy = random_batch(kind, seed=3)
    batch = {k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    batch |= {key: value.clamp(max=0) for key, value in batch.items() if key.endswith("logprobs")}
    certain = torch.arange(batch["entropy"].numel()).view_as(batch["entropy"]) % 5 < 2
    certain[1] = True
    batch["entropy"] = batch["entropy"].masked_fill(certain, 0.0)
    return batch, logprobs.float(), entropy.float()


@pytest.mark.parametrize("name", sync.algorithms())
def test_numbers_that_a_flag_may_be_leave_everything_finite(name: str, capsys: pytest.CaptureFixture) -> None:
    module = importlib.import_module(f"algos.{name}")
    batches = [sure_batch(kind) for kind in KINDS[: -1 if method(name).needs_spread else None]]
    for flag, value in own_numbers(module.Args):
        for setting in ({}, method(name).acts):
            try:
                args = module.Args(**SHAPE | setting | {flag: value})
                check_args(args)
            except InputError:
                continue
            for before, *values in batches:
                batch, state = copied(before), {}
                for _ in range(2):  # the second time with what it remembers of the first
                    batch = copied(before)
                    with warnings.catch_warnings(action="ignore"):
                        module.assign_credit(batch, args, state)
                said = f"--{flag} {value} {setting}"
                assert batch["advantages"].isfinite().all(), said
                leaves = [one.clone().requires_grad_() for one in values]
                loss, _ = module.policy_loss(*leaves, batch, args)
                assert math.isfinite(loss.item()), said
                gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
                assert all(one.isfinite().all() for one in gradients), said
    capsys.readouterr()  # odd settings are warned of
