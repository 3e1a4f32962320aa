"""Pass@k training: advantages over all subsets of k responses."""

import itertools
import statistics

import pytest
import torch

from common import InputError
from common.basics import warn_once
from tests.algorithms.oracle import SIZE, Neutral, group_of, load, ratio_of, surrogate, tokens_of

FLAGS = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "max_resample": 0, "pass_k": 4}
METRICS = {"zero_advantage_ratio"}
SCRIPT_FLAGS = {"pass-k": 2}
CASES = [{"pass_k": 1}, {"pass_k": 2}, {"pass_k": 3, "clip_ratio_high": 0.4}]
NEUTRAL = [Neutral({"pass_k": 2}, "dapo")]  # the loss, on a credit of its own


def extra(batch: dict, generator: torch.Generator) -> dict:
    """Groups of four with three and with two wrong responses: fewer than k teach nothing."""
    rewards, likely = batch["rewards"].clone(), batch["likely_trained"].clone()
    rewards[SIZE : 3 * SIZE], likely[SIZE : 3 * SIZE] = torch.tensor([0.0, 1, 0, 0, 1, 0, 1, 0]), True
    return {"rewards": rewards, "likely_trained": likely}


def by_subsets(rewards: list[float], k: int) -> list[float]:
    """The mean over the subsets that a response is in of their rewards, standardised over all subsets."""
    subsets = list(itertools.combinations(range(len(rewards)), k))
    paid = {subset: max(rewards[i] for i in subset) for subset in subsets}
    mean, spread = statistics.mean(paid.values()), statistics.pstdev(paid.values())
    if spread == 0:
        return [0.0] * len(rewards)
    return [statistics.mean((paid[s] - mean) / (spread + 1e-6) for s in subsets if i in s) for i in range(len(rewards))]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    total, tokens = 0.0, tokens_of(batch)
    for i, t in tokens:
        group = group_of(batch["rewards"], i)
        advantage = by_subsets(group, args.pass_k)[i % len(group)]
        total += surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(tokens)


@pytest.mark.parametrize(
    ("k", "right", "of_right", "of_wrong"),
    [
        (4, 1, 0.999998, -0.142857),
        (4, 2, 0.522232, -0.174077),
        (4, 4, 0.120385, -0.120385),
        (2, 5, 0.346409, -0.577348),
        (4, 5, 0.0, 0.0),  # three wrong ones: every four have a right one
        (4, 0, 0.0, 0.0),
        (4, 8, 0.0, 0.0),
    ],
)
def test_golden_vectors(k: int, right: int, of_right: float, of_wrong: float) -> None:
    rewards = torch.tensor([1.0] * right + [0.0] * (8 - right), dtype=torch.float64)
    module, args = load("passk", num_generations=8, pass_k=k)
    batch = {"rewards": rewards, "mask": torch.ones(8, 1, dtype=torch.bool)}
    metrics = module.assign_credit(batch, args, {})
    expected = of_right * rewards + of_wrong * (1 - rewards)
    torch.testing.assert_close(batch["advantages"][:, 0], expected, rtol=0, atol=1e-6)
    assert metrics["algo/zero_advantage_ratio"] == float(of_wrong == 0)
    assert batch["advantages"].sum().item() == pytest.approx(0, abs=1e-9)


def test_one_sample_is_grpo_in_another_size() -> None:
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
    found = []
    for name, options in (("passk", {"pass_k": 1}), ("grpo", {})):
        module, args = load(name, **options)
        batch = {"rewards": rewards, "mask": torch.ones(8, 1, dtype=torch.bool)}
        module.assign_credit(batch, args, {})
        found.append(batch["advantages"])
    torch.testing.assert_close(found[0], found[1] * (4 / 3) ** 0.5, rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [0, 5])
def test_more_than_a_group_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"--pass-k is {k}; it must be from 1 to --num-generations 4"):
        load("passk", pass_k=k)


def test_one_subset_teaches_nothing_and_that_is_said(capsys: pytest.CaptureFixture) -> None:
    """With k = G every response is in the same subset, whose reward is its own mean."""
    warn_once.cache_clear()
    load("passk", pass_k=3)
    assert not capsys.readouterr().err
    module, args = load("passk", pass_k=4)
    assert "nothing is learned" in capsys.readouterr().err
    batch = {"rewards": torch.tensor([1.0, 0.0, 0.0, 1.0]), "mask": torch.ones(4, 2, dtype=torch.bool)}
    module.assign_credit(batch, args, {})
    assert not batch["advantages"].any()
