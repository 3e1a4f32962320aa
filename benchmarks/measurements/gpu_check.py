"""Everything that needs a GPU, in one command: is it right, how fast is it, does it learn.

Parts, in this order; each is a process of its own, and one that fails or runs out of time does not stop the others:

- equality: `policy.score` and the gradients of `policy.backward` next to the plain way (whole logits, autograd) in
  float32 and bfloat16, padded and packed, with kept graphs, checkpointing, small micro-batches and small chunks; the
  optimiser on the CPU against the optimiser on the device.
- 0.5B, 1.5B: seconds, tokens per second and MFU of score + backward + step for the shapes of Qwen2.5 with random
  weights, at 16,384 tokens a micro-batch.
- learning: 100 steps of algos/grpo.py and algos/kl_cov.py on the embedded task, side by side.
- compiled: the equality checks with `compiled=True`.
- memory: what benchmarks.memory measures, on the GPU.
- trl, verl: benchmarks.throughput, where they are installed.

An equality check compares errors: both ways are held against the plain way in float64, and ours may be off by at most
twice what the plain way in the same dtype is off by, or by what is listed in `FLOOR`. Numbers that do not pass make the
exit status 1.

MFU is useful operations / seconds / peak. Useful are 2 per weight and token for a forward pass and 4 for a backward
pass, so 8 N with the scoring pass and 6 N where its graph is kept, and attention over the causal half of each row. N
counts the layers for every token that is read and the output head for response tokens alone; looking up an embedding is
free. Padding, recomputation and a second crossing of the vocabulary are not useful. The target is 30 % for the best
variant of each shape.

    python -m benchmarks.gpu_check                                    # one H100, under nine minutes
    python -m benchmarks.gpu_check --parts memory trl                 # these again, beside what the file holds
    python -m benchmarks.gpu_check --device cpu --quick --out q.json  # a test of this script
"""

import copy
import gc
import inspect
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
import torch._dynamo
import tyro
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import PreTrainedModel

from benchmarks import RESULTS, ROOT, memory
from benchmarks.measure import (
    as_flags,
    check_known,
    environment,
    peak_memory,
    random_qwen,
    read_metrics,
    reset_peak_memory,
    worker_environment,
)
from benchmarks.pretrain_tiny import make_tokenizer
from benchmarks.scaling import SIZES, Shape
from common import InputError
from common.policy import Policy

TEMPERATURE = 0.7  # of the equality checks: 1 would hide a forgotten one
FACTOR = 2.0  # how many times the plain way's error ours may have
# What rounding alone makes: nats of a log-probability and an entropy, relative error of all gradients and of one's.
FLOOR = {
    "float32": {"logprobs": 2e-6, "entropy": 4e-6, "gradient": 1e-6, "worst parameter": 5e-6},
    "bfloat16": {"logprobs": 0.0, "entropy": 0.0, "gradient": 0.0, "worst parameter": 0.0},
}
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16
TARGET_MFU = 0.3
SHAPES = {name: SIZES[name] for name in ("0.5B", "1.5B")}
SMALL = Shape("small", layers=3, hidden=256, intermediate=384, heads=4, kv_heads=2, vocabulary=2003, head_width=64)
TINY = Shape("tiny", layers=2, hidden=32, intermediate=48, heads=2, kv_heads=1, vocabulary=258, head_width=16)


@dataclass
class Args:
    parts: tuple[str, ...] = ("equality", "0.5B", "1.5B", "learning", "compiled", "memory", "trl", "verl")
    device: str = "cuda"
    quick: bool = False
    """tiny shapes, few steps: a test of this script and not of the machine"""
    limit: float = 530
    """seconds for all parts; one that is reached later is left out, and the file says so"""
    part_limit: float = 150
    """seconds for a part, which is then stopped; its rows so far are kept"""
    isolate: bool = True
    """a process for each part; without, one part's failure on the GPU can spoil the next"""
    threads: int = 8
    """OMP_NUM_THREADS of every process"""
    seed: int = 1
    out: Path = RESULTS / "gpu.json"
    """results, beside those of parts that earlier commands measured"""


# --- Equality ---------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One way of computing the same thing."""

    name: str
    options: dict = field(default_factory=dict)  # Policy's
    kept: bool = False  # score keeps its graph
    chunk: int | None = None  # tokens that meet the vocabulary at a time
    entropy: bool = True  # the entropy has a gradient too
    tied: bool = True


ALL = 2**30  # tokens of a micro-batch that holds any batch
CASES = (
    Case("padded", {"micro_batch_tokens": ALL}),
    Case("padded, graph kept", {"micro_batch_tokens": ALL}, kept=True),
    Case("padded, micro-batches of 200", {"micro_batch_tokens": 200}),
    Case("padded, a row at a time", {"micro_batch_tokens": 1}),
    Case("padded, chunks of 7", {"micro_batch_tokens": ALL}, chunk=7),
    Case("padded, no entropy gradient", {"micro_batch_tokens": ALL}, entropy=False),
    Case("padded, untied head", {"micro_batch_tokens": ALL}, tied=False),
    Case("checkpointing", {"micro_batch_tokens": 200, "gradient_checkpointing": True}),
    Case("checkpointing, graph kept", {"micro_batch_tokens": ALL, "gradient_checkpointing": True}, kept=True),
    Case("packed", {"micro_batch_tokens": ALL, "packing": True}),
    Case("packed, graph kept", {"micro_batch_tokens": ALL, "packing": True}, kept=True),
    Case("packed, micro-batches of 200", {"micro_batch_tokens": 200, "packing": True}),
    Case("packed, checkpointing", {"micro_batch_tokens": 200, "packing": True, "gradient_checkpointing": True}),
)
COMPILED_CASES = (
    Case("compiled, padded", {"micro_batch_tokens": 200, "compiled": True}),
    Case("compiled, graph kept", {"micro_batch_tokens": ALL, "compiled": True}, kept=True),
    Case("compiled, checkpointing", {"micro_batch_tokens": 200, "compiled": True, "gradient_checkpointing": True}),
    Case("compiled, packed", {"micro_batch_tokens": 200, "compiled": True, "packing": True}),
)


def random_model(shape: Shape, seed: int = 0, device: str = "cpu", std: float = 0.02) -> PreTrainedModel:
    """A Qwen2 of this shape with random weights, made on the device."""
    return random_qwen(
        seed,
        device,
        shape.tied,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32_768,
        initializer_range=std,
    )


def checked_model(tied: bool, seed: int, quick: bool) -> PreTrainedModel:
    """A small model whose distributions are not flat, with biases and norms that a mistake would show in."""
    model = random_model(replace(TINY if quick else SMALL, tied=tied), seed, std=0.2 if quick else 0.07)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def ragged_batch(vocabulary: int, rows: int, longest: int, seed: int) -> dict:
    """Prompts and responses of all lengths from 1 to `longest`."""
    generator = torch.Generator().manual_seed(seed)
    prompts, responses = torch.randint(1, longest + 1, (2, rows), generator=generator)
    responses[0], prompts[1] = 1, 1
    return random_batch(prompts, responses, vocabulary, generator)


def random_batch(prompts: Tensor, responses: Tensor, vocabulary: int, generator: torch.Generator) -> dict:
    """Random tokens in rows of these lengths, padded as `make_batch` pads."""
    columns = torch.arange(int(max(prompts.max(), responses.max())))
    width, length = int(prompts.max()), int(responses.max())
    return {
        "prompt_ids": torch.randint(vocabulary, (len(prompts), width), generator=generator),
        "prompt_mask": columns[:width] >= width - prompts[:, None],
        "response_ids": torch.randint(vocabulary, (len(responses), length), generator=generator),
        "mask": columns[:length] < responses[:, None],
    }


def random_gradients(batch: dict, entropy: bool, seed: int) -> tuple[Tensor, Tensor | None]:
    """d loss / d (logprobs, entropy) at four tokens of five, and at none of every fourth row's."""
    generator = torch.Generator().manual_seed(seed)
    mask = batch["mask"] & (torch.rand(batch["mask"].shape, generator=generator) < 0.8)
    mask[3::4] = False
    grads = torch.randn(2, *mask.shape, generator=generator) * mask / mask.sum()
    return grads[0], grads[1] if entropy else None


@dataclass
class Found:
    """What one way computes, on the CPU in float64."""

    logprobs: Tensor
    entropy: Tensor
    gradients: dict[str, Tensor]

    @classmethod
    def of(cls, logprobs: Tensor, entropy: Tensor, model: torch.nn.Module) -> "Found":
        gradients = {name: p.grad.double().cpu() for name, p in model.named_parameters()}
        return cls(logprobs.double().cpu(), entropy.double().cpu(), gradients)

    def error(self, exact: "Found") -> dict[str, float]:
        """Largest differences in nats; norms of the gradients' differences over norms of the gradients."""
        squares = {
            name: ((self.gradients[name] - g).square().sum().item(), g.square().sum().item())
            for name, g in exact.gradients.items()
        }
        wrong, whole = (sum(column) for column in zip(*squares.values(), strict=True))
        return {
            "logprobs": (self.logprobs - exact.logprobs).abs().max().item(),
            "entropy": (self.entropy - exact.entropy).abs().max().item(),
            "gradient": (wrong / whole) ** 0.5,
            "worst parameter": max((w / max(g, 1e-12 * whole)) ** 0.5 for w, g in squares.values()),
        }


def plain_way(model: PreTrainedModel, batch: dict, grads: tuple, device: str, dtype: torch.dtype) -> Found:
    """Whole logits over rows right-padded with a mask, log_softmax, autograd; parameters in float32 at least."""
    model = copy.deepcopy(model).to(device, torch.promote_types(dtype, torch.float32))
    lengths = batch["prompt_mask"].sum(1), batch["mask"].sum(1)
    rows = [
        torch.cat([prompt[len(prompt) - p :], response[:r]])
        for prompt, response, p, r in zip(batch["prompt_ids"], batch["response_ids"], *lengths, strict=True)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    attended = torch.arange(ids.shape[1]) < sum(lengths)[:, None]
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=attended.to(device), use_cache=False).logits
    logp = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / TEMPERATURE).log_softmax(-1)
    # Response token t of row b is predicted at position prompt length - 1 + t.
    r, t = batch["mask"].nonzero(as_tuple=True)
    logp = logp[r.to(device), (lengths[0][r] - 1 + t).to(device)]
    taken = logp.gather(1, batch["response_ids"][r, t].to(device)[:, None])[:, 0]
    entropy = -(logp.exp() * logp).sum(-1)
    loss = sum((v * g[r, t].to(v)).sum() for v, g in ((taken, grads[0]), (entropy, grads[1])) if g is not None)
    loss.backward()
    shape = batch["mask"].shape
    filled = (torch.zeros(shape, dtype=v.dtype).index_put((r, t), v.detach().cpu()) for v in (taken, entropy))
    return Found.of(*filled, model)


def our_way(model: PreTrainedModel, case: Case, batch: dict, grads: tuple, device: str, dtype: torch.dtype) -> Found:
    policy = make_policy(copy.deepcopy(model), device, dtype=dtype, temperature=TEMPERATURE, **case.options)
    policy.chunk = case.chunk or policy.chunk
    scored = policy.score(batch, (grads[0] != 0).any(1) if case.kept else None)
    policy.backward(batch, *grads)
    return Found.of(*scored, policy.model)


def make_policy(model: PreTrainedModel, device: str, **options) -> Policy:
    """Raises InputError, and not TypeError, where this Policy has no such option."""
    if unknown := options.keys() - inspect.signature(Policy.__init__).parameters.keys():
        raise InputError(f"Policy has no {', '.join(sorted(unknown))}")
    return Policy(model, make_tokenizer(), device=device, **options)


def check_equality(cases: tuple[Case, ...], options: dict, dtypes: tuple[torch.dtype, ...]) -> Iterator[dict]:
    """One row for each case and dtype: ours and the plain way's errors, and whether ours passes."""
    torch.set_float32_matmul_precision("highest")  # no TF32
    device, seed, quick = options["device"], options["seed"], options["quick"]
    plain: dict[tuple, tuple] = {}
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for case in cases:
            row = {"case": case.name, "dtype": name}
            kind = (dtype, case.tied, case.entropy)
            try:
                if kind not in plain:
                    model = checked_model(case.tied, seed, quick)
                    batch = ragged_batch(model.config.vocab_size, *((8, 9) if quick else (24, 48)), seed)
                    grads = random_gradients(batch, case.entropy, seed)
                    exact = plain_way(model, batch, grads, device, torch.float64)
                    plain[kind] = model, batch, grads, exact, plain_way(model, batch, grads, device, dtype).error(exact)
                model, batch, grads, exact, allowed = plain[kind]
                torch._dynamo.reset()  # else a case may find no room for its own code and run uncompiled
                error = our_way(model, case, batch, grads, device, dtype).error(exact)
                limits = {key: max(FACTOR * allowed[key], FLOOR[name][key]) for key in error}
                passed = all(error[key] <= limits[key] for key in error)  # a NaN fails
                yield row | {"passed": passed, "error": error, "plain": allowed}
            except InputError as reason:
                yield row | {"skipped": str(reason)}
            except Exception as reason:
                yield row | {"passed": False, "raised": last_line(reason)}


def check_offloading(options: dict) -> Iterator[dict]:
    """Three steps with the optimiser's state on the CPU in between give the same parameters as without, to the bit."""
    device, seed = options["device"], options["seed"]
    model = checked_model(True, seed, options["quick"])
    batch = ragged_batch(model.config.vocab_size, 8, 9, seed)
    policies = [
        make_policy(copy.deepcopy(model), device, learning_rate=1e-3, offload_optimizer=offload)
        for offload in (False, True)
    ]
    for _ in range(3):
        policies[0].backward(batch, *random_gradients(batch, True, seed))
        # The same gradients for both: made anew, they may add up in another order.
        for theirs, parameter in zip(*(policy.model.parameters() for policy in policies), strict=True):
            parameter.grad = theirs.grad.clone()
        for policy in policies:
            policy.step()
    trained = [[p.detach().cpu() for p in policy.model.parameters()] for policy in policies]
    places = [{state["exp_avg"].device.type for state in p.optimizer.state.values()} for p in policies]
    same = all(torch.equal(a, b) for a, b in zip(*trained, strict=True))
    moved = not any(torch.equal(a, b.detach()) for a, b in zip(trained[0], model.parameters(), strict=True))
    passed = same and moved and places == [{torch.device(device).type}, {"cpu"}]
    yield {"case": "offload_optimizer, three steps", "dtype": "default", "passed": passed}


def equality(options: dict) -> Iterator[dict]:
    yield from check_equality(CASES, options, (torch.float32, torch.bfloat16))
    yield from check_offloading(options)


def compiled(options: dict) -> Iterator[dict]:
    cases, dtypes = COMPILED_CASES, (torch.bfloat16, torch.float32)
    yield from check_equality(*((cases[:1], options, dtypes[1:]) if options["quick"] else (cases, options, dtypes)))


# --- Speed ------------------------------------------------------------------------------------------------------------


def useful_flops(shape: Shape, prompts: Tensor, responses: Tensor, passes: int) -> float:
    """Of rows with these lengths, `passes` times a forward pass: one to score, three for forward and backward.

    The last token of a row is predicted and never read. Attention has two products of read x read x width per layer,
    of which the causal half is needed.
    """
    read = prompts + responses - 1
    weights = shape.layers * shape.layer_parameters() * read.sum().item()
    attention = shape.layers * shape.heads * shape.head_width * read.square().sum().item()  # 2 products, half of each
    head = shape.hidden * shape.vocabulary * responses.sum().item()
    return passes * 2.0 * (weights + attention + head)


def peak_flops(name: str | None) -> float | None:
    """Of the GPU with this name, dense bfloat16, by its data sheet; None if it is not in the table."""
    return next((flops for key, flops in PEAK_FLOPS.items() if name and key.lower() in name.lower()), None)


def mfu(flops: float, seconds: float, name: str | None) -> float | None:
    peak = peak_flops(name)
    return flops / seconds / peak if peak else None


def row_lengths(kind: str, tokens: int, length: int) -> Tensor:
    """Lengths of rows with about `tokens` in all: each `length`, or log-uniform from an eighth of it to twice it."""
    if kind == "even":
        return torch.full((tokens // length,), length)
    draws = torch.rand(8 * tokens // length, generator=torch.Generator().manual_seed(0))
    lengths = (length * 2 ** (4 * draws - 3)).long()
    return lengths[lengths.cumsum(0) <= tokens]


@dataclass
class Variant:
    """Flags of one run, and the rows that it is timed on."""

    options: dict
    rows: str = "even"
    kept: bool = False  # all rows in one micro-batch, whose graph score keeps

    def name(self) -> str:
        flags = ", ".join(self.options) or "no flags"
        return f"{self.rows} rows, {flags}{', graph kept' if self.kept else ''}"


COMPILED, PACKED, CHECKPOINTING = {"compiled": True}, {"packing": True}, {"gradient_checkpointing": True}
VARIANTS = {
    "0.5B": (
        Variant({}),
        Variant({}, "ragged"),
        Variant(PACKED, "ragged"),
        Variant(CHECKPOINTING),
        Variant(COMPILED),
        Variant(COMPILED, kept=True),
        Variant(COMPILED | PACKED, "ragged"),
        Variant(COMPILED | CHECKPOINTING),
    ),
    "1.5B": (
        Variant({}),
        Variant(CHECKPOINTING),
        Variant(COMPILED),
        Variant(COMPILED | CHECKPOINTING),
        Variant(COMPILED | CHECKPOINTING | PACKED, "ragged"),
    ),
}


@dataclass
class Load:
    """What a variant is timed on."""

    micro_batch_tokens: int = 16_384
    micro_batches: int = 2
    length: int = 1024  # of a row, prompt included
    prompt: int = 64
    repeats: int = 3


QUICK_LOAD = Load(micro_batch_tokens=128, length=32, prompt=4, repeats=2)


def time_variant(shape: Shape, variant: Variant, load: Load, device: str, seed: int) -> dict:
    """Seconds of score, backward and step, their median over the repeats; tokens per second, MFU, peak memory."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    tokens = load.micro_batch_tokens * (1 if variant.kept else load.micro_batches)
    totals = row_lengths(variant.rows, tokens, load.length)
    prompts, responses = torch.full_like(totals, load.prompt), totals - load.prompt
    batch = random_batch(prompts, responses, shape.vocabulary, torch.Generator().manual_seed(seed))
    grad_logprobs = batch["mask"] * torch.where(torch.arange(len(totals)) % 2 == 0, 1.0, -1.0)[:, None] / totals.sum()
    rows = torch.ones(len(totals), dtype=torch.bool) if variant.kept else None
    model = random_model(shape, seed=seed, device=device)
    policy = make_policy(model, device, micro_batch_tokens=load.micro_batch_tokens, **variant.options)
    seconds = []
    for repeat in range(load.repeats + 1):
        if repeat == 1:
            reset_peak_memory(policy.device.type)
        marks = [time.perf_counter()]
        for part in (lambda: policy.score(batch, rows), lambda: policy.backward(batch, grad_logprobs), policy.step):
            part()
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
        seconds.append([after - before for before, after in pairwise(marks)])
    first, seconds = sum(seconds[0]), seconds[1:]
    step = statistics.median(sum(parts) for parts in seconds)
    flops = useful_flops(shape, prompts, responses, 3 if variant.kept else 4)
    parts = {name: statistics.median(column) for name, column in zip(PHASES, zip(*seconds, strict=True), strict=True)}
    return {
        "rows": len(totals),
        "tokens": totals.sum().item(),
        "seconds": step,
        "runs": [sum(parts) for parts in seconds],
        "phases": parts,
        "tokens_per_second": totals.sum().item() / step,
        "useful_flops": flops,
        "mfu": mfu(flops, step, gpu),
        "peak_bytes": peak_memory(policy.device.type),
        "first_step_seconds": first,  # compiling included
    }


PHASES = ("score", "backward", "step")


def speed(name: str, options: dict) -> Iterator[dict]:
    """One row a variant; one that the memory is too small for says so."""
    quick = options["quick"]
    shape, load = (TINY, QUICK_LOAD) if quick else (SHAPES[name], Load())
    for variant in VARIANTS[name]:
        if quick and "compiled" in variant.options:
            continue
        row = {"variant": variant.name()}
        try:
            torch._dynamo.reset()
            counters.clear()
            row |= time_variant(shape, variant, load, options["device"], options["seed"])
            row["graphs"] = counters["stats"]["unique_graphs"]  # compiled; with too many, torch gives up in silence
        except (InputError, torch.OutOfMemoryError) as reason:
            row |= {"missing": last_line(reason)}
        yield row
        free_memory()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- Memory -----------------------------------------------------------------------------------------------------------


def memory_tables(options: dict) -> Iterator[dict]:
    """benchmarks.memory by tokens, by vocabulary and by share, in this process."""
    device, seed, quick = options["device"], options["seed"], options["quick"]
    by_tokens = [(tokens, memory.VOCABULARY) for tokens in (4096, 16_384, 65_536)]
    points = [*by_tokens, (16_384, 32_000), (16_384, 262_144)]
    ways = [(way, {}) for way in memory.PASSES] + [("ours", COMPILED)]
    for tokens, vocabulary in [(64, 600)] if quick else points:
        for way, flags in ways[:2] if quick else ways:
            row = {"way": ", ".join([way, *flags]), "tokens": tokens, "vocabulary": vocabulary}
            about = {"way": way, "tokens": tokens, "vocabulary": vocabulary, "device": device, "seed": seed}
            yield row | memory.cross(about | {"gradients": "", "flags": flags})
            free_memory()
    about = {"tokens": 64, "vocabulary": 600} if quick else {"tokens": 16_384, "vocabulary": memory.VOCABULARY}
    about |= {"device": device, "seed": seed, "repeats": 1 if quick else 3, "shares": (1.0, 0.5, 0.2, 0.05)}
    runs = memory.share_pass(about)
    for share, seconds in runs.items():
        yield {"share": float(share), "seconds": statistics.median(seconds), "runs": seconds}


# --- Learning ---------------------------------------------------------------------------------------------------------


def learning(options: dict) -> Iterator[dict]:
    """The scripts as a user starts them, both at once."""
    quick = options["quick"]
    flags = {"device": options["device"], "seed": options["seed"], "backend": "hf", "num_steps": 3 if quick else 100}
    flags |= {"eval_every": 100, "save_every": 0, "eval_problems": 4 if quick else 64}
    flags |= {"num_prompts": 4, "eval_samples": 4} if quick else {}
    with tempfile.TemporaryDirectory() as directory:
        runs = {}
        for name in ("grpo", "kl_cov"):
            place = Path(directory) / name
            with place.with_suffix(".log").open("w") as log:
                command = [sys.executable, str(ROOT / "algos" / f"{name}.py"), *as_flags(flags | {"output_dir": place})]
                runs[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for name, process in runs.items():
            place = Path(directory) / name
            row = {"algorithm": name}
            if process.wait():
                yield row | {"failed": last_line(place.with_suffix(".log").read_text())}
            else:
                yield row | summary_of_run(read_metrics(place))


def summary_of_run(rows: list[dict]) -> dict:
    """Means of the first and last five steps, pass@1 before and after; seconds are those of the steps alone."""
    steps = [row for row in rows if "rollout/reward" in row]
    measured = [row for row in rows if "eval/pass@1" in row]
    seconds = [row["time/step"] for row in steps]
    found = {"steps": len(steps), "seconds": sum(seconds), "seconds_per_step": statistics.median(seconds)}
    for key in ("rollout/reward", "policy/entropy", "rollout/sampler_gap_mean"):
        found[key] = [statistics.mean(row[key] for row in part) for part in (steps[:5], steps[-5:])]
    return found | {"eval/pass@1": [measured[0]["eval/pass@1"], measured[-1]["eval/pass@1"]]}


# --- Next to others ---------------------------------------------------------------------------------------------------


def others(package: str, part: str, options: dict) -> Iterator[dict]:
    """One part of benchmarks.throughput, whole."""
    if find_spec(package) is None:
        yield {"missing": f"{package} is not installed"}
        return
    flags = ["--num-steps=15", "--probe-steps=6"]
    if options["quick"]:
        flags = ["--num-steps=2", "--warmup-steps=1", "--num-prompts=2", "--trl-settings", "one batch"]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "throughput.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.throughput",
            "--parts",
            part,
            f"--out={out}",
            "--repeats=1",
            *flags,
        ]
        command += [f"--device={options['device']}", f"--threads={options['threads']}", f"--seed={options['seed']}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        yield json.loads(out.read_text()) if done.returncode == 0 else {"failed": done.stderr.strip()[-500:]}


# --- Parts ------------------------------------------------------------------------------------------------------------

PARTS = {
    "equality": equality,
    "0.5B": lambda options: speed("0.5B", options),
    "1.5B": lambda options: speed("1.5B", options),
    "learning": learning,
    "compiled": compiled,
    "memory": memory_tables,
    "trl": lambda options: others("trl", "step", options),
    "verl": lambda options: others("verl", "verl", options),
}


def last_line(error: Exception | str) -> str:
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:500]


def worker(part: str, options: dict) -> None:
    """A part in this process: its rows as lines of standard output, each as soon as it is there."""
    for row in PARTS[part](options):
        print(ROW + json.dumps(row), flush=True)


ROW = "row "  # what a row's line starts with: libraries print too


def run_part(part: str, options: dict, limit: float, isolate: bool) -> dict:
    """The rows of a part and its seconds, and what stopped it if something did."""
    started = time.perf_counter()
    rows, stopped = [], None
    if not isolate:
        try:
            for row in PARTS[part](options):
                rows.append(row)
        except Exception as error:
            stopped = last_line(error)
    else:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = [sys.executable, "-m", "benchmarks.gpu_check", "worker", part, json.dumps(options)]
            settings = {"cwd": ROOT, "env": worker_environment(options["threads"]), "stdout": out, "stderr": err}
            process = subprocess.Popen(command, **settings, start_new_session=True)
            try:
                if process.wait(limit):
                    err.seek(0)
                    stopped = last_line(err.read()) or f"exit status {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
                process.wait()
                stopped = f"stopped after {limit:.0f} s"
            out.seek(0)
            rows = [json.loads(line.removeprefix(ROW)) for line in out.read().splitlines() if line.startswith(ROW)]
    found = {"seconds": time.perf_counter() - started, "rows": rows}
    return found | ({"stopped": stopped} if stopped else {})


def verdict(parts: dict[str, dict]) -> dict:
    """What the numbers say: equality checks that pass and those that do not, and the best MFU against the target."""
    checks = [row for name in ("equality", "compiled") for row in parts.get(name, {}).get("rows", [])]
    stopped = {name: parts[name]["stopped"] for name in ("equality", "compiled") if "stopped" in parts.get(name, {})}
    result = {
        "equal": sum(row.get("passed", False) for row in checks),
        "unequal": [f"{row['case']}, {row['dtype']}" for row in checks if row.get("passed") is False]
        + [f"{name}: {reason}" for name, reason in stopped.items()],
        "skipped": [f"{row['case']}, {row['dtype']}: {row['skipped']}" for row in checks if "skipped" in row],
    }
    for name in SHAPES:
        timed = [row for row in parts.get(name, {}).get("rows", []) if row.get("mfu")]
        if timed:
            best = max(timed, key=lambda row: row["mfu"])
            passed = best["mfu"] >= TARGET_MFU
            result[name] = {"mfu": best["mfu"], "variant": best["variant"], "target": TARGET_MFU, "passed": passed}
    return result


def machine(args: Args) -> dict:
    """Where this ran. `matmul_flops`: what an 8,192-wide bfloat16 product reaches, for the share of the data sheet."""
    about = environment("gpu_check", args, ("torch", "transformers", "trl", "verl", "vllm", "triton"))
    about |= {"cuda": torch.version.cuda, "peak_flops": peak_flops(about["gpu"])}
    if args.device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True) if shutil.which(query[0]) else None
        about |= {
            "driver": driver.stdout.strip() if driver else None,
            "gpu_bytes": torch.cuda.get_device_properties(0).total_memory,
            "matmul_flops": matmul_flops(8192),
        }
    return about


def matmul_flops(n: int) -> float:
    """Operations per second of a bfloat16 product of random square matrices on the GPU."""
    a, b = torch.randn(2, n, n, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2.0 * n**3 / (time.perf_counter() - started)


def main(args: Args) -> int:
    """Measure, write, print; the exit status."""
    check_known("parts", args.parts, PARTS)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device is here; --device cpu --quick tests this script")
    deadline = time.perf_counter() + args.limit
    report = json.loads(args.out.read_text()) if args.out.exists() else {"commands": [], "parts": {}}
    report["commands"].append(machine(args))
    free_memory()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    options = {"device": args.device, "quick": args.quick, "seed": args.seed, "threads": args.threads}
    for part in args.parts:
        left = min(args.part_limit, deadline - time.perf_counter())
        found = run_part(part, options, left, args.isolate) if left > 0 else {"rows": [], "stopped": "no time left"}
        report["parts"][part] = found | {"command": len(report["commands"]) - 1}
        report["verdict"] = verdict(report["parts"])
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        said = f"{len(found['rows'])} rows in {found.get('seconds', 0):.0f} s"
        print(f"{part}: {said}{', ' + found['stopped'] if 'stopped' in found else ''}", file=sys.stderr, flush=True)
    print(json.dumps(report))
    print(json.dumps(report["verdict"], indent=1), file=sys.stderr)
    return 1 if report["verdict"]["unequal"] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], json.loads(sys.argv[3]))
    else:
        raise SystemExit(main(tyro.cli(Args)))
