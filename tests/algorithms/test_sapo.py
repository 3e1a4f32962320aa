"""SAPO: a sigmoid of the ratio in the place of the clip."""

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
    tokens_of,
    toy,
)

FLAGS = {"tau_pos": 20.0, "tau_neg": 21.0, "beta": 0.0, "entropy_coef": 0.0}
METRICS = {"gate_mean", "gate_low_ratio"}
CASES = [{}, {"tau_pos": 1.0, "tau_neg": 1.05}, {"tau_pos": 5.0, "tau_neg": 2.0, "beta": 0.3, "entropy_coef": 0.1}]
ON_POLICY = [Neutral({"tau_pos": tau, "tau_neg": 2 * tau}, "grpo", {}, "grpo") for tau in (0.5, 4.0, 20.0)]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        tau = args.tau_pos if advantages[i] > 0 else args.tau_neg
        gate = 4 / tau / (1 + math.exp(-tau * (ratio_of(batch, logprobs, i, t) - 1)))
        term = gate * advantages[i] + args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


@pytest.mark.parametrize(("tau", "loss"), [((1.0, 1.05), -0.095243), ((8.0, 8.4), -0.026373)])
def test_golden_vectors(tau: tuple[float, float], loss: float) -> None:
    batch, logprobs, entropy = toy()
    module, args = load("sapo", tau_pos=tau[0], tau_neg=tau[1])
    module.assign_credit(batch, args, {})
    # Relative to r = 1, where every gate's value is 2 / tau: the mean of advantages over rows is 0, of values not.
    assert grads_of(module, args, batch, logprobs, entropy)[0].item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.3, 0.9, 1.0, 1.0881, 1.7])
def test_the_gate_is_what_is_left_of_the_gradient(ratio: float, sign: float) -> None:
    """Per unit of r A: 1 at r = 1, the same on both sides, a half at 1 + 1.76 / tau."""
    module, args = load("sapo")
    tau = args.tau_pos if sign > 0 else args.tau_neg
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = {"advantages": sign * one, "loss_mask": one.bool(), "old_logprobs": -one}
    logprobs = (math.log(ratio) - one).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, one.clone().requires_grad_())
    gate = -sign * gradient.item() / ratio
    assert gate == pytest.approx(1 / math.cosh(tau * (ratio - 1) / 2) ** 2)
    metrics = module.policy_loss(logprobs, one, batch, args)[1]
    assert metrics == {"algo/gate_mean": pytest.approx(gate), "algo/gate_low_ratio": float(gate < 0.5)}


def test_the_published_temperatures_shut_nothing() -> None:
    """Ratios of some percent, as on the embedded task."""
    batch, logprobs, entropy = random_batch(0)
    near = batch["old_logprobs"] + 0.1 * (logprobs.detach() - batch["old_logprobs"])
    gates = []
    for tau in (1.0, 20.0):
        module, args = load("sapo", tau_pos=tau, tau_neg=1.05 * tau)
        module.assign_credit(batch, args, {})
        gates.append(module.policy_loss(near, entropy, batch, args)[1]["algo/gate_mean"])
    assert gates[0] > 0.999 > 0.97 > gates[1]


def test_says_when_it_is_grpo(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("sapo")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("sapo", num_minibatches=1)
    assert capsys.readouterr().err.count("SAPO is GRPO") == 1
