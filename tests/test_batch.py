"""The batch, and the minibatches it is cut into."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from common.batch import make_batch, minibatches, take_rows
from tests.helpers import random_samples

P, G = 6, 4


def numbered_batch(rewards: Tensor | None = None) -> dict:
    """Rows that know their number."""
    rewards = torch.zeros(P * G) if rewards is None else rewards
    return {
        "mask": torch.ones(P * G, 3, dtype=torch.bool),
        "rewards": rewards,
        "row": torch.arange(P * G),
        "alpha": 0.3,
    }


def cut(batch: dict, split: str = "groups", count: int = 3, epochs: int = 1, seed: int = 0) -> list[list[int]]:
    """The row numbers of each minibatch."""
    args = SimpleNamespace(num_generations=G, num_minibatches=count, update_epochs=epochs, minibatch_split=split)
    torch.manual_seed(seed)
    return [mb["row"].tolist() for mb in minibatches(batch, args)]


def test_rows_know_their_problem() -> None:
    samples = random_samples()
    batch = make_batch(samples)
    assert [problem.id for problem in batch["problems"]] == [s.problem.id for s in samples]
    mb = take_rows(batch, torch.tensor([5, 0]))
    assert [problem.id for problem in mb["problems"]] == [samples[5].problem.id, samples[0].problem.id]


@pytest.mark.parametrize("value", [0.3, 7, True, None, "linear", (1, 2)])
def test_what_belongs_to_no_row_stays_as_it_is(value: object) -> None:
    batch = make_batch(random_samples()) | {"alpha": value}
    assert take_rows(batch, torch.tensor([2]))["alpha"] is value


@pytest.mark.parametrize("split", ["groups", "rows", "balanced"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_every_row_once_a_pass(split: str, count: int) -> None:
    parts = cut(numbered_batch(), split, count, epochs=2)
    assert len(parts) == 2 * count
    for epoch in (parts[:count], parts[count:]):
        assert sorted(row for part in epoch for row in part) == list(range(P * G))
    if 1 < count < 6 or split == "rows":
        assert parts[:count] != parts[count:] or count == 1  # a new order in the second pass


@pytest.mark.parametrize("split", ["groups", "balanced"])
def test_groups_stay_whole_and_in_order(split: str) -> None:
    for part in cut(numbered_batch(), split):
        assert len(part) == P * G // 3
        for first in range(0, len(part), G):
            assert part[first] % G == 0 and part[first : first + G] == list(range(part[first], part[first] + G))


def test_groups_are_those_of_a_random_permutation() -> None:
    """The order of every run so far: randperm of the groups, cut in sequence."""
    torch.manual_seed(5)
    order = torch.randperm(P)
    expected = [(part[:, None] * G + torch.arange(G)).flatten().tolist() for part in order.tensor_split(3)]
    assert cut(numbered_batch(), seed=5) == expected


@pytest.mark.parametrize("count", [2, 4])
def test_rows_of_a_group_are_spread(count: int) -> None:
    """Every minibatch holds as many responses to each prompt; which ones differs from seed to seed."""
    parts = cut(numbered_batch(), "rows", count)
    for part in parts:
        assert [sum(row // G == p for row in part) for p in range(P)] == [G // count] * P
    assert parts != cut(numbered_batch(), "rows", count, seed=1)


def test_balanced_minibatches_are_equally_hard() -> None:
    """Success rates 0, 1/4 .. 1 and their like: dealt to and fro, no minibatch gets the easy ones."""
    rates = torch.tensor([0.0, 0.25, 0.5, 0.5, 0.75, 1.0])
    rewards = (torch.arange(G) < (rates * G)[:, None]).float().flatten()
    for seed in range(5):
        parts = cut(numbered_batch(rewards), "balanced", 3, seed=seed)
        assert [rewards[part].mean().item() for part in parts] == [0.5] * 3
    unbalanced = {rewards[part].mean().item() for seed in range(5) for part in cut(numbered_batch(rewards), seed=seed)}
    assert len(unbalanced) > 1


def test_fewer_groups_than_minibatches_make_as_many_as_there_are() -> None:
    batch = {key: value[:G] if isinstance(value, Tensor) else value for key, value in numbered_batch().items()}
    assert len(cut(batch, "groups", 3)) == len(cut(batch, "balanced", 3)) == 1
    assert len(cut(batch, "rows", 3)) == 3


def test_a_whole_batch_is_the_batch_itself() -> None:
    """Its kept graph is found by identity."""
    batch = numbered_batch()
    args = SimpleNamespace(num_generations=G, num_minibatches=1, update_epochs=2, minibatch_split="groups")
    assert all(mb is batch for mb in minibatches(batch, args))
