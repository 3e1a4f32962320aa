"""DeepSeek-V3.2: stale bad responses are masked; the KL estimate is weighed by the ratio."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    grads_of,
    k3,
    lengths_of,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_dr_grpo import centred
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"opsm_delta": 0.01, "unbiased_kl": True, "scale_by": "none"}
METRICS = {"masked_ratio", "staleness"}
CASES = [
    {},
    {"opsm_delta": 0.1, "beta": 0.3},
    {"opsm_delta": 0.0, "beta": 0.3, "scale_by": "std"},
    {"opsm_delta": 0.05, "beta": 0.2, "unbiased_kl": False, "entropy_coef": 0.1},
]
OFF = {"opsm_delta": 0.0, "unbiased_kl": False, "scale_by": "std"}
NEUTRAL = [Neutral(OFF, "grpo", {}, "grpo"), Neutral(OFF | {"beta": 0.1}, "grpo", {"beta": 0.1}, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = (standardised if args.scale_by == "std" else centred)(batch["rewards"])
    lengths, total = lengths_of(batch), 0.0
    drift = [0.0] * len(lengths)
    for i, t in tokens_of(batch):
        drift[i] += (batch["rollout_logprobs"][i][t] - batch["sg_logprobs"][i][t]) / lengths[i]
    for i, t in tokens_of(batch):
        ratio = ratio_of(batch, logprobs, i, t)
        masked = args.opsm_delta > 0 and advantages[i] < 0 and drift[i] > args.opsm_delta
        term = 0.0 if masked else surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term -= args.beta * (ratio if args.unbiased_kl else 1.0) * k3(batch, logprobs, i, t)
        total += (term + args.entropy_coef * entropy[i][t]) / lengths[i]
    return -total / len(lengths)


def test_golden_vectors() -> None:
    """What sampled is the old policy: the third response has lost 0.303 nats a token."""
    module, args = load("deepseek_v32", opsm_delta=0.1)
    batch, logprobs, entropy = toy()
    module.assign_credit(batch, args, {})
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert loss.item() == pytest.approx(-0.099157, abs=1e-6)
    assert not gradient[2].any() and gradient[3].any()
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/masked_ratio"] == 0.25


@pytest.mark.parametrize(("delta", "masked"), [(0.1, [False, True, False]), (0.2, [False] * 3)])
def test_what_is_masked(delta: float, masked: list) -> None:
    """Mean distances of .15, .15 and 0; a right, a wrong and a wrong response."""
    module, args = load("deepseek_v32", opsm_delta=delta)
    old = torch.full((3, 2), -1.0, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1, -1], dtype=torch.float64)[:, None].expand(3, 2)
    batch = {"advantages": advantages, "loss_mask": old < 0, "old_logprobs": old, "rollout_logprobs": old}
    logprobs = (old - torch.tensor([[0.1, 0.2], [0.2, 0.1], [0, 0]], dtype=torch.float64)).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, old.clone().requires_grad_())
    assert (~gradient.any(1)).tolist() == masked


@pytest.mark.parametrize(("unbiased", "gradient"), [(True, 0.610701), (False, None)])
def test_golden_kl(unbiased: bool, gradient: float | None) -> None:
    """l -1, old -1.2, reference -1.5: r k3 is .130117, its gradient r (l - ref)."""
    module, args = load("deepseek_v32", beta=1.0, unbiased_kl=unbiased)
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = {
        "advantages": 0 * one,
        "loss_mask": one.bool(),
        "old_logprobs": -1.2 * one,
        "rollout_logprobs": -1.2 * one,
        "ref_logprobs": -1.5 * one,
    }
    logprobs = (-1 * one).requires_grad_()
    loss, (found, _) = grads_of(module, args, batch, logprobs, one.clone().requires_grad_())
    if unbiased:
        assert loss.item() == pytest.approx(0.130117, abs=1e-6)
        assert found.item() == pytest.approx(gradient, abs=1e-6) == pytest.approx(math.exp(0.2) * 0.5, abs=1e-6)
    else:
        assert found.item() == pytest.approx(1 - math.exp(-0.5))


def test_the_first_minibatch_masks_nothing() -> None:
    module, args = load("deepseek_v32")
    batch, _, entropy = random_batch(0)
    batch["rollout_logprobs"] = batch["old_logprobs"]
    module.assign_credit(batch, args, {})
    stats = module.policy_loss(batch["old_logprobs"].clone(), entropy, batch, args)[1]
    assert stats["algo/masked_ratio"] == stats["algo/staleness"] == 0


def test_says_when_nothing_can_be_stale(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("deepseek_v32")
    load("deepseek_v32", num_minibatches=1, opsm_delta=0.0)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("deepseek_v32", num_minibatches=1)
    assert capsys.readouterr().err.count("--opsm-delta masks nothing") == 1
