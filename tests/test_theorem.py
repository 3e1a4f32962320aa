"""benchmarks.theorem: what an update promises of the entropy and what is measured, on problems small enough to know."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import theorem
from benchmarks.theorem import Args, agreement, both_updates, over_seeds, read_rows
from common.metrics import promised_change
from tests.algorithms.oracle import load, random_batch
from tests.helpers import tiny_policy
from tests.test_metrics import WORDS, slopes, tabled


def test_agreement() -> None:
    found = agreement(np.array([1.0, 2, -1]), np.array([2.0, 4, -3]))
    assert found["slope"] == pytest.approx(13 / 6) and found["sign"] == 1
    assert found["correlation"] == pytest.approx(np.corrcoef([1, 2, -1], [2, 4, -3])[0, 1])
    assert agreement(np.array([1.0, -1, 2]), np.array([-1.0, -1, 1]))["sign"] == pytest.approx(2 / 3)
    nothing = agreement(np.zeros(3), np.ones(3))
    assert math.isnan(nothing["correlation"]) and math.isnan(nothing["slope"]) and nothing["sign"] == 0


@pytest.mark.parametrize("method", ["grpo", "nsr"])
def test_on_a_table_of_logits_plain_descent_does_what_polarity_promises(method: str) -> None:
    """The slope of measured on promised change is 1 there, batch by batch."""
    module, args = load(method)
    rate, predicted, measured = 1e-2, [], []
    for seed in range(12):
        batch, _, _ = random_batch(seed)
        module.assign_credit(batch, args, {})
        generator, mask = torch.Generator().manual_seed(seed), batch["mask"]
        logits = 2 * torch.randn(*mask.shape, WORDS, generator=generator, dtype=torch.float64)
        logits.requires_grad_()
        targets = torch.randint(WORDS, mask.shape, generator=generator)
        logprobs, entropy = tabled(logits, targets)
        batch |= {"old_logprobs": logprobs.detach(), "importance": torch.ones_like(entropy)}
        batch |= slopes(logits.detach(), targets)
        loss, _ = module.policy_loss(logprobs, entropy, batch, args)
        (push,) = torch.autograd.grad(loss, logits, retain_graph=True)
        grads = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
        moved = tabled(logits.detach() - rate * push, targets)[1]
        predicted.append(rate * promised_change(batch, grads)[mask].mean().item() / mask.sum().item())
        measured.append((moved - entropy.detach())[mask].mean().item())
    found = agreement(np.array(predicted), np.array(measured))
    assert found["slope"] == pytest.approx(1, abs=0.01) and found["correlation"] > 0.999 and found["sign"] == 1


def test_both_updates_of_a_network() -> None:
    """Plain descent as its gradient says, and taken back; AdamW as if it had been alone."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 250, (4, 6), generator=generator)
    every = torch.ones(4, 6, dtype=torch.bool)
    batch = {"prompt_ids": ids[:, :2], "prompt_mask": every[:, :2], "response_ids": ids, "mask": every}
    gradients = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64) / 24
    policy, alone = (tiny_policy(dtype=torch.float64, learning_rate=1e-3) for _ in range(2))
    start = policy.score(batch)[1].double().mean().item()
    plain, adamw = both_updates(policy, batch, tuple(gradients), 1e-5)
    assert (plain["optimiser"], adamw["optimiser"]) == ("SGD", "AdamW")
    assert (plain["learning_rate"], adamw["learning_rate"]) == (1e-5, 1e-3)
    assert plain["measured"] / plain["gradient"] == pytest.approx(1, abs=0.005) and abs(plain["gradient"]) > 1e-6
    alone.backward(batch, *gradients)
    alone.step()
    for ours, theirs in zip(policy.snapshot(), alone.snapshot(), strict=True):
        assert torch.equal(ours, theirs)
    end = policy.score(batch)[1].double().mean().item()
    assert adamw["measured"] == pytest.approx(end - start, abs=1e-9) and abs(end - start) > 1e-3


def test_numbers_are_taken_inside_each_seed_and_method() -> None:
    """A method with larger changes than another makes no correlation, nor does a seed."""
    rows = [
        {"method": method, "seed": seed, "optimiser": "SGD", "polarity": shift + x, "measured": shift + sign * x}
        for method, shift in (("a", 0), ("b", 100))
        for seed, sign in ((1, 1), (2, -1))
        for x in (1.0, 2.0, 4.0)
    ]
    assert over_seeds(rows, "polarity", "correlation", optimiser="SGD") == pytest.approx([1, -1])
    assert over_seeds(rows, "polarity", "sign", method="b") == pytest.approx([1, 1])


def test_two_steps(tmp_path: Path) -> None:
    """Of a method that samples until its groups are mixed, and of one that does not."""
    own = Args(methods=("dapo", "opo"), seeds=(1,), num_steps=2, num_prompts=4, out=tmp_path)
    theorem.main(own)
    rows = read_rows(tmp_path / "theorem.csv")
    assert [(row["method"], row["step"], row["optimiser"]) for row in rows[:3]] == [
        ("dapo", 1, "SGD"),
        ("dapo", 1, "AdamW"),
        ("dapo", 2, "SGD"),
    ]
    assert len(rows) == 8 and all(row["measured"] for row in rows) and all(row["polarity"] for row in rows)
    assert rows[0]["covariance"] == rows[1]["covariance"] != rows[2]["covariance"]
    text = (tmp_path / "theorem.md").read_text()
    assert "2 methods, seeds 1, 2 steps of 4\nprompts x 8" in text and (tmp_path / "theorem.png").exists()
    assert text == theorem.page(rows)


def test_page_is_that_of_the_kept_numbers() -> None:
    kept = theorem.RESULTS / "collapse"
    assert theorem.page(read_rows(kept / "theorem.csv")) == (kept / "theorem.md").read_text()
