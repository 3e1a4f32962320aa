"""VAPO: advantages from a critic, lambda by the length of a response, right answers imitated besides.

The critic itself and its warm-up are in tests/test_scripts.py.
"""

import math

import pytest
import torch

from tests.algorithms.oracle import (
    Neutral,
    grads_of,
    group_of,
    load,
    random_batch,
    ratio_of,
    surrogate,
    tokens_of,
    toy,
)

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "critic_learning_rate": 5e-4,
    "value_warmup": 10,
    "gae_alpha": 1.5,
    "nll_coef": 0.1,
}
METRICS = {"explained_variance", "lambda_mean", "nll"}
SCRIPT_METRICS = {"value_loss"}  # may also come from assign_credit
UNMIXED = (0.0, 0.3, 1.0)
SCRIPT_FLAGS = {"value-warmup": 1}
CASES = [{}, {"gae_alpha": 0.0}, {"gae_alpha": 0.3, "nll_coef": 0.0}, {"gae_alpha": 0.05, "clip_ratio_high": 0.2}]
NEUTRAL = [Neutral({"nll_coef": 0.0}, "dapo")]  # the loss; for the credit see below


def extra(batch: dict, generator: torch.Generator) -> dict:
    """A critic's values, padding included."""
    return {"values": torch.randn(batch["mask"].shape, generator=generator, dtype=torch.float64)}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """Each advantage as the sum of its future TD errors, not by recursion."""
    tokens, total, imitated = tokens_of(batch), 0.0, []
    clip = args.clip_ratio_low, args.clip_ratio_high
    for i, t in tokens:
        length, right = sum(batch["mask"][i]), batch["rewards"][i] > 0
        values = [*batch["values"][i][:length], 0.0]
        outcome = [0.0] * (length - 1) + [1.0 if right else -1.0]
        factor = max(0.0, 1 - 1 / (args.gae_alpha * length)) if args.gae_alpha else 1.0
        errors = [outcome[s] + values[s + 1] - values[s] for s in range(length)]
        advantage = sum(factor ** (s - t) * errors[s] for s in range(t, length))
        total += surrogate(ratio_of(batch, logprobs, i, t), advantage, *clip)
        if right:
            imitated.append(logprobs[i][t])
    return -total / len(tokens) - args.nll_coef * sum(imitated) / max(1, len(imitated))


def credited(rewards: list[float], values: list[list[float]], lengths: list[int], **options) -> tuple[dict, dict]:
    """The batch after credit, and its metrics."""
    module, args = load("vapo", num_generations=len(rewards), **options)
    values = torch.tensor(values, dtype=torch.float64)
    mask = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    batch = {"mask": mask, "rewards": torch.tensor(rewards, dtype=torch.float64), "values": values}
    return batch, module.assign_credit(batch, args, {})


@pytest.mark.parametrize(
    ("gae_alpha", "factor", "expected"),
    [
        (0.0, 1.0, [0.8, 0.6, 0.5, 0.1]),
        (1.5, 0.833333, [0.618981, 0.502778, 0.483333, 0.1]),
        (0.05, 0.0, [0.2, 0.1, 0.4, 0.1]),  # 1 - 1 / 0.2 is below 0, and stops there
    ],
)
def test_golden_advantages(gae_alpha: float, factor: float, expected: list[float]) -> None:
    """A right answer of four tokens; a wrong one has -1 in the place of 1."""
    rows = [[0.2, 0.4, 0.5, 0.9]] * 2
    batch, metrics = credited([1, 0], rows, [4, 4], gae_alpha=gae_alpha)
    torch.testing.assert_close(batch["advantages"][0], torch.tensor(expected).double(), rtol=0, atol=1e-6)
    loss = 2 * torch.tensor([factor**3, factor**2, factor, 1])  # what the last token gets less
    wrong = torch.tensor(expected) - loss
    torch.testing.assert_close(batch["advantages"][1], wrong.double(), rtol=0, atol=1e-5)
    assert metrics["algo/lambda_mean"] == pytest.approx(factor, abs=1e-6)
    assert batch["returns"].tolist() == [1, -1]


@pytest.mark.parametrize(("length", "factor"), [(10, 0.0), (20, 0.0), (100, 0.8), (400, 0.95), (4000, 0.995)])
def test_lambda_by_length(length: int, factor: float) -> None:
    """1 - 1 / (alpha n) with the paper's alpha; 0 up to 20 tokens."""
    batch, metrics = credited([1, 0], torch.zeros(2, length).tolist(), [length] * 2, gae_alpha=0.05)
    assert metrics["algo/lambda_mean"] == pytest.approx(factor, abs=1e-12)
    assert batch["advantages"][0, -2].item() == pytest.approx(factor)
    assert batch["advantages"][0, 0].item() == pytest.approx(factor ** (length - 1))


@pytest.mark.parametrize("gae_alpha", [0.0, 0.05, 1.5])
def test_one_token_rows(gae_alpha: float) -> None:
    """One step: the return less its value, whatever lambda is."""
    batch, _ = credited([1, 0, 1], [[0.3, 9.0], [0.1, 9.0], [-0.2, 9.0]], [1, 1, 1], gae_alpha=gae_alpha)
    torch.testing.assert_close(
        batch["advantages"][:, 0], torch.tensor([0.7, -1.1, 1.2], dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert not batch["advantages"][:, 1].any()


def test_lambda_one_is_return_less_value() -> None:
    module, args = load("vapo", gae_alpha=0.0)
    batch, _, _ = random_batch(0, extra=extra)
    module.assign_credit(batch, args, {})
    expected = (batch["returns"][:, None] - batch["values"]) * batch["mask"]
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=1e-12)
    assert batch["returns"].shape == batch["rewards"].shape
    assert torch.equal(batch["returns"], 2 * batch["rewards"] - 1)  # the critic's target on every token
    assert torch.equal(batch["loss_mask"], batch["mask"])


def test_values_of_the_group_mean_give_twice_its_centring() -> None:
    """Lambda 1 and the mean outcome of the group as value: twice the reward less the group's mean; nothing whitened."""
    module, args = load("vapo", gae_alpha=0.0, nll_coef=0.0)
    batch, _, _ = random_batch(1)
    rewards = batch["rewards"].tolist()
    means = [sum(group_of(rewards, i)) / 4 for i in range(12)]
    batch["values"] = (2 * torch.tensor(means, dtype=torch.float64) - 1)[:, None].expand_as(batch["mask"]).clone()
    module.assign_credit(batch, args, {})
    expected = 2 * (batch["rewards"] - torch.tensor(means).double())[:, None] * batch["mask"]
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gae_alpha", [0.0, 1.5])
def test_values_on_padding_are_ignored(gae_alpha: float) -> None:
    """The value after the end is 0, whatever the critic says there."""
    module, args = load("vapo", gae_alpha=gae_alpha)
    batch, _, _ = random_batch(2, extra=extra)
    other = dict(batch)
    other["values"] = batch["values"].masked_fill(~batch["mask"], 1e6)
    metrics, others = (module.assign_credit(b, args, {}) for b in (batch, other))
    assert not batch["mask"].all() and torch.equal(batch["advantages"], other["advantages"])
    assert metrics == pytest.approx(others, nan_ok=True)


def test_unmixed_groups_are_trained() -> None:
    """What a critic expects differs from token to token, also where all are wrong."""
    batch, _ = credited([0] * 4, [[0.1, -0.5]] * 4, [2] * 4)
    assert (batch["advantages"] < 0).all()


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_golden_loss() -> None:
    """-log p of five right tokens sums to 3.05; the rest is DAPO's loss."""
    batch, logprobs, entropy = toy()
    module, args = load("vapo", gae_alpha=0.0)
    batch["values"] = torch.zeros_like(batch["old_logprobs"])
    module.assign_credit(batch, args, {})
    assert batch["advantages"].tolist() == [[1, 1, 1], [1, 1, 0], [-1, -1, -1], [-1, 0, 0]]
    loss, stats = module.policy_loss(logprobs, entropy, batch, args)
    assert stats["algo/nll"] == pytest.approx(0.61)
    clipped = [1.051271, 1.28, 0.951229, 0.951229, 1.28, -0.8, -0.8, -0.99005, -1.349859]
    assert loss.item() == pytest.approx(-sum(clipped) / 9 + 0.061, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    ratio = torch.tensor([[1.051271, 0, 0.951229], [0.951229, 0, 0], [0, 0, 0.99005], [1.349859, 0, 0]])
    right = batch["mask"] & (batch["rewards"] > 0)[:, None]
    expected = -batch["advantages"] * ratio / 9 - 0.1 * right / 5
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_nothing_right_is_nothing_to_imitate() -> None:
    """To the bit the loss without that term; a mean of nothing is no number."""
    batch, logprobs, entropy = random_batch(3, extra=extra)
    batch["rewards"] = torch.zeros_like(batch["rewards"])
    module, args = load("vapo")
    module.assign_credit(batch, args, {})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    expected, expected_grads = grads_of(*load("vapo", nll_coef=0.0), batch, logprobs, entropy)
    assert torch.equal(loss, expected) and torch.equal(grads[0], expected_grads[0]) and grads[0].any()
    assert math.isnan(module.policy_loss(logprobs, entropy, batch, args)[1]["algo/nll"])


def test_the_loss_knows_no_critic() -> None:
    """Values are spent once the advantages are there."""
    module, args = load("vapo")
    batch, logprobs, entropy = random_batch(3, extra=extra)
    module.assign_credit(batch, args, {})
    expected = module.policy_loss(logprobs, entropy, batch, args)[0]
    del batch["values"]
    assert torch.equal(module.policy_loss(logprobs, entropy, batch, args)[0], expected)


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.0)])
def test_explained_variance(share: float, expected: float) -> None:
    """1 - var(returns - values) / var(returns): 1 for a critic that knows, 0 for one that says the same of all."""
    outcomes = [1, -1, -1, 1]
    values = [[share * outcome + 0.3] * 3 for outcome in outcomes]
    _, metrics = credited([1, 0, 0, 1], values, [3] * 4)
    assert metrics["algo/explained_variance"] == pytest.approx(expected, abs=1e-12)


def test_explained_variance_of_equal_returns_is_no_number() -> None:
    _, metrics = credited([1] * 4, [[0.1, 0.2]] * 4, [2] * 4)
    assert math.isnan(metrics["algo/explained_variance"])
