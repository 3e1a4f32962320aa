"""BAPO: bounds of the clip are searched until positive advantages have their share."""

import math

import pytest
import torch

from common import InputError
from common.basics import warn_once
from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    load,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {
    "clip_ratio_low": 0.4,
    "clip_ratio_high": 0.2,
    "clip_ratio_low_end": 0.1,
    "clip_ratio_high_end": 2.0,
    "clip_ratio_low_step": 0.02,
    "clip_ratio_high_step": 0.05,
    "positive_share": 0.5,
}
METRICS = {"clip_low", "clip_high", "positive_share"}
CASES = [
    {},
    {"positive_share": 0.4, "clip_ratio_high_step": 0.01},
    {"positive_share": 1.0},  # out of reach: both bounds go to their ends
    {"positive_share": 1.0, "clip_ratio_high_end": 0.33, "beta": 0.3, "entropy_coef": 0.1},
    {"positive_share": 1.0, "clip_ratio_high_step": 0.0, "clip_ratio_low_end": 0.25},
]
# GRPO with the mean over all tokens is DAPO's loss; here at these bounds.
WIDE = {"clip_ratio_low": 0.4, "clip_ratio_high": 0.2}
NEUTRAL = [
    Neutral({"positive_share": 0.0}, "dapo", WIDE, "grpo"),
    Neutral({"clip_ratio_low_end": 0.4, "clip_ratio_high_end": 0.2, "positive_share": 1.0}, "dapo", WIDE, "grpo"),
]
ON_POLICY = [Neutral({"positive_share": 1.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo")]


def share_of(ratios: list[float], advantages: list[float], low: float, high: float) -> float:
    """Of positive advantages in the clipped surrogate, a token that is clipped being counted at its bound."""
    up = sum(min(r, high) * a for r, a in zip(ratios, advantages, strict=True) if a > 0)
    down = sum(max(r, low) * -a for r, a in zip(ratios, advantages, strict=True) if a < 0)
    return up / (up + down) if up + down else math.nan


def search(ratios: list[float], advantages: list[float], args) -> tuple[float, float]:
    """The upper bound first, then the lower one, step by step while the share is short of its target."""
    low, high = 1 - args.clip_ratio_low, 1 + args.clip_ratio_high
    low_end, high_end = 1 - args.clip_ratio_low_end, 1 + args.clip_ratio_high_end
    while share_of(ratios, advantages, low, high) < args.positive_share:
        if args.clip_ratio_high_step and high < high_end - 1e-9:
            high = min(high + args.clip_ratio_high_step, high_end)
        elif args.clip_ratio_low_step and low < low_end - 1e-9:
            low = min(low + args.clip_ratio_low_step, low_end)
        else:
            break
    return low, high


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens, total = standardised(batch["rewards"]), tokens_of(batch), 0.0
    now = [ratio_of(batch, batch["sg_logprobs"], i, t) for i, t in tokens]
    low, high = search(now, [advantages[i] for i, _ in tokens], args)
    for i, t in tokens:
        total += surrogate(ratio_of(batch, logprobs, i, t), advantages[i], 1 - low, high - 1)
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


def stats_of(batch: dict, logprobs: torch.Tensor, entropy: torch.Tensor, **options) -> tuple[float, float, float]:
    module, args = load("bapo", **options)
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    return tuple(stats[f"algo/{key}"] for key in ("clip_low", "clip_high", "positive_share"))


@pytest.mark.parametrize(
    ("target", "bounds", "share"),
    [(0.5, (0.6, 1.2), 0.59259), (0.6, (0.6, 1.3), 0.601414), (0.99, (0.9, 3.0), 1.437788 / 2.437788)],
)
def test_golden_vectors(target: float, bounds: tuple[float, float], share: float) -> None:
    """Met at the start; met by the upper bound; out of reach, where the lower bound has made it less again."""
    batch, logprobs, entropy = toy()
    module, args = load("bapo", positive_share=target)
    module.assign_credit(batch, args, {})
    low, high, found = stats_of(batch, logprobs, entropy, positive_share=target)
    assert (low, high) == pytest.approx(bounds, abs=1e-9) and found == pytest.approx(share, abs=1e-6)
    ratio = (logprobs - batch["old_logprobs"]).detach().exp()
    weight = torch.where(batch["rewards"][:, None] > 0, ratio * (ratio < bounds[1]), ratio * (ratio > bounds[0]))
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    torch.testing.assert_close(gradient, -batch["advantages"] * weight / 9, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", [0.3, 0.45, 0.5, 0.55, 0.6, 0.9])
def test_bounds_are_those_of_the_slow_search(seed: int, target: float) -> None:
    batch, logprobs, entropy = random_batch(seed, groups=4)
    module, args = load("bapo", positive_share=target)
    module.assign_credit(batch, args, {})
    mask = batch["mask"]
    ratios = (logprobs - batch["old_logprobs"]).detach().exp()[mask].tolist()
    advantages = batch["advantages"][mask].tolist()
    expected = search(ratios, advantages, args)
    found = stats_of(batch, logprobs, entropy, positive_share=target)
    assert found == pytest.approx((*expected, share_of(ratios, advantages, *expected)), abs=1e-12)


def test_share_rises_with_the_upper_bound_and_falls_with_the_lower() -> None:
    """So the second search never finds what the first has not: it only tightens the clip."""
    batch, logprobs, entropy = credited_batch()
    fixed = {"positive_share": 0.0}
    by_high = [stats_of(batch, logprobs, entropy, clip_ratio_high=x, **fixed)[2] for x in (0.0, 0.2, 0.5, 1.0, 2.0)]
    by_low = [stats_of(batch, logprobs, entropy, clip_ratio_low=x, **fixed)[2] for x in (0.9, 0.5, 0.4, 0.2, 0.1, 0.0)]
    assert by_high == sorted(by_high) and by_high[0] < by_high[-1]
    assert by_low == sorted(by_low, reverse=True) and by_low[0] > by_low[-1]


def test_search_is_anew_in_each_call_and_over_the_loss_mask() -> None:
    """Nothing is remembered; padding and tokens that are left out do not count."""
    batch, logprobs, entropy = credited_batch()
    first = stats_of(batch, logprobs, entropy, positive_share=0.52)
    stats_of(batch, logprobs + 1, entropy, positive_share=0.9)
    assert stats_of(batch, logprobs, entropy, positive_share=0.52) == first
    outside = torch.where(batch["mask"], logprobs, 5.0)
    assert stats_of(batch, outside, entropy, positive_share=0.52) == first
    batch["loss_mask"] = batch["mask"] & (batch["advantages"] > 0)
    assert stats_of(batch, logprobs, entropy, positive_share=0.52) == pytest.approx((0.6, 1.2, 1.0))
    batch["loss_mask"] = batch["mask"] & (batch["advantages"] < 0)
    assert stats_of(batch, logprobs, entropy, positive_share=0.52) == pytest.approx((0.9, 3.0, 0.0))


@pytest.mark.parametrize(("target", "bounds"), [(0.5, (0.6, 1.2)), (0.5 + 1e-9, (0.9, 3.0))])
def test_a_share_that_is_met_is_not_searched_for(target: float, bounds: tuple[float, float]) -> None:
    """One token up and one down, neither moved: exactly a half."""
    old, mask = torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1, dtype=torch.bool)
    batch = {"old_logprobs": old, "advantages": torch.tensor([[1.0], [-1.0]]).double(), "loss_mask": mask}
    assert stats_of(batch, old, old, positive_share=target) == pytest.approx((*bounds, 0.5))


@pytest.mark.parametrize("rewards", [0.0, 1.0])
def test_without_advantages_there_is_no_search(rewards: float) -> None:
    batch, logprobs, entropy = random_batch(0)
    batch["rewards"] = torch.full_like(batch["rewards"], rewards)
    module, args = load("bapo", positive_share=1.0)
    module.assign_credit(batch, args, {})
    low, high, share = stats_of(batch, logprobs, entropy, positive_share=1.0)
    assert (low, high) == (0.6, 1.2) and math.isnan(share)


def test_where_nothing_has_moved_bounds_do_not_matter() -> None:
    """They go to their ends if the share is short, and change neither loss nor gradient."""
    batch, _, entropy = credited_batch()
    old = batch["old_logprobs"].clone().requires_grad_()
    low, high, share = stats_of(batch, old, entropy, positive_share=1.0)
    assert (low, high) == pytest.approx((0.9, 3.0)) and share == stats_of(batch, old, entropy, positive_share=0.0)[2]
    loss, grads = grads_of(*load("bapo", positive_share=1.0), batch, old, entropy)
    expected, expected_grads = grads_of(*load("bapo", positive_share=0.0), batch, old, entropy)
    assert torch.equal(loss, expected) and torch.equal(grads[0], expected_grads[0]) and grads[0].any()


@pytest.mark.parametrize("step", [0.07, 0.3, 5.0])
def test_a_bound_stops_at_its_end(step: float) -> None:
    """Also if its steps do not add up to the way there; steps of 0 leave it alone."""
    batch, logprobs, entropy = credited_batch()
    options = {"positive_share": 1.0, "clip_ratio_high_step": step, "clip_ratio_low_step": step}
    assert stats_of(batch, logprobs, entropy, **options)[:2] == pytest.approx((0.9, 3.0))
    options["clip_ratio_low_step"] = 0.0
    assert stats_of(batch, logprobs, entropy, **options)[:2] == pytest.approx((0.6, 3.0))
    options |= {"clip_ratio_high_step": 0.0, "clip_ratio_high": 3.0}  # a start beyond the end
    assert stats_of(batch, logprobs, entropy, **options)[:2] == pytest.approx((0.6, 4.0))


def test_says_what_does_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("bapo")
    load("bapo", clip_ratio_low_end=0.4)  # one bound moves
    load("bapo", num_minibatches=1, update_epochs=2)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("bapo", positive_share=0.0)
        load("bapo", clip_ratio_low_end=0.4, clip_ratio_high_end=0.2)
        load("bapo", num_minibatches=1)
    said = capsys.readouterr().err
    assert said.count("no bound moves") == said.count("one update per rollout") == 1


@pytest.mark.parametrize("side", ["high", "low"])
def test_a_search_without_end_is_refused(side: str) -> None:
    load("bapo", **{f"clip_ratio_{side}_step": 0.002})
    with pytest.raises(InputError, match="less than a thousandth"):
        load("bapo", **{f"clip_ratio_{side}_step": 1e-6})
