"""Advantages, losses and gradients next to those of verl 0.9.1 and TRL 1.16.0, for the methods that they have too.

    pip install -r tests/requirements-peers.txt                       # in an environment of its own: see that file

The tests of a peer that cannot be imported are skipped. Where an algorithm differs from one on purpose, a test says by
how much. verl has GRPO, DAPO, OPO, Clip-Cov and KL-Cov; TRL has GRPO, DAPO without resampling, forking tokens,
and Skywork's controller.
Neither has NSR or EntroPIC. TRL computes advantages in the middle of its rollout: only what follows is compared.
"""

import importlib
from collections import defaultdict
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.algorithms.oracle import random_batch
from tests.algorithms.test_grpo import MASK, NEW, OLD, REWARDS

SIZE, LENGTH = 4, 8  # responses per group, longest response
SEEDS = range(5)
NO_DUAL_CLIP = {"clip_ratio_c": 1e9}  # verl caps the loss of negative advantages at c times their size: never, here


@pytest.fixture(scope="module")
def verl() -> ModuleType:
    name = "verl.trainer.ppo.core_algos"
    return pytest.importorskip(name, reason="verl cannot be imported: tests/requirements-peers.txt")


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    return pytest.importorskip("trl", reason="trl cannot be imported: tests/requirements-peers.txt")


def prepare(name: str, seed: int, **options) -> tuple:
    """An algorithm, its Args, and a float64 batch with credit assigned and ratios far beyond the clip, both ways."""
    module = importlib.import_module(f"algos.{name}")
    args = module.Args(num_generations=SIZE, max_response_length=LENGTH, **options)
    batch, logprobs, entropy = random_batch(seed, groups=4, size=SIZE, length=LENGTH)
    logprobs = (batch["old_logprobs"] + 2.5 * (logprobs - batch["old_logprobs"])).detach().requires_grad_()
    module.assign_credit(batch, args, {})
    ratio = (logprobs - batch["old_logprobs"]).exp()[batch["mask"]]
    assert ratio.min() < 0.5 and ratio.max() > 2.0
    return module, args, batch, logprobs, entropy


def grads_of(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True, retain_graph=True)


def verl_advantages(function, rewards: Tensor, mask: Tensor, size: int = SIZE) -> Tensor:
    """What verl's function makes of rewards (B,), which it takes on the last token of each response."""
    token_rewards = torch.zeros(mask.shape, dtype=rewards.dtype)
    token_rewards[torch.arange(len(mask)), mask.sum(1) - 1] = rewards
    advantages, _ = function(token_rewards, mask, np.arange(len(mask)) // size)
    return advantages


def verl_loss(verl: ModuleType, mode: str, batch: dict, logprobs: Tensor, agg: str, policy=None, **options) -> tuple:
    """Loss and metrics of one of verl's policy losses; `policy` goes to policy_loss, `options` to the actor."""
    from verl.workers.config import ActorConfig, PolicyLossConfig

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=SIZE,
        use_dynamic_bsz=True,
        policy_loss=PolicyLossConfig(loss_mode=mode, **(policy or {})),
        **options,
    )
    function = verl.get_policy_loss_fn(mode)
    return function(batch["old_logprobs"], logprobs, batch["advantages"], batch["loss_mask"], agg, config)


def assert_same(ours: Tensor, theirs: Tensor, *inputs: Tensor, tolerance: float = 1e-14) -> None:
    """The same loss, and the same gradient with respect to every input."""
    assert ours.item() == pytest.approx(theirs.item(), rel=0, abs=tolerance)
    for mine, other in zip(grads_of(ours, *inputs), grads_of(theirs, *inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)
        assert mine.any()


# --- Golden vectors: one group of four responses, in float32 ----------------------------------------------------------

# name: our options, verl's loss, loss, gradient of rows 0 and 2. A quota of one token for both covariance methods.
GOLDEN = {
    "grpo": (
        {},
        {"mode": "vanilla", "agg": "seq-mean-token-mean"},
        0.037579,
        [[-0.056902, 0, -0.051487, -0.012077], [0, 0, 0.053588, 0.054670]],
    ),
    "dapo": (
        {"overlong_buffer_length": 0},
        {"mode": "vanilla", "agg": "token-mean", "clip_ratio_high": 0.28, "clip_ratio_c": 10.0},
        0.091581,
        [[-0.070033, 0, -0.063368, -0.014864], [0, 0, 0.065954, 0.067287]],
    ),
    "clip_cov": (
        {"clip_cov_ratio": 0.1},
        {"mode": "clip_cov", "agg": "token-mean", "clip_ratio_low": 1.0, "clip_ratio_high": 1.0},
        0.090025,
        [[0, -0.109833, -0.063368, -0.014864], [0.014864, 0.049351, 0.065954, 0.067287]],
    ),
    "kl_cov": (
        {"kl_cov_ratio": 0.1},
        {"mode": "kl_cov", "agg": "token-mean", "policy": {"ppo_kl_coef": 1.0}},
        0.135377,
        [[-0.070033, -0.109833, -0.063368, -0.014864], [-0.062059, 0.049351, 0.065954, 0.067287]],
    ),
}


def golden_batch() -> tuple[dict, Tensor]:
    return {"mask": MASK, "loss_mask": MASK, "rewards": REWARDS, "old_logprobs": OLD}, NEW.clone().requires_grad_()


def assert_golden(loss: Tensor, logprobs: Tensor, value: float, rows: list) -> None:
    assert loss.item() == pytest.approx(value, abs=1e-6)
    (gradient,) = grads_of(loss, logprobs)
    torch.testing.assert_close(gradient[[0, 2]], torch.tensor(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors(name: str) -> None:
    options, _, value, rows = GOLDEN[name]
    module = importlib.import_module(f"algos.{name}")
    args = module.Args(num_generations=4, **options)
    batch, logprobs = golden_batch()
    module.assign_credit(batch, args, {})
    torch.testing.assert_close(batch["advantages"][:, 0].abs(), torch.full((4,), 0.866024), rtol=0, atol=2e-6)
    torch.manual_seed(0)  # Clip-Cov draws one of two candidates
    loss, stats = module.policy_loss(logprobs, torch.zeros_like(NEW), batch, args)
    assert_golden(loss, logprobs, value, rows)
    if name.endswith("cov"):
        assert stats["algo/selected_ratio"] == 1 / 13
        assert stats["algo/cov_p50"] == pytest.approx(-0.385560, abs=2e-6)
        assert stats["algo/cov_p98"] == pytest.approx(1.065363, abs=2e-6)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_vectors_are_verls(verl: ModuleType, name: str) -> None:
    """The numbers above are what the installed verl computes, from its own advantages."""
    _, settings, value, rows = GOLDEN[name]
    batch, logprobs = golden_batch()
    batch["advantages"] = verl_advantages(verl.compute_grpo_outcome_advantage, REWARDS, MASK)
    torch.manual_seed(0)
    loss, _ = verl_loss(verl, batch=batch, logprobs=logprobs, **settings)
    assert_golden(loss, logprobs, value, rows)


def test_golden_high_ratio() -> None:
    """A ratio of 4.48 on a negative advantage: the loss of verl at c = 10, where its cap does not bind."""
    from algos.dapo import Args, assign_credit, policy_loss

    batch, logprobs = golden_batch()
    args = Args(num_generations=4, overlong_buffer_length=0)
    assign_credit(batch, args, {})
    with torch.no_grad():
        logprobs[2, 0] = -1.5
    loss, _ = policy_loss(logprobs, torch.zeros_like(NEW), batch, args)
    assert loss.item() == pytest.approx(0.336845, abs=1e-6)
    assert grads_of(loss, logprobs)[0][2, 0].item() == pytest.approx(0.298558, abs=1e-6)


# --- verl: advantages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["grpo", "clip_cov", "kl_cov", "opo"])
def test_verl_advantages(verl: ModuleType, name: str, seed: int) -> None:
    """Sample standard deviation plus 1e-6, or OPO's length-weighted baseline."""
    _, _, batch, _, _ = prepare(name, seed)
    method = "opo" if name == "opo" else "grpo"
    function = getattr(verl, f"compute_{method}_outcome_advantage")
    theirs = verl_advantages(function, batch["rewards"], batch["mask"])
    torch.testing.assert_close(batch["advantages"], theirs, rtol=0, atol=1e-14)
    assert theirs.any()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("factor", "rounds"), [(1.0, 0), (0.5, 0), (1.0, 9)])
@pytest.mark.parametrize("name", ["dapo", "forking_tokens"])
def test_verl_dapo_rewards(verl: ModuleType, name: str, factor: float, rounds: int, seed: int) -> None:
    """Advantages of +-1 less the charge for length, with rewards from verl's DAPO reward manager.

    With resampling, mixed groups only: of all-right and all-wrong ones verl would have stopped or taken others.
    """
    from verl import DataProto
    from verl.workers.reward_manager.dapo import DAPORewardManager

    buffer = 4  # a power of two: the charge is exact in verl's float32
    options = {"overlong_buffer_length": buffer, "overlong_penalty_factor": factor, "max_resample": rounds}
    _, _, batch, _, _ = prepare(name, seed, **options)
    rows = len(batch["mask"])
    manager = DAPORewardManager(
        SimpleNamespace(decode=lambda ids, skip_special_tokens: "", eos_token="<eos>"),
        num_examine=0,
        compute_score=lambda data_source, solution_str, ground_truth, extra_info: ground_truth,
        max_resp_len=LENGTH,
        overlong_buffer_cfg=SimpleNamespace(enable=True, len=buffer, penalty_factor=factor, log=False),
    )
    data = DataProto.from_dict(
        tensors={
            "prompts": torch.zeros(rows, 1, dtype=torch.long),
            "responses": torch.zeros(rows, LENGTH, dtype=torch.long),
            "attention_mask": torch.cat([torch.ones(rows, 1), batch["mask"]], 1).long(),
        },
        non_tensors={
            "reward_model": np.array([{"ground_truth": 2 * r - 1} for r in batch["rewards"].tolist()]),
            "data_source": np.array(["any"] * rows),
        },
    )
    rewards = manager(data).double().sum(1)
    assert len(rewards.unique()) > 3  # some responses were charged
    theirs = verl_advantages(verl.compute_grpo_outcome_advantage, rewards, batch["mask"])
    right = batch["rewards"].view(-1, SIZE)
    mixed = (right.amax(1) > right.amin(1)).repeat_interleave(SIZE)
    compared = mixed if rounds else torch.ones_like(mixed)
    assert compared.any() and not mixed.all()
    torch.testing.assert_close(batch["advantages"][compared], theirs[compared], rtol=0, atol=1e-14)


def test_verl_opo_differs_in_groups_of_one(verl: ModuleType) -> None:
    """A single response is its own baseline here and has advantage 0; verl gives it baseline 0."""
    from algos.opo import Args, assign_credit

    batch = {"mask": MASK, "rewards": REWARDS}
    assign_credit(batch, Args(num_generations=1), {})
    theirs = verl_advantages(verl.compute_opo_outcome_advantage, REWARDS, MASK, size=1)
    assert not batch["advantages"].any()
    assert torch.equal(theirs, REWARDS[:, None] * MASK)


# --- verl: losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grpo", {}),
        ("grpo", {"clip_ratio_low": 0.1, "clip_ratio_high": 0.4}),
        ("grpo", {"beta": 0.3, "entropy_coef": 0.1}),
        ("dapo", {}),
        ("nsr", {"positive_weight": 0.3, "entropy_coef": 0.1}),
    ],
)
def test_verl_clipped_loss(verl: ModuleType, name: str, options: dict, seed: int) -> None:
    """verl's vanilla loss, and its KL and entropy terms where we have them too. NSR brings advantages of its own."""
    module, args, batch, logprobs, entropy = prepare(name, seed, **options)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    agg = "seq-mean-token-mean" if name == "grpo" else "token-mean"
    clip = {"clip_ratio_low": args.clip_ratio_low, "clip_ratio_high": args.clip_ratio_high}
    theirs, metrics = verl_loss(verl, "vanilla", batch, logprobs, agg, **clip, **NO_DUAL_CLIP)
    if getattr(args, "beta", 0):
        kl = verl.kl_penalty(logprobs, batch["ref_logprobs"], "low_var_kl")
        theirs = theirs + args.beta * verl.agg_loss(kl, batch["loss_mask"], agg)
    inputs = [logprobs]
    if options.get("entropy_coef"):
        theirs = theirs - args.entropy_coef * verl.agg_loss(entropy, batch["loss_mask"], agg)
        inputs.append(entropy)
    # verl adds 1e-8 to the length of a response, ...
    assert_same(ours, theirs, *inputs, tolerance=1e-8 if name == "grpo" else 1e-14)
    clipped = stats["policy/clip_high_ratio"] + stats["policy/clip_low_ratio"]
    assert (
        clipped == pytest.approx(metrics["actor/pg_clipfrac"], rel=1e-6) and clipped > 0.1
    )  # ... and counts in float32


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("sapo", "sapo", {}),
        ("sapo", "sapo", {"tau_pos": 1.0, "tau_neg": 1.05}),
        ("geo_mean", "gmpo", {}),
        ("geo_mean", "gmpo", {"clip_ratio_low": 0.4, "clip_ratio_high": 0.2}),
        ("dppo_tv", "dppo", {"ratio_cap": 1.2}),
        ("dppo_tv", "dppo", {"divergence_low": 0.05, "divergence_high": 0.1}),
        ("dppo_kl", "dppo", {"divergence": "kl", "divergence_low": 0.01, "divergence_high": 0.003}),
    ],
)
def test_verl_trust_regions(verl: ModuleType, mode: str, name: str, options: dict, seed: int) -> None:
    """The losses without PPO's clip; verl reads the bounds of DPPO from its flags for the clip."""
    module, args, batch, logprobs, entropy = prepare(name, seed, **options)
    with torch.no_grad():  # probabilities, where the log of one minus them is taken
        logprobs.clamp_(max=-0.01)
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    theirs = {
        "sapo": lambda: {"tau_pos": args.tau_pos, "tau_neg": args.tau_neg},
        "gmpo": lambda: {"clip_ratio_low": args.clip_ratio_low, "clip_ratio_high": args.clip_ratio_high},
        "dppo": lambda: (
            {"clip_ratio_low": args.divergence_low, "clip_ratio_high": args.divergence_high}
            | {"clip_ratio_c": args.ratio_cap}
        ),
    }[name]()
    loss, _ = verl_loss(verl, mode, batch, logprobs, "token-mean", **theirs)
    assert_same(ours, loss, logprobs, tolerance=1e-7)  # verl adds 1e-8 to lengths, and takes a mask in float32


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"clip_ratio_low": 0.1, "clip_ratio_high": 0.3}])
def test_verl_gspo(verl: ModuleType, options: dict, seed: int) -> None:
    """By responses, as the paper has it: by default verl takes the mean over all tokens."""
    module, args, batch, logprobs, entropy = prepare("gspo", seed, **options)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    clip = {"clip_ratio_low": args.clip_ratio_low, "clip_ratio_high": args.clip_ratio_high}
    theirs, metrics = verl_loss(verl, "gspo", batch, logprobs, "seq-mean-token-mean", **clip)
    assert_same(ours, theirs, logprobs, tolerance=1e-8)  # verl adds 1e-8 to lengths
    clipped = stats["policy/clip_high_ratio"] + stats["policy/clip_low_ratio"]
    assert clipped == pytest.approx(metrics["actor/pg_clipfrac"], rel=1e-6) and clipped > 0.1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cap", [1.3, 5.0])
def test_verl_cispo(verl: ModuleType, cap: float, seed: int) -> None:
    """A cap on the weight of the gradient, and no bound from below: eps of 1."""
    module, args, batch, logprobs, entropy = prepare("cispo", seed, ratio_cap=cap)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    theirs, metrics = verl_loss(
        verl, "cispo", batch, logprobs, "token-mean", clip_ratio_low=1.0, clip_ratio_high=cap - 1
    )
    assert_same(ours, theirs, logprobs)
    assert stats["policy/clip_high_ratio"] == pytest.approx(metrics["actor/pg_clipfrac"], rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"beta": 0.3, "entropy_coef": 0.1}])
def test_verl_dr_grpo(verl: ModuleType, options: dict, seed: int) -> None:
    """Centred rewards, not divided, and sums over responses by a constant: verl's default is the batch's width."""
    module, args, batch, logprobs, entropy = prepare("dr_grpo", seed, **options)
    centred = partial(verl.compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False)
    theirs = verl_advantages(centred, batch["rewards"], batch["mask"])
    torch.testing.assert_close(batch["advantages"], theirs, rtol=0, atol=1e-14)
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    agg = "seq-mean-token-sum-norm"
    clip = {"clip_ratio_low": args.clip_ratio_low, "clip_ratio_high": args.clip_ratio_high}
    theirs, _ = verl_loss(verl, "vanilla", batch, logprobs, agg, **clip, **NO_DUAL_CLIP)
    kl = verl.kl_penalty(logprobs, batch["ref_logprobs"], "low_var_kl")
    theirs = theirs + args.beta * verl.agg_loss(kl, batch["loss_mask"], agg)
    theirs = theirs - args.entropy_coef * verl.agg_loss(entropy, batch["loss_mask"], agg)
    assert_same(ours, theirs, logprobs, *([entropy] if options else []))


def test_verl_dual_clip_is_the_difference(verl: ModuleType) -> None:
    """At its default c = 3 verl drops the gradient of A < 0 and ratio > 3, and its loss is smaller by A (ratio - 3)."""
    module, args, batch, logprobs, entropy = prepare("grpo", 5)
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    theirs, metrics = verl_loss(verl, "vanilla", batch, logprobs, "seq-mean-token-mean")
    ratio = (logprobs - batch["old_logprobs"]).exp().detach()
    capped = batch["mask"] & (batch["advantages"] < 0) & (ratio > 3)
    assert capped.any() and metrics["actor/pg_clipfrac_lower"] > 0
    weight = 1 / batch["mask"].sum(1, keepdim=True) / len(ratio)
    excess = (-batch["advantages"] * (ratio - 3) * weight)[capped].sum()
    assert (ours - theirs).item() == pytest.approx(excess.item(), abs=1e-8)
    mine, other = grads_of(ours, logprobs)[0], grads_of(theirs, logprobs)[0]
    torch.testing.assert_close(mine[~capped], other[~capped], rtol=0, atol=1e-8)
    assert mine[capped].all() and not other[capped].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_verl_opo_gradient(verl: ModuleType, seed: int) -> None:
    """On-policy, the only place OPO is meant for, verl's token mean has our gradient, and another value."""
    module, args, batch, _, entropy = prepare("opo", seed)
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    theirs, _ = verl_loss(verl, "vanilla", batch, logprobs, "token-mean")
    mine, other = grads_of(ours, logprobs)[0], grads_of(theirs, logprobs)[0]
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-16)
    assert mine.any()


# Clip-Cov's own settings, and narrow ones under which the PPO clip takes candidates away.
WINDOWS = [
    {"clip_cov_lb": 0.5},
    {"clip_cov_lb": 0.1, "clip_cov_ub": 1.5, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2},
]


def both_clip_cov(verl: ModuleType, seed: int, draw: int, **options) -> tuple:
    """Our loss and verl's, each drawing from the same state of torch's generator."""
    module, args, batch, logprobs, entropy = prepare("clip_cov", seed, **options)
    torch.manual_seed(draw)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    torch.manual_seed(draw)
    theirs, metrics = verl_loss(
        verl,
        "clip_cov",
        batch,
        logprobs,
        "token-mean",
        policy={k: getattr(args, k) for k in ("clip_cov_ratio", "clip_cov_lb", "clip_cov_ub")},
        clip_ratio_low=args.clip_ratio_low,
        clip_ratio_high=args.clip_ratio_high,
    )
    return ours, theirs, stats, metrics, logprobs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("window", WINDOWS)
def test_verl_clip_cov_with_all_candidates(verl: ModuleType, window: dict, seed: int) -> None:
    """With a quota for all of them, chance has no part in it: the candidates are the same."""
    ours, theirs, stats, metrics, logprobs = both_clip_cov(verl, seed, draw=seed, clip_cov_ratio=1.0, **window)
    assert_same(ours, theirs, logprobs)
    assert stats["algo/selected_ratio"] == stats["algo/candidate_ratio"] > 0
    assert metrics["actor/pg_clipfrac"] == pytest.approx(stats["algo/selected_ratio"], rel=1e-6)


@pytest.mark.parametrize("draw", SEEDS)
@pytest.mark.parametrize("window", WINDOWS)
def test_verl_clip_cov_draws_the_same(verl: ModuleType, window: dict, draw: int) -> None:
    """Candidates are counted row by row and shuffled by one torch.randperm in both: same seed, same tokens."""
    ours, theirs, stats, _, logprobs = both_clip_cov(verl, 1, draw=draw, clip_cov_ratio=0.05, **window)
    assert_same(ours, theirs, logprobs)
    assert 0 < stats["algo/selected_ratio"] < stats["algo/candidate_ratio"]


def test_verl_clip_cov_quota_of_nothing(verl: ModuleType) -> None:
    """A share of less than one token: none is left out here, one by verl, as by us at a share of one token."""
    ours, theirs, stats, metrics, logprobs = both_clip_cov(verl, 1, draw=0, clip_cov_ratio=2e-4, **WINDOWS[0])
    tokens = random_batch(1, groups=4, size=SIZE, length=LENGTH)[0]["mask"].sum().item()
    assert stats["algo/selected_ratio"] == 0 and stats["algo/candidate_ratio"] > 0
    assert metrics["actor/pg_clipfrac"] == pytest.approx(1 / tokens, rel=1e-6)
    mine, other = grads_of(ours, logprobs)[0], grads_of(theirs, logprobs)[0]
    assert (mine != other).sum() == 1 and not other[mine != other].any()
    one, _, _, _, logprobs = both_clip_cov(verl, 1, draw=0, clip_cov_ratio=1.5 / tokens, **WINDOWS[0])
    torch.testing.assert_close(grads_of(one, logprobs)[0], other, rtol=0, atol=1e-14)


def both_kl_cov(verl: ModuleType, seed: int, **options) -> tuple:
    module, args, batch, logprobs, entropy = prepare("kl_cov", seed, **options)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    policy = {"kl_cov_ratio": args.kl_cov_ratio, "ppo_kl_coef": args.kl_cov_coef}
    theirs, _ = verl_loss(verl, "kl_cov", batch, logprobs, "token-mean", policy)
    return ours, theirs, stats, batch, logprobs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{"kl_cov_ratio": 0.1}, {"kl_cov_ratio": 0.3, "kl_cov_coef": 0.1}])
def test_verl_kl_cov(verl: ModuleType, options: dict, seed: int) -> None:
    ours, theirs, stats, _, logprobs = both_kl_cov(verl, seed, **options)
    assert_same(ours, theirs, logprobs)
    assert 0 < stats["algo/selected_ratio"] <= options["kl_cov_ratio"]


def test_verl_kl_cov_quota_of_nothing(verl: ModuleType) -> None:
    """A share of less than one token: none is held back here; verl adds |log ratio| / N of the largest covariance."""
    ours, theirs, stats, batch, logprobs = both_kl_cov(verl, 1, kl_cov_ratio=2e-4)
    mask, change = batch["mask"], (logprobs - batch["old_logprobs"]).detach()
    assert stats["algo/selected_ratio"] == 0
    values, advantages = logprobs.detach(), batch["advantages"]
    cov = (values - values[mask].mean()) * (advantages - advantages[mask].mean())
    top = cov.masked_fill(~mask, -torch.inf).flatten().argmax()
    assert (theirs - ours).item() == pytest.approx(change.flatten()[top].abs().item() / mask.sum().item(), abs=1e-14)
    difference = (grads_of(theirs, logprobs)[0] - grads_of(ours, logprobs)[0]).flatten()
    assert difference[top].item() == pytest.approx(change.flatten()[top].sign().item() / mask.sum().item(), abs=1e-14)
    assert difference.abs().argmax() == top and difference.abs().gt(1e-14).sum() == 1


# --- TRL --------------------------------------------------------------------------------------------------------------


def trl_trainer(trl: ModuleType, logprobs: Tensor, entropy: Tensor, args, **options) -> SimpleNamespace:
    """What TRL's loss reads of its trainer: one process, and eval mode, where no accumulation rescales the loss."""

    def same(x: Tensor, **_) -> Tensor:
        return x

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, entropy, None),
        accelerator=SimpleNamespace(gather=same, reduce=same, pad_across_processes=same, num_processes=1),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        model=SimpleNamespace(training=False),
        _metrics={"eval": defaultdict(list)},
        epsilon_low=args.clip_ratio_low,
        epsilon_high=args.clip_ratio_high,
        beta=getattr(args, "beta", 0.0),
        importance_sampling_level="token",
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )
    trainer.get_high_entropy_mask = partial(trl.GRPOTrainer.get_high_entropy_mask, trainer)
    vars(trainer).update(options)
    return trainer


def trl_loss(trl: ModuleType, trainer: SimpleNamespace, batch: dict) -> tuple[Tensor, dict[str, float]]:
    mask, prompt = batch["loss_mask"].long(), torch.zeros(len(batch["loss_mask"]), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": batch["advantages"],
        "old_per_token_logps": batch["old_logprobs"],
        "ref_per_token_logps": batch["ref_logprobs"],
        "num_items_in_batch": mask.sum(),
    }
    loss = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    (metrics,) = trainer._metrics.values()
    return loss, {k: v[0] for k, v in metrics.items()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "options"), [("grpo", {}), ("grpo", {"beta": 0.3}), ("grpo", {"clip_ratio_high": 0.4}), ("dapo", {})]
)
def test_trl_loss(trl: ModuleType, name: str, options: dict, seed: int) -> None:
    """loss_type "grpo", with KL if it is not multiplied by the ratio, and "dapo", given our advantages."""
    module, args, batch, logprobs, entropy = prepare(name, seed, **options)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    theirs, metrics = trl_loss(trl, trl_trainer(trl, logprobs, entropy, args, loss_type=name), batch)
    assert_same(ours, theirs, logprobs)
    for side in ("low", "high"):
        clipped = stats[f"policy/clip_{side}_ratio"]
        assert clipped == pytest.approx(metrics[f"clip_ratio/{side}_mean"], rel=1e-6) and clipped > 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("dr_grpo", {"beta": 0.3}, {"loss_type": "dr_grpo", "max_completion_length": LENGTH}),
        ("gspo", {}, {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
        ("cispo", {"ratio_cap": 1.3}, {"loss_type": "cispo", "epsilon_low": 1.0, "epsilon_high": 1.3}),
        ("deepseek_v32", {"opsm_delta": 0.05}, {"loss_type": "grpo"}),
        ("deepseek_v32", {"opsm_delta": 0.0, "beta": 0.3}, {"loss_type": "grpo"}),
        ("deepseek_v32", {"opsm_delta": 0.1, "beta": 0.3, "unbiased_kl": False}, {"loss_type": "grpo"}),
    ],
)
def test_trl_switches(trl: ModuleType, name: str, options: dict, theirs: dict, seed: int) -> None:
    """Methods that are a switch of TRL's loss, given our advantages."""
    module, args, batch, logprobs, entropy = prepare(name, seed, **options)
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    clip = SimpleNamespace(clip_ratio_low=0.0, clip_ratio_high=0.0, beta=getattr(args, "beta", 0.0))
    trainer = trl_trainer(trl, logprobs, entropy, args if hasattr(args, "clip_ratio_low") else clip, **theirs)
    trainer.args.use_bias_correction_kl = getattr(args, "unbiased_kl", False)
    if getattr(args, "opsm_delta", 0) > 0:
        trainer.off_policy_mask_threshold = args.opsm_delta
        trainer.get_off_policy_mask = trl.GRPOTrainer.get_off_policy_mask
        batch["old_logprobs"] = batch["rollout_logprobs"]  # TRL takes the old ones unless vLLM sampled
        ours, stats = module.policy_loss(logprobs, entropy, batch, args)
        assert 0 < stats["algo/masked_ratio"] < 1
    loss, _ = trl_loss(trl, trainer, batch)
    assert_same(ours, loss, logprobs)


def test_trl_default_kl_is_the_difference(trl: ModuleType) -> None:
    """By default TRL multiplies the KL estimate of each token by its ratio."""
    module, args, batch, logprobs, entropy = prepare("grpo", 0, beta=0.3)
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    trainer = trl_trainer(trl, logprobs, entropy, args, loss_type="grpo")
    trainer.args.use_bias_correction_kl = True
    theirs, _ = trl_loss(trl, trainer, batch)
    mask, d = batch["mask"], batch["ref_logprobs"] - logprobs
    extra = ((logprobs - batch["old_logprobs"]).exp() - 1) * (d.exp() - d - 1)
    assert_same(ours + args.beta * ((extra * mask).sum(1) / mask.sum(1)).mean(), theirs, logprobs)
    assert abs(theirs.item() - ours.item()) > 1e-3


def test_trl_adaptive_entropy(trl: ModuleType) -> None:
    """Skywork-OR1's controller: TRL measures entropies, not surprisals; where their means agree all else does."""
    module, args, batch, logprobs, _ = prepare("skywork", 0, coef_step=0.02, coef_max=0.05, target_entropy=0.5)
    trainer = trl_trainer(trl, logprobs, None, args, loss_type="dapo", _entropy_bonus_enabled=True)
    # In training, with one minibatch a step, TRL's controller ticks.
    trainer.model.training, trainer.accelerator.sync_gradients, trainer._metrics = (
        True,
        True,
        {"train": defaultdict(list)},
    )
    flags = {"entropy_target": 0.5, "entropy_coef_delta": 0.02, "entropy_coef_max": 0.05, "entropy_coef_min": 0.0}
    vars(trainer.args).update(flags, steps_per_generation=1)
    vars(trainer).update(use_adaptive_entropy=True, entropy_coef=0.0, current_gradient_accumulation_steps=1)
    vars(trainer).update(_last_world_entropy=0.0, _entropy_window_stats=None)
    state, used, ratio = {}, [], logprobs.detach() - batch["old_logprobs"]
    for surprisal in (0.7, 0.4, 0.3, 0.2, 0.1, 0.8, 0.9, 0.4, 0.4, 0.6):
        batch["old_logprobs"] = torch.full_like(ratio, -surprisal)
        logprobs = (batch["old_logprobs"] + ratio).requires_grad_()
        entropy = torch.full_like(ratio, surprisal, requires_grad=True)
        trainer._get_per_token_logps_and_entropies = lambda *_, inputs=(logprobs, entropy, None), **__: inputs
        used.append(module.assign_credit(batch, args, state)["algo/coef"])
        ours, _ = module.policy_loss(logprobs, entropy, batch, args)
        theirs, _ = trl_loss(trl, trainer, batch)
        assert ours.item() == pytest.approx(theirs.item(), rel=0, abs=1e-14)
        for mine, other in zip(grads_of(ours, logprobs, entropy), grads_of(theirs, logprobs, entropy), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-14)
        assert state["coef"] == pytest.approx(trainer.entropy_coef, abs=1e-15)
    assert used == pytest.approx([0, 0, 0.02, 0.04, 0.05, 0.05, 0, 0, 0.03, 0.05])


@pytest.mark.parametrize("length", range(1, LENGTH + 1))
@pytest.mark.parametrize("buffer", [1, 3, LENGTH])
@pytest.mark.parametrize("name", ["dapo", "forking_tokens"])
def test_trl_soft_overlong_punishment(trl: ModuleType, name: str, buffer: int, length: int) -> None:
    """Our charge is TRL's reward, at every length that sampling can give."""
    from trl.rewards import get_soft_overlong_punishment

    module = importlib.import_module(f"algos.{name}")
    args = module.Args(num_generations=2, max_response_length=LENGTH, overlong_buffer_length=buffer)
    batch = {"mask": torch.arange(LENGTH).expand(2, -1) < length, "rewards": torch.ones(2, dtype=torch.float64)}
    stats = module.assign_credit(batch, args, {})
    (theirs,) = get_soft_overlong_punishment(LENGTH, buffer)([[0] * length])
    assert stats["algo/overlong_penalty"] == pytest.approx(-theirs, abs=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rho", [0.2, 0.5])
def test_trl_forking_tokens(trl: ModuleType, rho: float, seed: int) -> None:
    """Without ties the same tokens are selected; `normalize_by` "all" is TRL's loss, "selected" is N / |S| of it.

    TRL keeps 1 + floor(rho (N - 1)) tokens of N, we keep ceil(rho N): the same number where 1 / rho is whole.
    """
    module, args, batch, logprobs, entropy = prepare("forking_tokens", seed, top_entropy_ratio=rho, normalize_by="all")
    entropy = entropy.detach().float()  # as TRL compares them
    ours, stats = module.policy_loss(logprobs, entropy, batch, args)
    trainer = trl_trainer(trl, logprobs, entropy, args, loss_type="dapo", top_entropy_quantile=rho)
    theirs, _ = trl_loss(trl, trainer, batch)
    assert_same(ours, theirs, logprobs)
    selected = trainer.get_high_entropy_mask(entropy, batch["mask"], 1 - rho)
    assert stats["algo/selected_ratio"] == pytest.approx((selected.sum() / batch["mask"].sum()).item())
    assert stats["algo/entropy_threshold"] == entropy[selected].min()
    args.normalize_by = "selected"
    ours, _ = module.policy_loss(logprobs, entropy, batch, args)
    assert_same(ours, theirs * (batch["mask"].sum().item() / selected.sum().item()), logprobs)


def test_trl_lets_ties_through(trl: ModuleType) -> None:
    """Where most tokens are certain, the quantile is 0 and TRL trains on all of them; here the count is exact."""
    module, args, batch, logprobs, _ = prepare("forking_tokens", 1)
    entropy, mask = torch.zeros_like(logprobs), batch["mask"]
    entropy[:, 0] = torch.linspace(1, 2, 16, dtype=torch.float64)
    entropy[:3, 0] = 0  # 13 of 72 tokens, less than a fifth, are uncertain
    _, stats = module.policy_loss(logprobs, entropy, batch, args)
    selected = trl_trainer(trl, logprobs, entropy, args).get_high_entropy_mask(entropy, mask, 0.8)
    assert torch.equal(selected, mask)
    assert mask.sum() == 72 and stats["algo/selected_ratio"] == pytest.approx(15 / 72)
