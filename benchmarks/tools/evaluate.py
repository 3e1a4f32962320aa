"""Evaluate checkpoints: avg@n, unbiased pass@k and maj@k on several sets, with intervals, and two of them side by side.

    python -m benchmarks.evaluate runs/x/checkpoints/step-000100 --tasks countdown gcd
    python -m benchmarks.evaluate base/ trained/ --preset dapo --prompt-template dapo --max-response-length 20480

Writes <out>.json (settings, versions, every number, right answers per problem), anew after every set, and <out>.png
(pass@k), and prints a table. Intervals are 95 % bootstrap intervals over problems; a difference of two models is paired
by problem, which takes the luck of the draw of problems out of it. With 30 problems that draw alone moves a score of
0.3 by 8 points either way, and more samples do not help: an AIME score without its interval says little.

pass@k is the unbiased estimate from n samples; maj@k is the share of problems whose commonest answer among k samples is
right (over 200 random draws of k; of equally common answers the first counts).
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import check_numbers, check_writable
from benchmarks.rollouts import Actor
from common import InputError
from common.arguments import Range, between, exit_on_bad_input
from common.batch import Sample
from common.curves import STYLE
from common.evaluate import bootstrap_interval, pass_at_k, pass_metrics
from common.hf import TopP
from common.loading import check_model_name, load_policy
from common.policy import Policy
from common.problems import Problem
from common.records import environment, write_whole
from common.rollout import fit_prompts
from common.tasks import has_test_split, load_task
from common.templates import with_template


@dataclass(frozen=True)
class Sampling:
    """How a set is sampled: responses per problem (n), temperature (0: greedy) and top-p."""

    samples: int
    temperature: float
    top_p: float


def same(sampling: Sampling, *tasks: str) -> dict[str, Sampling]:
    return dict.fromkeys(tasks, sampling)


# The sets that a paper reports and how it samples them; sets that it does not name are sampled as its first.
PRESETS = {
    # arXiv 2505.22617: 32 samples on the small sets, greedy on the others.
    "entropy": same(Sampling(32, 0.6, 1.0), "aime24", "aime25", "amc23")
    | same(Sampling(1, 0.0, 1.0), "math500", "olympiad", "minerva"),
    "dapo": same(Sampling(32, 1.0, 0.7), "aime24"),  # arXiv 2503.14476
    # arXiv 2506.01939: 16 samples in the paper; the released script has 32 and top-p 0.7, as DAPO.
    "forking_tokens": same(Sampling(16, 1.0, 1.0), "aime24", "aime25", "amc23", "math500", "minerva", "olympiad"),
    "nsr": same(Sampling(256, 0.6, 0.95), "math", "aime25", "amc23"),  # arXiv 2506.01347, 4,096 tokens
    # arXiv 2511.15248 states the numbers of samples; the temperature is that of its training.
    "entropic": same(Sampling(32, 0.6, 1.0), "aime24", "aime25", "amc23")
    | same(Sampling(8, 0.6, 1.0), "math500", "olympiad"),
}
MAJORITY_DRAWS = 200
GREEDY = 1e-6  # a temperature that leaves the likeliest token alone
LABEL = 40  # last characters of a model's name that a picture has room for
Count = Annotated[int, Range(1)]


@dataclass
class Args:
    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """one or two directories or hub ids; none is the embedded model"""
    tasks: tuple[str, ...] = ()
    """sets to evaluate on: their test splits, or all of them; by default those of the preset, else countdown"""
    preset: Literal["none", *PRESETS] = "none"
    """sets, samples, temperature and top-p of a paper; the last three flags are not used then"""
    samples: Count = 32
    """responses per problem (n)"""
    temperature: float = 1.0
    """0 is greedy"""
    top_p: between(GREEDY, 1) = 1.0
    max_response_length: Count = 24
    limit: int = 128
    """most problems of a set; 0: all"""
    prompt_template: Literal["raw", "chat", "qwen_boxed", "dapo", "r1"] = "raw"
    enable_thinking: bool | None = None
    prompt_column: str | None = None
    answer_column: str | None = None
    seed: int = 0
    device: str = "auto"
    out: Path = field(default=Path("evaluation"))
    """where <out>.json and <out>.png go"""


def tasks_of(args: Args) -> list[str]:
    """Each set once."""
    return list(dict.fromkeys(args.tasks or PRESETS.get(args.preset, ("countdown",))))


def sampling_of(task: str, args: Args) -> Sampling:
    """By the preset, where there is one; else by the flags."""
    if args.preset == "none":
        return Sampling(args.samples, args.temperature, args.top_p)
    preset = PRESETS[args.preset]
    return preset.get(task, next(iter(preset.values())))


def eval_problems(name: str, args: Args) -> list[Problem]:
    """What a set is evaluated on, in its template."""
    limit = args.limit or None
    split = "eval" if has_test_split(name) else "all"
    problems = load_task(name, split, limit, args.prompt_column, args.answer_column)
    if not problems:
        raise InputError(f"task {name} has no problem to evaluate on")
    return with_template(problems, args.prompt_template)


def majority_at_k(answers: list[list[str | None]], right: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """maj@k per problem: `answers` and `right` (P, n) of the samples -> (P,). A response without answer has no vote."""
    rng, shares = np.random.default_rng(seed), []
    for given, correct in zip(answers, right, strict=True):
        hits = 0
        draws = 1 if k == len(given) else MAJORITY_DRAWS
        for _ in range(draws):
            drawn = range(k) if draws == 1 else rng.choice(len(given), k, replace=False)
            votes = Counter(given[i] for i in drawn if given[i] is not None)
            if votes:
                winner = votes.most_common(1)[0][0]
                hits += bool(correct[next(i for i in drawn if given[i] == winner)])
        shares.append(hits / draws)
    return np.array(shares)


def measure(samples: Sequence[Sample], n: int) -> dict:
    """All numbers of one model on one set, from its samples in prompt-major order."""
    right = np.array([sample.verdict.reward > 0 for sample in samples]).reshape(-1, n)
    answers = [[s.verdict.answer for s in samples[i : i + n]] for i in range(0, len(samples), n)]
    metrics = {key.removeprefix("eval/"): value for key, value in pass_metrics(right.sum(1), n).items()}
    for k in sorted({2**i for i in range(1, n.bit_length()) if 2**i <= n} | ({n} if n > 1 else set())):
        shares = majority_at_k(answers, right, k)
        metrics[f"maj@{k}"] = float(shares.mean())
        metrics[f"maj@{k}_low"], metrics[f"maj@{k}_high"] = bootstrap_interval(shares)
    return {
        "problems": len(right),
        "metrics": metrics,
        "response_length": float(np.mean([len(s.response.token_ids) for s in samples])),
        "truncated_ratio": float(np.mean([s.response.truncated for s in samples])),
        "reasons": dict(Counter(s.verdict.reason for s in samples)),
        "right": {samples[i * n].problem.id: int(count) for i, count in enumerate(right.sum(1))},
        "example": {"prompt": samples[0].problem.prompt, "response": samples[0].text},
    }


def compare(first: dict, second: dict, n: int) -> dict[str, tuple[float, float, float]]:
    """Second less first of avg@n and pass@n: difference and its 95 % interval, paired by problem."""
    a, b = (np.array(list(result["right"].values())) for result in (first, second))
    differences = {f"avg@{n}": (b - a) / n, f"pass@{n}": pass_at_k(n, b, n) - pass_at_k(n, a, n)}
    return {key: (float(values.mean()), *bootstrap_interval(values)) for key, values in differences.items()}


def open_policy(name: str | None, sets: dict[str, list[Problem]], args: Args) -> Policy:
    """A model that can read and answer all of these problems; raises InputError for one that cannot."""
    policy = load_policy(name, device=args.device, enable_thinking=args.enable_thinking)
    for problems in sets.values():
        fit_prompts(policy, problems, 0, args.max_response_length)
    return policy


def evaluate_set(actor: Actor, problems: list[Problem], sampling: Sampling, args: Args) -> dict:
    """What `measure` says of a model on a set, and how it was sampled."""
    transform = TopP(sampling.top_p) if sampling.top_p < 1 else None
    how = args.max_response_length, args.seed, max(sampling.temperature, GREEDY), transform
    samples = actor.sample(problems, sampling.samples, *how)
    return {"sampling": asdict(sampling)} | measure(samples, sampling.samples)


def differences_of(results: dict[str, dict]) -> dict[str, dict]:
    """Task -> `compare`, of those that both models have been evaluated on."""
    if len(results) < 2:
        return {}
    first, second = results.values()
    return {task: compare(first[task], second[task], second[task]["sampling"]["samples"]) for task in second}


def draw(results: dict[str, dict], path: Path) -> None:
    """pass@k with intervals, a panel per set, a line per model."""
    tasks = list(next(iter(results.values())))
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):  # a $ in a name is no formula
        figure = Figure(figsize=(5.5 * len(tasks), 4.2), layout="constrained")
        axes = figure.subplots(1, len(tasks), squeeze=False)
        for axis, task in zip(axes[0], tasks, strict=True):
            for (model, sets), color in zip(results.items(), ("#8a97a3", "#2563a8"), strict=False):
                metrics = sets[task]["metrics"]
                ks = sorted(int(k.removeprefix("pass@")) for k in metrics if k.startswith("pass@") and k[-1].isdigit())
                low, mid, high = ([metrics[f"pass@{k}{end}"] for k in ks] for end in ("_low", "", "_high"))
                axis.plot(ks, mid, color=color, marker="o", linewidth=2, label=model[-LABEL:])
                axis.fill_between(ks, low, high, color=color, alpha=0.15, linewidth=0)
            axis.set(xscale="log", xticks=ks, xticklabels=ks, xlabel="k", title=f"pass@k, {task}", ylim=(0, 1))
            axis.minorticks_off()
        axes[0, 0].legend()
        figure.savefig(path, dpi=130)


def table(results: dict[str, dict], differences: dict[str, dict]) -> Table:
    shown = Table("set", "n", "model", "avg@n", "pass@n", "maj@n", "length", "cut off")
    for task in next(iter(results.values())):
        for model, sets in results.items():
            m, r = sets[task]["metrics"], sets[task]
            n = r["sampling"]["samples"]
            keys = [f"avg@{n}", f"pass@{n}"] + ([f"maj@{n}"] if n > 1 else [])
            cells = [f"{m[k]:.3f} ({m[f'{k}_low']:.3f} to {m[f'{k}_high']:.3f})" for k in keys]
            cells += [""] * (3 - len(cells))
            shown.add_row(task, str(n), model, *cells, f"{r['response_length']:.1f}", f"{r['truncated_ratio']:.1%}")
        if task in differences:
            pairs = differences[task].values()
            shown.add_row(
                "", "", "second less first", *(f"{d:+.3f} ({low:+.3f} to {high:+.3f})" for d, low, high in pairs)
            )
        shown.add_section()
    return shown


def main(args: Args) -> None:
    """All of it. Raises InputError: for what cannot be used, before anything is sampled; for what cannot be written."""
    console = Console(highlight=False, markup=False, emoji=False)  # names of models and files are no markup
    check_numbers(args)
    names = args.models or (None,)
    if len({*names}) < len(names) or len(names) > 2:
        raise InputError("name one model, or two that differ")
    for name in args.models:
        check_model_name(name)
    base = args.out.name.removesuffix(".json")
    if base in ("", ".."):
        raise InputError(f"--out {args.out} names no file; the numbers go to <out>.json")
    picture, numbers = (args.out.with_name(f"{base}.{suffix}") for suffix in ("png", "json"))
    sets = {task: eval_problems(task, args) for task in tasks_of(args)}
    for name in names[1:]:
        open_policy(name, sets, replace(args, device="cpu"))
    settings = asdict(args) | {"tasks": [*sets], "out": str(args.out)}
    command = {"command": ["python", "-m", "benchmarks.evaluate", *sys.argv[1:]]}

    results: dict[str, dict] = {}
    for name in names:
        policy = open_policy(name, sets, args)
        check_writable(picture, numbers)
        actor, done = Actor(policy, "auto"), results.setdefault(name or "embedded", {})
        for task, problems in sets.items():
            done[task] = evaluate_set(actor, problems, sampling_of(task, args), args)
            record = {"settings": settings, "environment": environment() | command, "results": results}
            record["second_less_first"] = differences_of(results)
            text = json.dumps(record, indent=1) + "\n"
            with suppress(OSError):  # tried again when the table is on the terminal
                write_whole(numbers, text)
            many = f"{len(problems)} x {done[task]['sampling']['samples']}"
            console.print(f"{name or 'embedded model'} on {task}: {many}", style="dim")
        del policy, actor  # before the next one is loaded
    console.print(table(results, record["second_less_first"]))
    try:
        write_whole(numbers, text)
        draw(results, picture)
    except OSError as error:
        raise InputError(f"--out {args.out} cannot be written ({error.strerror or error}); use another place") from None


if __name__ == "__main__":
    with exit_on_bad_input():
        main(tyro.cli(Args))
