"""Batches, and the pieces that slow loops are made of."""

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from tests import sync

SIZE, LENGTH = 4, 6  # responses per group and longest response in `random_batch`


class Neutral(NamedTuple):
    """`options` make a method the loss of `parent`, on its own credit or on that of `credit`, which is then the same.

    DAPO without its charge for length, the parent of many, is its loss on GRPO's credit.
    """

    options: dict
    parent: str
    parent_options: dict = {}  # noqa: RUF012  (never changed)
    credit: str | None = None


def methods() -> dict[str, ModuleType]:
    """The file of tests of each algorithm that has one, grpo's first."""
    names = [name for name in sync.algorithms() if (Path(__file__).parent / f"test_{name}.py").exists()]
    return {name: importlib.import_module(f"tests.algorithms.test_{name}") for name in names}


def load(name: str, **options) -> tuple[ModuleType, object]:
    """The module of an algorithm and its Args for `random_batch`."""
    module = importlib.import_module(f"algos.{name}")
    return module, module.Args(**({"num_generations": SIZE, "max_response_length": LENGTH} | options))


def grads_of(module, args, batch: dict, logprobs: Tensor, entropy: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The loss, and its gradient with respect to both arguments."""
    loss, _ = module.policy_loss(logprobs, entropy, batch, args)
    return loss, torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)


# --- Batches ----------------------------------------------------------------------------------------------------------


def toy() -> tuple[dict, Tensor, Tensor]:
    """One group, two right and two wrong, small enough to follow on paper."""
    entropy = [[0.2, 0.8, 0.4], [0.6, 0.2, 0], [0.5, 0.1, 0.4], [1.0, 0, 0]]
    old = [[-0.1, -2.0, -0.5], [-0.2, -1.0, 0], [-3.0, -0.3, -0.7], [-0.6, 0, 0]]
    new = [[-0.05, -1.5, -0.55], [-0.25, -0.7, 0], [-3.6, -0.6, -0.71], [-0.3, 0, 0]]
    entropy, old, new = (torch.tensor(rows, dtype=torch.float64) for rows in (entropy, old, new))
    batch = {
        "mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool),
        "rewards": torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64),
        "old_logprobs": old,
        "ref_logprobs": old.clone(),
        "rollout_logprobs": old.clone(),
        "entropy": entropy,
        "likely_trained": torch.ones(4, dtype=torch.bool),
        "truncated": torch.zeros(4, dtype=torch.bool),
        "answers": ["24", "24", "23", None],
    }
    return batch, new.requires_grad_(), entropy.clone().requires_grad_()


def random_batch(
    seed: int, groups: int = 3, size: int = SIZE, length: int = LENGTH, extra: Callable | None = None
) -> tuple[dict, Tensor, Tensor]:
    """A float64 batch with ragged masks, mixed and equal groups, and ratios on both sides of the clip.

    `logprobs` and `entropy`, the arguments of a loss, are not those of the policy that sampled, which are in the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = groups * size

    def uniform() -> Tensor:
        return torch.rand(rows, length, generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn(rows, length, generator=generator, dtype=torch.float64)

    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    rewards = (torch.rand(rows, generator=generator) < 0.5).double()
    rewards[:size] = 1.0  # one group without spread
    old = -3 * uniform()
    reference = old + 0.5 * normal()
    logprobs = old + 0.3 * normal()
    entropy = 2 * uniform()
    wrong = ["6", "7", None]
    batch = {
        "mask": torch.arange(length) < lengths[:, None],
        "rewards": rewards,
        "old_logprobs": old,
        "ref_logprobs": reference,
        "rollout_logprobs": old + 0.2 * normal(),
        "entropy": 2 * uniform(),
        "truncated": lengths == length,
        "answers": ["24" if reward else wrong[i % 3] for i, reward in enumerate(rewards.tolist())],
    }
    batch["likely_trained"] = mixed(rewards, size)
    if extra:
        batch |= extra(batch, generator)
    return batch, logprobs.requires_grad_(), entropy.requires_grad_()


def mixed(rewards: Tensor, size: int = SIZE) -> Tensor:
    """Rows of groups whose rewards differ (B,)."""
    groups = rewards.view(-1, size)
    return (groups.amax(1) != groups.amin(1)).repeat_interleave(size)


def credited_batch(seed: int = 0, extra: Callable | None = None) -> tuple[dict, Tensor, Tensor]:
    """With GRPO's credit, and no advantage 0: a token that is left out of a loss then shows by its gradient."""
    batch, logprobs, entropy = random_batch(seed, groups=8, length=12, extra=extra)
    module, args = load("grpo")
    module.assign_credit(batch, args, {})
    batch["advantages"][(batch["advantages"] == 0) & batch["mask"]] = 0.3
    return batch, logprobs, entropy


def take(batch: dict, rows: Tensor) -> dict:
    """Some rows of a batch: tensors and lists by row, numbers as they are."""
    index = rows.tolist()
    parts = {Tensor: lambda v: v[rows], list: lambda v: [v[i] for i in index]}
    return {key: parts.get(type(value), lambda v: v)(value) for key, value in batch.items()}


def plain(batch: dict, logprobs: Tensor, entropy: Tensor) -> dict:
    """A batch of lists for a slow loop, which also finds the two arguments there as constants."""
    batch = batch | {"sg_logprobs": logprobs, "sg_entropy": entropy}
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in batch.items()}


# --- Pieces of slow loops: lists and floats ---------------------------------------------------------------------------


def tokens_of(batch: dict) -> list[tuple[int, int]]:
    """(row, position) of every response token, row by row."""
    mask = batch["mask"].tolist() if isinstance(batch["mask"], Tensor) else batch["mask"]
    return [(i, t) for i, row in enumerate(mask) for t in range(sum(row))]


def lengths_of(batch: dict) -> list[int]:
    return [sum(row) for row in batch["mask"]]


def group_of(values: list, i: int, size: int = SIZE) -> list:
    """The values of row i's group."""
    return values[i // size * size : (i // size + 1) * size]


def standardised(rewards: list[float], size: int = SIZE) -> list[float]:
    """GRPO's: each reward less its group's mean, over its group's standard deviation (ddof 1)."""
    out = []
    for i, reward in enumerate(rewards):
        group = group_of(rewards, i, size)
        average = sum(group) / size
        std = math.sqrt(sum((r - average) ** 2 for r in group) / (size - 1))
        out.append((reward - average) / (std + 1e-6))
    return out


def ratio_of(batch: dict, logprobs: list, i: int, t: int) -> float:
    return math.exp(min(max(logprobs[i][t] - batch["old_logprobs"][i][t], -20), 20))


def surrogate(ratio: float, advantage: float, low: float, high: float) -> float:
    """PPO's, to be maximised."""
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def k3(batch: dict, logprobs: list, i: int, t: int) -> float:
    """The estimate of the KL to the reference."""
    d = batch["ref_logprobs"][i][t] - logprobs[i][t]
    return math.exp(d) - d - 1


def covariances(batch: dict, logprobs: list, advantages: list[float]) -> dict[tuple[int, int], float]:
    """Eq. 10 of the entropy mechanism paper (arXiv 2505.22617)."""
    tokens = tokens_of(batch)
    mean_logprob = sum(logprobs[i][t] for i, t in tokens) / len(tokens)
    mean_advantage = sum(advantages[i] for i, _ in tokens) / len(tokens)
    return {(i, t): (logprobs[i][t] - mean_logprob) * (advantages[i] - mean_advantage) for i, t in tokens}
