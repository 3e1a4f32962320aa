"""ProRL: a squared log-ratio to a reference that becomes the policy again and again."""

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import Neutral, grads_of, load, random_batch, ratio_of, standardised, surrogate, tokens_of

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.4,
    "max_resample": 9,
    "beta": 0.05,
    "reset_every": 25,
    "reset_optimizer": True,
}
METRICS = {"reference_kl"}
SCRIPT_METRICS = {"resets"}
SCRIPT_FLAGS = {"reset-every": 1}
CASES = [{}, {"beta": 0.7, "clip_ratio_high": 0.1}, {"beta": 0.0}]
CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.4}
NEUTRAL = [Neutral({"beta": 0.0, "reset_every": 0}, "dapo", CLIP, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens, total = standardised(batch["rewards"]), tokens_of(batch), 0.0
    for i, t in tokens:
        total += surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total -= args.beta / 2 * (logprobs[i][t] - batch["ref_logprobs"][i][t]) ** 2
    return -total / len(tokens)


def test_golden_leash() -> None:
    """k2 of 0.1 and -0.3 is 0.005 and 0.045, with the differences as gradients; k3 would have 0.0952 and -0.3499."""
    module, args = load("prorl", beta=1.0)
    batch, logprobs, entropy = random_batch(0)
    batch |= {"advantages": 0 * batch["entropy"], "loss_mask": batch["mask"], "old_logprobs": logprobs.detach()}
    difference = torch.where(torch.arange(logprobs.numel()).view_as(logprobs) % 2 == 0, 0.1, -0.3).double()
    batch["ref_logprobs"] = logprobs.detach() - difference
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    mask = batch["mask"]
    expected = torch.where(difference > 0, 0.005, 0.045)[mask].double().mean().item()
    assert loss.item() == pytest.approx(expected, abs=1e-8)
    torch.testing.assert_close(gradient * mask.sum(), difference * mask, rtol=0, atol=1e-12)


def test_at_an_anchor_the_leash_is_exactly_nothing() -> None:
    module, args = load("prorl", beta=3.0)
    plain, off = load("prorl", beta=0.0, reset_every=0)
    batch, logprobs, entropy = random_batch(1)
    module.assign_credit(batch, args, {})
    batch["ref_logprobs"] = logprobs.detach().clone()
    got, expected = (grads_of(m, a, batch, logprobs, entropy) for m, a in ((module, args), (plain, off)))
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1][0], expected[1][0])


def test_says_what_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("prorl")
    load("prorl", beta=0.0, reset_every=0)
    assert not capsys.readouterr().err
    load("prorl", beta=0.0)
    assert capsys.readouterr().err.count("--reset-every") == 1
    load("prorl", reset_every=25, num_steps=26)
    load("prorl", reset_every=0, num_steps=1)
    load("prorl", beta=0.0, reset_every=0, num_steps=1)
    assert not capsys.readouterr().err
    load("prorl", reset_every=25, num_steps=25)  # that reset is after the last step
    assert "--reset-every is no less than --num-steps" in capsys.readouterr().err
