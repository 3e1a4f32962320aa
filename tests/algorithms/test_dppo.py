"""DPPO: tokens whose probability has moved too far in the direction of their advantage are held."""

import math

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    load,
    ratio_of,
    standardised,
    tokens_of,
    toy,
)

FLAGS = {
    "divergence": "tv",
    "divergence_low": 0.02,
    "divergence_high": 0.02,
    "ratio_cap": 20.0,
    "beta": 0.0,
    "entropy_coef": 0.0,
}
METRICS = {"masked_high_ratio", "masked_low_ratio", "masked_old_prob"}
CASES = [
    {},
    {"divergence_low": 0.05, "divergence_high": 0.1, "ratio_cap": 1.1},
    {"divergence": "kl", "divergence_low": 0.01, "divergence_high": 1e-3},
    {"divergence": "kl", "divergence_low": 0.0, "ratio_cap": 0.0, "beta": 0.3, "entropy_coef": 0.1},
    {"divergence_low": 0.0, "divergence_high": 0.0, "ratio_cap": 1.2},
]
ON_POLICY = [Neutral(options, "dapo", {"clip_ratio_high": 0.2}, "grpo") for options in ({}, {"divergence": "kl"})]


def is_held(args, advantage: float, log: float, old: float) -> bool:
    p, q = math.exp(log), math.exp(old)
    bound = args.divergence_high if advantage > 0 else args.divergence_low
    if advantage == 0 or bound == 0 or (p > q) != (advantage > 0):
        return False
    if args.divergence == "tv":
        return abs(p - q) > bound
    return q * (old - log) + (1 - q) * math.log((1 - q + 1e-8) / (max(1 - p, 0) + 1e-8)) > bound


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total, tokens = standardised(batch["rewards"]), 0.0, tokens_of(batch)
    for i, t in tokens:
        log, old = batch["sg_logprobs"][i][t], batch["old_logprobs"][i][t]
        weight = ratio_of(batch, batch["sg_logprobs"], i, t)
        weight = min(weight, args.ratio_cap) if args.ratio_cap else weight
        if not is_held(args, advantages[i], log, old):
            total += weight * advantages[i] * logprobs[i][t]
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


@pytest.mark.parametrize(
    ("divergence", "bound", "held", "loss"),
    [("tv", 0.1, [(1, 1), (2, 1)], 0.019535), ("kl", 0.05, [(2, 1)], 0.110458)],
)
def test_golden_vectors(divergence: str, bound: float, held: list, loss: float) -> None:
    batch, logprobs, entropy = toy()
    module, args = load("dppo", divergence=divergence, divergence_low=bound, divergence_high=bound)
    module.assign_credit(batch, args, {})
    value, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert ((gradient == 0) & batch["mask"]).nonzero().tolist() == [list(place) for place in held]


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_rare_tokens_may_go_where_likely_ones_are_held(divergence: str) -> None:
    """Both become half as likely again; the bound is on probability."""
    module, args = load("dppo", divergence=divergence, divergence_low=0.05, divergence_high=0.05)
    old = torch.tensor([[0.001, 0.6]], dtype=torch.float64).log()
    one = torch.ones(1, 2, dtype=torch.float64)
    batch = {"advantages": one, "loss_mask": one.bool(), "old_logprobs": old}
    logprobs = (old + math.log(1.5)).requires_grad_()
    loss, stats = module.policy_loss(logprobs, one.clone().requires_grad_(), batch, args)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient[0].tolist() == [pytest.approx(-1.5 / 2), 0]
    assert stats["algo/masked_old_prob"] == pytest.approx(0.6) and stats["algo/masked_high_ratio"] == 0.5


def test_only_the_direction_of_the_advantage_is_bounded() -> None:
    module, args = load("dppo", divergence_low=1e-4, divergence_high=1e-4)
    batch, logprobs, entropy = credited_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    moved = logprobs.detach().exp() - batch["old_logprobs"].exp()
    against = batch["mask"] & (moved * batch["advantages"] < 0)
    assert against.any() and (gradient[against] != 0).all()
    assert not gradient[batch["mask"] & (moved * batch["advantages"] > 1e-3)].any()


def test_says_when_it_holds_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("dppo")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("dppo", num_minibatches=1)
    assert capsys.readouterr().err.count("DPPO holds nothing") == 1
