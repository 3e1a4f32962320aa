"""The survey's first configuration: clip-higher, the top fifth by entropy, and W-REINFORCE."""

import math

import pytest
import torch

from common import InputError
from tests.algorithms.oracle import Neutral, grads_of, load, random_batch, ratio_of, surrogate, tokens_of, toy
from tests.algorithms.test_nsr import FLAGS as NSR

FLAGS = NSR | {
    "clip_ratio_high": 0.28,
    "top_entropy_ratio": 0.2,
    "normalize_by": "selected",
    "random_selection": False,
}
METRICS = {"selected_ratio", "entropy_threshold", "selected_negative_ratio"}
UNMIXED = (0.0, 0.3, 1.0)
CASES = [
    {},
    {"top_entropy_ratio": 0.5, "normalize_by": "all"},
    {"top_entropy_ratio": 0.4, "positive_weight": 0.0, "entropy_coef": 0.1},
]
NEUTRAL = [
    Neutral({"top_entropy_ratio": 1.0, "clip_ratio_high": 0.2}, "nsr", {}, "nsr"),
    Neutral({"top_entropy_ratio": 1.0, "clip_ratio_high": 0.2, "random_selection": True}, "nsr", {}, "nsr"),
]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = [args.positive_weight if r > 0 else -args.negative_weight for r in batch["rewards"]]
    tokens = [(i, t) for i, t in tokens_of(batch) if advantages[i]]
    quota = math.ceil(args.top_entropy_ratio * len(tokens))
    top = sorted(tokens, key=lambda token: -batch["sg_entropy"][token[0]][token[1]])[:quota]
    total = 0.0
    for i, t in top:
        ratio = ratio_of(batch, logprobs, i, t)
        total += surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        total += args.entropy_coef * entropy[i][t]
    return -total / (len(top) if args.normalize_by == "selected" else len(tokens))


def test_golden_vectors() -> None:
    """Half of nine tokens: the padded flat indices 1 2 3 6 9."""
    batch, logprobs, entropy = toy()
    module, args = load("starter", top_entropy_ratio=0.5)
    module.assign_credit(batch, args, {})
    loss, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    assert loss.item() == pytest.approx(0.366323, abs=1e-6)
    clipped = {1, 6}  # e^.5 of a right response above 1.28, e^-.6 of a wrong one below 0.8
    assert set(gradient.flatten().nonzero()[:, 0].tolist()) == {1, 2, 3, 6, 9} - clipped
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/entropy_threshold"] == 0.4 and stats["algo/selected_negative_ratio"] == pytest.approx(2 / 5)


def test_ties_go_to_the_lower_index_and_draws_are_random() -> None:
    module, args = load("starter", top_entropy_ratio=0.25)
    batch, _, entropy = random_batch(0)
    module.assign_credit(batch, args, {})
    level = torch.ones_like(entropy).requires_grad_()
    places = batch["loss_mask"].flatten().nonzero()[:, 0]
    quota = math.ceil(0.25 * len(places))
    old = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, old, level)
    assert gradient.flatten().nonzero()[:, 0].tolist() == places[:quota].tolist()
    args.random_selection, found = True, set()
    for seed in range(10):
        torch.manual_seed(seed)
        _, (gradient, _) = grads_of(module, args, batch, old, entropy)
        found.add(tuple(gradient.flatten().nonzero()[:, 0].tolist()))
    assert len(found) > 5 and {len(places) for places in found} == {quota}


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_no_token_or_more_than_all_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="--top-entropy-ratio is"):
        load("starter", top_entropy_ratio=ratio)
