"""STILL-3: the weight of the KL falls by half a cosine."""

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
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"beta": 0.02, "beta_schedule": "cosine", "beta_steps": 0}
METRICS = {"beta"}
CASES = [
    {},
    {"beta": 0.3, "entropy_coef": 0.1, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
    {"beta": 0.3, "beta_schedule": "constant"},
]
NEUTRAL = [
    Neutral({"beta_schedule": "constant"}, "grpo", {"beta": 0.02}, "grpo"),
    Neutral({"beta": 0.3}, "grpo", {"beta": 0.3}, "grpo"),  # in the first step
    Neutral({"beta": 0.0}, "grpo", {}, "grpo"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step, in which the weight is all of beta."""
    advantages, lengths, total = standardised(batch["rewards"]), lengths_of(batch), 0.0
    for i, t in tokens_of(batch):
        term = surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        term += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
        total += term / lengths[i]
    return -total / len(lengths)


def weights(count: int, done: int = 0, **options) -> list[float]:
    """The weights of so many steps, the first of them after `done` others."""
    module, args = load("still3", **options)
    state, out = {"steps": done} if done else {}, []
    for step in range(count):
        batch, _, _ = random_batch(0)
        assert module.assign_credit(batch, args, state) == {"algo/beta": batch["beta"]}
        assert type(batch["beta"]) is float and state == {"steps": done + step + 1}
        out.append(batch["beta"])
    return out


@pytest.mark.parametrize(
    ("done", "weight"), [(0, 0.001), (125, 0.00085355), (250, 0.0005), (500, 0), (501, 0), (9999, 0)]
)
@pytest.mark.parametrize("steps", [{"beta_steps": 500, "num_steps": 100}, {"num_steps": 500}])
def test_golden_weights(done: int, weight: float, steps: dict) -> None:
    """After so many steps; by default the cosine is as long as the run."""
    assert weights(1, done, beta=1e-3, **steps) == pytest.approx([weight], abs=1e-8)
    assert weights(1, done, beta=1e-3, beta_schedule="constant", **steps) == [1e-3]


def test_golden_loss() -> None:
    """The toy against a reference 0.1 below the old policy: the KL of each token from d = ref - new, by hand."""
    batch, logprobs, entropy = toy()
    batch["ref_logprobs"] = batch["old_logprobs"] - 0.1
    module, args = load("still3", beta=0.4, num_steps=4)
    module.assign_credit(batch, args, {"steps": 2})
    plain, parent = load("grpo", beta=0.0)
    kl = [[-0.15, -0.6, -0.05], [-0.05, -0.4], [0.5, 0.2, -0.09], [-0.4]]
    kl = sum(sum(math.exp(d) - d - 1 for d in row) / len(row) for row in kl) / 4
    expected = grads_of(plain, parent, batch, logprobs, entropy)[0].item() + 0.2 * kl
    assert grads_of(module, args, batch, logprobs, entropy)[0].item() == pytest.approx(expected, abs=1e-12)


def test_weights_fall_from_step_to_step() -> None:
    got = weights(7, beta_steps=6, beta=1.0)
    assert got == pytest.approx([(1 + math.cos(math.pi * k / 6)) / 2 for k in range(7)])
    assert got == sorted(got, reverse=True) and got[0] == 1 and got[6] == 0  # exactly


@pytest.mark.parametrize("done", [0, 3, 7, 10])
def test_what_is_logged_is_what_the_loss_has(done: int) -> None:
    """d loss / d KL: the loss against a reference, less that against the policy itself, over the KL between them."""
    module, args = load("still3", beta=0.5, num_steps=10)
    batch, logprobs, entropy = random_batch(1)
    metrics = module.assign_credit(batch, args, {"steps": done})
    near = batch | {"ref_logprobs": logprobs.detach()}
    difference = [module.policy_loss(logprobs, entropy, mb, args)[0].item() for mb in (batch, near)]
    d = (batch["ref_logprobs"] - logprobs).detach()
    kl = (((d.exp() - d - 1) * batch["mask"]).sum(1) / batch["mask"].sum(1)).mean().item()
    assert (difference[0] - difference[1]) / kl == pytest.approx(metrics["algo/beta"], abs=1e-12)


def test_at_its_end_the_reference_does_nothing() -> None:
    module, args = load("still3", num_steps=3)
    plain, parent = load("grpo")
    batch, logprobs, entropy = random_batch(2)
    module.assign_credit(batch, args, {"steps": 3})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    expected, expected_grads = grads_of(plain, parent, batch, logprobs, entropy)
    assert torch.equal(loss, expected) and torch.equal(grads[0], expected_grads[0])


def test_says_what_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("still3")
    load("still3", beta_steps=5)
    load("still3", beta_schedule="constant")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("still3", beta=0.0)
        load("still3", beta_schedule="constant", beta_steps=5)
    said = capsys.readouterr().err
    assert said.count("--beta 0") == said.count("--beta-steps") == 1
