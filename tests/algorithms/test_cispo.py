"""CISPO: capped weights, and a gradient for every token."""

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import Neutral, credited_batch, grads_of, load, ratio_of, tokens_of
from tests.algorithms.test_dapo import FLAGS as DAPO
from tests.algorithms.test_dapo import METRICS as DAPO_METRICS
from tests.algorithms.test_dapo import credited
from tests.algorithms.test_grpo import NEW, golden_batch

FLAGS = {name: value for name, value in DAPO.items() if not name.startswith("clip_ratio")} | {"ratio_cap": 5.0}
METRICS = DAPO_METRICS
CASES = [{}, {"ratio_cap": 1.1}, {"ratio_cap": 0.0, "overlong_buffer_length": 0}]
ON_POLICY = [Neutral({}, "dapo", {}, "dapo"), Neutral({"ratio_cap": 1.0}, "dapo", {}, "dapo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total, tokens = credited(batch, args), 0.0, tokens_of(batch)
    for i, t in tokens:
        weight = ratio_of(batch, batch["sg_logprobs"], i, t)
        total += (min(weight, args.ratio_cap) if args.ratio_cap else weight) * advantages[i] * logprobs[i][t]
    return -total / len(tokens)


def test_golden_vectors() -> None:
    """verl with clip_ratio_low 1 and clip_ratio_high 4."""
    module, args = load("cispo")
    grpo, standard = load("grpo")
    batch, logprobs = golden_batch(), NEW.clone().requires_grad_()
    grpo.assign_credit(batch, standard, {})
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, torch.zeros(4, 4, requires_grad=True))
    assert loss.item() == pytest.approx(0.079886, abs=1e-6)
    expected = [[-0.070033, -0.109833, -0.063368, -0.014864], [0.014864, 0.049351, 0.065954, 0.067287]]
    torch.testing.assert_close(gradient[[0, 2]], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cap", "weights", "capped"),
    [
        (1.28, (0.5, 1, 1.28, 1.28), 0.5),
        (4, (0.5, 1, 1.5, 4), 0.25),
        (8, (0.5, 1, 1.5, 8), 0),
        (0, (0.5, 1, 1.5, 8), 0),
    ],
)
def test_weights(cap: float, weights: tuple, capped: float) -> None:
    module, args = load("cispo", ratio_cap=cap)
    old = torch.full((1, 4), -3.0, dtype=torch.float64)
    batch = {"advantages": torch.ones_like(old), "loss_mask": old < 0, "old_logprobs": old}
    logprobs = (old + torch.tensor([0.5, 1, 1.5, 8], dtype=torch.float64).log()).requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, old.clone().requires_grad_())
    assert (-4 * gradient[0]).tolist() == pytest.approx(weights)
    assert module.policy_loss(logprobs, old, batch, args)[1]["policy/clip_high_ratio"] == capped


def test_every_token_with_an_advantage_has_a_gradient() -> None:
    module, args = load("cispo", ratio_cap=1.1)
    batch, logprobs, entropy = credited_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert torch.equal(gradient != 0, batch["mask"])


def test_says_when_it_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("cispo")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("cispo", num_minibatches=1)
    assert capsys.readouterr().err.count("--ratio-cap") == 1
