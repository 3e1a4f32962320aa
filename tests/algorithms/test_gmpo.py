"""GMPO: the geometric mean of a response's clipped ratios."""

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
    standardised,
    tokens_of,
    toy,
)

FLAGS = {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "beta": 0.0, "entropy_coef": 0.0}
METRICS = set()
CASES = [{}, {"clip_ratio_low": 0.4, "clip_ratio_high": 0.3}, {"beta": 0.3, "entropy_coef": 0.1}]
ON_POLICY = [Neutral({}, "grpo", {}, "grpo"), Neutral({"beta": 0.2}, "grpo", {"beta": 0.2}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    logs = [0.0] * len(lengths)
    for i, t in tokens_of(batch):
        d = logprobs[i][t] - batch["old_logprobs"][i][t]
        d = min(d, args.clip_ratio_high) if advantages[i] > 0 else max(d, -args.clip_ratio_low) if advantages[i] else d
        logs[i] += d / lengths[i]
        total += (args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)) / lengths[i]
    total += sum(math.exp(log) * advantage for log, advantage in zip(logs, advantages, strict=True))
    return -total / len(lengths)


@pytest.mark.parametrize(("clip", "loss"), [(0.4, -0.029589), (0.2, 0.016302)])
def test_golden_vectors(clip: float, loss: float) -> None:
    """Weights at 0.4: 1.142631, 1.133148, 0.789254, 1.349859."""
    batch, logprobs, entropy = toy()
    module, args = load("gmpo", clip_ratio_low=clip, clip_ratio_high=clip)
    module.assign_credit(batch, args, {})
    value, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    if clip == 0.4:
        weights = torch.tensor([1.142631, 1.133148, 0.789254, 1.349859], dtype=torch.float64)
        lengths, advantages = batch["mask"].sum(1), batch["advantages"][:, 0]
        kept = -(weights * advantages / lengths / 4)[:, None] * batch["mask"]
        kept[0, 1] = kept[2, 0] = 0  # d = 0.5 above 0.4 and -0.6 below -0.4
        torch.testing.assert_close(gradient, kept, rtol=1e-5, atol=1e-9)


def test_tokens_of_a_response_weigh_the_same_but_for_the_clipped() -> None:
    module, args = load("gmpo", clip_ratio_low=0.2, clip_ratio_high=0.2)
    batch, logprobs, entropy = credited_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    log_ratio = (logprobs - batch["old_logprobs"]).detach()
    clipped = torch.where(batch["advantages"] > 0, log_ratio > 0.2, log_ratio < -0.2) & batch["mask"]
    assert clipped.any() and not gradient[clipped].any()
    for row, mask in zip(gradient, batch["mask"] & ~clipped, strict=True):
        assert len(row[mask].unique()) <= 1
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert sum(stats.values()) == pytest.approx((clipped.sum() / batch["mask"].sum()).item())


def test_says_when_it_is_grpo(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("gmpo")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("gmpo", num_minibatches=1)
    assert capsys.readouterr().err.count("GMPO is GRPO") == 1
