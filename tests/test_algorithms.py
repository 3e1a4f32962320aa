"""Every algorithm against its own equations, in slow Python floats, and against its parent where it does nothing new.

grpo has a file of its own, test_grpo.py; what holds for all is tested for all here.
"""

import importlib
import math

import pytest
import torch
from torch import Tensor

from common.run import warn_once
from tests import sync
from tests.test_grpo import random_batch, slow_grpo

SIZE = 4  # responses per group in `random_batch`
# Settings under which every part of an algorithm acts on a batch of some forty tokens.
CASES = {
    "grpo": [{}, {"beta": 0.1, "entropy_coef": 0.1}],
    "dapo": [{}, {"overlong_buffer_length": 4, "overlong_penalty_factor": 0.7, "max_resample": 0}],
    # A quota as large as the candidates: the draw is then no matter of chance.
    "clip_cov": [{"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1}, {"clip_cov_ratio": 1.0, "clip_ratio_high": 0.2}],
    "kl_cov": [{"kl_cov_ratio": 0.2}, {"kl_cov_ratio": 0.1, "kl_cov_coef": 0.3}],
    "forking_tokens": [{}, {"top_entropy_ratio": 0.5, "normalize_by": "all"}, {"overlong_buffer_length": 3}],
    "nsr": [{}, {"positive_weight": 0.0}, {"positive_weight": 1.0, "negative_weight": 0.0}, {"entropy_coef": 0.1}],
    "entropic": [{"target_entropy": 0.5}, {"target_entropy": 1.5, "high_prob_threshold": 0.3}, {"kp": 0.1}],
    "opo": [{}],
}
ALL_CASES = [(name, options) for name, cases in CASES.items() for options in cases]


def load(name: str, **options) -> tuple:
    """The module of an algorithm and its Args for `random_batch`."""
    module = importlib.import_module(f"algos.{name}")
    return module, module.Args(num_generations=SIZE, max_response_length=6, **options)


def grads_of(module, args, batch: dict, logprobs: Tensor, entropy: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    loss, _ = module.policy_loss(logprobs, entropy, batch, args)
    return loss, torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)


# --- I5: the equations, token by token --------------------------------------------------------------------------


def standardised(rewards: list[float]) -> list[float]:
    """Each reward less its group's mean, over its group's standard deviation."""
    out = []
    for i, reward in enumerate(rewards):
        group = rewards[i // SIZE * SIZE : (i // SIZE + 1) * SIZE]
        average = sum(group) / SIZE
        std = math.sqrt(sum((r - average) ** 2 for r in group) / (SIZE - 1))
        out.append((reward - average) / (std + 1e-6))
    return out


def tokens_of(batch: dict) -> list[tuple[int, int]]:
    return [(i, t) for i, length in enumerate(batch["mask"].sum(1).tolist()) for t in range(length)]


def ratio_of(batch: dict, logprobs: list, i: int, t: int) -> float:
    return math.exp(logprobs[i][t] - batch["old_logprobs"][i, t].item())


def surrogate(ratio: float, advantage: float, low: float, high: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def charged(batch: dict, args) -> list[float]:
    """DAPO, Eq. 7 and 13: +-1, less what the last tokens before the limit cost."""
    rewards = []
    for reward, length in zip(batch["rewards"].tolist(), batch["mask"].sum(1).tolist(), strict=True):
        free = args.max_response_length - args.overlong_buffer_length
        charge = 0.0 if length <= free else (free - length) / args.overlong_buffer_length
        rewards.append((1 if reward > 0 else -1) + args.overlong_penalty_factor * charge)
    return rewards


def credited(batch: dict, args) -> list[float]:
    """DAPO's advantages: with dynamic sampling on, a group that is all right or all wrong has none (Eq. 11)."""
    advantages, rewards = standardised(charged(batch, args)), batch["rewards"].tolist()
    for i in range(len(rewards)):
        if args.max_resample and len(set(rewards[i // SIZE * SIZE : (i // SIZE + 1) * SIZE])) == 1:
            advantages[i] = 0.0
    return advantages


def slow_dapo(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages = credited(batch, args)
    terms = [
        surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        for i, t in tokens_of(batch)
    ]
    return -sum(terms) / len(terms)


def covariances(batch: dict, logprobs: list, advantages: list[float]) -> dict[tuple[int, int], float]:
    """Eq. 10 of the entropy mechanism paper."""
    tokens = tokens_of(batch)
    mean_logprob = sum(logprobs[i][t] for i, t in tokens) / len(tokens)
    mean_advantage = sum(advantages[i] for i, _ in tokens) / len(tokens)
    return {(i, t): (logprobs[i][t] - mean_logprob) * (advantages[i] - mean_advantage) for i, t in tokens}


def slow_clip_cov(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total = standardised(batch["rewards"].tolist()), 0.0
    cov = covariances(batch, logprobs, advantages)
    for (i, t), c in cov.items():
        ratio = ratio_of(batch, logprobs, i, t)
        term = surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        clipped = term < ratio * advantages[i]
        if clipped or not args.clip_cov_lb < c < args.clip_cov_ub:
            total += term
    return -total / len(cov)


def slow_kl_cov(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, total = standardised(batch["rewards"].tolist()), 0.0
    cov = covariances(batch, logprobs, advantages)
    top = sorted(cov, key=cov.get, reverse=True)[: math.floor(args.kl_cov_ratio * len(cov))]
    for i, t in cov:
        total += ratio_of(batch, logprobs, i, t) * advantages[i]
        if (i, t) in top:
            total -= args.kl_cov_coef * abs(logprobs[i][t] - batch["old_logprobs"][i, t].item())
    return -total / len(cov)


def slow_forking_tokens(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens = credited(batch, args), tokens_of(batch)
    count = math.ceil(args.top_entropy_ratio * len(tokens))
    forks = sorted(tokens, key=lambda token: entropy[token[0]][token[1]], reverse=True)[:count]
    terms = [
        surrogate(ratio_of(batch, logprobs, i, t), advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        for i, t in forks
    ]
    return -sum(terms) / (len(tokens) if args.normalize_by == "all" else len(forks))


def slow_nsr(batch: dict, logprobs: list, entropy: list, args) -> float:
    total, count = 0.0, 0
    for i, t in tokens_of(batch):
        advantage = args.positive_weight if batch["rewards"][i] > 0 else -args.negative_weight
        if advantage != 0:
            ratio = ratio_of(batch, logprobs, i, t)
            total += surrogate(ratio, advantage, args.clip_ratio_low, args.clip_ratio_high)
            total += args.entropy_coef * entropy[i][t]
            count += 1
    return -total / count


def slow_entropic(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens = standardised(batch["rewards"].tolist()), tokens_of(batch)
    error = sum(batch["entropy"][i, t].item() for i, t in tokens) / len(tokens) - args.target_entropy
    alpha = min(max(args.kp * error, -1), 1)
    total, lever, likely = 0.0, 0.0, 0
    for i, t in tokens:
        ratio = ratio_of(batch, logprobs, i, t)
        total += surrogate(ratio, advantages[i], args.clip_ratio_low, args.clip_ratio_high)
        if math.exp(logprobs[i][t]) > args.high_prob_threshold:
            lever += ratio * abs(advantages[i])
            likely += 1
    return -total / len(tokens) - (alpha * lever / likely if likely else 0.0)


def slow_opo(batch: dict, logprobs: list, entropy: list, args) -> float:
    rewards, lengths = batch["rewards"].tolist(), batch["mask"].sum(1).tolist()
    total = 0.0
    for i, t in tokens_of(batch):
        group = range(i // SIZE * SIZE, (i // SIZE + 1) * SIZE)
        baseline = sum(lengths[j] * rewards[j] for j in group) / sum(lengths[j] for j in group)
        total += (rewards[i] - baseline) * logprobs[i][t]
    return -total / sum(lengths)


SLOW = {name: globals()[f"slow_{name}"] for name in CASES if name != "grpo"} | {"grpo": slow_grpo}


def test_every_algorithm_is_tested() -> None:
    assert set(sync.algorithms()) == set(CASES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options"), ALL_CASES)
def test_equals_the_equation(name: str, options: dict, seed: int) -> None:
    """Loss by the slow loop, gradient by central differences of that loop, nothing on padding."""
    module, args = load(name, **options)
    batch, logprobs, entropy = random_batch(seed)
    with torch.no_grad():  # a share of likely tokens, as in a trained model
        logprobs[::3] *= 0.02
    batch["entropy"] = entropy.detach().clone()
    module.assign_credit(batch, args, {})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    values, step = (logprobs.tolist(), entropy.tolist()), 1e-6
    assert loss.item() == pytest.approx(SLOW[name](batch, *values, args), abs=1e-12)
    for which in (0, 1):
        for i, t in batch["mask"].nonzero().tolist():
            centre, sides = values[which][i][t], []
            for shift in (step, -step):
                values[which][i][t] = centre + shift
                sides.append(SLOW[name](batch, *values, args))
            values[which][i][t] = centre
            assert grads[which][i, t].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8)
        assert not grads[which][~batch["mask"]].any()
    assert any(g.any() for g in grads)


# --- I3: padding and the order of prompts -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ALL_CASES)
def test_padding_and_prompt_order_do_not_matter(name: str, options: dict) -> None:
    module, args = load(name, **options)
    batch, logprobs, entropy = random_batch(3)
    batch["entropy"] = entropy.detach().clone()

    def gradient(rows: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        pad = torch.nn.functional.pad
        moved = {k: pad(v[rows], (0, extra)) if v.ndim == 2 else v[rows] for k, v in batch.items()}
        credit = module.assign_credit(moved, args, {})
        inputs = pad(logprobs[rows].detach(), (0, extra)).requires_grad_()
        loss, stats = module.policy_loss(inputs, pad(entropy[rows].detach(), (0, extra)), moved, args)
        return torch.autograd.grad(loss, inputs)[0], torch.tensor([loss.item(), *stats.values(), *credit.values()])

    same, turned = torch.arange(12), torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    plain, numbers = gradient(same, 0)
    padded, padded_numbers = gradient(same, 5)
    reordered, reordered_numbers = gradient(turned, 0)
    assert torch.allclose(padded[:, :6], plain, atol=1e-15) and not padded[:, 6:].any()
    assert torch.allclose(reordered, plain[turned], atol=1e-15)
    assert torch.allclose(padded_numbers, numbers, equal_nan=True)
    assert torch.allclose(reordered_numbers, numbers, equal_nan=True)


@pytest.mark.parametrize(("name", "options"), ALL_CASES)
def test_far_ratios_stay_finite(name: str, options: dict) -> None:
    module, args = load(name, **options)
    batch, logprobs, entropy = random_batch(4)
    batch["entropy"] = entropy.detach().clone()
    module.assign_credit(batch, args, {})
    for shift in (-800, 800):
        moved = batch | {"old_logprobs": batch["old_logprobs"] + shift}
        loss, grads = grads_of(module, args, moved, logprobs, entropy)
        assert loss.isfinite() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("name", [name for name in CASES if name != "nsr"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    """The mean of eight times 0.3 is not 0.3 in float32. NSR is the exception, by definition."""
    module, args = load(name)
    args.num_generations = 8
    batch = {"mask": torch.ones(8, 3, dtype=torch.bool), "rewards": torch.full((8,), value)}
    batch["entropy"] = torch.ones(8, 3)
    module.assign_credit(batch, args, {})
    assert not batch["advantages"].any()


@pytest.mark.parametrize("name", CASES)
def test_at_most_five_metrics_of_its_own(name: str) -> None:
    """Names that all files share, and `algo/*`."""
    module, args = load(name)
    batch, logprobs, entropy = random_batch(0)
    batch["entropy"] = entropy.detach()
    stats = module.assign_credit(batch, args, {}) | module.policy_loss(logprobs, entropy, batch, args)[1]
    own = {key for key in stats if key.startswith("algo/")}
    assert len(own) <= 5 and stats.keys() - own <= {"policy/clip_high_ratio", "policy/clip_low_ratio"}


# --- I6: what does nothing is the parent, exactly ---------------------------------------------------------------


def assert_same_loss(ours: tuple, other: tuple, batch: dict, logprobs: Tensor, entropy: Tensor) -> None:
    """Bit for bit, loss and gradient."""
    (loss, grads), (expected, expected_grads) = (grads_of(*m, batch, logprobs, entropy) for m in (ours, other))
    assert torch.equal(loss, expected) and all(map(torch.equal, grads, expected_grads))


NEUTRAL = [
    ("clip_cov", {"clip_cov_ratio": 0.0}, "dapo", {"clip_ratio_low": 1.0, "clip_ratio_high": 1.0}),
    (
        "clip_cov",
        {"clip_cov_ratio": 1.0, "clip_cov_lb": 50.0, "clip_cov_ub": 60.0},
        "dapo",
        {"clip_ratio_low": 1.0, "clip_ratio_high": 1.0},
    ),
    ("kl_cov", {"kl_cov_ratio": 0.0}, "dapo", {"clip_ratio_low": 1.0, "clip_ratio_high": 1e9}),
    ("kl_cov", {"kl_cov_coef": 0.0}, "dapo", {"clip_ratio_low": 1.0, "clip_ratio_high": 1e9}),
    ("forking_tokens", {"top_entropy_ratio": 1.0}, "dapo", {}),
    ("entropic", {"kp": 0.0, "ki": 0.0}, "dapo", {"clip_ratio_high": 0.2}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options", "base", "base_options"), NEUTRAL)
def test_neutral_setting_is_the_parent(name: str, options: dict, base: str, base_options: dict, seed: int) -> None:
    """entropic's parent averages over responses; with its token mean it is DAPO's loss at equal clips."""
    batch, logprobs, entropy = random_batch(seed)
    batch["entropy"] = entropy.detach()
    ours, other = load(name, **options), load(base, overlong_buffer_length=0, **base_options)
    ours[0].assign_credit(batch, ours[1], {})
    assert_same_loss(ours, other, batch, logprobs, entropy)


def test_dapo_without_its_parts_is_grpo() -> None:
    """Same clips, no charge, equal lengths: all that is left is rewards of +-1, to which 1e-6 is half as much."""
    batch, logprobs, entropy = random_batch(0)
    batch["mask"] = torch.ones_like(batch["mask"])
    ours, other = load("dapo", clip_ratio_high=0.2, overlong_buffer_length=0), load("grpo")
    parent = dict(batch)
    other[0].assign_credit(parent, other[1], {})
    ours[0].assign_credit(batch, ours[1], {})
    torch.testing.assert_close(batch["advantages"], parent["advantages"], rtol=2e-6, atol=0)
    loss, grads = grads_of(*ours, parent, logprobs, entropy)
    expected, expected_grads = grads_of(*other, parent, logprobs, entropy)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grads[0], expected_grads[0], rtol=1e-12, atol=1e-15)


# --- DAPO -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "charge"), [(1, 0.0), (12, 0.0), (16, 0.0), (17, 0.25), (18, 0.5), (20, 1.0)])
def test_charge_for_length(length: int, charge: float) -> None:
    """Eq. 13 with L = 20 and c = 4, in reward units of +-1."""
    module, args = load("dapo", overlong_buffer_length=4, max_resample=0)
    args.max_response_length = 20
    lengths = torch.tensor([length, 1, 1, 1])
    batch = {"mask": torch.arange(20) < lengths[:, None], "rewards": torch.ones(4)}
    metrics = module.assign_credit(batch, args, {})
    assert metrics["algo/overlong_penalty"] == pytest.approx(charge / 4)
    if charge:
        assert batch["advantages"][0, 0] == pytest.approx(-1.5, rel=1e-4)  # one below three: -(3/4) / (1/2)
    else:
        assert not batch["advantages"].any()


# --- Clip-Cov and KL-Cov ----------------------------------------------------------------------------------------


def covariance_batch(seed: int = 0) -> tuple[dict, Tensor, Tensor]:
    batch, logprobs, entropy = random_batch(seed, groups=8, length=12)
    module, args = load("clip_cov")
    module.assign_credit(batch, args, {})
    # No group without spread, as after dynamic sampling: a token that is left out then shows by its gradient.
    batch["advantages"][(batch["advantages"] == 0) & batch["mask"]] = 0.3
    return batch, logprobs, entropy


def covariance(batch: dict, logprobs: Tensor) -> Tensor:
    mask, values, advantages = batch["mask"], logprobs.detach(), batch["advantages"]
    return (values - values[mask].mean()) * (advantages - advantages[mask].mean())


@pytest.mark.parametrize("ratio", [0.02, 0.1])
def test_clip_cov_leaves_out_a_random_quota_of_its_candidates(ratio: float) -> None:
    module, args = load("clip_cov", clip_cov_ratio=ratio, clip_cov_lb=0.2, clip_cov_ub=2.0)
    batch, logprobs, entropy = covariance_batch()
    cov, mask = covariance(batch, logprobs), batch["mask"]
    ratios = (logprobs - batch["old_logprobs"]).detach().exp()
    candidates = mask & (cov > 0.2) & (cov < 2.0) & ~((batch["advantages"] > 0) & (ratios > 2))
    trained = mask & (batch["advantages"] != 0) & ~((batch["advantages"] > 0) & (ratios > 2))
    quota = math.floor(ratio * mask.sum().item())
    assert 0 < quota < candidates.sum()
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        left_out = trained & (grads_of(module, args, batch, logprobs, entropy)[1][0] == 0)
        assert left_out.sum() == quota and not (left_out & ~candidates).any()
        drawn.append(left_out)
    assert len({tuple(x.flatten().tolist()) for x in drawn}) > 10  # not always the same ones
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    assert stats["algo/selected_ratio"] == quota / mask.sum()
    assert stats["algo/candidate_ratio"] == candidates.sum() / mask.sum()


def test_clip_cov_keeps_the_denominator() -> None:
    """What is left out stays in the mean: the others' gradients are those without selection."""
    module, args = load("clip_cov", clip_cov_ratio=1.0, clip_cov_lb=0.2, clip_cov_ub=2.0)
    batch, logprobs, entropy = covariance_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    args.clip_cov_ratio = 0.0
    _, (everything, _) = grads_of(module, args, batch, logprobs, entropy)
    chosen = (gradient == 0) & (everything != 0)
    assert chosen.any() and torch.equal(gradient[~chosen], everything[~chosen])


def test_kl_cov_pushes_the_top_tokens_alone() -> None:
    """coef sign(l - l_old) / N on the floor(ratio N) tokens of largest covariance, nothing on the others."""
    module, args = load("kl_cov", kl_cov_ratio=0.05, kl_cov_coef=0.7)
    batch, logprobs, entropy = covariance_batch()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    args.kl_cov_ratio = 0.0
    _, (plain, _) = grads_of(module, args, batch, logprobs, entropy)
    n = batch["mask"].sum()
    cov = covariance(batch, logprobs).masked_fill(~batch["mask"], -math.inf)
    top = cov >= cov.flatten().topk(math.floor(0.05 * n)).values[-1]
    push = 0.7 * (logprobs - batch["old_logprobs"]).detach().sign() / n
    torch.testing.assert_close(gradient - plain, push * top, rtol=0, atol=1e-15)


def test_kl_cov_is_inert_on_the_first_update() -> None:
    """Where logprobs are old_logprobs, bit for bit the loss without penalty."""
    batch, _, entropy = covariance_batch()
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    with_penalty, without = load("kl_cov", kl_cov_ratio=0.5, kl_cov_coef=5.0), load("kl_cov", kl_cov_ratio=0.0)
    assert_same_loss(with_penalty, without, batch, logprobs, entropy)


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_selection_metrics(name: str) -> None:
    module, args = load(name, **{f"{name}_ratio": 0.05})
    batch, logprobs, entropy = covariance_batch()
    torch.manual_seed(0)
    stats = module.policy_loss(logprobs, entropy, batch, args)[1]
    cov = covariance(batch, logprobs)[batch["mask"]]
    for key, share in (("algo/cov_p50", 0.5), ("algo/cov_p98", 0.98)):
        assert stats[key] == pytest.approx(cov.quantile(share, interpolation="lower").item())
    assert stats["algo/selected_ratio"] <= 0.05
    if name == "kl_cov":
        order = cov.argsort(descending=True)[: math.floor(0.05 * len(cov))]
        negative = (batch["advantages"][batch["mask"]][order] < 0).double().mean().item()
        assert stats["algo/selected_negative_ratio"] == pytest.approx(negative)


@pytest.mark.parametrize("name", ["clip_cov", "kl_cov"])
def test_quota_that_rounds_to_nothing_is_said_once(name: str, capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    batch, logprobs, entropy = covariance_batch()
    for options in ({f"{name}_ratio": 1e-4}, {f"{name}_ratio": 0.0}):
        module, args = load(name, **options)
        for _ in range(2):
            _, stats = module.policy_loss(logprobs, entropy, batch, args)
            assert stats["algo/selected_ratio"] == 0 and math.isnan(stats["algo/selected_negative_ratio"])
    err = capsys.readouterr().err
    assert err.count("warning: ") == 1 and f"--{name.replace('_', '-')}-ratio" in err


def test_kl_cov_says_when_it_can_do_nothing(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("kl_cov", num_minibatches=2)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("kl_cov", num_minibatches=1)
    assert capsys.readouterr().err.count("one update per rollout") == 1


def test_clip_cov_says_when_its_window_is_empty(capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    load("clip_cov", clip_cov_lb=1.0, clip_cov_ub=2.0)
    assert not capsys.readouterr().err
    for _ in range(2):
        load("clip_cov", clip_cov_lb=2.0, clip_cov_ub=2.0)
    assert capsys.readouterr().err.count("--clip-cov-lb") == 1


# --- Forking tokens ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.37, 1.0])
def test_forking_tokens_count_is_exact_with_ties(ratio: float) -> None:
    module, args = load("forking_tokens", top_entropy_ratio=ratio, overlong_buffer_length=0)
    batch, logprobs, entropy = covariance_batch()
    tied = torch.zeros_like(entropy)
    stats = module.policy_loss(logprobs, tied, batch, args)[1]
    n = batch["mask"].sum().item()
    assert stats["algo/selected_ratio"] * n == pytest.approx(math.ceil(ratio * n))


def test_forking_tokens_trains_the_uncertain_ones_alone() -> None:
    module, args = load("forking_tokens", overlong_buffer_length=0)
    batch, logprobs, entropy = covariance_batch()
    _, (gradient, by_entropy) = grads_of(module, args, batch, logprobs, entropy)
    n = batch["mask"].sum().item()
    threshold = entropy[batch["mask"]].detach().topk(math.ceil(0.2 * n)).values[-1]
    assert gradient.any() and not gradient[(entropy < threshold) | ~batch["mask"]].any()
    assert not by_entropy.any()


# --- NSR --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        ({"positive_weight": 0.0}, 0.0, -1.0),
        ({}, 0.1, -1.0),
        ({"positive_weight": 1.0}, 1.0, -1.0),
        ({"positive_weight": 1.0, "negative_weight": 0.0}, 1.0, 0.0),
    ],
)
def test_nsr_advantages(options: dict, right: float, wrong: float) -> None:
    """NSR, W-REINFORCE, REINFORCE, PSR; a row of weight 0 is out of the loss and of its mean."""
    module, args = load("nsr", **options)
    batch, logprobs, entropy = random_batch(0)
    module.assign_credit(batch, args, {})
    expected = torch.where(batch["rewards"] > 0, right, wrong)[:, None] * batch["mask"]
    torch.testing.assert_close(batch["advantages"], expected, check_dtype=False)
    assert torch.equal(batch["loss_mask"], expected != 0)
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    _, (gradient, _) = grads_of(module, args, batch, logprobs, entropy)
    torch.testing.assert_close(gradient, -expected / (expected != 0).sum(), check_dtype=False)


# --- EntroPIC ---------------------------------------------------------------------------------------------------


def controlled(entropies: list[float], **options) -> list[tuple[float, float]]:
    """alpha and the integral it was made with, for rollouts of these mean entropies."""
    module, args = load("entropic", **options)
    state, out = {}, []
    for value in entropies:
        batch, _, _ = random_batch(0)
        batch["entropy"] = torch.full_like(batch["old_logprobs"], value)
        batch["entropy"][~batch["mask"]] = 1e9  # padding does not count
        metrics = module.assign_credit(batch, args, state)
        assert (batch["alpha"] == metrics["algo/alpha"]).all() and batch["alpha"].shape == batch["rewards"].shape
        out.append((metrics["algo/alpha"], metrics["algo/integral"]))
    assert state.keys() == {"integral"} and type(state["integral"]) is float  # plain numbers, for checkpoints
    return out


def test_entropic_controller_both_signs() -> None:
    """alpha = kp e + ki (sum of past errors): above the target positive, below it negative."""
    got = controlled([0.5, 0.5, 0.3, 0.2, 0.1], target_entropy=0.3, kp=2.0, ki=0.5)
    errors, integral = [0.2, 0.2, 0.0, -0.1, -0.2], 0.0
    for (alpha, used), error in zip(got, errors, strict=True):
        assert used == pytest.approx(integral, abs=1e-9)
        assert alpha == pytest.approx(2.0 * error + 0.5 * integral, abs=1e-9)
        integral += error
    assert got[0][0] > 0 > got[4][0]


@pytest.mark.parametrize("sign", [1, -1])
def test_entropic_controller_does_not_wind_up(sign: int) -> None:
    """At a bound the integral stands still; an error that leads away from the bound moves it at once."""
    outside = [0.5 + sign * 0.4] * 5
    got = controlled([*outside, 0.5 - sign * 0.1, 0.5], target_entropy=0.5, kp=5.0, ki=1.0)
    assert [alpha for alpha, _ in got[:5]] == [sign] * 5
    assert [integral for _, integral in got[:6]] == [0.0] * 6
    assert got[5][0] == pytest.approx(-sign * 0.5) and got[6][1] == pytest.approx(-sign * 0.1)


def test_entropic_controller_unwinds_from_the_bound() -> None:
    """A large integral holds alpha at 1 while the error is already negative: it must be allowed to shrink."""
    got = controlled([0.9, 0.9, 0.9, 0.4, 0.4, 0.4], target_entropy=0.5, kp=0.0, ki=1.0)
    assert [round(integral, 9) for _, integral in got] == [0.0, 0.4, 0.8, 1.2, 1.1, 1.0]
    assert [round(alpha, 9) for alpha, _ in got] == [0.0, 0.4, 0.8, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("above", [True, False])
def test_entropic_lever(above: bool) -> None:
    """Entropy too high: likely tokens of right responses are pushed up more, of wrong ones down less; else reversed."""
    module, args = load("entropic", target_entropy=0.1 if above else 2.0)
    batch, _, entropy = random_batch(1)
    batch["old_logprobs"] *= 0.02
    batch["entropy"] = entropy.detach()
    module.assign_credit(batch, args, {})
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    likely = batch["mask"] & (logprobs.exp() > 0.95)
    assert likely.any() and (batch["mask"] & ~likely).any()
    _, (steered, _) = grads_of(module, args, batch, logprobs, entropy)
    _, (plain, _) = grads_of(
        module, load("entropic", kp=0.0)[1], batch | {"alpha": 0 * batch["alpha"]}, logprobs, entropy
    )
    moved = (steered - plain)[likely & (batch["advantages"] != 0)]
    assert ((moved < 0) == above).all() and moved.all()  # a negative gradient raises the token
    assert torch.equal(steered[~likely], plain[~likely])


# --- OPO --------------------------------------------------------------------------------------------------------


def test_opo_advantages_sum_to_zero_over_tokens() -> None:
    module, args = load("opo")
    batch, _, _ = random_batch(0, groups=6)
    module.assign_credit(batch, args, {})
    sums = batch["advantages"].view(6, -1).sum(1)
    assert sums.abs().max() < 1e-12 and batch["advantages"].abs().max() > 0.1


def test_opo_with_equal_lengths_is_the_mean_baseline() -> None:
    module, args = load("opo")
    batch, _, _ = random_batch(0)
    batch["mask"] = torch.ones_like(batch["mask"])
    module.assign_credit(batch, args, {})
    rewards = batch["rewards"].view(-1, SIZE)
    expected = (rewards - rewards.mean(1, keepdim=True)).view(-1, 1).expand_as(batch["mask"])
    torch.testing.assert_close(batch["advantages"], expected, rtol=0, atol=1e-15)


def test_opo_golden_advantages() -> None:
    """Two of four right, 6 of 13 tokens theirs."""
    module, args = load("opo")
    lengths = torch.tensor([4, 3, 4, 2])
    batch = {"mask": torch.arange(4) < lengths[:, None], "rewards": torch.tensor([1.0, 0.0, 0.0, 1.0])}
    module.assign_credit(batch, args, {})
    expected = torch.tensor([0.538462, -0.461538, -0.461538, 0.538462])
    torch.testing.assert_close(batch["advantages"][:, 0], expected, rtol=0, atol=1e-6)
