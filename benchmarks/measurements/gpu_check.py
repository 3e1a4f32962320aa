"""Everything that needs a GPU, in one command: is it right, how fast is it next to TRL, how much memory does it take.

Parts, in this order; each is a process of its own, and one that fails or runs out of time does not stop the others:

- equality: `policy.score` and the gradients of `policy.backward` next to the plain way (whole logits, autograd) in
  float32 and bfloat16, padded and packed, with kept graphs, checkpointing, small micro-batches and small chunks; the
  optimiser on the CPU against the optimiser on the device.
- passes-0.5B, passes-1.5B: score + backward + step of a policy by itself, under several flags, on rows of 4,096 and of
  16,384 tokens, 16,384 tokens a micro-batch.
- ours-0.5B-4k, trl-0.5B-4k and so on: whole training steps of algos/grpo.py and of TRL's GRPOTrainer by
  benchmarks.throughput, 2 prompts x 8 responses of 4,096 or 16,384 tokens, one optimiser step per rollout, layers run
  again in the backward pass with 1.5B. vLLM samples for both where it is installed, else transformers.
- compiled: the equality checks with `compiled=True`.

Models have the shapes of Qwen2.5 and random weights, made on the spot. Such a model is never right and hardly ever
ends, so rewards are coin tosses, and responses are as long as they may be.

An equality check compares errors: both ways are held against the plain way in float64, and ours may be off by at most
twice what the plain way in the same dtype is off by, or by what is listed in `FLOOR`. Numbers that do not pass make the
exit status 1.

MFU is useful operations / seconds of scoring and update / peak. Useful are 2 per weight and token for one forward pass
and 4 for one backward pass, and the causal half of attention likewise: what has to be computed where the graph of the
scoring pass is kept. A scoring pass of its own, layers that run again, a second crossing of the vocabulary and padding
are not useful. Weights are those of layers and output head; looking up an embedding is free. The steps' prompts, some
twenty tokens, are left out, and so are groups whose rewards are all equal. Peak is the data sheet's (`PEAK_FLOPS`).

Peak memory of passes is what torch has allocated at most; of steps, what all processes had taken of the card, most of
which is the share that vLLM is given (35 %).

A device's results are one file, results/gpu/<device>.json, written after each part. What it holds is not measured
again, and a part that may not end in time is left to the next call: the same command, given again, goes on.

    python -m benchmarks.gpu_check                                    # one H100, ten minutes a call
    python -m benchmarks.gpu_check --parts ours-0.5B-4k trl-0.5B-4k --again
    python -m benchmarks.gpu_check --table                            # the table of benchmarks/README.md alone
    python -m benchmarks.gpu_check --device cpu --out /tmp/gpu --readme /tmp/copy.md      # a test of this script
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
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
import torch._dynamo
import tyro
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks import HERE, RESULTS, ROOT, throughput
from benchmarks.measure import (
    CardMemory,
    check_known,
    environment,
    peak_memory,
    random_qwen,
    reset_peak_memory,
    worker_environment,
)
from benchmarks.pretrain_tiny import make_tokenizer
from benchmarks.report import markdown, put_between
from benchmarks.scaling import GIB, SIZES, Shape
from benchmarks.throughput import why
from common import InputError, records
from common.policy import Policy

TEMPERATURE = 0.7  # of the equality checks: 1 would hide a forgotten one
FACTOR = 2.0  # how many times the plain way's error ours may have
# What rounding alone makes: nats of a log-probability and an entropy, relative error of all gradients and of one's.
FLOOR = {
    "float32": {"logprobs": 2e-6, "entropy": 4e-6, "gradient": 1e-6, "worst parameter": 5e-6},
    "bfloat16": {"logprobs": 0.0, "entropy": 0.0, "gradient": 0.0, "worst parameter": 0.0},
}
# Dense bfloat16, float32 sums, by the data sheets; a name holds one of these words, and the first one counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
SHAPES = {name: SIZES[name] for name in ("0.5B", "1.5B")}
LENGTHS = {"4k": 4096, "16k": 16_384}
SMALL = Shape("small", layers=3, hidden=256, intermediate=384, heads=4, kv_heads=2, vocabulary=2003, head_width=64)
TINY = Shape("tiny", layers=2, hidden=32, intermediate=48, heads=2, kv_heads=1, vocabulary=258, head_width=16)
STEPS = [f"{side}-{name}-{length}" for name in SHAPES for length in LENGTHS for side in throughput.OWNERS]


@dataclass
class Args:
    parts: tuple[str, ...] = ("equality", *(f"passes-{name}" for name in SHAPES), *STEPS, "compiled")
    device: str = "cuda"
    """cpu: tiny shapes, a test of this script and not of the machine"""
    again: bool = False
    """measure parts that the file holds too"""
    table: bool = False
    """measure nothing: write the table"""
    limit: float = 570
    """seconds for a call; a part starts only if `part_limit` of them are left"""
    part_limit: float = 280
    """seconds for a part, which is then stopped; its rows so far are kept"""
    isolate: bool = True
    """a process for each part; without, one part's failure on the GPU can spoil the next"""
    threads: int = 8
    """OMP_NUM_THREADS of every process"""
    seed: int = 1
    out: Path = RESULTS / "gpu"
    """where the file of each device is"""
    readme: Path = HERE / "README.md"
    """gets the table of all devices, between its two comments"""


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
                yield row | {"passed": False, "raised": why(reason)}


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


# --- Passes -----------------------------------------------------------------------------------------------------------


def useful_flops(shape: Shape, rows: float, prompt: float, response: float) -> float:
    """Of one forward and one backward pass over rows of so many tokens.

    The last token of a row is predicted and never read. Attention has two products of read x read x width per layer,
    of which the causal half is needed.
    """
    read = prompt + response - 1
    weights = shape.layers * shape.layer_parameters() * read
    attention = shape.layers * shape.heads * shape.head_width * read**2
    head = shape.hidden * shape.vocabulary * response
    return rows * (2 + 4) * (weights + attention + head)


def peak_flops(name: str | None) -> float | None:
    """Of the GPU with this name; None if it is not in the table."""
    return next((flops for key, flops in PEAK_FLOPS.items() if name and key.lower() in name.lower()), None)


def mfu(flops: float, seconds: float, device: str) -> float | None:
    peak = peak_flops(torch.cuda.get_device_name() if device == "cuda" else None)
    return flops / seconds / peak if peak else None


@dataclass
class Variant:
    """Flags of a policy, and whether all rows are one micro-batch whose graph `score` keeps."""

    options: dict
    kept: bool = False

    def name(self) -> str:
        return ", ".join([*self.options, *(["graph kept"] if self.kept else [])]) or "no flags"


COMPILED, PACKED, CHECKPOINTING = {"compiled": True}, {"packing": True}, {"gradient_checkpointing": True}
VARIANTS = (
    Variant({}),
    Variant({}, kept=True),
    Variant(PACKED, kept=True),
    Variant(CHECKPOINTING),
    Variant(COMPILED | PACKED, kept=True),
    Variant(COMPILED | CHECKPOINTING),
)
PROMPT, MICRO_BATCH_TOKENS = 64, 16_384


def time_variant(shape: Shape, variant: Variant, length: int, options: dict) -> dict:
    """Medians over three repeats of seconds to score and to update, on two micro-batches or on a kept one."""
    device, prompt = options["device"], min(PROMPT, length // 2)
    per_pass = 2 * length if options["quick"] else MICRO_BATCH_TOKENS
    rows = per_pass // length * (1 if variant.kept else 2)
    generator = torch.Generator().manual_seed(options["seed"])
    batch = random_batch(*torch.tensor([[prompt], [length - prompt]]).repeat(1, rows), shape.vocabulary, generator)
    grad_logprobs = torch.randn(batch["mask"].shape, generator=generator) / batch["mask"].sum()
    model = random_model(shape, options["seed"], device)
    policy = make_policy(model, device, micro_batch_tokens=per_pass, **variant.options)
    trained = torch.ones(rows, dtype=torch.bool) if variant.kept else None
    seconds = []
    for repeat in range(4):
        if repeat == 1:  # the first one compiles, and asks the driver for memory
            reset_peak_memory(policy.device.type)
        marks = [time.perf_counter()]
        for part in (lambda: policy.score(batch, trained), lambda: policy.backward(batch, grad_logprobs), policy.step):
            part()
            if device == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
        seconds.append([after - before for before, after in pairwise(marks)])
    score, backward, step = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
    both = score + backward + step
    return {
        "rows": rows,
        "score": score,
        "update": backward + step,
        "runs": seconds,
        "tokens_per_second": rows * length / both,
        "mfu": mfu(useful_flops(shape, rows, prompt, length - prompt), both, device),
        "peak_bytes": peak_memory(policy.device.type),
    }


def passes(name: str, options: dict) -> Iterator[dict]:
    """One row a variant and length; one that the memory is too small for says so."""
    quick = options["quick"]
    shape, lengths = (TINY, {"4k": 32}) if quick else (SHAPES[name], LENGTHS)
    for label, length in lengths.items():
        for variant in VARIANTS:
            if quick and "compiled" in variant.options:
                continue
            row = {"model": name, "tokens": label, "what": f"passes, {variant.name()}"}
            try:
                torch._dynamo.reset()
                row |= time_variant(shape, variant, length, options)
            except (InputError, torch.OutOfMemoryError) as reason:
                row["missing"] = why(reason)
            yield row
            free_memory()


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- Steps next to TRL's ----------------------------------------------------------------------------------------------


def steps(part: str, options: dict) -> Iterator[dict]:
    """The steps of one side, by benchmarks.throughput: phases, and what the card had to hold."""
    side, name, label = part.split("-")
    device, quick = options["device"], options["quick"]
    shape, length = (TINY, 24) if quick else (SHAPES[name], LENGTHS[label])
    engine = device == "cuda" and find_spec("vllm") is not None
    row = {"model": name, "tokens": label, "what": {"ours": "algos/grpo.py", "trl": "TRL"}[side]}
    row["what"] += f", {'vLLM' if engine else 'transformers'} samples"
    if side == "trl" and find_spec("trl") is None:
        yield row | {"missing": "trl is not installed"}
        return
    with tempfile.TemporaryDirectory() as directory:
        random_model(shape, options["seed"], device).save_pretrained(directory)
        make_tokenizer().save_pretrained(directory)
        free_memory()
        args = throughput.Args(
            repeats=1,
            threads=options["threads"],
            seed=options["seed"],
            model=Path(directory),
            device=device,
            num_prompts=2,
            max_response_length=length,
            num_steps=3 if length == LENGTHS["4k"] else 2,
            warmup_steps=1,
            learning_rate=1e-6,
            reward_mode="random",
            gradient_checkpointing=name == "1.5B",
        )
        rows = args.num_prompts * args.num_generations
        setting = throughput.TRL_VLLM if engine else {}
        setting = setting | {"micro_batches": max(1, rows * length // MICRO_BATCH_TOKENS)}
        measure = {
            "ours": lambda seed: throughput.our_steps(args, seed, True, "vllm" if engine else "hf"),
            "trl": lambda seed: throughput.measure_trl(args, setting, True, seed=seed),
        }[side]
        with CardMemory(device) as card:
            found = throughput.alternate(args, {side: measure}, partial(print, file=sys.stderr), may_be_missing=True)
    if side in found["missing"]:
        yield row | {"missing": found["missing"][side], "peak_bytes": card.peak}
        return
    [run] = found["runs"][side]
    flops = useful_flops(shape, rows * (1 - run["zero_spread"]), 0, run["length"])
    yield row | run | {"mfu": mfu(flops, run["score"] + run["update"], device), "peak_bytes": card.peak}


# --- Parts ------------------------------------------------------------------------------------------------------------

PARTS = {"equality": equality, "compiled": compiled}
PARTS |= {f"passes-{name}": partial(passes, name) for name in SHAPES}
PARTS |= {part: partial(steps, part) for part in STEPS}


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
            stopped = why(error)
    else:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = [sys.executable, "-m", "benchmarks.gpu_check", "worker", part, json.dumps(options)]
            settings = {"cwd": ROOT, "env": worker_environment(options["threads"]), "stdout": out, "stderr": err}
            process = subprocess.Popen(command, **settings, start_new_session=True)
            try:
                if process.wait(limit):
                    err.seek(0)
                    stopped = why(err.read()) or f"exit status {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started itself
                process.wait()
                stopped = f"stopped after {limit:.0f} s"
            out.seek(0)
            rows = [json.loads(line.removeprefix(ROW)) for line in out.read().splitlines() if line.startswith(ROW)]
    found = {"seconds": time.perf_counter() - started, "rows": rows}
    return found | ({"stopped": stopped} if stopped else {})


def checks(report: dict) -> tuple[int, list[str]]:
    """How many equality checks passed, and which did not or could not be finished."""
    parts = {name: report["parts"][name] for name in ("equality", "compiled") if name in report["parts"]}
    rows = [row for part in parts.values() for row in part["rows"]]
    unequal = [f"{row['case']}, {row['dtype']}" for row in rows if row.get("passed") is False]
    unequal += [f"{name}: {part['stopped']}" for name, part in parts.items() if "stopped" in part]
    return sum(row.get("passed", False) for row in rows), unequal


# --- Table ------------------------------------------------------------------------------------------------------------

HEADS = "model|tokens a row||sampling, s|rewards|scoring|update|tokens/s|MFU|peak GiB".split("|")


def table(reports: list[dict]) -> str:
    """What all devices' files hold, in Markdown; a sentence where there is none."""
    if not reports:
        return "No GPU has been measured yet."
    return "\n\n".join("\n".join(device_table(report)) for report in reports)


def device_table(report: dict) -> list[str]:
    about, (equal, unequal) = report["commands"][-1], checks(report)
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in about["packages"].items())
    where = f"Driver {about['driver']}, CUDA {about['cuda']}, {versions}; commit {about['commit']}."
    said = f"Equality checks: {equal} pass{', and these do not: ' + '; '.join(unequal) if unequal else ''}."
    rows = []
    for part, found in report["parts"].items():
        rows += [cells(row) for row in found["rows"] if "what" in row]
        if "stopped" in found and part not in ("equality", "compiled"):
            rows.append(["-", "-", f"{part}: {found['stopped']}", *["-"] * (len(HEADS) - 3)])
    return [f"**{report['device']}.** {where} {said}", "", *markdown(HEADS, rows)]


def cells(row: dict) -> list[str]:
    def number(key: str, form: str, scale: float = 1.0) -> str:
        return format(row[key] / scale, form) if row.get(key) is not None else "-"

    what = row["what"] + (f": {row['missing']}" if "missing" in row else "")
    seconds = (number(phase, ".2f") for phase in throughput.PHASES)
    speed = number("tokens_per_second", ",.0f"), number("mfu", ".1%"), number("peak_bytes", ".1f", GIB)
    return [row["model"], row["tokens"], what.replace("|", "/"), *seconds, *speed]


def write_table(args: Args) -> None:
    found = [json.loads(path.read_text()) for path in sorted(args.out.glob("*.json"))]
    put_between(args.readme, "gpu", table(found))


# --- Main -------------------------------------------------------------------------------------------------------------


def machine(args: Args) -> dict:
    """Where this ran."""
    about = environment("gpu_check", args, ("torch", "transformers", "trl", "vllm", "triton"))
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.split() if shutil.which(query[0]) else []
    commit = records.environment()["commit"]
    return about | {"driver": driver[0] if driver else None, "cuda": torch.version.cuda, "commit": commit}


def main(args: Args) -> int:
    """Measure what is not there yet, and write it and the table after each part; the exit status."""
    check_known("parts", args.parts, PARTS)
    if args.table:
        write_table(args)
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: no CUDA device is here; --device cpu tests this script")
    if args.device == "cpu" and (args.out == Args.out or args.readme == Args.readme):
        raise SystemExit("error: tiny shapes on a CPU are no results: name --out and --readme elsewhere")
    started = time.perf_counter()
    device = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    file = args.out / f"{device.replace(' ', '-').replace('/', '-')}.json"
    report = json.loads(file.read_text()) if file.exists() else {"device": device, "commands": [], "parts": {}}
    wanted = [part for part in args.parts if args.again or part not in report["parts"]]
    if wanted:
        report["commands"].append(machine(args))
        file.parent.mkdir(parents=True, exist_ok=True)
    options = {"device": args.device, "quick": args.device == "cpu", "seed": args.seed, "threads": args.threads}
    for number, part in enumerate(wanted):
        if number and time.perf_counter() - started + args.part_limit > args.limit:
            print(f"left to the next call: {', '.join(wanted[number:])}", file=sys.stderr)
            break
        found = run_part(part, options, args.part_limit, args.isolate)
        report["parts"][part] = found | {"command": len(report["commands"]) - 1}
        report["parts"] = {name: report["parts"][name] for name in PARTS if name in report["parts"]}
        file.write_text(json.dumps(report, indent=1) + "\n")
        write_table(args)
        said = f"{len(found['rows'])} rows in {found['seconds']:.0f} s"
        print(f"{part}: {said}{', ' + found['stopped'] if 'stopped' in found else ''}", file=sys.stderr, flush=True)
    print("\n".join(device_table(report)))
    return 1 if checks(report)[1] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], json.loads(sys.argv[3]))
    else:
        raise SystemExit(main(tyro.cli(Args)))
