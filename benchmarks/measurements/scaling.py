"""How a step's cost grows: with ranks, with the model and the batch, and on paper with GPUs that are not here.

- ranks: score, backward and step of one random model on one fixed batch in 1 and 2 processes of torchrun, as many
  threads each: seconds, and each rank's peak memory above what it held before the model was loaded. As a control, as
  many processes that know nothing of each other, each with its share of the rows: what they lose is the machine's.
- slopes: seconds of the same three calls against the model's width, its depth, the batch's rows and the responses'
  length, one at a time, and the exponent that fits best: 1 is proportional, 2 quadratic.
- prompts: seconds of the three calls where a prompt is read once for its group and where it is read for each response,
  in turn, by how much longer than a response it is; on a model of 16 million parameters and, once, of 100 million.
- paper: arithmetic, nothing of it measured: memory per rank, bytes moved and seconds of a step of 7B on 8 and 32B on 64
  H100s, and where it stops scaling, because moving bytes takes as long as computing or because there is one row for
  each rank. The assumptions are constants below.
- fit: which flags make a model of a given size and length fit on 80 GB GPUs, by the same arithmetic.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --parts paper
    python -m benchmarks.scaling --parts ranks --processes 1 2 4 8 --device cuda --width 2048 --depth 24 --rows 64
"""

import copy
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from benchmarks import RESULTS
from benchmarks.measure import (
    Load,
    check_known,
    environment,
    peak_memory,
    random_qwen,
    reset_peak_memory,
    run_worker,
    serve,
)
from benchmarks.pretrain_tiny import make_tokenizer
from common import ranks
from common.loading import load_policy
from common.plan import BYTES_PER_PARAMETER
from common.policy import CHUNK_BYTES, GRAPH_BYTES, Policy

PROMPT_LENGTH = 32
GIB = 2**30


@dataclass
class Args:
    parts: tuple[str, ...] = ("ranks", "slopes", "prompts", "paper", "fit")
    """which estimates to make"""
    processes: tuple[int, ...] = (1, 2)
    width: int = 384
    """of the model that ranks share; heads are 64 wide"""
    depth: int = 6
    vocabulary: int = 16_384
    rows: int = 16
    """of the batch that ranks share"""
    length: int = 128
    """of its responses"""
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (2, 4, 8, 16)
    batches: tuple[int, ...] = (4, 8, 16, 32)
    lengths: tuple[int, ...] = (64, 256, 1024, 2048)
    shares: tuple[float, ...] = (0.1, 0.5, 2, 8, 30)
    """tokens of a prompt for each token of a response"""
    groups: tuple[int, ...] = (8, 16)
    """responses to a prompt"""
    both: int = 124
    """tokens of prompt and response together"""
    large: tuple[int, int] = (768, 12)
    """width and depth of the larger model"""
    repeats: int = 3
    """steps that are timed; the fastest counts"""
    threads: int = 1
    """OMP_NUM_THREADS of every process"""
    seed: int = 1
    device: str = "cpu"
    out: Path = RESULTS / "scaling.json"


# --- One step ---------------------------------------------------------------------------------------------------------


def random_model(width: int, depth: int, vocabulary: int, seed: int) -> PreTrainedModel:
    """Heads are 64 wide."""
    return random_qwen(
        seed,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )


def random_batch(vocabulary: int, rows: int, length: int, seed: int, prompt: int = PROMPT_LENGTH, n: int = 1) -> dict:
    """Random prompts and responses of one length, `n` rows to each prompt."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(vocabulary, (rows // n, prompt), generator=generator)
    return {
        "prompt_ids": prompts.repeat_interleave(n, 0),
        "prompt_mask": torch.ones(rows, prompt, dtype=torch.bool),
        "response_ids": torch.randint(vocabulary, (rows, length), generator=generator),
        "mask": torch.ones(rows, length, dtype=torch.bool),
    }


def timed_step(policy: Policy, batch: dict) -> float:
    """Seconds of score + backward + step."""
    generator = torch.Generator().manual_seed(0)
    grad_logprobs = torch.randn(batch["mask"].shape, generator=generator) / batch["mask"].numel()
    started = time.perf_counter()
    policy.score(batch)
    policy.backward(batch, grad_logprobs)
    policy.step()  # ends with a number on the CPU, so a GPU has done its work
    return time.perf_counter() - started


def timed_steps(policy: Policy, rows: int, length: int, repeats: int, seed: int) -> list[float]:
    """Seconds of steps on a fixed random batch, after one that is not counted."""
    batch = random_batch(policy.head.out_features, rows, length, seed)
    return [timed_step(policy, batch) for _ in range(repeats + 1)][1:]


# --- Ranks ------------------------------------------------------------------------------------------------------------


def rank_steps(options: dict) -> dict | None:
    """What one rank of torchrun does; the first one reports for all."""
    ranks.start()
    device = options["device"]
    before = reset_peak_memory(device)
    policy = load_policy(options["model"], device=device)
    seconds = timed_steps(policy, options["rows"], options["length"], options["repeats"], options["seed"])
    found = ranks.gather([{"seconds": seconds, "extra_bytes": peak_memory(device) - before}])
    return {"ranks": found} if ranks.rank() == 0 else None


def measure_ranks(args: Args, show: Callable) -> dict:
    """The same model and batch for every number of processes."""
    points = []
    with tempfile.TemporaryDirectory() as directory:
        model = random_model(args.width, args.depth, args.vocabulary, args.seed)
        model.save_pretrained(directory)
        make_tokenizer().save_pretrained(directory)
        options = {"model": directory, "rows": args.rows, "length": args.length, "repeats": args.repeats}
        for processes in args.processes:
            launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
            options |= {"device": args.device, "seed": args.seed}
            found = run_worker(__file__, "ranks", options, args.threads, launcher=launcher)["ranks"]
            # A step is over when its last rank is done.
            seconds = min(max(times) for times in zip(*(rank["seconds"] for rank in found), strict=True))
            alone = seconds if processes == 1 else strangers(options, processes, args.threads)
            points.append({"processes": processes, "seconds": seconds, "strangers": alone, "runs": found})
            show(f"{processes} processes: {seconds:.2f} s per step, {alone:.2f} as strangers")
    for point in points:
        for name, key in {"speed": "seconds", "strangers_speed": "strangers"}.items():
            point[name] = points[0]["seconds"] / point[key]
        point["state_bytes"] = BYTES_PER_PARAMETER * model.num_parameters() // point["processes"]
    return {"parameters": model.num_parameters(), "points": points}


def strangers(options: dict, processes: int, threads: int) -> float:
    """Seconds of a step where so many processes share the rows and nothing else: that of the slowest, by its median.

    Each has the whole model and its optimiser, so it does more than a rank with its shard, and waits for nobody.
    """
    share = options | {"rows": options["rows"] // processes}
    with ThreadPoolExecutor(processes) as pool:
        found = pool.map(lambda _: run_worker(__file__, "ranks", share, threads)["ranks"], range(processes))
        return max(statistics.median(rank["seconds"]) for (rank,) in found)


# --- Slopes -----------------------------------------------------------------------------------------------------------


def slope(x: list[float], y: list[float]) -> float:
    """Exponent of the power law that fits best: least squares on logarithms."""
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def slope_steps(options: dict) -> dict:
    """Fastest of the timed steps for each value along one axis, all in one process."""
    seconds = []
    for value in options["values"]:
        shape = options["base"] | {options["axis"]: value}
        model = random_model(shape["width"], shape["depth"], shape["vocabulary"], options["seed"])
        policy = Policy(model, make_tokenizer(), device=options["device"])
        seconds.append(min(timed_steps(policy, shape["rows"], shape["length"], options["repeats"], options["seed"])))
    return {"seconds": seconds}


SLOPE_BASE = {"width": 256, "depth": 4, "rows": 8, "length": 128, "vocabulary": 4096}


def measure_slopes(args: Args, show: Callable) -> dict:
    axes = {"width": args.widths, "depth": args.depths, "rows": args.batches, "length": args.lengths}
    result = {}
    for axis, values in axes.items():
        # Rows cost little beside the step's fixed work, and attention little beside the rest, in a batch too small.
        base = SLOPE_BASE | ({"rows": 2} if axis == "length" else {})
        options = {"axis": axis, "values": values, "base": base, "repeats": args.repeats, "seed": args.seed}
        seconds = run_worker(__file__, "slopes", options | {"device": args.device}, args.threads)["seconds"]
        exponent = slope(values, seconds)
        last = slope(values[-2:], seconds[-2:])
        result[axis] = {"values": values, "seconds": seconds, "base": base, "slope": exponent, "last_slope": last}
        show(f"{axis}: slope {exponent:.2f}, between the last two points {last:.2f}")
    return {"axes": result}


# --- Prompts ----------------------------------------------------------------------------------------------------------


def prompt_steps(options: dict) -> dict:
    """Fastest of the timed steps with a prompt read once, and read for each response; in turn, in one process."""
    model = random_model(*options["model"], options["vocabulary"], options["seed"])
    how = {"device": options["device"], "packing": options["device"] != "cpu"}  # on CUDA it takes both
    once = Policy(model, make_tokenizer(), share_prompts=True, **how)
    each = Policy(copy.deepcopy(model), make_tokenizer(), **how)
    rows, n = options["rows"], options["n"]
    batch = random_batch(options["vocabulary"], rows, options["response"], options["seed"], options["prompt"], n)
    times = [(timed_step(each, batch), timed_step(once, batch)) for _ in range(options["repeats"] + 1)][1:]
    return {"each": min(first for first, _ in times), "once": min(second for _, second in times)}


def measure_prompts(args: Args, show: Callable) -> dict:
    small = (args.width, args.depth)
    cases = [(small, share, n) for n in args.groups for share in args.shares]
    cases += [(args.large, share, args.groups[0]) for share in args.shares if share in (2, 8)]
    points = []
    for model, share, n in cases:
        response = max(1, round(args.both / (1 + share)))
        shape = {"model": model, "n": n, "response": response, "prompt": args.both - response, "rows": 2 * n}
        options = shape | {"vocabulary": args.vocabulary, "repeats": args.repeats, "seed": args.seed}
        with Load() as load:
            found = run_worker(__file__, "prompts", options | {"device": args.device}, args.threads)
        parameters = random_model(*model, args.vocabulary, args.seed).num_parameters()
        points.append(shape | found | {"share": share, "parameters": parameters, "load_of_others": load.others})
        show(f"{parameters / 1e6:.0f} M, {n} responses, prompts {share:g} times as long: {found}")
    return {"points": points}


# --- On paper ---------------------------------------------------------------------------------------------------------

# One H100 SXM, from NVIDIA's data sheet: dense bfloat16, memory, NVLink one way (900 GB/s both ways).
FLOPS, GPU_BYTES, NVLINK = 989e12, 80e9, 450e9
NIC = 50e9  # one 400 Gb/s InfiniBand adapter per GPU, as in NVIDIA's DGX H100
GPUS_PER_NODE = 8
LINK_EFFICIENCY = 0.7  # assumed: what collectives reach of a link's speed
MFU = 0.3  # assumed: part of FLOPS that the passes reach while nothing is waited for
RECKONED_SHORT = 1.3  # most that graphs take of what a policy reckons for them, which leaves out norms and softmax
COMPUTE, MASTER = 2, 4  # bytes of bfloat16 and float32, as common/sharding.py uses them


@dataclass
class Shape:
    """A Qwen2 model; `tied` if its output head is its embedding."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int = 152_064
    head_width: int = 128
    tied: bool = False

    def layer_parameters(self) -> int:
        """Attention's four matrices with three biases, the gated layer's three matrices, two norms."""
        queries, keys = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = 2 * self.hidden * (queries + keys) + queries + 2 * keys
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    def parameters(self) -> int:
        """Layers, embedding, head, last norm."""
        return self.layers * self.layer_parameters() + (2 - self.tied) * self.vocabulary * self.hidden + self.hidden

    def layer_bytes(self) -> int:
        """What one layer keeps of a token for its backward pass: norms in float32, attention, the gated layer.

        tests/test_benchmarks.py counts it, for one process and for a rank of several.
        """
        attention = (self.heads + 2 * self.kv_heads) * self.head_width
        return 18 * self.hidden + COMPUTE * (attention + 4 * self.intermediate)


@dataclass
class Job:
    """A step on a cluster: rows of prompt and response, one optimiser step per rollout."""

    shape: Shape
    ranks: int
    tensor_parallel: int  # ranks that share one vLLM engine
    rows: int = 1024
    prompt: int = 512
    response: int = 4096
    micro_batch_tokens: int = 16_384
    gradient_checkpointing: bool = True
    offload_optimizer: bool = False

    def tokens(self) -> int:
        return self.rows * (self.prompt + self.response)

    def passes(self) -> int:
        """Micro-batches that a rank runs; rows are not cut."""
        together = max(1, self.micro_batch_tokens // (self.prompt + self.response))
        return math.ceil(self.rows / self.ranks / together)

    def link(self, ranks: int | None = None) -> float:
        """Bytes a rank can receive in a second: NVLink in a node, at most all adapters of a node between nodes."""
        between = GPUS_PER_NODE * NIC if (ranks or self.ranks) > GPUS_PER_NODE else math.inf
        return LINK_EFFICIENCY * min(NVLINK, between)


QWEN_7B = Shape("7B", layers=28, hidden=3584, intermediate=18_944, heads=28, kv_heads=4)
QWEN_32B = Shape("32B", layers=64, hidden=5120, intermediate=27_648, heads=40, kv_heads=8)
JOBS = (Job(QWEN_7B, ranks=8, tensor_parallel=1), Job(QWEN_32B, ranks=64, tensor_parallel=4))


def memory_per_rank(job: Job) -> dict[str, float]:
    """Bytes, while training and while sampling: the engine sleeps during training and the passes are over then."""
    shape, count, sharded = job.shape, job.shape.parameters(), job.ranks > 1
    head = shape.vocabulary * shape.hidden
    sequences = job.rows * job.tensor_parallel / job.ranks
    cache = 2 * shape.layers * shape.kv_heads * shape.head_width * COMPUTE / job.tensor_parallel
    kept = shape.layers * shape.layer_bytes()
    if job.gradient_checkpointing:  # each layer's input, and everything of one layer while it runs again
        kept = shape.layers * shape.hidden * COMPUTE + shape.layer_bytes()
    parts = {
        "shards": BYTES_PER_PARAMETER * count / job.ranks,
        # This layer and the next, gathered; the gradient of one, in both precisions. Or a rounded copy of all.
        "layers": (2 * COMPUTE + COMPUTE + MASTER) * shape.layer_parameters() if sharded else COMPUTE * count,
        # Embedding and head stay gathered for the whole pass; the gradient of both, the head's in float32 too.
        "root": (2 * COMPUTE + 2 * COMPUTE + MASTER) * head if sharded else COMPUTE * head,
        "activations": job.micro_batch_tokens * kept,
        "graphs": RECKONED_SHORT * GRAPH_BYTES["cuda"],  # of passes that wait for their update, at most
        "chunk": CHUNK_BYTES["cuda"] / MASTER * (COMPUTE + MASTER + COMPUTE),  # logits, in float32, their gradient
    }
    if job.offload_optimizer:
        parts["shards"] -= 2 * MASTER * count / job.ranks
    engine = {"engine": COMPUTE * count / job.tensor_parallel}
    engine["cache"] = sequences * (job.prompt + job.response) * cache
    return (
        parts
        | engine
        | {
            "training": sum(parts.values()),
            "sampling": parts["shards"] + sum(engine.values()),
        }
    )


def bytes_per_pass(count: int, ranks: int) -> dict[str, float]:
    """What a rank receives in one micro-batch. A pass gathers the weights, going backward gathers them again."""
    others = (ranks - 1) / ranks
    return {
        "score": COMPUTE * count * others,
        "backward": (COMPUTE + COMPUTE + MASTER) * count * others,  # the last is the gradients' reduce-scatter
    }


def flops_per_token(shape: Shape, length: int) -> float:
    """Score (2 per weight), forward (2), layers again (2), backward (4); attention over half of the row on average."""
    weights = shape.parameters() - shape.vocabulary * shape.hidden  # looking up an embedding is free
    attention = 2 * shape.layers * shape.heads * shape.head_width * length / 2  # multiply-adds per token, per forward
    return 10 * (weights + attention)


def balanced_tokens(job: Job, link: float) -> float:
    """Tokens of a pass for which computing takes as long as receiving weights and gradients does at `link`.

    A rank's tokens shrink as ranks are added, what it must gather for them does not.
    """
    moving = sum(bytes_per_pass(job.shape.parameters(), job.ranks).values()) / link
    return moving * FLOPS * MFU / flops_per_token(job.shape, job.prompt + job.response)


def paper(job: Job) -> dict:
    """All numbers of a job. None is measured."""
    count = job.shape.parameters()
    moved = {name: job.passes() * size for name, size in bytes_per_pass(count, job.ranks).items()}
    sync = MASTER * count * (job.ranks - 1) / job.ranks  # whole tensors in float32, on every rank
    flops = job.tokens() * flops_per_token(job.shape, job.prompt + job.response)
    return {
        "job": asdict(job),
        "parameters": count,
        "passes": job.passes(),
        "memory": memory_per_rank(job),
        "moved": moved | {"sync": sync},
        "seconds": {
            "compute": flops / job.ranks / (FLOPS * MFU),
            "communicate": sum(moved.values()) / job.link(),
            "sync": sync / job.link(),
        },
        "balanced_tokens": {
            "here": balanced_tokens(job, job.link()),
            "one adapter": balanced_tokens(job, LINK_EFFICIENCY * NIC),
        },
        # Over the network, and at most one for each row: rows are not cut.
        "useful_ranks": {
            "all adapters": min(job.rows, job.tokens() / balanced_tokens(job, job.link(2 * GPUS_PER_NODE))),
            "one adapter": min(job.rows, job.tokens() / balanced_tokens(job, LINK_EFFICIENCY * NIC)),
        },
    }


# --- What fits --------------------------------------------------------------------------------------------------------

SIZES = {
    "0.5B": Shape("0.5B", 24, 896, 4864, 14, 2, 151_936, 64, tied=True),
    "1.5B": Shape("1.5B", 28, 1536, 8960, 12, 2, 151_936, tied=True),
    "3B": Shape("3B", 36, 2048, 11_008, 16, 2, 151_936, tied=True),
    "7B": QWEN_7B,
    "14B": Shape("14B", 48, 5120, 13_824, 40, 8),
    "32B": QWEN_32B,
}
# Size, GPUs of 80 GB, response tokens.
CASES = (
    ("0.5B", 1, 1024),
    ("0.5B", 1, 8192),
    ("1.5B", 1, 4096),
    ("3B", 1, 4096),
    ("3B", 8, 8192),
    ("7B", 4, 4096),
    ("7B", 8, 16_384),
    ("14B", 8, 8192),
    ("32B", 16, 8192),
    ("32B", 64, 20_480),
)
USABLE = 0.92  # assumed: part of the memory that is left beside the CUDA context and what the allocator loses
AT_ONCE = 16  # responses that an engine should hold at least
CUDA_GRAPHS = 2 * GIB  # assumed: of an engine


def fit(size: str, gpus: int, response: int) -> dict:
    """The flags that cost least time and make it fit; raises ValueError where none do."""
    shape = SIZES[size]
    for checkpointing, offload in ((False, False), (True, False), (True, True)):
        for parallel in (1, 2, 4, 8):
            tokens = max(16_384, 512 + response)
            how = {"gradient_checkpointing": checkpointing, "offload_optimizer": offload}
            job = Job(shape, gpus, parallel, response=response, micro_batch_tokens=tokens, **how)
            memory = memory_per_rank(job)
            stepping = BYTES_PER_PARAMETER * shape.parameters() / gpus  # the moments come back for it
            share = math.floor(20 * (USABLE - memory["shards"] / GPU_BYTES)) / 20
            room = share * GPU_BYTES - memory["engine"] - CUDA_GRAPHS
            sequence = memory["cache"] / (job.rows * parallel / gpus)
            fits = max(memory["training"], stepping) <= USABLE * GPU_BYTES and room >= AT_ONCE * sequence
            if fits and parallel <= gpus:
                training = max(memory["training"], stepping)
                found = {"share": share, "at_once": int(room / sequence), "training": training}
                return {"job": asdict(job), "memory": memory} | found
    raise ValueError(f"{size} with responses of {response} tokens does not fit on {gpus} GPUs")


def fit_flags(result: dict) -> str:
    job = result["job"]
    flags = [f"--{name.replace('_', '-')}" for name in ("gradient_checkpointing", "offload_optimizer") if job[name]]
    if job["tensor_parallel"] > 1:
        flags.append(f"--vllm-tensor-parallel-size {job['tensor_parallel']}")
    if job["micro_batch_tokens"] != 16_384:
        flags.append(f"--micro-batch-tokens {job['micro_batch_tokens']}")
    return " ".join([*flags, f"--vllm-gpu-memory-utilization {result['share']:.2f}"])


# --- Tables -----------------------------------------------------------------------------------------------------------


def ranks_table(result: dict) -> Table:
    table = Table(
        "processes",
        "seconds per step",
        "times as fast",
        "as strangers",
        "peak MiB of each rank",
        "of which weights, gradients, Adam",
        title=f"ranks: {result['parameters'] / 1e6:.1f} million parameters",
    )
    for point in result["points"]:
        peaks = ", ".join(f"{rank['extra_bytes'] / 2**20:,.0f}" for rank in point["runs"])
        cells = [str(point["processes"]), f"{point['seconds']:.2f}", f"{point['speed']:.2f}"]
        cells += [f"{point['strangers_speed']:.2f}", peaks]
        table.add_row(*cells, f"{point['state_bytes'] / 2**20:,.0f}")
    return table


def slopes_table(result: dict) -> Table:
    table = Table("", "values", "seconds per step", "slope", "last two", title="slopes: score + backward + step")
    for axis, found in result["axes"].items():
        seconds = ", ".join(f"{value:.2f}" for value in found["seconds"])
        values = ", ".join(str(value) for value in found["values"])
        table.add_row(axis, values, seconds, f"{found['slope']:.2f}", f"{found['last_slope']:.2f}")
    return table


def prompts_table(result: dict) -> Table:
    columns = ("parameters", "responses", "prompt", "response", "read for each", "once", "times as fast", "tokens less")
    table = Table(*columns, title="prompts: seconds of score + backward + step of two groups")
    for p in result["points"]:
        tokens = p["n"] * (p["prompt"] + p["response"]) / (p["prompt"] + p["n"] * p["response"])
        sizes = f"{p['parameters'] / 1e6:.0f} M", *(str(p[key]) for key in ("n", "prompt", "response"))
        times = f"{p['each']:.3f}", f"{p['once']:.3f}", f"{p['each'] / p['once']:.2f}", f"{tokens:.2f}"
        table.add_row(*sizes, *times)
    return table


def paper_table(result: dict) -> Table:
    results = result["jobs"]
    names = (f"{r['job']['shape']['name']} on {r['job']['ranks']}" for r in results)
    table = Table("", *names, title="on paper, not measured: H100, one optimiser step per rollout")

    def row(label: str, text: Callable[[dict], str], end_section: bool = False) -> None:
        table.add_row(label, *map(text, results), end_section=end_section)

    row("parameters", lambda r: f"{r['parameters'] / 1e9:.2f} billion")
    row("rows x tokens", lambda r: f"{r['job']['rows']:,} x {r['job']['prompt'] + r['job']['response']:,}")
    row("micro-batches per rank", lambda r: str(r["passes"]), True)
    labels = {
        "shards": "weights, gradients, Adam",
        "layers": "gathered layers",
        "root": "embedding and head",
        "activations": "activations",
        "graphs": "graphs that wait for their update, at most",
        "chunk": "a chunk of logits",
        "training": "GiB while training",
        "engine": "engine's weights",
        "cache": "KV cache, all rows at once",
        "sampling": "GiB while sampling, with the shards",
    }
    for key, label in labels.items():
        row(label, lambda r, key=key: f"{r['memory'][key] / GIB:.1f}", key in ("training", "sampling"))
    row("GB moved per rank: score", lambda r: f"{r['moved']['score'] / 1e9:,.0f}")
    row("backward", lambda r: f"{r['moved']['backward'] / 1e9:,.0f}")
    row("sync to the engine", lambda r: f"{r['moved']['sync'] / 1e9:,.0f}", True)
    row("seconds: computing", lambda r: f"{r['seconds']['compute']:.1f}")
    row("moving, if nothing overlaps", lambda r: f"{r['seconds']['communicate']:.1f}")
    row("sync", lambda r: f"{r['seconds']['sync']:.2f}", True)
    row("tokens of a pass that balance both", lambda r: f"{r['balanced_tokens']['here']:,.0f}")
    row("at the speed of one adapter", lambda r: f"{r['balanced_tokens']['one adapter']:,.0f}")
    row("largest useful number of ranks", lambda r: f"{r['useful_ranks']['all adapters']:,.0f}")
    row("at the speed of one adapter", lambda r: f"{r['useful_ranks']['one adapter']:,.0f}")
    return table


def fit_table(result: dict) -> Table:
    columns = ("model", "GPUs", "response", "flags", "GiB training", "weights, gradients, Adam", "at once")
    table = Table(*columns, title="computed, not measured: what fits on 80 GB, prompts of 512 tokens")
    for r in result["cases"]:
        job, memory = r["job"], r["memory"]
        sizes = f"{r['training'] / GIB:.0f}", f"{memory['shards'] / GIB:.0f}", f"{r['at_once']:,}"
        table.add_row(job["shape"]["name"], str(job["ranks"]), f"{job['response']:,}", fit_flags(r), *sizes)
    return table


if __name__ == "__main__":
    serve({"ranks": rank_steps, "slopes": slope_steps, "prompts": prompt_steps})
    args = tyro.cli(Args)
    console = Console()
    check_known("parts", args.parts, ("ranks", "slopes", "prompts", "paper", "fit"))
    report = json.loads(args.out.read_text()) if args.out.exists() else {}  # the other parts are kept
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def show(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    measure = {
        "ranks": measure_ranks,
        "slopes": measure_slopes,
        "prompts": measure_prompts,
        "paper": lambda *_: {"jobs": [*map(paper, JOBS)]},
        "fit": lambda *_: {"cases": [fit(*case) for case in CASES]},
    }
    table = {"ranks": ranks_table, "slopes": slopes_table, "prompts": prompts_table}
    table |= {"paper": paper_table, "fit": fit_table}
    for part in args.parts:
        about = environment("scaling", args)
        report[part] = about | measure[part](args, show)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        console.print(table[part](report[part]))
