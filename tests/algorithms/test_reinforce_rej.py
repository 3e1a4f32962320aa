"""Reinforce-Rej: bare rewards as advantages, none where a group is all right or all wrong."""

import itertools

import pytest
import torch

from common.basics import warn_once
from tests.algorithms.oracle import (
    SIZE,
    Neutral,
    grads_of,
    group_of,
    k3,
    load,
    random_batch,
    ratio_of,
    surrogate,
    tokens_of,
    toy,
)
from tests.algorithms.test_grpo import FLAGS as GRPO

FLAGS = GRPO | {"reject": "both", "wrong_reward": -1.0}
METRICS = {"rejected_ratio"}
REJECTS = ("both", "wrong", "right", "none")
CASES = [{"reject": reject} for reject in REJECTS]
CASES += [
    {"wrong_reward": 0.0},
    {"reject": "right", "wrong_reward": -0.4, "beta": 0.3, "entropy_coef": 0.1},
    {"beta": 0.1, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3},
]
NEUTRAL = [
    Neutral({"reject": "none"}, "nsr", {"positive_weight": 1.0}, "nsr"),
    # On its own credit it is GRPO's loss with the mean over all tokens, DAPO's at equal clips.
    Neutral({}, "dapo", {"clip_ratio_high": 0.2}),
]


def extra(batch: dict, generator: torch.Generator) -> dict:
    """The batch has a group that is all right; here is one that is all wrong."""
    rewards, likely = batch["rewards"].clone(), batch["likely_trained"].clone()
    rewards[2 * SIZE : 3 * SIZE], likely[2 * SIZE : 3 * SIZE] = 0.0, False
    return {"rewards": rewards, "likely_trained": likely}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    tokens, total = tokens_of(batch), 0.0
    for i, t in tokens:
        right = sum(r > 0 for r in group_of(batch["rewards"], i))
        out = {"both": (0, SIZE), "wrong": (0,), "right": (SIZE,), "none": ()}[args.reject]
        advantage = 1.0 if batch["rewards"][i] > 0 else args.wrong_reward
        if right not in out:
            total += surrogate(ratio_of(batch, logprobs, i, t), advantage, args.clip_ratio_low, args.clip_ratio_high)
        total += args.entropy_coef * entropy[i][t] - args.beta * k3(batch, logprobs, i, t)
    return -total / len(tokens)


@pytest.mark.parametrize(("wrong_reward", "loss"), [(-1.0, -0.157091), (0.0, -0.594859)])
def test_golden_vectors(wrong_reward: float, loss: float) -> None:
    """Ratios e^.05, e^.5, e^-.05; e^-.05, e^.3; e^-.6, e^-.3, e^-.01; e^.3, clipped to (0.8, 1.2), over 9 tokens."""
    batch, logprobs, entropy = toy()
    module, args = load("reinforce_rej", wrong_reward=wrong_reward)
    assert module.assign_credit(batch, args, {}) == {"algo/rejected_ratio": 0.0}
    assert [max(row, key=abs) for row in batch["advantages"].tolist()] == [1, 1, wrong_reward, wrong_reward]
    assert grads_of(module, args, batch, logprobs, entropy)[0].item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("reject", REJECTS)
@pytest.mark.parametrize("wrong", [-1.0, 0.0, 0.5])
def test_each_kind_of_group(reject: str, wrong: float) -> None:
    """All right, mixed, all wrong: what is rejected has advantage 0 and stays in the loss."""
    module, args = load("reinforce_rej", reject=reject, wrong_reward=wrong)
    batch, _, _ = random_batch(0, extra=extra)
    metrics = module.assign_credit(batch, args, {})
    groups = batch["advantages"].where(batch["mask"], torch.nan).view(3, -1)
    groups = [set(row[~row.isnan()].tolist()) for row in groups]
    all_right = {0.0} if reject in ("both", "right") else {1.0}
    all_wrong = {0.0} if reject in ("both", "wrong") else {wrong}
    assert groups == [all_right, {1.0, wrong}, all_wrong]
    assert metrics["algo/rejected_ratio"] == pytest.approx({"both": 2, "none": 0}.get(reject, 1) / 3)
    assert torch.equal(batch["loss_mask"], batch["mask"])


def test_the_rejected_stay_in_the_denominator() -> None:
    """Two of three groups are rejected: the third has the weight that its tokens have among all."""
    module, args = load("reinforce_rej")
    batch, logprobs, entropy = random_batch(0, extra=extra)
    module.assign_credit(batch, args, {})
    whole, part = batch["mask"], batch["mask"] & (torch.arange(12) // SIZE == 1)[:, None]
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    _, (alone, _) = grads_of(module, args, batch | {"loss_mask": part}, logprobs, entropy)
    torch.testing.assert_close(gradient, alone * part.sum() / whole.sum(), rtol=0, atol=1e-15)
    assert gradient.any() and not gradient[~part].any()


@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("wrong", [-1.0, 0.0])
def test_what_is_rejected_of_the_expected_gradient(p: float, wrong: float) -> None:
    """Every outcome of a group whose responses are right with probability p, and d log P / dp of each."""
    outcomes = torch.tensor([*itertools.product((0.0, 1.0), repeat=SIZE)], dtype=torch.float64)
    probability = torch.where(outcomes > 0, p, 1 - p).prod(1, keepdim=True)
    score = torch.where(outcomes > 0, 1 / p, -1 / (1 - p))

    def gradient(reject: str) -> float:
        module, args = load("reinforce_rej", reject=reject, wrong_reward=wrong)
        batch = {"rewards": outcomes.flatten(), "mask": torch.ones(outcomes.numel(), 1, dtype=torch.bool)}
        module.assign_credit(batch, args, {})
        return (probability * score * batch["advantages"].view(-1, SIZE)).sum().item()

    whole, all_wrong, all_right = SIZE * (1 - wrong), -wrong * SIZE * (1 - p) ** (SIZE - 1), SIZE * p ** (SIZE - 1)
    assert gradient("none") == pytest.approx(whole)
    assert gradient("wrong") == pytest.approx(whole - all_wrong)
    assert gradient("right") == pytest.approx(whole - all_right)
    assert gradient("both") == pytest.approx(whole - all_wrong - all_right)


def test_half_right_is_grpo_in_another_size() -> None:
    batch, other = toy()[0], toy()[0]
    for name, b in (("reinforce_rej", batch), ("grpo", other)):
        module, args = load(name)
        module.assign_credit(b, args, {})
    torch.testing.assert_close(other["advantages"], batch["advantages"] * (3 / 4) ** 0.5, rtol=1e-5, atol=0)


def test_says_when_it_rejects_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("reinforce_rej")
    load("reinforce_rej", wrong_reward=0.0)
    load("reinforce_rej", reject="wrong")
    assert not capsys.readouterr().err
    for _ in range(2):
        load("reinforce_rej", reject="none")
        load("reinforce_rej", reject="wrong", wrong_reward=0.0)
    assert capsys.readouterr().err.count("--reject") == 2
