"""The change of entropy that an update promises: exact to first order, for any file's loss, on a table of logits."""

import math

import pytest
import torch
from torch import Tensor

from common import metrics
from tests.algorithms.oracle import load, random_batch

WORDS = 7


def tabled(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets and entropies (B, T) of logits (B, T, V)."""
    logprobs = logits.log_softmax(-1)
    return logprobs.gather(-1, targets[..., None])[..., 0], -(logprobs.exp() * logprobs).sum(-1)


def slopes(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    rows, words = logits.log_softmax(-1).flatten(0, 1), targets.flatten()[:, None]
    functions = {"entropy_slope": metrics.entropy_slope, "entropy_square": metrics.entropy_square}
    return {key: function(rows, words).view(targets.shape) for key, function in functions.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo", {}),
        ("grpo", {"entropy_coef": 0.5, "beta": 0.2}),
        ("dapo", {}),
        ("kl_cov", {"kl_cov_ratio": 0.3}),
        ("gspo", {}),
        ("sapo", {}),
    ],
)
def test_promised_change_is_exact_to_first_order(name: str, options: dict) -> None:
    """A step of gradient descent on the logits moves each token's entropy by lr times what is promised."""
    module, args = load(name, **options)
    batch, _, _ = random_batch(3)
    module.assign_credit(batch, args, {})
    generator = torch.Generator().manual_seed(0)
    shape = batch["mask"].shape
    logits = (2 * torch.randn(*shape, WORDS, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(WORDS, shape, generator=generator)
    logprobs, entropy = tabled(logits, targets)
    batch["old_logprobs"] = logprobs.detach()
    batch |= {"importance": 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)}
    batch |= slopes(logits.detach(), targets)
    loss, _ = module.policy_loss(logprobs, entropy, batch, args)
    grads = torch.autograd.grad(loss, (logprobs, entropy), retain_graph=True, allow_unused=True, materialize_grads=True)
    weighed = grads[0] * batch["importance"], grads[1]  # as policy.backward is given them
    (push,) = torch.autograd.grad((logprobs, entropy), logits, weighed)
    rate = 1e-5
    moved = tabled(logits.detach() - rate * push, targets)[1] - entropy.detach()
    back = tabled(logits.detach() + rate * push, targets)[1] - entropy.detach()
    promised = metrics.promised_change(batch, grads)
    measured = (moved - back) / (2 * rate) * batch["mask"].sum()  # without the second order
    torch.testing.assert_close(promised * batch["mask"], measured * batch["mask"], rtol=0, atol=1e-7)
    assert promised[batch["mask"]].abs().max() > 0.01


def test_golden_slopes() -> None:
    """p = (0.6, 0.3, 0.1): H 0.897946, S2 0.097774, and what each word's gain does to the entropy."""
    logprobs = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log().expand(3, -1)
    got = metrics.entropy_slope(logprobs, torch.arange(3)[:, None])
    assert got.tolist() == pytest.approx([-0.13450, 0.18958, 0.23824], abs=1e-5)
    p = logprobs[:1].exp()
    assert (p * got).sum() == pytest.approx(0, abs=1e-12)  # no state moves on average
    assert metrics.entropy_square(logprobs, torch.arange(3)[:, None]).tolist() == pytest.approx(
        [sum((q * (math.log(q) + 0.897946)) ** 2 for q in (0.6, 0.3, 0.1))] * 3, abs=1e-6
    )


def test_a_word_without_probability_changes_nothing() -> None:
    logprobs = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    for function in (metrics.entropy_slope, metrics.entropy_square):
        assert function(logprobs, torch.tensor([[0]])).tolist() == [0]


def test_logged_only_where_it_was_asked_for() -> None:
    batch, logprobs, entropy = random_batch(0)
    grads = torch.randn_like(logprobs), torch.zeros_like(entropy)
    batch["importance"] = torch.ones_like(logprobs)
    plain = metrics.update_metrics(batch, logprobs, grads, logprobs.sum(), 1.0)
    assert not {"policy/polarity", "policy/raising_ratio"} & plain.keys()
    batch |= {"entropy_slope": torch.ones_like(logprobs), "entropy_square": torch.ones_like(logprobs)}
    found = metrics.update_metrics(batch, logprobs, grads, logprobs.sum(), 1.0)
    gradient = grads[0][batch["mask"]]
    assert found["policy/polarity"] == pytest.approx(-gradient.sum().item(), abs=1e-6)
    assert found["policy/raising_ratio"] == pytest.approx((gradient < 0).double().mean().item())
