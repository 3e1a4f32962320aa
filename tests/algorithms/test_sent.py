"""SENT: sure tokens are held to the initial policy in two tiers, and problems come easy first.

Its resume and two ranks are in tests/test_scripts.py and tests/test_ranks.py.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from common import rollout
from common.basics import warn_once
from common.problems import Problem
from tests.algorithms.oracle import (
    Neutral,
    credited_batch,
    grads_of,
    k3,
    load,
    ratio_of,
    standardised,
    surrogate,
    tokens_of,
    toy,
)

FLAGS = {
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.2,
    "max_resample": 9,
    "low_entropy_ratio": 0.8,
    "cov_ratio": 0.02,
    "beta": 0.01,
    "cov_beta": 0.04,
    "curriculum_samples": 4,
    "curriculum_by": "entropy",
    "stages": 2,
    "random_selection": False,
}
METRICS = {"low_kl", "high_kl", "selected_negative_ratio", "curriculum_tokens"}
# A random model gives no answers, which are all alone: its coin tosses make an order.
SCRIPT_FLAGS = {"cov-ratio": 0.3, "curriculum-samples": 2, "curriculum-by": "accuracy"}
CASES = [
    {"cov_ratio": 0.3},
    {"low_entropy_ratio": 0.5, "cov_ratio": 0.2, "beta": 0.3, "cov_beta": 0.0, "clip_ratio_high": 0.4},
    {"low_entropy_ratio": 1.0, "cov_ratio": 0.5, "beta": 0.0, "cov_beta": 0.2},
]
OFF = {"beta": 0.0, "cov_beta": 0.0, "curriculum_samples": 0}
NEUTRAL = [
    Neutral(OFF, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
    Neutral({"low_entropy_ratio": 0.0}, "dapo", {"clip_ratio_high": 0.2}, "grpo"),
]


def tiers(batch: dict, args) -> tuple[list, list]:
    """Sure tokens, the surest first, and those among them of largest covariance, the largest first."""
    tokens, advantages = tokens_of(batch), standardised(batch["rewards"])
    logprobs, entropy = batch["sg_logprobs"], batch["sg_entropy"]
    low = sorted(tokens, key=lambda at: entropy[at[0]][at[1]])[: math.floor(args.low_entropy_ratio * len(tokens))]
    mean_a = sum(advantages[i] for i, _ in low) / max(1, len(low))
    mean_l = sum(logprobs[i][t] for i, t in low) / max(1, len(low))
    cov = {(i, t): (advantages[i] - mean_a) * (logprobs[i][t] - mean_l) for i, t in sorted(low)}
    return low, sorted(cov, key=cov.get, reverse=True)[: math.floor(args.cov_ratio * len(low))]


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    advantages, tokens, total = standardised(batch["rewards"]), tokens_of(batch), 0.0
    low, high = tiers(batch, args)
    for i, t in tokens:
        clip = args.clip_ratio_low, args.clip_ratio_high
        total += surrogate(ratio_of(batch, logprobs, i, t), advantages[i], *clip)
        if (i, t) in low:
            total -= (args.cov_beta if (i, t) in high else args.beta) * k3(batch, logprobs, i, t)
    return -total / len(tokens)


def golden() -> tuple[dict, torch.Tensor, torch.Tensor]:
    batch, logprobs, entropy = toy()
    batch["ref_logprobs"] = batch["old_logprobs"] - 0.1
    return batch, logprobs, entropy


def test_golden_vectors() -> None:
    """Seven of nine tokens, and two of those: the padded flat indices 7 0 4 2 8 6 3 and 6 0."""
    batch, logprobs, entropy = golden()
    module, args = load("sent", cov_ratio=0.3)
    module.assign_credit(batch, args, {})
    lists = {"mask": batch["mask"].tolist(), "rewards": batch["rewards"].tolist()}
    lists |= {"sg_logprobs": logprobs.tolist(), "sg_entropy": entropy.tolist()}
    assert [[3 * i + t for i, t in tier] for tier in tiers(lists, args)] == [[7, 0, 4, 2, 8, 6, 3], [6, 0]]
    loss, stats = module.policy_loss(logprobs, entropy, batch, args)
    assert loss.item() == pytest.approx(-0.135227, abs=1e-6)
    d = (batch["ref_logprobs"] - logprobs).detach().flatten()
    values = d.exp() - d - 1
    assert stats["algo/low_kl"] == pytest.approx(values[[7, 4, 2, 8, 3]].mean().item())
    assert stats["algo/high_kl"] == pytest.approx(values[[6, 0]].mean().item())
    assert stats["algo/selected_negative_ratio"] == 0.5
    args.beta = args.cov_beta = 0.0
    plain, stats = module.policy_loss(logprobs, entropy, {k: v for k, v in batch.items() if "ref" not in k}, args)
    assert plain.item() != loss.item() and math.isnan(stats["algo/low_kl"]) and math.isnan(stats["algo/high_kl"])


def test_the_release_is_another_loss() -> None:
    """Its two tails, without a clip, give -.208508 on the same tokens (of .25, one at each end)."""
    batch, logprobs, entropy = golden()
    module, args = load("sent", cov_ratio=0.25)
    module.assign_credit(batch, args, {})
    ratio, moved = (logprobs - batch["old_logprobs"]).exp(), (logprobs - batch["old_logprobs"]).abs().flatten()
    release = -(ratio * batch["advantages"]).sum() / 9 + (0.2 * moved[6] + 0.05 * moved[7]) / 9
    assert release.item() == pytest.approx(-0.208508, abs=1e-6)
    assert abs(grads_of(module, args, batch, logprobs, entropy)[0].item() - release.item()) > 0.05


def test_each_tier_has_its_weight() -> None:
    """The gradient beside the parent's: b (1 - e^(ref - l)) / N, on sure tokens alone."""
    batch, logprobs, entropy = credited_batch()
    plain = grads_of(*load("sent", **OFF), batch, logprobs, entropy)[1][0]
    push = (1 - (batch["ref_logprobs"] - logprobs).exp()).detach() / batch["mask"].sum()
    found = {}
    for name, betas in {"low": (0.5, 0.0), "high": (0.0, 0.5), "both": (0.5, 0.5)}.items():
        module, args = load("sent", beta=betas[0], cov_beta=betas[1], cov_ratio=0.25)
        (gradient, of_entropy) = grads_of(module, args, batch, logprobs, entropy)[1]
        found[name] = (gradient - plain).abs() > 1e-12
        torch.testing.assert_close(gradient - plain, 0.5 * push * found[name], rtol=0, atol=1e-12)
        assert not of_entropy.any()
    num_low = math.floor(0.8 * batch["mask"].sum().item())
    assert found["high"].sum() == math.floor(0.25 * num_low) and found["both"].sum() == num_low
    assert torch.equal(found["low"], found["both"] & ~found["high"])
    assert entropy[found["both"]].max() <= entropy[batch["mask"] & ~found["both"]].min()


def test_ties_go_to_the_lower_index() -> None:
    """Equal entropies, equal covariances: the first tokens of the minibatch."""
    batch, logprobs, entropy = credited_batch()
    level, flat = torch.ones_like(entropy).requires_grad_(), torch.zeros_like(logprobs).requires_grad_()
    places = batch["mask"].flatten().nonzero()[:, 0].tolist()
    num_low = math.floor(0.5 * len(places))
    for betas, expected in {(1, 1): places[:num_low], (0, 1): places[: math.floor(0.3 * num_low)]}.items():
        changes = {"low_entropy_ratio": 0.5, "cov_ratio": 0.3, "beta": betas[0], "cov_beta": betas[1]}
        _, (held, _) = grads_of(*load("sent", **changes), batch, flat, level)
        _, (plain, _) = grads_of(*load("sent", **OFF), batch, flat, level)
        assert (held != plain).flatten().nonzero()[:, 0].tolist() == expected


def test_an_upper_tier_drawn_at_random() -> None:
    """As many, from the same sure tokens."""
    batch, logprobs, entropy = credited_batch()
    changes = {"beta": 0.0, "cov_beta": 1.0, "cov_ratio": 0.3}
    _, (sure, _) = grads_of(*load("sent", beta=1.0, cov_beta=1.0), batch, logprobs, entropy)
    _, (plain, _) = grads_of(*load("sent", **OFF), batch, logprobs, entropy)
    found = set()
    for seed in range(10):
        torch.manual_seed(seed)
        _, (gradient, _) = grads_of(*load("sent", random_selection=True, **changes), batch, logprobs, entropy)
        assert not ((gradient != plain) & (sure == plain)).any()
        found.add(tuple((gradient != plain).flatten().nonzero()[:, 0].tolist()))
    num_low = math.floor(0.8 * batch["mask"].sum().item())
    assert len(found) > 5 and {len(places) for places in found} == {math.floor(0.3 * num_low)}


def test_tokens_of_the_curriculum_are_reported_once() -> None:
    module, args = load("sent")
    state = {"order": [1, 0], "curriculum_tokens": 77}
    batch, _, _ = toy()
    found = [module.assign_credit(batch, args, state)["algo/curriculum_tokens"] for _ in range(2)]
    assert found[0] == 77 and math.isnan(found[1]) and state == {"order": [1, 0]}


# --- The curriculum ---------------------------------------------------------------------------------------------------

ANSWERS = {  # of four responses; a dot has none
    "a": "....",  # log 4: each is alone
    "b": "1123",  # 1.04
    "c": "3112",  # the same
    "d": "1122",  # log 2
    "e": "1112",  # .562
    "f": "1111",  # 0
    "g": "2222",  # 0, and wrong
}
NUMBERED = [Problem(name, "1", name, "exact") for name in ANSWERS]


def easy_first(problems: list[Problem], monkeypatch: pytest.MonkeyPatch, n: int = 4, by: str = "entropy") -> dict:
    """With a sampler that gives these answers, and two tokens a response."""

    def sample(asked, sampler, verifier, timer, n, temperature, max_new_tokens, seed):
        assert (temperature, max_new_tokens, asked) == (0.7, 5, problems)
        sampler.seeds.append(seed)
        answers = [answer if answer != "." else None for problem in asked for answer in ANSWERS[problem.id][:n]]
        verdicts = [SimpleNamespace(reward=float(answer == "1"), answer=answer) for answer in answers]
        return [SimpleNamespace(response=SimpleNamespace(token_ids=[3, 4]), verdict=v) for v in verdicts]

    monkeypatch.setattr(rollout, "sample_groups", sample)
    sampler = SimpleNamespace(seeds=[], rested=0)
    sampler.rest = lambda: setattr(sampler, "rested", sampler.rested + 1)
    args = SimpleNamespace(temperature=0.7, max_response_length=5, seed=3)
    found = rollout.easy_first(problems, sampler, None, args, n, by)
    assert sampler.rested == len(sampler.seeds) == 1
    return found


def test_problems_are_sorted_by_the_entropy_of_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are right does not matter; equals stay as they were, whatever order their answers came in."""
    found = easy_first(NUMBERED, monkeypatch)
    assert "".join(NUMBERED[i].id for i in found["order"]) == "fgedbca" and found["curriculum_tokens"] == 7 * 4 * 2
    turned = easy_first(NUMBERED[::-1], monkeypatch)["order"]
    assert "".join(NUMBERED[::-1][i].id for i in turned) == "gfedcba"
    assert all(type(place) is int for place in turned)  # plain numbers, for checkpoints


def test_or_by_falling_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = easy_first(NUMBERED, monkeypatch, by="accuracy")["order"]
    assert "".join(NUMBERED[i].id for i in found) == "febcdag"


def test_one_sample_knows_no_entropy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    warn_once.cache_clear()
    assert easy_first(NUMBERED, monkeypatch, n=1)["order"] == list(range(7))
    assert "--curriculum-samples 1" in capsys.readouterr().err
    easy_first(NUMBERED, monkeypatch, n=1, by="accuracy")
    easy_first(NUMBERED, monkeypatch, n=2)
    assert "--curriculum-samples" not in capsys.readouterr().err
