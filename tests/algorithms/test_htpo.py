"""HTPO: the clip by hardness of the prompt, reward and entropy."""

import math
import statistics

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import Neutral, grads_of, group_of, lengths_of, load, ratio_of, surrogate, tokens_of
from tests.algorithms.test_dapo import FLAGS as DAPO
from tests.algorithms.test_dapo import credited

FLAGS = DAPO | {"high_ratio": 0.2, "hard_accuracy": 0.6, "drop_low_ratio": 0.1, "drop_high_ratio": 0.5}
METRICS = {"overlong_penalty", "high_ratio", "restored_ratio", "dropped_ratio"}
CASES = [
    {"high_ratio": 0.5, "drop_low_ratio": 0.4},
    {"high_ratio": 0.6, "hard_accuracy": 0.5, "clip_ratio_low": 0.05, "clip_ratio_high": 0.05},
    {"high_ratio": 1.0, "hard_accuracy": 1.0, "drop_low_ratio": 0.0, "drop_high_ratio": 0.0, "max_resample": 0},
]
NEUTRAL = [Neutral({"high_ratio": 0.0, "drop_low_ratio": 0.0, "drop_high_ratio": 0.0}, "dapo", {}, "dapo")]


def largest(keys: dict[int, float], ratio: float) -> set[int]:
    return set(sorted(keys, key=lambda t: -keys[t])[: math.floor(ratio * len(keys) + 1e-9)])


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = credited(batch, args), lengths_of(batch), 0.0
    for i, n in enumerate(lengths):
        right = batch["rewards"][i] > 0
        hard = statistics.mean(group_of(batch["rewards"], i)) < args.hard_accuracy
        values, a = dict(enumerate(batch["sg_entropy"][i][:n])), advantages[i]
        high = largest(values, args.high_ratio)
        dropped = set()
        if right and hard:
            dropped = largest({t: -h for t, h in values.items() if t not in high}, args.drop_low_ratio)
        elif right:
            dropped = largest({t: h for t, h in values.items() if t in high}, args.drop_high_ratio)
        for t in set(range(n)) - dropped:
            ratio, held = ratio_of(batch, logprobs, i, t), ratio_of(batch, batch["sg_logprobs"], i, t)
            x = ratio / held
            if t in high and right and hard and held > 1 + args.clip_ratio_high:
                total -= (1 + args.clip_ratio_high) * x * a
            elif t in high and right and hard and held < 1 - args.clip_ratio_low:
                total -= x * a / held
            elif t in high and not right and held < 1 - args.clip_ratio_low:
                total -= (1 - args.clip_ratio_low) * x * a
            elif t in high and (not right or hard):
                total += ratio * a
            else:
                total += surrogate(ratio, a, args.clip_ratio_low, args.clip_ratio_high)
    return -total / sum(lengths)


@pytest.mark.parametrize(
    ("right", "expected"),
    [(True, {0.7: 1 / 0.7, 1.0: -1.0, 1.4: 1.28}), (False, {0.7: -0.8, 1.0: 1.0, 1.4: 1.4})],
)
def test_golden_gradients(right: bool, expected: dict) -> None:
    """The coefficient of a high token's log-probability in the loss, A = 1 or -1, in a hard prompt."""
    module, args = load("htpo", high_ratio=1.0, drop_low_ratio=0.0, drop_high_ratio=0.0)
    old = torch.full((1, 3), -2.0, dtype=torch.float64)
    batch = {
        "advantages": torch.full_like(old, 1.0 if right else -1.0),
        "loss_mask": old < 0,
        "old_logprobs": old,
        "rewards": torch.tensor([float(right)]),
        "accuracy": torch.tensor([0.3]),
    }
    logprobs = (old + torch.tensor([list(expected)]).double().log()).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, (old + 3).requires_grad_())
    assert (3 * gradient[0]).tolist() == pytest.approx(list(expected.values()))


def test_easy_right_responses_keep_the_parents_clip() -> None:
    module, args = load("htpo", high_ratio=1.0, drop_high_ratio=0.0)
    old = torch.full((1, 2), -2.0, dtype=torch.float64)
    batch = {"advantages": torch.ones_like(old), "loss_mask": old < 0, "old_logprobs": old}
    batch |= {"rewards": torch.ones(1), "accuracy": torch.tensor([0.6])}
    logprobs = (old + torch.tensor([[1.4, 0.7]]).double().log()).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, (old + 3).requires_grad_())
    assert (2 * gradient[0]).tolist() == pytest.approx([0.0, -0.7])


@pytest.mark.parametrize(("count", "ratio", "dropped"), [(10, 0.006, 0), (10, 0.1, 1), (7, 0.5, 3), (5, 0.2, 1)])
def test_shares_are_exact(count: int, ratio: float, dropped: int) -> None:
    module, _ = load("htpo")
    values = torch.arange(12.0)[None]
    among = torch.arange(12)[None] < count
    chosen = module.largest(values, among, ratio)
    assert chosen[0].nonzero()[:, 0].tolist() == list(range(count - dropped, count))
    level = module.largest(torch.ones(1, 12), among, ratio)
    assert level[0].nonzero()[:, 0].tolist() == list(range(dropped))  # ties go to the earlier token


def test_what_is_dropped_keeps_its_place_in_the_mean() -> None:
    module, args = load("htpo", high_ratio=0.5, drop_low_ratio=1.0)
    old = torch.full((1, 4), -2.0, dtype=torch.float64)
    entropy = torch.tensor([[1.0, 0.1, 0.9, 0.2]]).double().requires_grad_()
    batch = {"advantages": torch.ones_like(old), "loss_mask": old < 0, "old_logprobs": old}
    batch |= {"rewards": torch.ones(1), "accuracy": torch.tensor([0.3])}
    _, (gradient, _) = grads_of(module, args, batch, old.clone().requires_grad_(), entropy)
    assert gradient[0].tolist() == pytest.approx([-0.25, 0, -0.25, 0])
    tokens = tokens_of({"mask": batch["loss_mask"]})
    assert len(tokens) == 4


def test_says_when_it_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("htpo", max_response_length=20)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("htpo", max_response_length=200, drop_low_ratio=0.006, drop_high_ratio=0.02)  # of 160 and 40: 0.96 and 0.8
    assert capsys.readouterr().err.count("nothing is dropped") == 1
    warn_once.cache_clear()
    load("htpo", max_response_length=250, drop_low_ratio=0.006, drop_high_ratio=0.02)
    assert not capsys.readouterr().err
