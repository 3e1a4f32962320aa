"""Advanced: KL-Cov with EntroPIC's controller; its curriculum is SENT's."""

import math

import pytest
import torch

from tests.algorithms.oracle import Neutral, covariances, grads_of, load, random_batch, ratio_of, standardised, toy
from tests.algorithms.test_kl_cov import FLAGS as KL_COV

FLAGS = KL_COV | {
    "target_entropy": 0.25,
    "kp": 1.0,
    "ki": 0.01,
    "high_prob_threshold": 0.95,
    "curriculum_samples": 4,
    "curriculum_by": "entropy",
    "stages": 2,
}
METRICS = {"alpha", "selected_ratio", "selected_negative_ratio", "high_prob_ratio", "authority"}
NEEDS_TOKENS = True
SCRIPT_FLAGS = {"kl-cov-ratio": 0.2, "curriculum-samples": 2, "curriculum-by": "accuracy"}
CASES = [
    {"kl_cov_ratio": 0.2, "high_prob_threshold": 0.6},
    {"kl_cov_ratio": 0.1, "high_prob_threshold": 0.3, "target_entropy": 1.2, "kp": 0.7, "kl_cov_coef": 0.4},
]
NEUTRAL = [
    Neutral({"kp": 0.0, "ki": 0.0, "kl_cov_ratio": 0.2}, "kl_cov", {"kl_cov_ratio": 0.2}, "kl_cov"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """The first step: the controller has no past."""
    advantages, total, lever = standardised(batch["rewards"]), 0.0, []
    cov = covariances(batch, batch["sg_logprobs"], advantages)
    top = sorted(cov, key=cov.get, reverse=True)[: math.floor(args.kl_cov_ratio * len(cov))]
    error = sum(batch["entropy"][i][t] for i, t in cov) / len(cov) - args.target_entropy
    alpha = min(1.0, max(-1.0, args.kp * error))
    for i, t in cov:
        ratio = ratio_of(batch, logprobs, i, t)
        total += ratio * advantages[i]
        if (i, t) in top:
            total -= args.kl_cov_coef * abs(logprobs[i][t] - batch["old_logprobs"][i][t])
        if math.exp(batch["sg_logprobs"][i][t]) > args.high_prob_threshold:
            lever.append(ratio * abs(advantages[i]))
    return -total / len(cov) - alpha * sum(lever) / max(1, len(lever))


def test_golden_loss() -> None:
    """The toy at alpha 0.3, a quarter of its tokens held back, its likely ones beyond 0.7."""
    batch, logprobs, entropy = toy()
    module, args = load("advanced", kl_cov_ratio=0.25, high_prob_threshold=0.7)
    module.assign_credit(batch, args, {})
    values = {}
    for alpha in (0.0, 0.3):
        batch["alpha"] = alpha
        values[alpha] = grads_of(module, args, batch, logprobs, entropy)[0].item()
    assert values[0.0] == pytest.approx(-0.151286, abs=1e-6)
    assert values[0.3] == pytest.approx(-0.441609, abs=1e-6)


@pytest.mark.parametrize("target", [0.1, 1.0, 5.0])
def test_its_controller_is_entropics(target: float) -> None:
    """Step by step, windup and bounds included."""
    module, args = load("advanced", target_entropy=target, ki=0.3)
    plain, parent = load("entropic", target_entropy=target, ki=0.3)
    mine, theirs = {}, {}
    for seed in range(6):
        batch, _, _ = random_batch(seed)
        got = module.assign_credit(dict(batch), args, mine)["algo/alpha"]
        assert got == plain.assign_credit(dict(batch), parent, theirs)["algo/alpha"]
        assert mine.get("integral") == theirs.get("integral")
    assert mine["steps"] == 6


def test_parts_pull_as_the_head_says() -> None:
    """Above the target likely tokens gain weight, below it they lose it."""
    module, args = load("advanced", kl_cov_ratio=0.0, high_prob_threshold=0.3)
    batch, logprobs, entropy = random_batch(2)
    module.assign_credit(batch, args, {})
    likely = batch["mask"] & (logprobs.detach().exp() > 0.3) & (batch["advantages"] != 0)
    pushes = []
    for alpha in (0.5, 0.0, -0.5):
        batch["alpha"] = alpha
        pushes.append(-grads_of(module, args, batch, logprobs, entropy)[1][0])
    assert (pushes[0] > pushes[1])[likely].all() and (pushes[1] > pushes[2])[likely].all()
    assert torch.equal(pushes[0][~likely], pushes[2][~likely])
