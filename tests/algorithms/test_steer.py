"""STEER: tokens that move the entropy most are damped."""

import math

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    load,
    plain,
    random_batch,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "max_resample": 0,
    "damping": 0.2,
    "omega": "released",
    "shuffle_weights": False,
}
METRICS = {"weight_mean", "weight_min", "omega_max"}
SCRIPT_FLAGS = {"omega": "exact"}
CASES = [{}, {"damping": 0.5, "clip_ratio_high": 0.2}, {"omega": "exact"}, {"omega": "exact", "damping": 0.7}]
# DAPO without its charge for length.
NEUTRAL = [
    Neutral({"damping": 0.0}, "dapo", {}, "grpo"),
    Neutral({"damping": 0.0, "omega": "exact"}, "dapo", {}, "grpo"),
    Neutral({"damping": 0.0, "shuffle_weights": True}, "dapo", {}, "grpo"),
]


def extra(batch: dict, generator: torch.Generator) -> dict:
    """S2 of each state: at least 0, and small."""
    shape = batch["mask"].shape
    return {"state_mean": 0.2 * torch.rand(shape, generator=generator, dtype=torch.float64)}


def omegas(batch: dict, advantages: list[float], args) -> dict[tuple[int, int], float]:
    """|Omega| of each token, from detached log-probabilities and the entropy of the old policy."""
    out = {}
    for i, t in tokens_of(batch):
        log, old, entropy = batch["sg_logprobs"][i][t], batch["old_logprobs"][i][t], batch["entropy"][i][t]
        p = math.exp(log)
        if args.omega == "released":
            value = advantages[i] / math.exp(old) * p * (1 - p) * (log + entropy)
        else:
            ratio = ratio_of(batch, batch["sg_logprobs"], i, t)
            value = ratio * advantages[i] * (p * (log + entropy) - batch["state_mean"][i][t])
        out[i, t] = abs(value) if math.isfinite(value) else 0.0
    return out


def weights(omega: dict[tuple[int, int], float], damping: float) -> dict[tuple[int, int], float]:
    k = -math.log(1 - damping) / max(0.02, *omega.values())
    return {token: max(1 - damping, min(1.0, math.exp(-k * value))) for token, value in omega.items()}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = standardised(batch["rewards"])
    weight = weights(omegas(batch, advantages, args), args.damping)
    clip, total = (args.clip_ratio_low, args.clip_ratio_high), 0.0
    for i, t in tokens_of(batch):
        total += weight[i, t] * surrogate(ratio_of(batch, logprobs, i, t), advantages[i], *clip)
    return -total / len(weight)


def matrix(values: dict[tuple[int, int], float], like: Tensor) -> Tensor:
    out = torch.zeros_like(like)
    for token, value in values.items():
        out[token] = value
    return out.detach()


def weights_of(module, args, batch: dict, entropy: Tensor) -> Tensor:
    """The weights that a loss uses at old_logprobs, where the gradient is -A w / N; NaN on padding."""
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    return -gradient * batch["mask"].sum() / batch["advantages"].where(batch["mask"], math.nan)


def test_golden_vectors() -> None:
    batch, logprobs, entropy = toy()
    module, args = load("steer", clip_ratio_high=0.2)
    module.assign_credit(batch, args, {})
    loss, stats = module.policy_loss(logprobs, entropy, batch, args)
    assert loss.item() == pytest.approx(-0.139287, abs=1e-6)
    w = [[0.998963, 0.886123, 0.991894], [0.990119, 0.955218, 0], [0.8, 0.977716, 0.979181], [0.967516, 0, 0]]
    w = torch.tensor(w, dtype=torch.float64)
    assert stats["algo/weight_mean"] == pytest.approx(w.sum().item() / 9, abs=1e-6)
    assert stats["algo/weight_min"] == pytest.approx(0.8) and stats["algo/omega_max"] == pytest.approx(1.433122)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    ratio = torch.tensor([[1.051271, 0, 0.951229], [0.951229, 0, 0], [0, 0, 0.99005], [1.349859, 0, 0]])  # 0: clipped
    torch.testing.assert_close(gradient, -batch["advantages"] * w * ratio / 9, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", CASES)
def test_metrics_are_of_the_weights(options: dict) -> None:
    module, args = load("steer", **options)
    batch, logprobs, entropy = random_batch(3, extra=extra)
    omega = omegas(plain(batch, logprobs, entropy), standardised(batch["rewards"].tolist()), args)
    weight = weights(omega, args.damping)
    module.assign_credit(batch, args, {})
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/weight_mean"] == pytest.approx(sum(weight.values()) / len(weight))
    assert stats["algo/weight_min"] == pytest.approx(min(weight.values()))
    assert stats["algo/omega_max"] == pytest.approx(max(omega.values()))


@pytest.mark.parametrize("omega", ["released", "exact"])
def test_small_omegas_damp_little(omega: str) -> None:
    """The largest is counted as 0.02 at least: where no token moves the entropy, none is held back."""
    module, args = load("steer", omega=omega)
    batch, logprobs, entropy = random_batch(0, extra=extra)
    module.assign_credit(batch, args, {})
    batch["advantages"] *= 1e-3
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert 0 < stats["algo/omega_max"] < 0.02
    assert stats["algo/weight_min"] == pytest.approx(math.exp(math.log(0.8) / 0.02 * stats["algo/omega_max"]))


@pytest.mark.parametrize(("omega", "key"), [("released", "entropy"), ("exact", "entropy"), ("exact", "state_mean")])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_omega_that_is_not_finite_is_zero(omega: str, key: str, value: float) -> None:
    """Its token keeps weight 1, and does not set the scale of the others."""
    module, args = load("steer", omega=omega)
    batch, _, entropy = credited_batch(extra=extra)
    batch[key][1, 0] = value
    got = weights_of(module, args, batch, entropy)
    lists = plain(batch, batch["old_logprobs"], entropy)
    advantages = [row[0] for row in batch["advantages"].tolist()]
    expected = weights(omegas(lists, advantages, args), args.damping)
    assert expected[1, 0] == 1 and min(expected.values()) == pytest.approx(0.8)
    torch.testing.assert_close(got[batch["mask"]], matrix(expected, got)[batch["mask"]], rtol=0, atol=1e-12)


def test_a_token_that_was_impossible() -> None:
    """exp(-800) is 0: divided by it, A is infinite, and the token counts as harmless."""
    module, args = load("steer")
    batch, logprobs, entropy = random_batch(1, extra=extra)
    module.assign_credit(batch, args, {})
    batch["old_logprobs"][5, 0] = -800
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert loss.isfinite() and all(g.isfinite().all() for g in grads)
    assert math.isfinite(stats["algo/omega_max"]) and stats["algo/weight_min"] >= 0.8 - 1e-12


def test_entropy_of_the_old_policy_is_what_counts() -> None:
    """The argument of the loss, today's entropy, plays no part; padding neither."""
    module, args = load("steer")
    batch, logprobs, entropy = random_batch(2, extra=extra)
    module.assign_credit(batch, args, {})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    batch["entropy"][~batch["mask"]] = 1e6
    other, other_grads = grads_of(module, args, batch, logprobs, (3 * entropy).detach().requires_grad_())
    assert torch.equal(loss, other) and torch.equal(grads[0], other_grads[0])


def test_released_needs_no_further_statistic() -> None:
    module, args = load("steer")
    batch, logprobs, entropy = random_batch(2)
    module.assign_credit(batch, args, {})
    assert module.policy_loss(logprobs, entropy, batch, args)[0].isfinite()


def test_shuffled_weights_are_the_same_ones_elsewhere() -> None:
    """Over all valid tokens of the minibatch, anew in every call, by torch's generator."""
    batch, _, entropy = credited_batch(extra=extra)
    mask = batch["mask"]
    straight = weights_of(*load("steer"), batch, entropy)[mask]
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(weights_of(*load("steer", shuffle_weights=True), batch, entropy)[mask])
        torch.testing.assert_close(drawn[-1].sort().values, straight.sort().values, rtol=0, atol=1e-12)
        assert ((drawn[-1] - straight).abs() > 1e-6).sum() > 0.5 * mask.sum()
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_no_token_has_no_metric() -> None:
    module, args = load("steer")
    batch, logprobs, entropy = random_batch(2, extra=extra)
    module.assign_credit(batch, args, {})
    batch["loss_mask"] = torch.zeros_like(batch["mask"])
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert all(math.isnan(stats[f"algo/{key}"]) for key in METRICS)


# --- S2, the mean of p (log p + H) over the vocabulary ----------------------------------------------------------------


def states(count: int = 20, symbols: int = 7) -> Tensor:
    """Log-probabilities of random states (C, V), from flat to nearly certain."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, symbols, generator=generator, dtype=torch.float64)
    return (logits * torch.linspace(0.1, 12, count, dtype=torch.float64)[:, None]).log_softmax(1)


def state_mean(logprobs: Tensor) -> Tensor:
    return load("steer")[0].state_mean(logprobs, torch.zeros(len(logprobs), 1, dtype=torch.int64))


def test_state_mean_equals_its_sum() -> None:
    logprobs = states()
    expected = []
    for row in logprobs.tolist():
        entropy = -sum(math.exp(x) * x for x in row)
        expected.append(sum(math.exp(x) ** 2 * (x + entropy) for x in row))
    got = state_mean(logprobs)
    assert got.shape == (20,) and got.dtype == torch.float64 and (got > -1e-12).all() and got.max() > 0.01
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_state_mean_golden() -> None:
    """p = (.6, .3, .1), and the first-order change of entropy that it centres."""
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    mean = state_mean(p.log()[None])
    assert mean.item() == pytest.approx(0.097774, abs=1e-6)
    entropy = -(p * p.log()).sum()
    change = -(p * (p.log() + entropy) - mean)
    torch.testing.assert_close(change, torch.tensor([-0.13450, 0.18958, 0.23824]).double(), rtol=0, atol=1e-5)


def test_state_mean_is_the_centre_of_what_a_step_does_to_entropy() -> None:
    """A step along the gradient of log p_v changes entropy by S2 - p_v (log p_v + H), by finite differences."""
    logprobs, step = states(), 1e-5
    mean = state_mean(logprobs)
    entropy = -(logprobs.exp() * logprobs).sum(1)

    def entropy_after(symbol: int, step: float) -> Tensor:
        direction = torch.eye(7, dtype=torch.float64)[symbol] - logprobs.exp()
        moved = (logprobs + step * direction).log_softmax(1)
        return -(moved.exp() * moved).sum(1)

    for v in range(7):
        measured = (entropy_after(v, step) - entropy_after(v, -step)) / (2 * step)
        predicted = mean - logprobs[:, v].exp() * (logprobs[:, v] + entropy)
        torch.testing.assert_close(predicted, measured, rtol=0, atol=1e-8)


def test_state_mean_at_its_ends() -> None:
    """0 where all symbols are alike and where one is certain, also if the others underflow; the target is no matter."""
    flat = torch.full((1, 24), -math.log(24), dtype=torch.float64)
    certain = torch.tensor([[0.0, -800.0, -800.0]], dtype=torch.float64)
    assert state_mean(flat).abs().item() < 1e-12 and state_mean(certain).item() == 0
    module, _ = load("steer")
    logprobs = states()
    last = torch.full((20, 1), 6)
    assert torch.equal(module.state_mean(logprobs, last), state_mean(logprobs))
    assert module.state_mean(logprobs.float(), last).dtype == torch.float32
