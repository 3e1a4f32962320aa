"""NSR and its relatives: one weight for right responses, one for wrong, no baseline."""

import pytest
import torch

from tests.algorithms.oracle import grads_of, load, random_batch, ratio_of, surrogate, tokens_of

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.2,
    "positive_weight": 0.1,
    "negative_weight": 1.0,
    "entropy_coef": 0.0,
}
METRICS = set()
UNMIXED = (0.0, 0.3, 1.0)
CASES = [{}, {"positive_weight": 0.0}, {"positive_weight": 1.0, "negative_weight": 0.0}, {"entropy_coef": 0.1}]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    total, count = 0.0, 0
    for i, t in tokens_of(batch):
        advantage = args.positive_weight if batch["rewards"][i] > 0 else -args.negative_weight
        if advantage != 0:
            ratio = ratio_of(batch, logprobs, i, t)
            total += surrogate(ratio, advantage, args.clip_ratio_low, args.clip_ratio_high)
            total += args.entropy_coef * entropy[i][t]
            count += 1
    return -total / count


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        ({"positive_weight": 0.0}, 0.0, -1.0),
        ({}, 0.1, -1.0),
        ({"positive_weight": 1.0}, 1.0, -1.0),
        ({"positive_weight": 1.0, "negative_weight": 0.0}, 1.0, 0.0),
    ],
)
def test_advantages(options: dict, right: float, wrong: float) -> None:
    """NSR, W-REINFORCE, REINFORCE, PSR; a row of weight 0 is out of the loss and of its mean."""
    module, args = load("nsr", **options)
    batch, _, entropy = random_batch(0)
    module.assign_credit(batch, args, {})
    expected = torch.where(batch["rewards"] > 0, right, wrong)[:, None] * batch["mask"]
    torch.testing.assert_close(batch["advantages"], expected, check_dtype=False)
    assert torch.equal(batch["loss_mask"], expected != 0)
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    torch.testing.assert_close(gradient, -expected / (expected != 0).sum(), check_dtype=False)
