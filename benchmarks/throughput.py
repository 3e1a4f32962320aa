"""Speed and memory on a CPU: a training step against TRL's, crossing the vocabulary against the plain way.

- step: seconds per training step of algos/grpo.py and of TRL's GRPOTrainer (transformers generation) on the same
  model, the same countdown problems in the same order, the same response length, number of threads and reward, one
  optimiser step per rollout. The two alternate. TRL's settings are tried first and its fastest one is used. Lengths,
  rewards and the share of groups without spread are reported too: without them like, the seconds compare nothing.
- vocabulary: `policy.score` and `policy.backward` against full logits, log_softmax, gather and `loss.backward()`, on
  a one-layer model with the width and the vocabulary of Qwen2.5-0.5B: seconds, peak memory above the level before
  (weights and their gradients are there before), and the largest difference between the gradients. "head" is the
  output head alone, from given hidden states.
- share: `policy.backward` on that model when only a share of the tokens, scattered, carries gradient.

Every measurement is a process of its own. Memory is read from /proc: Linux only. TRL is needed for `step` alone.

    pip install trl==1.16.0
    python -m benchmarks.throughput                       # all three; on two idle cores
    python -m benchmarks.throughput --only step           # one of them; the others' results are kept
"""

import ctypes
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.pretrain_tiny import make_tokenizer
from common.policy import TINY, Policy, vocabulary_backward, vocabulary_score
from common.tasks import ProblemStream, load_problems
from common.verifier import Verifier

PARTS = ("step", "vocabulary", "share")
# Tried in turn. Continuous batching is left out: on a CPU it was ten times slower.
TRL_SETTINGS = {
    "one batch": {},
    "four micro-batches": {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 4},
    "static cache": {"cache_implementation": "static"},
}
NUM_PROMPTS, NUM_GENERATIONS, MAX_RESPONSE_LENGTH = 32, 8, 24
HIDDEN, VOCABULARY, PROMPT_LENGTH, RESPONSE_LENGTH = 896, 151_936, 32, 256
SHARES = (1.0, 0.5, 0.2, 0.05)


@dataclass
class Args:
    only: str = ",".join(PARTS)
    """which measurements to make, separated by commas"""
    repeats: int = 3
    threads: int = 2
    """OMP_NUM_THREADS of every measured process"""
    seed: int = 1
    """of the first repeat; the next ones count up"""
    out: Path = ROOT / "benchmarks" / "results" / "throughput.json"

    # step
    model: Path = TINY
    num_steps: int = 25
    warmup_steps: int = 5
    """first steps of each run that are not counted"""
    probe_steps: int = 8
    """steps for each of TRL's settings, warm-up included"""
    learning_rate: float = 1e-4

    # vocabulary and share
    tokens: int = 4096
    """response tokens in all, in rows of 256"""


# --- A training step --------------------------------------------------------------------------------------------


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def step_times(ends: list[float], warmup_steps: int) -> list[float]:
    """Seconds from the end of a step to the end of the next; the first counted step follows the warm-up."""
    return [after - before for before, after in zip(ends[warmup_steps - 1 :], ends[warmup_steps:], strict=False)]


def our_steps(args: Args, seed: int, passive: bool, directory: Path) -> dict:
    """Run algos/grpo.py as a user would and note when it prints each step's line."""
    flags = {
        "model": args.model,
        "device": "cpu",
        "seed": seed,
        "num_steps": args.num_steps,
        "num_prompts": NUM_PROMPTS,
        "num_generations": NUM_GENERATIONS,
        "num_minibatches": 1,
        "update_epochs": 1,
        "max_response_length": MAX_RESPONSE_LENGTH,
        "learning_rate": args.learning_rate,
        "warmup_steps": 0,
        "eval_every": 0,
        "save_every": 0,
        "output_dir": directory,
    }
    command = [sys.executable, str(ROOT / "algos" / "grpo.py")]
    command += [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    settings = {"env": worker_environment(args, passive), "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **settings) as process:
        ends = [time.perf_counter() for line in process.stdout if line.startswith("step ")]
    if process.returncode:
        raise SystemExit(f"error: {shlex.join(command)} ended with status {process.returncode}")
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()][args.warmup_steps :]
    keys = {
        "length": "rollout/response_length",
        "reward": "rollout/reward",
        "zero_spread": "rollout/zero_std_ratio",
        "rollout": "time/rollout",
        "verify": "time/verify",
        "score": "time/score",
        "update": "time/update",
    }
    means = {name: mean([row[key] for row in rows]) for name, key in keys.items()}
    return {"seconds": step_times(ends, args.warmup_steps)} | means


def trl_steps(options: dict) -> dict:
    """The same with TRL's GRPOTrainer, in this process."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    problems, _ = load_problems("countdown", None, 64)  # as algos/grpo.py does by default
    stream = ProblemStream(problems, options["seed"]).take(NUM_PROMPTS * options["num_steps"])
    by_prompt = {problem.prompt: problem for problem in problems}
    verifier = Verifier()
    starts, ends, rollouts, lengths, rewards_seen, zero_spread = [], [], [], [], [], []

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_) -> list[float]:
        rollouts.append(time.perf_counter() - starts[-1])
        rewards = [v.reward for v in verifier([by_prompt[prompt] for prompt in prompts], completions)]
        groups = torch.tensor(rewards).view(-1, NUM_GENERATIONS)
        lengths.append(mean([len(ids) for ids in completion_ids]))
        rewards_seen.append(mean(rewards))
        zero_spread.append((groups.amax(1) == groups.amin(1)).float().mean().item())
        return rewards

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs) -> None:
            starts.append(time.perf_counter())

        def on_step_end(self, *args, **kwargs) -> None:
            ends.append(time.perf_counter())

    config = {
        "output_dir": options["directory"],
        "seed": options["seed"],
        "max_steps": options["num_steps"],
        "shuffle_dataset": False,  # the stream's order
        "use_cpu": True,
        "bf16": False,  # default: True
        "gradient_checkpointing": False,  # default: True, which is slower
        "per_device_train_batch_size": NUM_PROMPTS * NUM_GENERATIONS,
        "gradient_accumulation_steps": 1,
        "num_generations": NUM_GENERATIONS,
        "num_iterations": 1,
        "max_completion_length": MAX_RESPONSE_LENGTH,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "loss_type": "grpo",
        "scale_rewards": "group",
        "beta": 0.0,
        "optim": "adamw_torch_fused",
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(options["model"])
    trainer = GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(**config | options["setting"]),
        train_dataset=Dataset.from_dict({"prompt": [p.prompt for p in stream]}),  # text: no chat template is applied
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    first = options["warmup_steps"]
    return {
        "seconds": step_times(ends, first),
        "length": mean(lengths[first:]),
        "reward": mean(rewards_seen[first:]),
        "zero_spread": mean(zero_spread[first:]),
        "rollout": mean(rollouts[first:]),
    }


def compare_steps(args: Args, show: Callable) -> dict:
    """Find each side's best setting, then alternate."""
    shared = {"model": str(args.model), "learning_rate": args.learning_rate, "warmup_steps": args.warmup_steps}

    def ours(passive: bool, seed: int) -> dict:
        with tempfile.TemporaryDirectory() as directory:
            run = our_steps(args, seed, passive, Path(directory) / "run")
        return {"seed": seed} | run | {"median": statistics.median(run["seconds"])}

    def trl(setting: str, passive: bool, limit: float | None = None, **options) -> dict | None:
        options = shared | options | {"setting": TRL_SETTINGS[setting]}
        run = run_worker(args, "trl", options, passive, limit)
        return run and run | {"median": statistics.median(run["seconds"])}

    probes = []
    probe = {"seed": args.seed, "num_steps": args.probe_steps, "warmup_steps": 2}
    started = time.perf_counter()
    for setting in TRL_SETTINGS:
        probes.append({"setting": setting, "omp_wait_policy_passive": True} | trl(setting, True, **probe))
        show(f"TRL, {setting}, passive threads: {probes[-1]['median']:.3f} s per step")
    # Spinning threads can win on idle cores; beside any other busy process they take many times as long.
    limit = time.perf_counter() - started
    setting = min(probes, key=lambda run: run["median"])["setting"]
    spinning = trl(setting, False, limit, **probe)
    if spinning:
        probes.append({"setting": setting, "omp_wait_policy_passive": False} | spinning)
    seconds = f"{spinning['median']:.3f} s per step" if spinning else f"given up after {limit:.0f} s"
    show(f"TRL, {setting}, spinning threads: {seconds}")
    best = min(probes, key=lambda run: run["median"])
    # Ours as it comes, with passive threads, and with those that TRL does best with.
    policies = {"ours": best["omp_wait_policy_passive"], "ours_default": True}
    runs = {"ours": [], "ours_default": [], "trl": []}
    for seed in range(args.seed, args.seed + args.repeats):
        for side, passive in policies.items():
            runs[side].append(ours(passive, seed))
        run = trl(best["setting"], best["omp_wait_policy_passive"], seed=seed, num_steps=args.num_steps)
        runs["trl"].append({"seed": seed} | run)
        show(f"step, seed {seed}: " + ", ".join(f"{side} {runs[side][-1]['median']:.3f} s" for side in runs))
    medians = {side: [run["median"] for run in runs[side]] for side in runs}
    ratios = {
        side: statistics.median(t / o for t, o in zip(medians["trl"], medians[side], strict=True)) for side in policies
    }
    return {
        "trl_settings": probes,
        "trl_setting": {k: best[k] for k in ("setting", "omp_wait_policy_passive")},
        "runs": runs,
        "median_seconds": {side: statistics.median(values) for side, values in medians.items()},
        "min_seconds": {side: min(values) for side, values in medians.items()},
        "ratio": ratios,  # TRL / ours, median over the pairs
    }


# --- Crossing the vocabulary ------------------------------------------------------------------------------------


def wide_policy(seed: int) -> Policy:
    """One layer of Qwen2.5-0.5B with its vocabulary, random weights, gradients allocated."""
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4864,
        num_hidden_layers=1,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return Policy(model, make_tokenizer())


def random_batch(rows: int, length: int, seed: int) -> tuple[dict, Tensor]:
    """Random prompts and responses, all of one length, and d loss / d logprobs (rows, length)."""
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "prompt_ids": torch.randint(VOCABULARY, (rows, PROMPT_LENGTH), generator=generator),
        "prompt_mask": torch.ones(rows, PROMPT_LENGTH, dtype=torch.bool),
        "response_ids": torch.randint(VOCABULARY, (rows, length), generator=generator),
        "mask": torch.ones(rows, length, dtype=torch.bool),
    }
    return batch, torch.randn(rows, length, generator=generator) / (rows * length)


def plain_pass(policy: Policy, batch: dict, grad_logprobs: Tensor) -> None:
    """Full logits of the response tokens, log_softmax, gather, backward."""
    ids = torch.cat([batch["prompt_ids"], batch["response_ids"]], 1)
    hidden = policy.model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[:, PROMPT_LENGTH - 1 :]
    plain_head(policy, hidden.flatten(0, 1), batch["response_ids"].flatten(), grad_logprobs.flatten())


def plain_head(policy: Policy, hidden: Tensor, targets: Tensor, grad_logprobs: Tensor) -> None:
    logprobs = F.linear(hidden, policy.head.weight).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (logprobs * grad_logprobs).sum().backward()


def our_pass(policy: Policy, batch: dict, grad_logprobs: Tensor) -> None:
    policy.score(batch)
    policy.backward(batch, grad_logprobs)


def our_head(policy: Policy, hidden: Tensor, targets: Tensor, grad_logprobs: Tensor) -> None:
    with torch.no_grad():
        weight = policy.head.weight
        vocabulary_score(hidden, weight, None, targets, 1.0, policy.chunk)
        hidden.grad = vocabulary_backward(hidden, policy.head, weight, targets, grad_logprobs, None, 1.0, policy.chunk)


PASSES = {("plain", "model"): plain_pass, ("ours", "model"): our_pass}
HEADS = {("plain", "head"): plain_head, ("ours", "head"): our_head}


def memory(kind: str) -> int:
    """Bytes of this process in memory now ("VmRSS") or at most since the last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def reset_peak_memory() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not hide what is needed next
    Path("/proc/self/clear_refs").write_text("5")


def vocabulary_pass(options: dict) -> dict:
    """One pass, ours or the plain one, of the model or its head alone: seconds, extra memory, gradients to a file."""
    policy = wide_policy(options["seed"])
    kind = (options["way"], options["scope"])

    def inputs(rows: int, length: int) -> tuple:
        batch, grad_logprobs = random_batch(rows, length, options["seed"])
        if kind in PASSES:
            return batch, grad_logprobs
        hidden = torch.randn(rows * length, HIDDEN, generator=torch.Generator().manual_seed(options["seed"]))
        return hidden.requires_grad_(), batch["response_ids"].flatten(), grad_logprobs.flatten()

    run = (PASSES | HEADS)[kind]
    run(policy, *inputs(1, 4))  # warm-up: threads start, libraries load
    for parameter in policy.model.parameters():
        parameter.grad.zero_()
    measured = inputs(options["tokens"] // RESPONSE_LENGTH, RESPONSE_LENGTH)
    reset_peak_memory()
    before, started = memory("VmRSS"), time.perf_counter()
    run(policy, *measured)
    seconds = time.perf_counter() - started
    extra = memory("VmHWM") - before
    if options["gradients"]:
        gradients = {name: p.grad for name, p in policy.model.named_parameters()}
        if kind in HEADS:
            gradients = {"head": policy.head.weight.grad, "hidden": measured[0].grad}
        torch.save(gradients, options["gradients"])
    return {"seconds": seconds, "extra_bytes": extra}


def compare_gradients(ours: Path, plain: Path) -> float:
    """Largest difference in any parameter's gradient, relative to that gradient's largest entry."""
    a, b = torch.load(ours), torch.load(plain)
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max()).item() for name in b)


def compare_vocabulary(args: Args, show: Callable) -> dict:
    result = {}
    for scope in ("model", "head"):
        runs = {"ours": [], "plain": []}
        with tempfile.TemporaryDirectory() as directory:
            files = {way: Path(directory) / f"{way}.pt" for way in runs}
            for repeat in range(args.repeats):
                for way in runs:
                    # One seed: a repeat repeats, and the gradients of the first are compared.
                    gradients = str(files[way]) if repeat == 0 else ""
                    options = {"way": way, "scope": scope, "tokens": args.tokens, "gradients": gradients}
                    run = run_worker(args, "vocabulary", options | {"seed": args.seed})
                    runs[way].append(run)
                    show(f"{scope}, {way}: {run['seconds']:.1f} s, {run['extra_bytes'] / 2**20:,.0f} MiB")
            difference = compare_gradients(files["ours"], files["plain"])
        medians = {
            key: {way: statistics.median(run[key] for run in runs[way]) for way in runs}
            for key in ("seconds", "extra_bytes")
        }
        result[scope] = {
            "runs": runs,
            "median": medians,
            "min_seconds": {way: min(run["seconds"] for run in runs[way]) for way in runs},
            "time_ratio": medians["seconds"]["ours"] / medians["seconds"]["plain"],
            "memory_ratio": medians["extra_bytes"]["ours"] / medians["extra_bytes"]["plain"],
            "gradient_difference": difference,
        }
    return result


# --- Tokens without gradient ------------------------------------------------------------------------------------


def share_pass(options: dict) -> dict:
    """Seconds of `policy.backward` for each share of tokens with gradient, in turn, `repeats` times."""
    policy = wide_policy(options["seed"])
    policy.backward(*random_batch(1, 4, 0))
    batch, grad_logprobs = random_batch(options["tokens"] // RESPONSE_LENGTH, RESPONSE_LENGTH, options["seed"])
    order = torch.rand(grad_logprobs.shape, generator=torch.Generator().manual_seed(options["seed"]))
    seconds = {str(share): [] for share in SHARES}
    for _ in range(options["repeats"]):
        for share in SHARES:
            chosen = order <= order.flatten().kthvalue(round(share * order.numel())).values
            started = time.perf_counter()
            policy.backward(batch, grad_logprobs * chosen)
            seconds[str(share)].append(time.perf_counter() - started)
    return {"seconds": seconds}


def compare_shares(args: Args, show: Callable) -> dict:
    options = {"tokens": args.tokens, "seed": args.seed, "repeats": args.repeats}
    runs = run_worker(args, "share", options)["seconds"]
    medians = {share: statistics.median(values) for share, values in runs.items()}
    return {
        "runs": runs,
        "median_seconds": medians,
        "min_seconds": {share: min(values) for share, values in runs.items()},
        "part_of_all": {share: median / medians["1.0"] for share, median in medians.items()},
    }


# --- Processes --------------------------------------------------------------------------------------------------

WORKERS = {"trl": trl_steps, "vocabulary": vocabulary_pass, "share": share_pass}


def worker_environment(args: Args, passive: bool = True) -> dict[str, str]:
    """Environment of a measured process. `passive`: threads that wait sleep instead of spinning."""
    return os.environ | {
        "OMP_NUM_THREADS": str(args.threads),
        "OMP_WAIT_POLICY": "PASSIVE" if passive else "ACTIVE",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_worker(args: Args, name: str, options: dict, passive: bool = True, limit: float | None = None) -> dict | None:
    """Call WORKERS[name](options) in a new process and return its result; None if it takes over `limit` seconds."""
    with tempfile.TemporaryDirectory() as directory:
        spec = {"name": name, "options": options | {"directory": directory}}
        command = [sys.executable, str(Path(__file__).resolve()), "worker", json.dumps(spec)]
        settings = {"env": worker_environment(args, passive), "capture_output": True, "text": True, "timeout": limit}
        try:
            done = subprocess.run(command, **settings)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(f"error: measuring {name} failed\n{done.stderr}")
        return json.loads((Path(directory) / "result.json").read_text())


def environment(args: Args) -> dict:
    """What one needs to run this again."""
    packages = {}
    for package in ("torch", "transformers", "trl", "accelerate"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    arguments = {k: str(v).removeprefix(f"{ROOT}/") for k, v in asdict(args).items()}
    return {
        "command": shlex.join(["python", "-m", "benchmarks.throughput", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": packages,
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "arguments": arguments,
    }


# --- Tables -----------------------------------------------------------------------------------------------------


def step_table(result: dict) -> Table:
    setting = result["trl_setting"]
    threads = "passive" if setting["omp_wait_policy_passive"] else "spinning"
    caption = f"TRL with {setting['setting']}, {threads} threads"
    # "equal": groups whose rewards are all equal, which cost us no backward pass and TRL a full one.
    columns = ("s median", "min", "rollout s", "length", "reward", "equal", "TRL / ours")
    table = Table("", *columns, title="step", caption=caption)
    labels = {"ours": f"grpo.py, {threads} threads", "ours_default": "grpo.py as it comes", "trl": "TRL"}
    for side, label in labels.items():
        runs = result["runs"][side]
        means = {key: mean([run[key] for run in runs]) for key in ("rollout", "length", "reward", "zero_spread")}
        cells = [f"{result['median_seconds'][side]:.3f}", f"{result['min_seconds'][side]:.3f}"]
        cells += [f"{means['rollout']:.3f}", f"{means['length']:.2f}", f"{means['reward']:.3f}"]
        ratio = f"{result['ratio'][side]:.2f}" if side in result["ratio"] else ""
        table.add_row(label, *cells, f"{means['zero_spread']:.2f}", ratio)
    return table


def vocabulary_table(result: dict) -> Table:
    table = Table("", "", "s median", "min", "extra MiB", title=f"vocabulary: {VOCABULARY:,} tokens")
    for scope, values in result.items():
        for way in ("plain", "ours"):
            seconds, extra = values["median"]["seconds"][way], values["median"]["extra_bytes"][way]
            cells = [f"{seconds:.1f}", f"{values['min_seconds'][way]:.1f}", f"{extra / 2**20:,.0f}"]
            table.add_row(scope if way == "plain" else "", way, *cells)
        ratios = [f"{values['time_ratio']:.2f}", "", f"{values['memory_ratio']:.1%}"]
        table.add_row("", "ours / plain", *ratios)
        table.add_row("", "gradient difference", f"{values['gradient_difference']:.1e}", end_section=True)
    return table


def share_table(result: dict) -> Table:
    table = Table("tokens with gradient", "s median", "min", "of all", title="share: policy.backward")
    for share in map(str, SHARES):
        median, least = result["median_seconds"][share], result["min_seconds"][share]
        table.add_row(f"{float(share):.0%}", f"{median:.1f}", f"{least:.1f}", f"{result['part_of_all'][share]:.0%}")
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:  # started by run_worker
        spec = json.loads(sys.argv[2])
        result = WORKERS[spec["name"]](spec["options"])
        (Path(spec["options"]["directory"]) / "result.json").write_text(json.dumps(result))
        raise SystemExit
    args = tyro.cli(Args)
    console = Console()
    parts = args.only.split(",")
    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"error: --only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    measure = {"step": compare_steps, "vocabulary": compare_vocabulary, "share": compare_shares}
    table = {"step": step_table, "vocabulary": vocabulary_table, "share": share_table}
    report = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        about = environment(args)
        result = measure[part](args, lambda text: console.print(text, style="dim", highlight=False))
        report[part] = about | result
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        console.print(table[part](result))
