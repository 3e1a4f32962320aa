"""All that runs on a GPU, run on a pretended one: devices never mix, kernels are reached, waits are counted."""

import json
import runpy
import sys
from collections import Counter
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common import records, tasks
from common.batch import make_batch
from common.critic import ValueModel
from common.hf import TransformersSampler
from common.policy import Policy
from common.run import Run
from tests.helpers import byte_tokenizer, random_samples, tiny_model
from tests.pretend import CUDA, OnCuda, PretendedCuda
from tests.test_resume import flags
from tests.test_rollout import PROMPTS, assert_same_responses

ROOT = Path(__file__).resolve().parents[1]
load_problems = cache(tasks.load_problems)
KINDS = [("qwen2", True), ("llama", False), ("phi", False), ("neox", False)]
LAYERS = 2
HALF = torch.bfloat16


def small_batch() -> dict:
    return make_batch(random_samples(num_prompts=3, n=2))


def policy_on(device: str, kind: str = "qwen2", tied: bool = True, **options) -> Policy:
    """In float32 on both devices, unless a dtype is given."""
    options = {"dtype": torch.float32, "learning_rate": 1e-2} | options
    return Policy(tiny_model(kind, tied), byte_tokenizer(), device=device, **options)


def gradients(batch: dict, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(batch["mask"].shape, generator=generator) * scale for _ in range(2))


def held(tensor: Tensor) -> Tensor:
    return tensor.detach().held.clone() if isinstance(tensor, OnCuda) else tensor.detach().clone()


def two_updates(policy: Policy, batch: dict, graph: bool = False) -> dict[str, list[Tensor]]:
    """Scores, gradients, norms and parameters of two updates: what another device has to repeat."""
    found = {"scores": [], "grads": [], "norms": [], "parameters": []}
    for _ in range(2):
        found["scores"] += policy.score(batch, batch["likely_trained"] if graph else None)
        policy.backward(batch, *gradients(batch))
        found["grads"] += [held(p.grad) for p in policy.root.parameters() if p.grad is not None]
        found["norms"].append(torch.tensor(policy.step()))
        found["parameters"] += [held(p) for p in policy.root.parameters()]
    return found


def assert_close(actual: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    """But for what Adam makes of gradients that are mere rounding: a few parameters in a hundred."""
    for key, values in expected.items():
        ours, theirs = (torch.cat([x.flatten() for x in tensors]) for tensors in (actual[key], values))
        assert type(ours) is Tensor and ours.shape == theirs.shape
        off = (ours - theirs).abs() / (theirs.abs().mean() if key in ("grads", "norms") else 1)
        assert (off > 1e-3).double().mean() < 0.02 and off.median() < 1e-5 and (off.max() < 1e-3 or key == "parameters")


# --- What it pretends -------------------------------------------------------------------------------------------------


def test_it_refuses_what_cuda_refuses() -> None:
    here = torch.ones(3)
    with PretendedCuda() as cuda:
        there = torch.ones(3, device="cuda:0") * 2
        assert there.is_cuda and there.device == CUDA and there.to("cpu").tolist() == [2, 2, 2]
        assert (there + torch.tensor(1.0)).tolist() == [3, 3, 3]  # a number may lie anywhere
        assert torch.zeros(3).copy_(there).device.type == "cpu" and there[torch.tensor([0, 2])].is_cuda
        for mix in (
            lambda: there + here,
            lambda: torch.cat([here, there]),
            lambda: here[there.long().cpu() * 0 + there.long() * 0],
            lambda: torch.where(there > 0, there, here),
            lambda: torch.nn.functional.embedding(torch.tensor([0]), there[:, None]),
        ):
            with pytest.raises(RuntimeError, match="cuda:0"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(RuntimeError, match="half precision"):
            torch.mm(there[None], there[:, None], out_dtype=torch.float32)
    assert cuda.syncs["to_cpu"] == 4 and cuda.syncs["index_on_cpu"] >= 1
    with pytest.raises(RuntimeError, match="outside"):
        there + 1


def test_it_counts_what_the_host_waits_for() -> None:
    with PretendedCuda() as cuda:
        x = torch.arange(4, device="cuda:0")
        before = Counter(cuda.syncs)
        x.sum().item(), bool((x > 1).any()), x.nonzero(), x.to("cpu"), x[x > 2], x * 2 + 1
    waits = cuda.syncs - before
    assert waits == Counter(_local_scalar_dense=2, nonzero=2, to_cpu=1) - Counter()


# --- The policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({"kind": kind, "tied": tied} for kind, tied in KINDS),
        {"packing": True},
        {"packing": True, "share_prompts": True},
        {"graph": True},
        {"gradient_checkpointing": True},
        {"offload_optimizer": True},
        {"kind": "phi", "tied": False, "packing": True, "graph": True, "gradient_checkpointing": True},
    ],
    ids=lambda options: " ".join(map(str, options.values())) + " " + next(reversed(options)),
)
def test_in_float32_the_numbers_are_the_cpus(options: dict) -> None:
    graph, batch = options.pop("graph", False), small_batch()
    options |= {"micro_batch_tokens": 10**6 if graph else 30}
    expected = two_updates(policy_on("cpu", **options), batch, graph)
    with PretendedCuda():
        policy = policy_on("cuda:0", **options)
        assert all(p.is_cuda for p in policy.root.parameters()) and policy.optimizer.defaults["fused"]
        actual = two_updates(policy, batch, graph)
        moments = [state["exp_avg"] for state in policy.optimizer.state.values()]
        assert len({m.is_cuda for m in moments}) == 1 and moments[0].is_cuda != policy.offload_optimizer
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("kind", "tied", "checkpointing", "packing"),
    [
        ("qwen2", True, False, True),
        ("qwen2", True, True, True),
        ("qwen2", True, False, False),
        ("phi", False, True, True),
        ("qwen2", True, True, "shared"),
    ],
)
def test_in_bfloat16_the_kernels_are_reached(kind: str, tied: bool, checkpointing: bool, packing: bool | str) -> None:
    """Variable-length attention for packed rows, products in float32 for logits and for the head's gradient."""
    batch, exact = small_batch(), policy_on("cpu", kind, tied)
    options = {"dtype": None, "packing": bool(packing), "share_prompts": packing == "shared", "micro_batch_tokens": 30}
    options["gradient_checkpointing"] = checkpointing
    with PretendedCuda() as cuda:
        policy = policy_on("cuda:0", kind, tied, **options)
        assert policy.dtype == HALF and next(policy.model.parameters()).dtype == torch.float32
        policy.chunk = 7
        parts = list(policy._passes(batch, batch["mask"]))
        chunks = sum(-(-len(part.targets) // policy.chunk) for part in parts)
        before = Counter(cuda.calls)
        scores = policy.score(batch)
        scored = cuda.calls - before
        policy.backward(batch, *gradients(batch))
        both = cuda.calls - before
        assert all(p.grad.dtype == torch.float32 for p in policy.model.parameters())
    runs = len(parts) * (2 + checkpointing)
    assert len(parts) > 1 and cuda.attention == {f"{'varlen' if packing else 'dense'} bfloat16": LAYERS * runs}
    assert scored["mm.dtype_out"] == chunks and both["mm.dtype_out"] == 2 * chunks
    assert scored["addmm.dtype_out"] == 0 and both["addmm.dtype_out"] == chunks
    for low, full in zip(scores, exact.score(batch), strict=True):
        assert 0 < (low - full).abs().max() < 0.2


def test_logits_are_not_rounded_to_bfloat16() -> None:
    """The same bfloat16 factors: as near to their exact products as float32 is, also in what is to be compiled."""
    from common.vocabulary import chunk_values, raw_logits, vocabulary_score

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(20, 64, generator=generator).to(HALF)
    weight, bias = (torch.randn(*shape, generator=generator).to(HALF) for shape in ((500, 64), (500,)))
    targets = torch.randint(500, (20,), generator=generator)
    exact = (hidden.double() @ weight.double().t() + bias.double()).log_softmax(-1)
    expected = exact.gather(1, targets[:, None])[:, 0], -(exact.exp() * exact).sum(-1)
    with PretendedCuda():
        there = [x.to("cuda:0") for x in (hidden, weight, bias.float(), targets)]
        logits = raw_logits(*there[:3])
        values = vocabulary_score(*there, 1.0, 8), chunk_values(logits, there[3][:, None], 1.0)
        found = [[x.to("cpu").double() for x in pair] for pair in values]
    assert logits.dtype == torch.float32
    for pair in found:
        for a, e in zip(pair, expected, strict=True):
            assert (a - e).abs().max() < 1e-4
    rounded = vocabulary_score(hidden, weight, bias, targets, 1.0, 8)
    assert (rounded[0] - expected[0]).abs().max() > 1e-2  # so it would show


@pytest.mark.parametrize("packing", [True, False])
def test_what_the_host_waits_for_in_a_pass(packing: bool) -> None:
    """Ids, two indices and targets go up, log-probabilities and entropies come down; nothing in between asks back but
    the library, once, for whether rows are packed."""
    batch = small_batch()
    with PretendedCuda() as cuda:
        policy = policy_on("cuda:0", dtype=None, packing=packing, micro_batch_tokens=30)
        parts, before = len(list(policy._passes(batch, batch["mask"]))), Counter(cuda.syncs)
        policy.score(batch)
        score = cuda.syncs - before
        before = Counter(cuda.syncs)
        policy.backward(batch, gradients(batch)[0])
        backward = cuda.syncs - before
        before = Counter(cuda.syncs)
        policy.step()
        step = cuda.syncs - before
    up = 4 + 2 * packing  # positions and ends of packed rows
    asks = {"_local_scalar_dense": parts}
    assert parts > 1 and score == {"to_cuda": up * parts, "to_cpu": 2 * parts} | asks
    assert backward == {"to_cuda": (up + 1) * parts} | asks
    assert step == {"_local_scalar_dense": 1}


# --- Further models ---------------------------------------------------------------------------------------------------


def test_a_reference_is_held_in_the_passes_dtype() -> None:
    batch = small_batch()
    with PretendedCuda():
        policy = policy_on("cuda:0", dtype=None)
        reference, moving = policy.frozen_copy(), policy.frozen_copy(moves=True)
        assert {p.dtype for p in reference.root.parameters()} == {HALF}
        for model in (reference, moving):
            assert all(torch.equal(a, b) for a, b in zip(model.score(batch), policy.score(batch), strict=True))
        policy.backward(batch, *gradients(batch))
        policy.step()
        moving.copy_from(policy, 0.001)
        with pytest.raises(ValueError, match="moves=True"):
            reference.copy_from(policy, 0.001)
        reference.copy_from(policy)
        assert all(torch.equal(a, b) for a, b in zip(reference.score(batch), policy.score(batch), strict=True))


def test_a_critic() -> None:
    batch = small_batch()
    found = []
    for device in ("cpu", "cuda:0"):
        with PretendedCuda():
            critic = policy_on(device).twin(ValueModel, learning_rate=1e-2)
            for _ in range(3):
                (values,) = critic.score(batch)
                critic.backward(batch, (values - 1) * batch["mask"])
                critic.step()
            found.append({"scores": list(critic.score(batch)), "parameters": list(map(held, critic.root.parameters()))})
    assert found[0]["scores"][0].abs().max() > 0.1
    assert_close(found[1], found[0])


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_the_sampler_draws_what_it_draws_on_the_cpu(dtype: torch.dtype) -> None:
    drawn = []
    for device in ("cpu", "cuda:0"):
        with PretendedCuda():
            policy = policy_on(device, dtype=dtype)
            sampler = TransformersSampler(policy)
            sampler.sync()
            drawn.append(sampler.generate(PROMPTS, 2, 0.8, 6, seed=1))
    if dtype == torch.float32:
        assert_same_responses(drawn[1], drawn[0])
    assert [len(x) for x in drawn] == [2 * len(PROMPTS)] * 2


def test_a_resumed_run_leaves_the_moments_on_the_cpu(tmp_path: Path) -> None:
    batch, saved = small_batch(), policy_on("cpu")
    two_updates(saved, batch)
    saved.save(tmp_path)
    saved.save_optimizer(tmp_path)
    saved.save_state(tmp_path / "extra" / "critic")
    with PretendedCuda():
        for restore in (
            lambda policy: policy.restore(tmp_path),
            lambda p: p.restore_state(tmp_path / "extra" / "critic"),
        ):
            policy = policy_on("cuda:0", offload_optimizer=True)
            restore(policy)
            moments = [state["exp_avg"] for state in policy.optimizer.state.values()]
            assert moments and not any(m.is_cuda for m in moments) and all(p.is_cuda for p in policy.root.parameters())


def test_moments_move_in_the_same_pinned_memory_at_every_step() -> None:
    batch = small_batch()
    with PretendedCuda() as cuda:
        policy = policy_on("cuda:0", offload_optimizer=True)
        moments, places = 2 * len(list(policy.model.parameters())), []
        for step in range(3):
            policy.backward(batch, *gradients(batch))
            before = Counter(cuda.syncs)
            policy.step()
            moved = cuda.syncs - before
            assert moved["to_cpu"] == moments and moved["to_cuda"] == (moments if step else 0)
            places.append([state["exp_avg_sq"].data_ptr() for state in policy.optimizer.state.values()])
    assert cuda.pinned == moments and places[0] == places[1] == places[2]


# --- Whole steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), [("grpo", {"beta": 0.01}), ("vapo", {"value-warmup": 1})])
def test_two_steps_of_a_script(name: str, options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, evaluation included; without checkpoints, whose writer wants tensors' addresses."""
    for writing in ("save", "_try_to_save"):  # the library asks where a tensor really lies
        monkeypatch.setattr(Run, writing, lambda *_: None)
    monkeypatch.setattr(records, "draw_curves", lambda *_: None)
    monkeypatch.setattr(tasks, "load_problems", load_problems)
    found = []
    for device in ("cpu", "cuda:0"):
        recipe = {"device": device, "num-steps": 2, "num-prompts": 2, "num-generations": 4, "num-minibatches": 2}
        recipe |= {
            "eval-every": 2,
            "eval-problems": 1,
            "eval-samples": 2,
            "max-response-length": 10,
            "output-dir": tmp_path / device,
        } | options
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags(recipe)])
        with PretendedCuda() if device == "cuda:0" else nullcontext() as cuda:
            runpy.run_path(str(ROOT / "algos" / f"{name}.py"), run_name="__main__")
        found.append([json.loads(line) for line in (tmp_path / device / "metrics.jsonl").read_text().splitlines()])
    assert cuda.calls["mm.dtype_out"] > 0 and cuda.syncs["index_on_cpu"] == 0
    cpu, gpu = found
    assert [record["step"] for record in gpu] == [0, 1, 2] and [r.keys() for r in gpu] == [r.keys() for r in cpu]
    for key in ("rollout/entropy", "policy/entropy"):  # in bfloat16, and not the same responses
        assert gpu[1][key] == pytest.approx(cpu[1][key], rel=0.5)
