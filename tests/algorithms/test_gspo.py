"""GSPO: the ratio of a whole response."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    lengths_of,
    load,
    random_batch,
    standardised,
    surrogate,
    tokens_of,
)
from tests.algorithms.test_grpo import NEW, golden_batch

FLAGS = {"clip_ratio_low": 0.015, "clip_ratio_high": 0.02, "beta": 0.0, "entropy_coef": 0.0}
METRICS = {"row_drift"}
CASES = [{"clip_ratio_low": 0.1, "clip_ratio_high": 0.05}, {"clip_ratio_high": 0.3}, {"beta": 0.3, "entropy_coef": 0.1}]
ON_POLICY = [Neutral({}, "grpo", {}, "grpo"), Neutral({"beta": 0.2}, "grpo", {"beta": 0.2}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    logs = [0.0] * len(lengths)
    for i, t in tokens_of(batch):
        logs[i] += (logprobs[i][t] - batch["old_logprobs"][i][t]) / lengths[i]
        total += (args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    for log, advantage in zip(logs, advantages, strict=True):
        total += surrogate(math.exp(log), advantage, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(lengths)


def test_golden_vectors() -> None:
    """The paper's bounds; a response is clipped as a whole."""
    module, args = load("gspo", clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    batch, logprobs = golden_batch(), NEW.clone().requires_grad_()
    module.assign_credit(batch, args, {})
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, torch.zeros(4, 4, requires_grad=True))
    assert loss.item() == pytest.approx(0.066641, abs=1e-6)
    torch.testing.assert_close(gradient[0], torch.full((4,), -0.042154), rtol=0, atol=1e-6)
    assert not gradient[2].any()


@pytest.mark.parametrize(
    ("moved", "sign", "kept"),
    [((5e-4, -1e-4, 2e-4), 1, True), ((2e-3, 1e-3, 3e-3), 1, False), ((2e-3, 1e-3, 3e-3), -1, True)],
)
def test_a_response_is_in_or_out_as_a_whole(moved: tuple, sign: int, kept: bool) -> None:
    module, args = load("gspo", clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    old = torch.full((1, 3), -1.0, dtype=torch.float64)
    batch = {"advantages": sign * torch.ones_like(old), "loss_mask": old < 0, "old_logprobs": old}
    logprobs = (old + torch.tensor(moved, dtype=torch.float64)).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, old.clone().requires_grad_())
    assert len(gradient.unique()) == 1 and gradient.any() == kept
    stats = module.policy_loss(logprobs, old, batch, args)[1]
    assert stats["algo/row_drift"] == pytest.approx(sum(moved) / 3)
    assert stats["policy/clip_high_ratio"] + stats["policy/clip_low_ratio"] == float(not kept)


def test_tokens_of_a_response_have_one_gradient() -> None:
    module, args = load("gspo", clip_ratio_low=0.1, clip_ratio_high=0.1)
    batch, logprobs, entropy = credited_batch()
    batch["advantages"] = batch["advantages"].amax(1, keepdim=True) * batch["mask"]
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    for row, mask in zip(gradient, batch["mask"], strict=True):
        assert row[mask].max() - row[mask].min() < 1e-12
    assert gradient.any() and not gradient.any(1).all()


def test_far_more_tokens_are_clipped_than_by_token() -> None:
    batch, logprobs, entropy = random_batch(0, groups=8, length=12)
    near = batch["old_logprobs"] + 0.2 * (logprobs.detach() - batch["old_logprobs"])
    shares = {}
    for name in ("grpo", "gspo"):
        module, args = load(name)
        module.assign_credit(batch, args, {})
        stats = module.policy_loss(near, entropy, batch, args)[1]
        shares[name] = stats["policy/clip_high_ratio"] + stats["policy/clip_low_ratio"]
    assert shares["gspo"] > 10 * shares["grpo"]


def test_says_when_it_is_grpo(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("gspo")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("gspo", num_minibatches=1)
    assert capsys.readouterr().err.count("GSPO is GRPO") == 1
