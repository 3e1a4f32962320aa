"""Lp-Reg: unlikely but plausible tokens of wrong responses are held at a filtered policy's probability."""

import math
from functools import partial

import pytest
import torch

from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    load,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
)

FLAGS = {
    "clip_ratio_low": 1.0,
    "clip_ratio_high": 9.0,
    "beta": 0.0,
    "entropy_coef": 0.0,
    "min_p": 0.1,
    "low_prob_ratio": 0.05,
    "lp_coef": 1.0,
    "random_selection": False,
}
METRICS = {"selected_ratio", "selected_push", "kept_mass"}
SCRIPT_FLAGS = {"low-prob-ratio": 0.3}
CASES = [
    {"low_prob_ratio": 0.5},
    {"low_prob_ratio": 1.0, "lp_coef": 0.3, "clip_ratio_low": 0.1, "clip_ratio_high": 0.2},
    {"low_prob_ratio": 0.3, "beta": 0.3, "entropy_coef": 0.1},
]
CONTROL = {"clip_ratio_low": 1.0, "clip_ratio_high": 9.0}
NEUTRAL = [
    Neutral({"low_prob_ratio": 0.0}, "dapo", CONTROL, "grpo"),
    Neutral({"lp_coef": 0.0, "low_prob_ratio": 0.5}, "dapo", CONTROL, "grpo"),
]


def extra(batch: dict, generator: torch.Generator) -> dict:
    """What the filter keeps: most of the mass, and not every token."""
    kept = 0.5 + 0.5 * torch.rand(batch["mask"].shape, generator=generator, dtype=torch.float64)
    cut = torch.rand(batch["mask"].shape, generator=generator) < 0.2
    return {"proxy_gain": torch.where(cut, -torch.inf, -kept.log())}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total, tokens = standardised(batch["rewards"]), 0.0, tokens_of(batch)
    negative = [(i, t) for i, t in tokens if advantages[i] < 0]
    lowest = sorted(negative, key=lambda token: batch["sg_logprobs"][token[0]][token[1]])
    chosen = set(lowest[: math.floor(args.low_prob_ratio * len(negative))])
    for i, t in tokens:
        proxy, ratio = batch["old_logprobs"][i][t] + batch["proxy_gain"][i][t], ratio_of(batch, logprobs, i, t)
        if (i, t) in chosen and batch["sg_logprobs"][i][t] < proxy:
            d = proxy - logprobs[i][t]
            total += ratio * advantages[i] - args.lp_coef * min(10.0, math.exp(d) - d - 1)
        else:
            total += surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


@pytest.mark.parametrize(("min_p", "masses"), [(0.02, [0.99, 0.99, 0.99, None]), (0.0, [1, 1, 1, 1])])
def test_proxy(min_p: float, masses: list) -> None:
    """p (.9 .06 .03 .01), of which 0.02 of the largest cuts the last."""
    module, _ = load("lp_reg")
    logs = torch.tensor([0.9, 0.06, 0.03, 0.01], dtype=torch.float64).log().expand(4, 4)
    gain = module.proxy_gain(logs, torch.arange(4)[:, None], min_p)
    expected = [-torch.inf if mass is None else -math.log(mass) for mass in masses]
    assert gain.tolist() == pytest.approx(expected, abs=1e-12)


def test_golden_push() -> None:
    """On-policy: a mass of .99 gives k3 of 5.067e-5 and an upward push of .010101 a token."""
    module, args = load("lp_reg", low_prob_ratio=1.0)
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = {"advantages": -one, "loss_mask": one.bool(), "old_logprobs": -3 * one, "proxy_gain": -(0.99 * one).log()}
    logprobs = (-3 * one).requires_grad_()
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, one.clone().requires_grad_())
    assert loss.item() - 1 == pytest.approx(5.067e-5, rel=1e-3)
    assert gradient.item() - 1 == pytest.approx(-0.010101, rel=1e-4)
    assert module.policy_loss(logprobs, one, batch, args)[1]["algo/selected_push"] == pytest.approx(0.010101, rel=1e-4)


def test_what_the_filter_cuts_or_what_stands_above_its_proxy_is_not_held() -> None:
    module, args = load("lp_reg", low_prob_ratio=1.0)
    batch, logprobs, entropy = credited_batch(extra=extra)
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    args.lp_coef = 0.0
    _, (without, _) = grads_of(module, args, batch, logprobs, entropy)
    proxy = batch["old_logprobs"] + batch["proxy_gain"]
    held = batch["mask"] & (batch["advantages"] < 0) & (logprobs < proxy).detach()
    assert torch.equal(gradient != without, held)
    assert 0 < held.sum() < (batch["mask"] & (batch["advantages"] < 0)).sum()


def test_a_random_choice_of_as_many() -> None:
    module, args = load("lp_reg", low_prob_ratio=0.2, random_selection=True)
    batch, logprobs, entropy = credited_batch(extra=extra)
    found = set()
    for seed in range(10):
        torch.manual_seed(seed)
        stats = module.policy_loss(logprobs, entropy, batch, args)[1]
        found.add(stats["algo/selected_push"])
    assert len(found) > 5


def test_scored_by_the_policy() -> None:
    """The function that the script hands to score is this one, with its flag."""
    module, args = load("lp_reg", min_p=0.3)
    logs = torch.randn(5, 7, dtype=torch.float64).log_softmax(1)
    targets = torch.arange(5)[:, None]
    assert torch.equal(
        partial(module.proxy_gain, min_p=args.min_p)(logs, targets), module.proxy_gain(logs, targets, 0.3)
    )
