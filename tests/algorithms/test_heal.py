"""HEAL: two domains, and a bonus for entropy that moves as the general domain's does."""

import math

import pytest
import torch

from common import InputError
from common.basics import warn_once
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

FLAGS = GRPO | {
    "general_task": "countdown:numbers=2",
    "num_target": 32,
    "num_general": 384,
    "alignment_bonus": 1.0,
    "min_length": 4,
}
METRICS = {"bonus_target", "bonus_general"}
CASES = [
    {"min_length": 0},
    {"min_length": 2, "alignment_bonus": 0.4},
    {"min_length": 0, "beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.1},
]
NEUTRAL = [Neutral({"alignment_bonus": 0.0}, "grpo", {}, "grpo")]
UNMIXED = (0.0, 0.3, 1.0)  # a group is trained on where its bonuses differ


def extra(batch: dict, generator: torch.Generator) -> dict:
    """The last group is a general one."""
    rows = len(batch["mask"])
    return {"general": torch.arange(rows) >= rows - rows // 3}


def trajectory(entropy: list[float], n: int) -> list[float]:
    stretched = [math.exp(entropy[t * len(entropy) // n]) for t in range(n)]
    return [value / sum(stretched) for value in stretched]


def divergence(one: list[float], other: list[float]) -> float:
    n = max(len(one), len(other))
    return sum(p * math.log(p / q) for p, q in zip(trajectory(one, n), trajectory(other, n), strict=True))


def bonuses(batch: dict, args) -> list[float]:
    lengths = lengths_of(batch)
    rows = [row[:n] for row, n in zip(batch["entropy"], lengths, strict=True)]
    out = []
    for i, mine in enumerate(rows):
        nearest = {False: math.inf, True: math.inf}
        for j, other in enumerate(rows):
            if i != j and lengths[j] > args.min_length:
                domain = batch["general"][j]
                nearest[domain] = min(nearest[domain], divergence(mine, other))
        moved = nearest[False] > nearest[True]
        paid = lengths[i] > args.min_length and (not moved if batch["general"][i] else moved)
        out.append(args.alignment_bonus if paid else 0.0)
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    rewards = [r + b for r, b in zip(batch["rewards"], bonuses(batch, args), strict=True)]
    advantages = [a if len(set(group_of(rewards, i))) > 1 else 0.0 for i, a in enumerate(standardised(rewards))]
    lengths, total = lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        term = surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def test_golden_divergences() -> None:
    """Trajectories (1, 0.5, 0.2), (1, 0.4, 0.3) of the target and (0.2, 0.5, 1) of the general domain."""
    module, args = load("heal", min_length=0, num_generations=3)
    entropy = torch.tensor([[1.0, 0.5, 0.2], [1.0, 0.4, 0.3], [0.2, 0.5, 1.0]], dtype=torch.float64)
    found = module.divergences(entropy, torch.tensor([3, 3, 3]))
    assert found[0, 1].item() == pytest.approx(0.002544, abs=1e-6)
    assert found[0, 2].item() == pytest.approx(0.214284, abs=1e-6)
    assert found[2, 1].item() == pytest.approx(0.190042, abs=1e-6)
    batch = {"mask": torch.ones(3, 3, dtype=torch.bool), "rewards": torch.zeros(3).double(), "entropy": entropy}
    batch["general"] = torch.tensor([False, False, True])
    got = module.assign_credit(batch, args, {})
    assert got == {"algo/bonus_target": 0.0, "algo/bonus_general": 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_divergences_of_any_lengths(seed: int) -> None:
    module, _ = load("heal")
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (11,), generator=generator)
    entropy = 2 * torch.rand(11, 7, generator=generator, dtype=torch.float64)
    rows = [row[:n] for row, n in zip(entropy.tolist(), lengths.tolist(), strict=True)]
    expected = torch.tensor([[divergence(one, other) for other in rows] for one in rows], dtype=torch.float64)
    torch.testing.assert_close(module.divergences(entropy, lengths), expected, rtol=0, atol=1e-12)


def test_without_two_domains_it_is_refused(capsys: pytest.CaptureFixture) -> None:
    for options in ({"general_task": "countdown"}, {"num_target": 0}):
        with pytest.raises(InputError, match="two domains"):
            load("heal", **options)
    warn_once.cache_clear()
    load("heal", num_general=0)
    assert "--num-general 0" in capsys.readouterr().err


def test_a_tie_pays_the_general_response_alone() -> None:
    """Trajectories of one shape, in float32, where a divergence of 0 comes out as some rounding."""
    module, args = load("heal", min_length=0, num_generations=2)
    entropy = torch.rand(1, 7, generator=torch.Generator().manual_seed(3)).repeat(8, 1)
    batch = {"mask": torch.ones(8, 7, dtype=torch.bool), "rewards": torch.zeros(8), "entropy": entropy}
    batch["general"] = torch.arange(8) >= 4
    assert module.assign_credit(batch, args, {}) == {"algo/bonus_target": 0.0, "algo/bonus_general": 1.0}
