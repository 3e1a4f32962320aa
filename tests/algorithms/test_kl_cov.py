"""KL-Cov: the tokens of highest covariance are held back by a penalty."""

import math

import pytest
import torch
from torch import Tensor

from common.basics import warn_once
from tests.algorithms.oracle import Neutral, covariances, grads_of, load, ratio_of, standardised
from tests.algorithms.oracle import credited_batch as grpo_batch

FLAGS = {
    "max_resample": 9,
    "kl_cov_ratio": 2e-2,
    "kl_cov_coef": 1.0,
    "kl_cov_anneal": False,
    "random_selection": False,
}
METRICS = {"selected_ratio", "selected_negative_ratio", "cov_p50", "cov_p98", "selected_penalty"}
NEEDS_TOKENS = True
SCRIPT_FLAGS = {"kl-cov-ratio": 0.2}
CASES = [
    {"kl_cov_ratio": 0.2},
    {"kl_cov_ratio": 0.1, "kl_cov_coef": 0.3},
    {"kl_cov_ratio": 0.2, "kl_cov_anneal": True},  # the first step
]
WIDE = {"clip_ratio_low": 1.0, "clip_ratio_high": 1e9}
NEUTRAL = [
    Neutral({"kl_cov_ratio": 0.0}, "dapo", WIDE, "grpo"),
    Neutral({"kl_cov_coef": 0.0}, "dapo", WIDE, "grpo"),
]
ON_POLICY = [Neutral({"kl_cov_ratio": 0.5, "kl_cov_coef": 5.0}, "dapo", WIDE, "grpo")]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """Eq. 10, 13 and 14."""
    advantages, total = standardised(batch["rewards"]), 0.0
    cov = covariances(batch, logprobs, advantages)
    top = sorted(cov, key=cov.get, reverse=True)[: math.floor(args.kl_cov_ratio * len(cov))]
    for i, t in cov:
        total += ratio_of(batch, logprobs, i, t) * advantages[i]
        if (i, t) in top:
            total -= args.kl_cov_coef * abs(logprobs[i][t] - batch["old_logprobs"][i][t])
    return -total / len(cov)


def credited_batch() -> tuple[dict, Tensor, Tensor]:
    """With the weight of the first step."""
    batch, logprobs, entropy = grpo_batch()
    return batch | {"kl_cov_coef": 1.0}, logprobs, entropy


def covariance(batch: dict, logprobs: Tensor) -> Tensor:
    mask, values, advantages = batch["mask"], logprobs.detach(), batch["advantages"]
    return (values - values[mask].mean()) * (advantages - advantages[mask].mean())


def assert_selection_metrics(name: str) -> None:
    module, args = load(name, **{f"{name}_ratio": 0.05})
    batch, logprobs, entropy = credited_batch()
    torch.manual_seed(0)
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    cov = covariance(batch, logprobs)[batch["mask"]]
    for key, share in (("algo/cov_p50", 0.5), ("algo/cov_p98", 0.98)):
        assert stats[key] == pytest.approx(cov.quantile(share, interpolation="lower").item())
    assert 0 < stats["algo/selected_ratio"] <= 0.05
    if name == "kl_cov":
        order = cov.argsort(descending=True)[: math.floor(0.05 * len(cov))]
        negative = (batch["advantages"][batch["mask"]][order] < 0).double().mean().item()
        assert stats["algo/selected_negative_ratio"] == pytest.approx(negative)


def assert_quota_of_nothing_is_said_once(name: str, capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    batch, logprobs, entropy = credited_batch()
    for options in ({f"{name}_ratio": 1e-4}, {f"{name}_ratio": 0.0}):
        module, args = load(name, **options)
        for _ in range(2):
            _, stats = module.policy_loss(logprobs, entropy, batch, args)
            assert stats["algo/selected_ratio"] == 0 and math.isnan(stats["algo/selected_negative_ratio"])
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1 and f"--{name.replace('_', '-')}-ratio" in err


def test_pushes_the_top_tokens_alone() -> None:
    """coef sign(l - l_old) / N on the floor(ratio N) tokens of largest covariance, nothing on the others."""
    module, args = load("kl_cov", kl_cov_ratio=0.05)
    batch, logprobs, entropy = credited_batch()
    batch["kl_cov_coef"] = 0.7
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    args.kl_cov_ratio = 0.0
    _, (plain, _) = grads_of(module, args, batch, logprobs, entropy)
    n = batch["mask"].sum()
    cov = covariance(batch, logprobs).masked_fill(~batch["mask"], -math.inf)
    top = cov >= cov.flatten().topk(math.floor(0.05 * n)).values[-1]
    push = 0.7 * (logprobs - batch["old_logprobs"]).detach().sign() / n
    torch.testing.assert_close(gradient - plain, push * top, rtol=0, atol=1e-15)


def test_inert_on_the_first_update() -> None:
    """Where logprobs are old_logprobs, bit for bit the loss without penalty."""
    batch, _, entropy = credited_batch()
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    loss, grads = grads_of(*load("kl_cov", kl_cov_ratio=0.5), batch | {"kl_cov_coef": 5.0}, logprobs, entropy)
    expected, expected_grads = grads_of(*load("kl_cov", kl_cov_ratio=0.0), batch, logprobs, entropy)
    assert torch.equal(loss, expected) and all(map(torch.equal, grads, expected_grads)) and grads[0].any()


@pytest.mark.parametrize("anneal", [False, True])
def test_the_weight_falls_in_a_straight_line(anneal: bool) -> None:
    module, args = load("kl_cov", kl_cov_coef=0.8, kl_cov_anneal=anneal, num_steps=4)
    state, weights = {}, []
    for _ in range(6):  # two steps more than were planned
        batch, _, _ = grpo_batch()
        assert module.assign_credit(batch, args, state) == {} and type(batch["kl_cov_coef"]) is float
        weights.append(batch["kl_cov_coef"])
    assert weights == pytest.approx([0.8, 0.6, 0.4, 0.2, 0, 0] if anneal else [0.8] * 6)
    assert state == {"steps": 6}


def test_random_selection_holds_back_as_many() -> None:
    """Of all response tokens, another set for each draw."""
    module, args = load("kl_cov", kl_cov_ratio=0.05, random_selection=True)
    batch, logprobs, entropy = credited_batch()
    plain = grads_of(module, args, batch | {"kl_cov_coef": 0.0}, logprobs, entropy)[1][0]
    found = set()
    for seed in range(10):
        torch.manual_seed(seed)
        held = grads_of(module, args, batch, logprobs, entropy)[1][0] != plain
        assert held.sum() == math.floor(0.05 * batch["mask"].sum()) and not (held & ~batch["mask"]).any()
        found.add(tuple(held.flatten().nonzero()[:, 0].tolist()))
    assert len(found) == 10
    assert set().union(*found) - set(
        covariance(batch, logprobs).flatten().topk(len(next(iter(found)))).indices.tolist()
    )


def test_selection_metrics() -> None:
    assert_selection_metrics("kl_cov")


def test_quota_that_rounds_to_nothing_is_said_once(capsys: pytest.CaptureFixture) -> None:
    assert_quota_of_nothing_is_said_once("kl_cov", capsys)


def test_says_when_it_can_do_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("kl_cov", num_minibatches=2)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("kl_cov", num_minibatches=1)
    assert capsys.readouterr().err.count("one update per rollout") == 1


def test_ties_go_to_the_lower_index_whatever_the_padding() -> None:
    module, args = load("kl_cov", kl_cov_ratio=0.25)
    old = torch.full((8, 3), -1.0, dtype=torch.float64)
    for width in (3, 4, 40):
        padded = torch.nn.functional.pad(old, (0, width - 3))
        batch = {"advantages": padded * 0, "loss_mask": padded < 0, "old_logprobs": padded, "kl_cov_coef": 1.0}
        _, (gradient, _) = grads_of(
            module, args, batch, (padded + 0.1).requires_grad_(), padded.clone().requires_grad_()
        )
        assert gradient.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
