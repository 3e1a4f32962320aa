"""OPO: the baseline is the mean reward weighted by length; on-policy."""

import torch

from tests.algorithms.oracle import SIZE, group_of, lengths_of, load, random_batch, tokens_of

FLAGS = {"num_minibatches": 1}  # and no other value
METRICS = {"baseline_shift"}
SCRIPT_FLAGS = {"num-minibatches": 1}
CASES = [{}]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    rewards, lengths, total = batch["rewards"], lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        group = list(zip(group_of(lengths, i), group_of(rewards, i), strict=True))
        baseline = sum(length * reward for length, reward in group) / sum(length for length, _ in group)
        total += (rewards[i] - baseline) * logprobs[i][t]
    return -total / sum(lengths)


def test_advantages_sum_to_zero_over_tokens() -> None:
    module, args = load("opo")
    batch, _, _ = random_batch(0, groups=6)
    module.assign_credit(batch, args, {})
    sums = batch["advantages"].view(6, -1).sum(1)
    assert sums.abs().max() < 1e-12 and batch["advantages"].abs().max() > 0.1


def test_equal_lengths_give_the_mean_baseline() -> None:
    module, args = load("opo")
    batch, _, _ = random_batch(0)
    batch["mask"] = torch.ones_like(batch["mask"])
    module.assign_credit(batch, args, {})
    rewards = batch["rewards"].view(-1, SIZE)
    expected = (rewards - rewards.mean(1, keepdim=True)).view(-1, 1).expand_as(batch["mask"])
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=1e-15)


def test_golden_advantages() -> None:
    """Two of four right, 6 of 13 tokens theirs."""
    module, args = load("opo")
    lengths = torch.tensor([4, 3, 4, 2])
    batch = {"mask": torch.arange(4) < lengths[:, None], "rewards": torch.tensor([1.0, 0.0, 0.0, 1.0])}
    module.assign_credit(batch, args, {})
    expected = torch.tensor([0.538462, -0.461538, -0.461538, 0.538462])
    torch.testing.assert_close(batch["advantages"][:, 0], expected, rtol=0, atol=1e-6)
