"""Clip_V: tokens of wrong responses whose push would lower entropy most, state by state, are left out."""

import math
import statistics

import pytest
import torch

from tests.algorithms.oracle import Neutral, k3, load, random_batch, ratio_of, standardised, surrogate, tokens_of
from tests.algorithms.test_grpo import FLAGS as GRPO
from tests.algorithms.test_steer import extra

FLAGS = GRPO | {"clip_v_mu": 2.0, "max_drop_ratio": 0.01, "random_selection": False}
METRICS = {"dropped_ratio", "dropped_prob", "candidate_ratio"}
CASES = [
    {"clip_v_mu": 0.5, "max_drop_ratio": 1.0},
    {"clip_v_mu": 0.1, "max_drop_ratio": 0.1, "beta": 0.3, "entropy_coef": 0.1},
    {},
]
NEUTRAL = [
    Neutral({"clip_v_mu": 0.0}, "grpo", {}, "grpo"),
    Neutral({"max_drop_ratio": 0.0}, "grpo", {}, "grpo"),
    Neutral({"max_drop_ratio": 0.0, "random_selection": True}, "grpo", {}, "grpo"),
]


def changes(batch: dict) -> dict[tuple[int, int], float]:
    old, entropy = batch["old_logprobs"], batch["entropy"]
    out = {}
    for i, t in tokens_of(batch):
        out[i, t] = batch["state_mean"][i][t] - math.exp(old[i][t]) * (old[i][t] + entropy[i][t])
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, change = standardised(batch["rewards"]), changes(batch)
    bound = args.clip_v_mu * statistics.pstdev(change.values())
    candidates = [token for token, x in change.items() if advantages[token[0]] < 0 and x > bound]
    out = sorted(candidates, key=lambda token: -change[token])[: math.floor(args.max_drop_ratio * len(change))]
    kept = [token for token in change if token not in out]
    lengths = {i: sum(row == i for row, _ in kept) for i, _ in kept}
    total = 0.0
    for i, t in kept:
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += (term + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    return -total / len(batch["rewards"])


STATES = {"a": torch.tensor([0.6, 0.3, 0.1]).double(), "b": torch.tensor([0.95, 0.04, 0.01]).double()}


def drawn(words: list[str], rewards: list[float]) -> dict:
    """One group of responses of one word each, from the distributions above, with S by the file's own function."""
    module, _ = load("clip_v")
    logs = torch.stack([STATES[state].log() for state, _ in words])
    targets = torch.tensor([[int(word)] for _, word in words])
    return {
        "rewards": torch.tensor(rewards).double(),
        "mask": torch.ones(len(words), 1, dtype=torch.bool),
        "old_logprobs": logs.gather(1, targets),
        "entropy": -(logs.exp() * logs).sum(1, keepdim=True),
        "state_mean": module.state_mean(logs, targets)[:, None],
    }


@pytest.mark.parametrize(
    ("mu", "ratio", "dropped"),
    [(1.0, 1.0, [1, 2, 4]), (1.5, 1.0, [2, 4]), (1.0, 0.2, [4]), (1.0, 0.4, [2, 4]), (1.0, 0.1, []), (2.0, 1.0, [])],
)
def test_golden_vectors(mu: float, ratio: float, dropped: list[int]) -> None:
    batch = drawn(["a0", "a1", "a2", "b0", "b1", "b0"], [1, 0, 0, 1, 0, 0])
    expected = [0.09777, 0.09777, 0.09777, 0.15022, 0.15022, 0.15022]
    assert batch["state_mean"][:, 0].tolist() == pytest.approx(expected, abs=1e-5)
    module, args = load("clip_v", num_generations=6, clip_v_mu=mu, max_drop_ratio=ratio)
    metrics = module.assign_credit(batch, args, {})
    assert (~batch["loss_mask"][:, 0]).nonzero()[:, 0].tolist() == dropped
    assert metrics["algo/dropped_ratio"] == pytest.approx(len(dropped) / 6)
    assert metrics["algo/candidate_ratio"] == pytest.approx({1.0: 3, 1.5: 2, 2.0: 0}[mu] / 6)


def test_every_candidate_would_lower_the_entropy() -> None:
    """One small step along A of a softmax's logits, by finite differences."""
    logits = STATES["a"].log().clone()

    def entropy_after(word: int, advantage: float, rate: float = 1e-5) -> float:
        push = torch.nn.functional.one_hot(torch.tensor(word), 3).double() - logits.softmax(0)
        moved = (logits + rate * advantage * push).log_softmax(0)
        return -(moved.exp() * moved).sum().item()

    batch = drawn(["a0", "a1", "a2"], [1, 0, 0])
    change = changes({key: value.tolist() for key, value in batch.items()})
    for word in range(3):
        slope = (entropy_after(word, -1.0) - entropy_after(word, 0.0)) / 1e-5
        # Logits move by advantage * (one_hot - p): the probability of the word by more, the sign is that of -X.
        assert (slope < 0) == (change[word, 0] > 0)


def test_ties_go_to_the_lower_index_and_draws_are_random() -> None:
    module, args = load("clip_v", num_generations=8, clip_v_mu=0.1, max_drop_ratio=0.25)
    batch = drawn(["b0", "a0", "b1", "b1", "b1", "b1", "a1", "a1"], [1, 1, 0, 0, 0, 0, 0, 0])
    module.assign_credit(batch, args, {})
    assert (~batch["loss_mask"][:, 0]).nonzero()[:, 0].tolist() == [2, 3]
    args.random_selection, found = True, set()
    for seed in range(20):
        torch.manual_seed(seed)
        module.assign_credit(batch, args, {})
        out = tuple((~batch["loss_mask"][:, 0]).nonzero()[:, 0].tolist())
        assert len(out) == 2 and min(out) >= 2
        found.add(out)
    assert len(found) > 5


def test_needs_no_candidates() -> None:
    batch, _, _ = random_batch(1, extra=extra)
    batch |= {"old_logprobs": torch.full_like(batch["old_logprobs"], -1.0), "entropy": batch["entropy"] * 0 + 0.7}
    batch["state_mean"] = batch["state_mean"] * 0 + 0.5
    module, args = load("clip_v", clip_v_mu=1e-9, max_drop_ratio=1.0)
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/dropped_ratio"] == 0 and math.isnan(metrics["algo/dropped_prob"])
