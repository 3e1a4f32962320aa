"""Peak memory and time of crossing the vocabulary, against response tokens and against the vocabulary's size.

A model of one decoder layer, as wide as Qwen2.5-0.5B and with tied embeddings, takes log-probabilities of all response
tokens and then their gradients back to the parameters, in five ways:

- ours: `policy.score`, then `policy.backward`, as in the second and later minibatches of a rollout.
- graph kept: the same with `score(batch, rows)`, as where one pass holds all rows.
- plain: full logits, log_softmax, gather, `backward`.
- TRL: the function that GRPOTrainer of TRL 1.16 crosses the vocabulary with, entropy included. Triton on a GPU; on a
  CPU the same steps in torch. (On a CPU the trainer runs prompts through it too, which this does not.)
- Liger: its fused linear scaled cross entropy, entropy included. Its package needs Triton to be imported; on a CPU the
  file is loaded by itself and takes the way in torch that Liger has for devices without a kernel of its own.

Memory is the peak above the weights: gradients, activations and what the vocabulary takes. Beside it stands what it
should be by arithmetic (`expected_peak`). Gradients are compared with the plain way's at the smallest vocabulary.
"share" is the time of `policy.backward` when only a share of the tokens, scattered, carries gradient.

Every measurement is a process of its own. On a CPU, memory is read from /proc: Linux only.

    pip install trl==1.16.0 && pip install --no-deps liger-kernel==0.8.5      # without them, their rows say so
    python -m benchmarks.memory
    python -m benchmarks.memory --device cuda --tokens 4096 16384 65536 --fixed-tokens 16384
"""

import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.measure import (
    check_known,
    environment,
    peak_memory,
    random_qwen,
    reset_peak_memory,
    run_worker,
    serve,
)
from benchmarks.pretrain_tiny import make_tokenizer
from common.curves import BLUE, GREEN, MUTED, ORANGE, RED, STYLE
from common.policy import CHUNK_BYTES, Policy

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 896, 4864, 14, 2, 151_936  # Qwen2.5-0.5B
PROMPT_LENGTH, RESPONSE_LENGTH = 32, 256
TRL_TOKENS, TRL_VOCABULARY, LIGER_TOKENS = 4096, 32_768, 512  # their chunks
MIB = 2**20


@dataclass
class Args:
    parts: tuple[str, ...] = ("tokens", "vocabulary", "share")
    """which measurements to make"""
    ways: tuple[str, ...] = ("ours", "graph kept", "plain", "TRL", "Liger")
    tokens: tuple[int, ...] = (512, 1024, 2048)
    """response tokens, in rows of at most 256, over the vocabulary of Qwen2.5"""
    vocabularies: tuple[int, ...] = (32_000, 151_936, 262_144)
    """sizes of the vocabulary, with `fixed_tokens` response tokens"""
    fixed_tokens: int = 1024
    shares: tuple[float, ...] = (1.0, 0.5, 0.2, 0.05)
    """of the `fixed_tokens` tokens that carry gradient"""
    share_vocabulary: int = VOCABULARY
    repeats: int = 1
    threads: int = 2
    """OMP_NUM_THREADS of every measured process"""
    seed: int = 1
    device: str = "cpu"
    out: Path = RESULTS / "memory.json"
    """results, beside those of earlier commands; the picture goes next to it"""


# --- The five ways ----------------------------------------------------------------------------------------------------


def wide_policy(vocabulary: int, device: str, seed: int, **options) -> Policy:
    """One layer of Qwen2.5-0.5B with random weights and no gradients yet; one pass holds any batch.

    `options` are flags of Policy.
    """
    model = random_qwen(
        seed,
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
    )
    return Policy(model, make_tokenizer(), device=device, micro_batch_tokens=2**40, **options)


def random_batch(tokens: int, vocabulary: int, seed: int) -> tuple[dict, Tensor]:
    """Responses to one prompt, right and wrong in turn, and d loss / d logprobs (rows, length)."""
    rows = max(2, tokens // RESPONSE_LENGTH)
    length = tokens // rows
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "prompt_ids": torch.randint(vocabulary, (1, PROMPT_LENGTH), generator=generator).repeat(rows, 1),
        "prompt_mask": torch.ones(rows, PROMPT_LENGTH, dtype=torch.bool),
        "response_ids": torch.randint(vocabulary, (rows, length), generator=generator),
        "mask": torch.ones(rows, length, dtype=torch.bool),
        "rewards": torch.arange(rows) % 2.0,
    }
    return batch, torch.randn(rows, length, generator=generator) / (rows * length)


def our_pass(policy: Policy, batch: dict, grad_logprobs: Tensor) -> None:
    policy.score(batch)
    policy.backward(batch, grad_logprobs)


def kept_pass(policy: Policy, batch: dict, grad_logprobs: Tensor) -> None:
    policy.score(batch, torch.ones(len(batch["mask"]), dtype=torch.bool))
    policy.backward(batch, grad_logprobs)


def plain_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear(hidden, weight).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def trl_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    return ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, TRL_VOCABULARY, None, 1.0, ("log_probs", "entropy")
    )[0]


def liger_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    name = "liger_kernel.ops.fused_linear_scaled_cross_entropy"
    if hidden.is_cuda:
        module = importlib.import_module(name)
    else:
        package = importlib.util.find_spec("liger_kernel")
        if package is None:
            raise ModuleNotFoundError("No module named 'liger_kernel'")
        file = Path(package.origin).parent / "ops" / f"{name.rpartition('.')[2]}.py"
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    function = module.LigerFusedLinearScaledCrossEntropyFunction
    return -function.apply(hidden, weight.to(hidden.dtype), targets, 1.0, -100, 1, True)[0]


def through(logprobs_of: Callable) -> Callable:
    """A pass by autograd: the hidden states that predict a response token, their log-probabilities, backward."""

    def run(policy: Policy, batch: dict, grad_logprobs: Tensor) -> None:
        ids = torch.cat([batch["prompt_ids"], batch["response_ids"]], 1).to(policy.device)
        targets = batch["response_ids"].flatten().to(policy.device)
        hidden = policy.model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        hidden = hidden[:, PROMPT_LENGTH - 1 :].flatten(0, 1).to(policy.dtype)
        logprobs = logprobs_of(hidden, policy.head.weight.to(policy.dtype), targets)
        logprobs.backward(grad_logprobs.flatten().to(logprobs))

    return run


PASSES = {
    "ours": our_pass,
    "graph kept": kept_pass,
    "plain": through(plain_logprobs),
    "TRL": through(trl_logprobs),
    "Liger": through(liger_logprobs),
}
COLORS = {"ours": BLUE, "graph kept": GREEN, "plain": RED, "TRL": ORANGE, "Liger": MUTED}


def expected_peak(way: str, tokens: int, vocabulary: int) -> int:
    """Bytes above the weights, in float32 on a CPU: the largest of three moments.

    At the head: what the layer keeps for its backward pass, the head's gradient, and what is as wide as the vocabulary.
    In the layer: its gated part has two gradients more than it has freed. At the end: all gradients, the embedding's
    beside the head's, since this library makes it dense.
    """
    chunk = max(1, CHUNK_BYTES["cpu"] // (4 * vocabulary))
    head = vocabulary * HIDDEN
    layer = 2 * HIDDEN * HIDDEN * (1 + KV_HEADS / HEADS) + 3 * HIDDEN * INTERMEDIATE  # its weights
    end = 2 * head + layer
    if way in ("ours", "graph kept"):
        # One buffer, overwritten in place.
        wide = head + min(chunk, tokens) * vocabulary
    elif way == "plain":
        # The log-probabilities, their gradient and the logits'; then the logits' and the head's. At the end autograd
        # adds the head's and the embedding's into a third.
        wide = max(3 * tokens * vocabulary, tokens * vocabulary + head)
        end += head
    elif way == "TRL":
        # A tile of logits and, without Triton, 7.25 temporary copies of it.
        wide = head + int(8.25 * min(tokens, TRL_TOKENS) * min(vocabulary, TRL_VOCABULARY))
    else:
        # Without a kernel: six tensors of a chunk, or four and its gradient of the head; that of the chunk before.
        part = min(tokens, LIGER_TOKENS) * vocabulary
        wide = head + max(6 * part, 4 * part + head) + (head if tokens > LIGER_TOKENS else 0)
    read = tokens + max(2, tokens // RESPONSE_LENGTH) * (PROMPT_LENGTH - 1)
    kept = read * floats_per_token() + 2 * tokens * HIDDEN  # with the hidden states wanted and their gradient
    return int(4 * max(kept + wide, kept + head + 2 * read * INTERMEDIATE, end))


def floats_per_token() -> int:
    """What one decoder layer and the last norm keep per token for the backward pass, in numbers.

    Each of three norms: its input, the normalised input and its output. Attention: queries and its output, keys and
    values. The gated layer: gate, silu(gate), up, their product.
    """
    attention = 2 * HIDDEN + 2 * HIDDEN * KV_HEADS // HEADS
    return 3 * 3 * HIDDEN + attention + 4 * INTERMEDIATE


# --- Measuring --------------------------------------------------------------------------------------------------------


def cross(options: dict) -> dict:
    """One pass: seconds and peak memory above the weights; the gradients to a file if one is named."""
    policy = wide_policy(options["vocabulary"], options["device"], options["seed"], **options.get("flags", {}))
    run, device = PASSES[options["way"]], policy.device.type
    try:
        run(policy, *random_batch(8, options["vocabulary"], 0))  # warm-up: threads start, libraries load
        batch, grad_logprobs = random_batch(options["tokens"], options["vocabulary"], options["seed"])
        for _ in range(2 if device == "cuda" else 1):  # the first one on a GPU asks its driver for memory
            policy.optimizer.zero_grad()
            before = reset_peak_memory(device)
            started = time.perf_counter()
            run(policy, batch, grad_logprobs)
            extra = peak_memory(device) - before  # on a GPU: waits for it
            seconds = time.perf_counter() - started
    except (ImportError, torch.OutOfMemoryError) as error:
        return {"missing": f"{type(error).__name__}: {error}"}
    if options["gradients"]:
        torch.save({name: p.grad.cpu() for name, p in policy.model.named_parameters()}, options["gradients"])
    return {"seconds": seconds, "extra_bytes": extra}


def compare_gradients(ours: Path, plain: Path) -> float:
    """Largest difference in any parameter's gradient, relative to that gradient's largest entry."""
    a, b = torch.load(ours), torch.load(plain)
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max()).item() for name in b)


def measure(args: Args, tokens: int, vocabulary: int, gradients: Path | None, show: Callable) -> list[dict]:
    """All ways at one point, with their gradients kept in a directory if one is given."""
    points = []
    for way in args.ways:
        options = {"way": way, "tokens": tokens, "vocabulary": vocabulary, "device": args.device, "seed": args.seed}
        point = {"way": way, "tokens": tokens, "vocabulary": vocabulary, "runs": []}
        for repeat in range(args.repeats):
            file = str(gradients / way) if gradients and repeat == 0 else ""
            run = run_worker(__file__, "cross", options | {"gradients": file}, args.threads)
            if "missing" in run:
                point["missing"] = run["missing"]
                show(f"{way} does not run here: {run['missing']}")
                break
            point["runs"].append(run)
            show(
                f"{way}, {tokens:,} tokens, {vocabulary:,} words: "
                f"{run['seconds']:.1f} s, {run['extra_bytes'] / MIB:,.0f} MiB"
            )
        if point["runs"]:
            for key in ("seconds", "extra_bytes"):
                point[key] = statistics.median(run[key] for run in point["runs"])
            if args.device == "cpu":
                point["expected_bytes"] = expected_peak(way, tokens, vocabulary)
            if gradients and (gradients / "plain").exists():
                point["gradient_difference"] = compare_gradients(gradients / way, gradients / "plain")
        points.append(point)
    return points


def measure_points(args: Args, show: Callable, keep: Callable) -> None:
    """Along both axes, what is known so far kept; the point that they share is measured once."""
    args.ways = tuple(sorted(args.ways, key=lambda way: way != "plain"))  # the others are compared with it
    wanted = [(tokens, VOCABULARY) for tokens in args.tokens] if "tokens" in args.parts else []
    wanted += [(args.fixed_tokens, size) for size in args.vocabularies] if "vocabulary" in args.parts else []
    points = []
    smallest = min(wanted, key=lambda point: (point[1], point[0]), default=None)
    for tokens, vocabulary in sorted(set(wanted), key=lambda point: (point[1], point[0])):
        with tempfile.TemporaryDirectory() as directory:
            gradients = Path(directory) if (tokens, vocabulary) == smallest else None
            points += measure(args, tokens, vocabulary, gradients, show)
        keep(points)


def key_of(point: dict) -> tuple:
    return point["vocabulary"], point["tokens"], tuple(PASSES).index(point["way"])


def share_pass(options: dict) -> dict:
    """Seconds of `policy.backward` for each share of tokens with gradient, in turn, `repeats` times."""
    policy = wide_policy(options["vocabulary"], options["device"], options["seed"])
    policy.backward(*random_batch(8, options["vocabulary"], 0))
    batch, grad_logprobs = random_batch(options["tokens"], options["vocabulary"], options["seed"])
    order = torch.rand(grad_logprobs.shape, generator=torch.Generator().manual_seed(options["seed"]))
    seconds = {str(share): [] for share in options["shares"]}
    for _ in range(options["repeats"]):
        for share in options["shares"]:
            chosen = order <= order.flatten().kthvalue(max(1, round(share * order.numel()))).values
            started = time.perf_counter()
            policy.backward(batch, grad_logprobs * chosen)
            peak_memory(policy.device.type)  # waits for a GPU
            seconds[str(share)].append(time.perf_counter() - started)
    return seconds


def measure_shares(args: Args) -> dict:
    options = {
        "tokens": args.fixed_tokens,
        "vocabulary": args.share_vocabulary,
        "shares": args.shares,
        "device": args.device,
    }
    runs = run_worker(__file__, "share", options | {"seed": args.seed, "repeats": args.repeats}, args.threads)
    medians = {share: statistics.median(values) for share, values in runs.items()}
    whole = medians[str(args.shares[0])]
    return options | {"runs": runs, "seconds": medians, "part": {k: value / whole for k, value in medians.items()}}


WORKERS = {"cross": cross, "share": share_pass}


# --- Tables and picture -----------------------------------------------------------------------------------------------


def points_table(points: list[dict]) -> Table:
    columns = ("vocabulary", "tokens", "", "seconds", "peak MiB", "expected MiB", "gradient difference")
    table = Table(*columns, title="score and backward: peak memory above the weights")
    for i, point in enumerate(points):
        last = i + 1 == len(points) or points[i + 1]["tokens"] != point["tokens"]
        cells = [f"{point['vocabulary']:,}", f"{point['tokens']:,}", point["way"]]
        if "missing" in point:
            table.add_row(*cells, "does not run", end_section=last)
            continue
        cells += [f"{point['seconds']:.1f}", f"{point['extra_bytes'] / MIB:,.0f}"]
        cells.append(f"{point['expected_bytes'] / MIB:,.0f}" if "expected_bytes" in point else "")
        cells.append(f"{point['gradient_difference']:.0e}" if "gradient_difference" in point else "")
        table.add_row(*cells, end_section=last)
    missing = {point["way"]: point["missing"] for point in points if "missing" in point}
    table.caption = "\n".join(f"{way} does not run here: {reason}" for way, reason in missing.items()) or None
    return table


def share_table(result: dict) -> Table:
    table = Table("tokens with gradient", "seconds", "of the first", title="policy.backward")
    for share, seconds in result["seconds"].items():
        table.add_row(f"{float(share):.0%}", f"{seconds:.2f}", f"{result['part'][share]:.0%}")
    return table


def draw(points: list[dict], picture: Path, fixed_tokens: int) -> None:
    """Measured peaks as lines, expected ones as crosses: by tokens and by vocabulary."""
    panels = {
        "tokens": [p for p in points if p["vocabulary"] == VOCABULARY and "extra_bytes" in p],
        "vocabulary": [p for p in points if p["tokens"] == fixed_tokens and "extra_bytes" in p],
    }
    titles = {
        "tokens": f"Peak memory by response tokens (vocabulary {VOCABULARY:,})",
        "vocabulary": f"Peak memory by vocabulary ({fixed_tokens:,} tokens)",
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (key, values) in zip(axes, panels.items(), strict=True):
            for way, color in COLORS.items():
                mine = [p for p in values if p["way"] == way]
                if not mine:
                    continue
                x = [p[key] for p in mine]
                style = "--" if way == "graph kept" else "-"  # it lies on ours
                axis.plot(x, [p["extra_bytes"] / 2**30 for p in mine], f"o{style}", color=color, label=way)
                if all("expected_bytes" in p for p in mine):
                    axis.plot(x, [p["expected_bytes"] / 2**30 for p in mine], "x", color=color, markersize=9)
            axis.set_title(titles[key])
            axis.set_xlabel("response tokens" if key == "tokens" else "vocabulary")
            axis.set_ylabel("GiB above the weights")
            axis.set_ylim(bottom=0)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(title="crosses: expected")
        figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    serve(WORKERS)
    args = tyro.cli(Args)
    console = Console()
    check_known("parts", args.parts, ("tokens", "vocabulary", "share"))
    check_known("ways", args.ways, PASSES)
    report = json.loads(args.out.read_text()) if args.out.exists() else {"commands": [], "points": []}
    report["commands"].append(environment("memory", args, ("torch", "transformers", "trl", "liger-kernel")))
    earlier = report["points"]
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(points: list[dict]) -> None:
        """Points of earlier commands stay until they are measured again; each names its command."""
        mine = [point | {"command": len(report["commands"]) - 1} for point in points]
        taken = {key_of(point) for point in mine}
        report["points"] = sorted(mine + [p for p in earlier if key_of(p) not in taken], key=key_of)
        args.out.write_text(json.dumps(report, indent=1) + "\n")

    def show(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    measure_points(args, show, keep)
    if report["points"]:
        console.print(points_table(report["points"]))
        draw(report["points"], args.out.with_suffix(".png"), args.fixed_tokens)
    if "share" in args.parts:
        report["share"] = measure_shares(args) | {"command": len(report["commands"]) - 1}
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        console.print(share_table(report["share"]))
