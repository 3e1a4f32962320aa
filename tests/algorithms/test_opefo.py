"""OPEFO: the tokens that raise entropy and those that lower it are weighed until they balance."""

import math

import pytest
import torch

from tests.algorithms.oracle import SIZE, Neutral, load, random_batch, ratio_of, standardised, surrogate, tokens_of
from tests.algorithms.test_clip_v import STATES
from tests.algorithms.test_steer import extra

FLAGS = {
    "num_minibatches": 1,
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.2,
    "flow": "exact",
    "flow_balance": 1.0,
}
METRICS = {"flow_lambda", "raising_ratio", "positive_ratio"}
SCRIPT_FLAGS = {"num-minibatches": 1}
CASES = [{}, {"flow": "sampled"}, {"flow_balance": 0.5}]
NEUTRAL = [
    Neutral({"flow_balance": 0.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
    Neutral({"flow_balance": 0.0, "flow": "sampled"}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
]


def flows(batch: dict, args) -> dict[tuple[int, int], float]:
    advantages, out = standardised(batch["rewards"]), {}
    for i, t in tokens_of(batch):
        log = batch["old_logprobs"][i][t]
        p, surprise = math.exp(log), log + batch["entropy"][i][t]
        if args.flow == "exact":
            out[i, t] = -advantages[i] * (p * surprise - batch["state_mean"][i][t])
        else:
            out[i, t] = -advantages[i] * (1 - p) ** 2 * surprise
    return out


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, flow, total = standardised(batch["rewards"]), flows(batch, args), 0.0
    up, down = sum(max(d, 0) for d in flow.values()), sum(max(-d, 0) for d in flow.values())
    balance = (down - up) / (down + up)
    for (i, t), d in flow.items():
        sign = 0 if abs(d) < 1e-7 else math.copysign(1, d)
        advantage = advantages[i] * (1 + args.flow_balance * balance * sign)
        total += surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
    return -total / len(flow)


def four_tokens() -> dict:
    """Words 0, 1, 2, 0 of the state (.6, .3, .1); the advantages are set to 1, 1, -1, -1 by a group of two and two."""
    module, _ = load("opefo")
    logs = STATES["a"].log().expand(4, 3)
    targets = torch.tensor([[0], [1], [2], [0]])
    return {
        "rewards": torch.tensor([1.0, 1, 0, 0]).double(),
        "mask": torch.ones(4, 1, dtype=torch.bool),
        "old_logprobs": logs.gather(1, targets),
        "entropy": -(logs.exp() * logs).sum(1, keepdim=True),
        "state_mean": module.state_mean(logs, targets)[:, None],
    }


@pytest.mark.parametrize(("flow", "expected"), [("sampled", 0.69978), ("exact", 0.06983)])
def test_golden_vectors(flow: str, expected: float) -> None:
    """A common factor of the advantages does not show in lambda."""
    module, args = load("opefo", flow=flow)
    batch = four_tokens()
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/flow_lambda"] == pytest.approx(expected, abs=1e-5)
    assert metrics["algo/positive_ratio"] == 0.5 and metrics["algo/raising_ratio"] in (0.5, 0.25)


@pytest.mark.parametrize("flow", ["exact", "sampled"])
def test_the_weighed_flows_are_equal(flow: str) -> None:
    module, args = load("opefo", flow=flow)
    batch, _, _ = random_batch(2, groups=6, extra=extra)
    change = flows({k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}, args)
    module.assign_credit(batch, args, {})
    plain = standardised(batch["rewards"].tolist())
    total = sum(d * batch["advantages"][i, t].item() / plain[i] for (i, t), d in change.items() if plain[i])
    assert total == pytest.approx(0, abs=1e-5 * sum(map(abs, change.values())))


def test_nothing_to_balance() -> None:
    """Groups without spread move nothing, and certain states neither."""
    module, args = load("opefo")
    batch = four_tokens() | {"rewards": torch.zeros(SIZE).double()}
    assert module.assign_credit(batch, args, {})["algo/flow_lambda"] == 0 and not batch["advantages"].any()
