"""Speed of a training step, next to TRL's, and of its loss path, next to verl's.

step: seconds per training step of algos/grpo.py and of TRL's GRPOTrainer on the same model, the same countdown problems
in the same order, the same response length, number of threads and reward, one optimiser step per rollout. TRL's
settings are tried first and its fastest one is used. Both sides are measured with threads that sleep while they wait
(ours as it comes) and with threads that spin (TRL's, unless OMP_WAIT_POLICY says otherwise), all four in turn, and what
else the machine did is kept beside each run: a busy pair counts for no ratio. Lengths, rewards and the share of groups
without spread are reported too: without them like, the seconds compare nothing. With `--backends hf vllm` the same
again with vLLM, TRL's colocated.

A step has these phases; what is left of its seconds is bookkeeping:

- rollout: sampling, from problems to tokens and text. TRL: `_generate`, weight sync to its engine included.
- verify: rewards. TRL: `_calculate_rewards`.
- score: old log-probabilities (and entropies). TRL makes none where steps are aligned, and takes those of its update.
- update: loss, backward pass, optimiser; ours with the weight sync to the engine. TRL: all of a step but its
  `_prepare_inputs`, in which the three others are.

verl: one batch that the model has sampled, scored and trained on in one process by our policy and by verl's functions:
log-probabilities and entropies of whole logits, its vanilla policy loss with the mean over responses, autograd, and the
same optimiser. verl's own workers add sharding, and padding removal where flash-attn is installed; neither is here. All
rows are one micro-batch.

Every run is a process of its own. Crossing the vocabulary is measured by benchmarks.memory.

    pip install trl==1.16.0
    python -m benchmarks.throughput                                        # on two idle cores
    python -m benchmarks.throughput --parts verl                           # with tests/requirements-peers.txt
    python -m benchmarks.throughput --device cuda --backends hf vllm --model DIR
"""

import copy
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table

from algos import grpo
from benchmarks import RESULTS, ROOT
from benchmarks.measure import (
    Load,
    as_flags,
    check_known,
    environment,
    read_metrics,
    run_worker,
    serve,
    worker_environment,
)
from benchmarks.rollouts import Actor, countdown
from common.basics import Timer
from common.batch import make_batch
from common.loading import TINY, load_policy
from common.policy import Policy
from common.verifier import Verifier

# Tried in turn. Continuous batching is left out: on a CPU it was ten times slower.
TRL_SETTINGS = {
    "one batch": {},
    "four micro-batches": {"micro_batches": 4},
    "static cache": {"cache_implementation": "static"},
}
TRL_VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.35}
PHASES = ("rollout", "verify", "score", "update")
OWNERS = ("ours", "trl")  # how the names of the measured sides begin
QUIET = 0.05  # share of the processors that others may keep busy during a pair that counts
PAIRS = 3  # that a ratio needs


@dataclass
class Args:
    parts: tuple[str, ...] = ("step",)
    """step, verl"""
    backends: tuple[str, ...] = ("hf",)
    """hf, vllm: what samples in the steps"""
    repeats: int = 5
    """pairs"""
    threads: int = 2
    """OMP_NUM_THREADS of every measured process"""
    seed: int = 1
    """of the first repeat; the next ones count up"""
    out: Path = RESULTS / "throughput.json"
    """results; parts and backends that are not measured now stay as they are there"""
    model: Path = TINY
    device: str = "cpu"
    num_prompts: int = 32
    num_generations: int = 8
    max_response_length: int = 24
    num_steps: int = 25
    warmup_steps: int = 5
    """first steps of each run that are not counted"""
    trl_settings: tuple[str, ...] = tuple(TRL_SETTINGS)
    """tried in turn; a single one is taken as it is"""
    probe_steps: int = 8
    """steps for each of TRL's settings, warm-up included"""
    learning_rate: float = 1e-4
    reward_mode: str = "verifier"
    """random: a coin toss on both sides, for a model that is never right"""
    gradient_checkpointing: bool = False
    """on both sides"""


# --- A training step --------------------------------------------------------------------------------------------


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def step_times(ends: list[float], warmup_steps: int) -> list[float]:
    """Seconds from the end of a step to the end of the next; the first counted step follows the warm-up."""
    return [after - before for before, after in zip(ends[warmup_steps - 1 :], ends[warmup_steps:], strict=False)]


def summary(seconds: list[float], steps: list[dict[str, float]], rows: int) -> dict:
    """Of the counted steps of a run with `rows` responses each: means, tokens per second, median seconds."""
    means = {key: mean([step[key] for step in steps]) for key in ("length", "reward", "zero_spread", *PHASES)}
    speed = rows * means["length"] / mean(seconds)
    return {"seconds": seconds} | means | {"tokens_per_second": speed, "median": statistics.median(seconds)}


def our_steps(args: Args, seed: int, passive: bool, backend: str = "hf") -> dict:
    """Run algos/grpo.py as a user would and note when it prints each step's line."""
    flags = {
        "model": args.model,
        "device": args.device,
        "backend": backend,
        "seed": seed,
        "num_steps": args.num_steps,
        "num_prompts": args.num_prompts,
        "num_generations": args.num_generations,
        "num_minibatches": 1,
        "update_epochs": 1,
        "max_response_length": args.max_response_length,
        "learning_rate": args.learning_rate,
        "reward_mode": args.reward_mode,
        "gradient_checkpointing": args.gradient_checkpointing,
        "warmup_steps": 0,
        "eval_every": 0,
        "save_every": 0,
    }
    with tempfile.TemporaryDirectory() as directory:
        run = Path(directory) / "run"
        command = [sys.executable, str(ROOT / "algos" / "grpo.py"), *as_flags(flags | {"output_dir": run})]
        with (Path(directory) / "errors").open("w+") as errors:
            settings = {"env": worker_environment(args.threads, passive), "stdout": subprocess.PIPE, "stderr": errors}
            with subprocess.Popen(command, **settings, text=True) as process:
                ends = [time.perf_counter() for line in process.stdout if line.startswith("step ")]
            errors.seek(0)
            if process.returncode:
                status = f"ended with status {process.returncode}"
                raise SystemExit(f"error: {shlex.join(command)} {status}\n{errors.read()}")
        rows = read_metrics(run)
    keys = {"length": "rollout/response_length", "reward": "rollout/reward", "zero_spread": "rollout/zero_std_ratio"}
    keys |= {phase: f"time/{phase}" for phase in PHASES}
    steps = [{name: row[key] for name, key in keys.items()} for row in rows[args.warmup_steps :]]
    return summary(step_times(ends, args.warmup_steps), steps, args.num_prompts * args.num_generations)


def trl_steps(options: dict) -> dict:
    """The same with TRL's GRPOTrainer, in this process."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    size, on_cpu = options["num_generations"], options["device"] == "cpu"
    batch_size = options["num_prompts"] * size
    stream = countdown(options["seed"]).take(options["num_prompts"] * options["num_steps"])  # as algos/grpo.py does
    by_prompt = {problem.prompt: problem for problem in stream}
    verifier = Verifier(options["reward_mode"], options["seed"])
    timer = Timer()
    ends, steps = [], []

    def reward(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_) -> list[float]:
        rewards = [v.reward for v in verifier([by_prompt[prompt] for prompt in prompts], completions)]
        groups = torch.tensor(rewards).view(-1, size)
        equal = (groups.amax(1) == groups.amin(1)).float().mean().item()
        length = mean([len(ids) for ids in completion_ids])
        steps.append({"length": length, "reward": mean(rewards), "zero_spread": equal})
        return rewards

    class TimedTrainer(GRPOTrainer):
        """Each phase on the clock that algos/ use, which waits for a GPU."""

        def _prepare_inputs(self, *args, **kwargs):
            with timer("prepare"):
                return super()._prepare_inputs(*args, **kwargs)

        def _generate(self, *args, **kwargs):
            with timer("rollout"):
                return super()._generate(*args, **kwargs)

        def _calculate_rewards(self, *args, **kwargs):
            with timer("verify"):
                return super()._calculate_rewards(*args, **kwargs)

        def _get_per_token_logps_and_entropies(self, *args, **kwargs):
            with nullcontext() if torch.is_grad_enabled() else timer("score"):  # with gradients it is the update's
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs) -> None:
            timer.pop()

        def on_step_end(self, *args, **kwargs) -> None:
            with timer("last"):  # waits for a GPU
                pass
            times = timer.pop()
            steps[-1] |= {phase: times.get(f"time/{phase}", 0.0) for phase in PHASES}
            steps[-1]["update"] = times["time/step"] - times["time/prepare"]
            ends.append(time.perf_counter())

    setting = dict(options["setting"])
    micro_batches = setting.pop("micro_batches", 1)
    config = {
        "output_dir": options["directory"],
        "seed": options["seed"],
        "max_steps": options["num_steps"],
        "shuffle_dataset": False,  # the stream's order
        "use_cpu": on_cpu,
        "bf16": not on_cpu,  # as ours; default: True
        "gradient_checkpointing": options["gradient_checkpointing"],  # default: True, which is slower
        "per_device_train_batch_size": batch_size // micro_batches,
        "gradient_accumulation_steps": micro_batches,
        "num_generations": size,
        "num_iterations": 1,
        "max_completion_length": options["max_response_length"],
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
    trainer = TimedTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(**config | setting),
        train_dataset=Dataset.from_dict({"prompt": [p.prompt for p in stream]}),  # text: no chat template is applied
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    first = options["warmup_steps"]
    return summary(step_times(ends, first), steps[first:], batch_size)


def measure_trl(args: Args, setting: dict, passive: bool, **options) -> dict:
    options = worker_options(args) | options | {"setting": setting}
    return run_worker(__file__, "trl", options, args.threads, passive)


def worker_options(args: Args) -> dict:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}


def probe_trl(args: Args, show: Callable) -> list[dict]:
    """TRL's settings, a few steps of each."""
    if len(args.trl_settings) == 1:
        return []
    probes = []
    steps = {"num_steps": args.probe_steps, "warmup_steps": min(2, args.warmup_steps)}
    for name in args.trl_settings:
        probes.append({"setting": name} | measure_trl(args, TRL_SETTINGS[name], True, **steps))
        show(f"TRL, {name}: {probes[-1]['median']:.3f} s per step")
    return probes


def compare_steps(args: Args, show: Callable) -> dict:
    """Both sides with threads that sleep and, on a CPU, with threads that spin, in turn, TRL in its best setting."""
    probes = probe_trl(args, show)
    best = min(probes, key=lambda run: run["median"])["setting"] if probes else args.trl_settings[0]
    kinds = {"passive": True} | ({"spinning": False} if args.device == "cpu" else {})
    measures = {}
    for kind, passive in kinds.items():
        measures[f"ours, {kind}"] = partial(our_steps, args, passive=passive)
        measures[f"trl, {kind}"] = partial(measure_trl, args, TRL_SETTINGS[best], passive)
    measures = {side: lambda seed, measure=measure: measure(seed=seed) for side, measure in measures.items()}
    return {"trl_settings": probes, "trl_setting": best} | alternate(args, measures, show)


def compare_vllm(args: Args, show: Callable) -> dict:
    """Both with vLLM in the trainer's process; a side that cannot says why."""
    measures = {
        "ours": lambda seed: our_steps(args, seed, True, "vllm"),
        "trl": lambda seed: measure_trl(args, TRL_VLLM, True, seed=seed),
    }
    if find_spec("vllm") is None:
        return {"missing": dict.fromkeys(measures, "vllm is not installed"), "runs": {}}
    return alternate(args, measures, show, may_be_missing=True)


def alternate(
    args: Args, measures: dict[str, Callable[[int], dict]], show: Callable, may_be_missing: bool = False
) -> dict:
    """Each side once for every seed, in turn, with what else the machine did; seconds, and TRL's to ours (`ratios`).

    A side that cannot run ends the program, or is left out with what it said.
    """
    runs: dict[str, list[dict]] = {side: [] for side in measures}
    missing: dict[str, str] = {}
    for seed in range(args.seed, args.seed + args.repeats):
        for side in list(runs):
            try:
                with Load() as load:
                    found = measures[side](seed)
                runs[side].append({"seed": seed, "load_of_others": load.others} | found)
            except SystemExit as error:
                if not may_be_missing:
                    raise
                missing[side] = why(str(error))
                show(f"{side} does not run here: {missing[side]}")
                del runs[side]
        show(", ".join([f"step, seed {seed}", *(f"{side} {runs[side][-1]['median']:.3f} s" for side in runs)]))
    medians = {side: [run["median"] for run in runs[side]] for side in runs}
    return ({"missing": missing} if may_be_missing else {}) | {
        "runs": runs,
        "load_of_others": max((run["load_of_others"] or 0.0 for found in runs.values() for run in found), default=0.0),
        "median_seconds": {side: statistics.median(values) for side, values in medians.items()},
        "min_seconds": {side: min(values) for side, values in medians.items()},
        "ratios": ratios(runs),
    }


def ratios(runs: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """TRL's seconds to ours, pair by pair: median, lowest and highest, and of how many pairs.

    Each side as it comes, which is with sleeping threads here and with the system's, spinning ones there; and each with
    the threads that it is fastest with. A pair during which others were busy is left out, and fewer than `PAIRS` quiet
    ones give no ratio.
    """
    kinds = {owner: [side for side in runs if side.startswith(owner)] for owner in OWNERS}
    if not all(kinds.values()):
        return {}
    fastest = [
        min(kinds[owner], key=lambda side: statistics.median(r["median"] for r in runs[side])) for owner in OWNERS
    ]
    readings = {"each at its fastest": fastest, "as both come": ["ours, passive", "trl, spinning"]}
    rows = {}
    for name, sides in readings.items():
        pairs = zip(*(runs.get(side, []) for side in sides), strict=True) if {*sides} <= {*runs} else []
        quiet = [pair for pair in pairs if all((run["load_of_others"] or 0.0) <= QUIET for run in pair)]
        if len(quiet) >= PAIRS:
            found = [theirs["median"] / ours["median"] for ours, theirs in quiet]
            rows[name] = {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
            rows[name]["pairs"] = len(quiet)
    return rows


def why(error: BaseException | str) -> str:
    """One line of what an error or a failed process has said: that memory ran out if it did, else its last one."""
    said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "OutOfMemoryError" in line), lines[-1] if lines else "")[:300]


# --- The loss path next to verl's -------------------------------------------------------------------------------------


def our_path(policy: Policy, batch: dict, settings: grpo.Args, keep_graph: bool) -> Iterator[float]:
    """As algos/grpo.py does it; ends with the gradient's norm. Each `next` is a phase."""
    mb = dict(batch)
    mb["old_logprobs"], entropy = policy.score(mb, mb["likely_trained"] if keep_graph else None)
    yield 0.0
    logprobs, entropy = mb["old_logprobs"].clone().requires_grad_(), entropy.requires_grad_()
    loss, _ = grpo.policy_loss(logprobs, entropy, mb, settings)
    grads = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
    policy.backward(mb, *grads)
    yield policy.step()


def verl_path(policy: Policy, batch: dict, settings: grpo.Args) -> Iterator[float]:
    """verl's functions over the same model: prompts padded left, responses right, whole logits of the responses."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.utils.torch_functional import entropy_from_logits, logprobs_from_logits
    from verl.workers.config import ActorConfig

    config = ActorConfig(strategy="fsdp", rollout_n=settings.num_generations, use_dynamic_bsz=True)
    tensors = {key: value.to(policy.device) for key, value in batch.items() if isinstance(value, torch.Tensor)}
    ids = torch.cat([tensors["prompt_ids"], tensors["response_ids"]], 1)
    attended = torch.cat([tensors["prompt_mask"], tensors["mask"]], 1)
    positions = (attended.cumsum(1) - 1).clamp(min=0)

    def logits_of() -> torch.Tensor:
        logits = policy.model(input_ids=ids, attention_mask=attended, position_ids=positions, use_cache=False).logits
        return logits[:, -tensors["mask"].shape[1] - 1 : -1] / policy.temperature

    with torch.no_grad():
        logits = logits_of()
        old, _ = logprobs_from_logits(logits, tensors["response_ids"]), entropy_from_logits(logits)
        del logits
    yield 0.0
    logprobs = logprobs_from_logits(logits_of(), tensors["response_ids"])
    loss, _ = get_policy_loss_fn("vanilla")(
        old, logprobs, tensors["advantages"], tensors["mask"], "seq-mean-token-mean", config
    )
    loss.backward()
    yield policy.step()  # clip, AdamW: the same for all


PATHS = {
    "ours": partial(our_path, keep_graph=True),
    "ours_fresh": partial(our_path, keep_graph=False),
    "verl": verl_path,
}


def time_paths(options: dict) -> dict:
    """Seconds of score and update on one batch by every path, in turn; each trains a model of its own."""
    settings = grpo.Args(num_generations=options["num_generations"])
    policy = load_policy(options["model"], options["device"], micro_batch_tokens=2**30)
    problems = countdown(options["seed"]).take(options["num_prompts"])
    samples = Actor(policy).sample(problems, settings.num_generations, options["max_response_length"], options["seed"])
    batch = make_batch(samples)
    grpo.assign_credit(batch, settings, {})
    policies = {
        side: Policy(
            copy.deepcopy(policy.model),
            policy.tokenizer,
            device=options["device"],
            micro_batch_tokens=2**30,
            learning_rate=options["learning_rate"],
            share_prompts=side != "verl",
        )
        for side in options["sides"]
    }
    runs: dict[str, list[dict]] = {side: [] for side in policies}
    for _ in range(options["num_steps"]):
        for side, policy in policies.items():
            timer, phases = Timer(), PATHS[side](policy, batch, settings)
            with timer("score"):
                next(phases)
            with timer("update"):
                norm = next(phases)
            times = timer.pop()
            runs[side].append({"score": times["time/score"], "update": times["time/update"], "grad_norm": norm})
    tokens = batch["mask"].sum().item()
    share = (batch["advantages"] != 0).any(1).float().mean().item()
    return {"tokens": tokens, "rows": len(samples), "trained_rows": share, "runs": runs}


def compare_paths(args: Args) -> dict:
    """Medians of `repeats` processes together, after the warm-up."""
    if find_spec("verl") is None:
        return {"missing": "verl is not installed: see tests/requirements-peers.txt"}
    found = [
        run_worker(__file__, "paths", worker_options(args) | {"seed": seed, "sides": list(PATHS)}, args.threads)
        for seed in range(args.seed, args.seed + args.repeats)
    ]
    sides = {}
    for side in found[0]["runs"]:
        steps = [step for run in found for step in run["runs"][side][args.warmup_steps :]]
        medians = {phase: statistics.median(step[phase] for step in steps) for phase in ("score", "update")}
        seconds = statistics.median(step["score"] + step["update"] for step in steps)
        speed = mean([run["tokens"] for run in found]) / seconds
        sides[side] = medians | {"seconds": seconds, "tokens_per_second": speed}
    ratio = {side: sides["verl"]["seconds"] / sides[side]["seconds"] for side in sides if side != "verl"}
    first = [[run["runs"][side][0]["grad_norm"] for side in ("ours", "verl")] for run in found]
    return {
        "sides": sides,
        "ratio": ratio,  # verl / ours
        "grad_norm_difference": max(abs(ours / theirs - 1) for ours, theirs in first),  # of the first step
        "processes": found,
    }


# --- Tables -----------------------------------------------------------------------------------------------------


def step_table(result: dict, title: str) -> Table:
    caption = [f"TRL with {result.get('trl_setting', 'vLLM colocated')}"]
    caption += [f"{side} does not run here: {reason}" for side, reason in result.get("missing", {}).items()]
    # "equal": groups whose rewards are all equal, which cost us no backward pass and TRL a full one.
    columns = ("s median", "min", "sampling", "rewards", "scoring", "update", "tokens/s", "length", "reward", "equal")
    for name, row in result["ratios"].items():
        times = f"{row['median']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f}, {row['pairs']} quiet pairs)"
        caption.append(f"TRL / ours, {name}: {times}")
    if not result["ratios"]:
        load = result["load_of_others"]
        caption.append(f"no ratio: others kept up to {load:.0%} of the processors busy, and {QUIET:.0%} may be")
    table = Table("", *columns, title=title, caption="\n".join(caption))
    for side, runs in result["runs"].items():
        keys = (*PHASES, "tokens_per_second", "length", "reward", "zero_spread")
        means = {key: mean([run[key] for run in runs]) for key in keys}
        cells = [f"{result['median_seconds'][side]:.3f}", f"{result['min_seconds'][side]:.3f}"]
        cells += [f"{means[phase]:.3f}" for phase in PHASES]
        cells += [f"{means['tokens_per_second']:,.0f}", f"{means['length']:.2f}", f"{means['reward']:.3f}"]
        table.add_row(side, *cells, f"{means['zero_spread']:.2f}")
    return table


def path_table(result: dict) -> Table:
    table = Table("", "score s", "update s", "both", "tokens/s", "verl / ours", title="scoring and update of one batch")
    if "missing" in result:
        table.caption = result["missing"]
        return table
    labels = {"ours": "ours, graph kept", "ours_fresh": "ours, two forward passes", "verl": "verl"}
    for side, row in result["sides"].items():
        cells = [f"{row['score']:.3f}", f"{row['update']:.3f}", f"{row['seconds']:.3f}"]
        ratio = f"{result['ratio'][side]:.2f}" if side in result["ratio"] else ""
        table.add_row(labels[side], *cells, f"{row['tokens_per_second']:,.0f}", ratio)
    return table


if __name__ == "__main__":
    serve({"trl": trl_steps, "paths": time_paths})
    args = tyro.cli(Args)
    console = Console()
    check_known("parts", args.parts, ("step", "verl"))
    check_known("backends", args.backends, ("hf", "vllm"))
    check_known("trl-settings", args.trl_settings, TRL_SETTINGS)

    def show(text: str) -> None:
        console.print(text, style="dim", highlight=False)

    about = environment("throughput", args, ("torch", "transformers", "trl", "accelerate", "verl", "vllm"))
    report = json.loads(args.out.read_text()) if args.out.exists() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def keep(found: dict, table: Table) -> None:
        report.update(found)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        console.print(table)

    if "step" in args.parts and "hf" in args.backends:
        result = compare_steps(args, show)
        keep(about | result, step_table(result, "step"))
    if "step" in args.parts and "vllm" in args.backends:
        result = compare_vllm(args, show)
        keep({"vllm": about | result}, step_table(result, "step, sampled by vLLM"))
    if "verl" in args.parts:
        result = compare_paths(args)
        keep({"verl": about | result}, path_table(result))
