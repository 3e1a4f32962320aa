"""The comparison on a real chat model: does what the toy says hold at 300 times its size, and on real text?

    python -m benchmarks.real_model                                   # once: makes models/SmolLM2-135M-Instruct
    python -m benchmarks.real_collapse                                # what is not there yet, then the report
    python -m benchmarks.real_collapse --tasks sums --regimes on-policy --arms grpo --seeds 1
    python -m benchmarks.real_collapse --stages report

A finished run is kept as rows under benchmarks/results/real_model/, one a step, in <task>-<regime>.csv, and with its
flags, commit and time in runs.csv. It is never made again, and one that was stopped goes on from its checkpoint. The
report, RESULTS.md and a figure for each of these tables, is made from the rows alone. `python -m benchmarks.plot` reads
the tables too.

The arms are some of benchmarks.collapse, with what short answers need: no charge for length, which would begin after
the first token, and shares that select some tokens of minibatches of about fifty.
"""

import csv
import json
import shlex
import shutil
import subprocess
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

from benchmarks import RESULTS as ALL_RESULTS
from benchmarks import ROOT, plot
from benchmarks.collapse import ARMS, ROWS, Job, command_of, knob_of
from benchmarks.collapse import REGIMES as TOY_REGIMES
from benchmarks.measure import as_flags, check_known, read_metrics, worker_environment
from benchmarks.methods import METHODS
from benchmarks.plot import WINDOW, Group
from benchmarks.readings import LEVEL, Regime, load, shared
from benchmarks.report import interval, markdown, number_word, plus_minus, put_between, write_csv
from common.curves import MUTED, STYLE
from common.tasks import load_problems

RESULTS = ALL_RESULTS / "real_model"

# All with three worked turns as chat messages. How often the model is right before training stands in RESULTS.md.
TASKS = {
    "sums": {"task": "sums:high=12,shots=3", "num_steps": 20, "max_response_length": 6},
    "comparison": {"task": "comparison:shots=3", "num_steps": 60, "max_response_length": 6},
    "countdown": {"task": "countdown:numbers=2,high=12,shots=3", "num_steps": 100, "max_response_length": 16},
    "products": {"task": "products:high=12,shots=3", "num_steps": 200, "max_response_length": 6},
    "arithmetic": {"task": "arithmetic:terms=2,high=30,shots=3", "num_steps": 200, "max_response_length": 6},
}
# Four small steps on a rollout, or one that is sqrt(4) times as long.
REGIMES = {
    "off-policy": {"num_minibatches": 4, "learning_rate": 1e-5},
    "on-policy": {"num_minibatches": 1, "learning_rate": 2e-5},
    "vllm": {"num_minibatches": 1, "learning_rate": 2e-5, "backend": "vllm"},
}
UPDATES = {
    "off-policy": "four updates per rollout",
    "on-policy": "one update per rollout",
    "vllm": "one update per rollout, sampled by vLLM",
}
SIZE = {"num_prompts": 8, "num_generations": 8, "save_every": 50, "eval_every": 20, "eval_problems": 64}
SHORT = {"overlong_buffer_length": 0}
CHANGES = {
    "dapo": SHORT,
    "forking_tokens": SHORT,
    "clip_cov": {"clip_cov_ratio": 0.05},
    "kl_cov": {"kl_cov_ratio": 0.1},
}
COLUMNS = plot.COLUMNS | {f"pass@{k}": f"eval/pass@{k}" for k in (1, 2, 4, 8, 16, 32)}
PHASES = ("rollout", "verify", "score", "update", "step")
MARKERS = "osD^vP*X"
KEY = ("task", "regime", "arm", "seed")
Key = tuple[str, str, str, int]
WRITING = threading.Lock()


@dataclass
class Args:
    stages: tuple[str, ...] = ("run", "report")
    tasks: tuple[str, ...] = ("sums", "arithmetic")
    """of sums, comparison, countdown, products, arithmetic"""
    regimes: tuple[str, ...] = ("off-policy",)
    """updates per rollout: off-policy four, on-policy one; vllm: one, and vLLM samples instead of the model itself"""
    arms: tuple[str, ...] = ("grpo", "grpo, mixed groups", *"dapo clip_cov kl_cov forking_tokens entropic nsr".split())
    seeds: tuple[int, ...] = (1, 2)
    model: Path = ROOT / "models" / "SmolLM2-135M-Instruct"
    jobs: int = 1
    """runs at a time; each needs about 4 GB"""
    threads: int = 1
    """of each run"""
    out: Path = RESULTS


# --- Running ----------------------------------------------------------------------------------------------------------


def flags_of(key: Key) -> dict[str, object]:
    """The flags of a run, but for its model."""
    task, regime, arm, seed = key
    script, one = ARMS[arm]
    flags = SIZE | TASKS[task] | REGIMES[regime] | one.flags | CHANGES.get(arm, {}) | {"seed": seed}
    if METHODS[script].one_update:
        del flags["num_minibatches"]  # it has no flag for it
    return flags


def wanted(args: Args) -> list[Key]:
    """Seed by seed, so that what is finished is balanced. What makes one update by definition is never off-policy."""
    return [
        (task, regime, arm, seed)
        for task in args.tasks
        for seed in args.seeds
        for regime in args.regimes
        for arm in args.arms
        if regime != "off-policy" or not METHODS[ARMS[arm][0]].one_update
    ]


def finished(out: Path) -> dict[Key, dict]:
    """Of each run that is kept, its flags and how it was made."""
    path = out / "runs.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(int(row[k]) if k == "seed" else row[k] for k in KEY): row for row in csv.DictReader(file)}


def steps_of(out: Path, task: str, regime: str) -> list[dict]:
    path = out / f"{task}-{regime}.csv"
    return plot.read_csv(path) if path.exists() else []


def table_rows(arm: str, seed: int, records: list[dict]) -> list[dict]:
    """The records of one run as rows of a table, one a step."""
    rows = []
    for row, record in zip(plot.rows_of(records), records, strict=True):
        cells = {name: round(row.get(name, np.nan), 5) for name in COLUMNS}
        cells["coverage"] = round(record.get("eval/coverage", np.nan), 5)
        cells |= {f"seconds_{phase}": round(record.get(f"time/{phase}", np.nan), 3) for phase in PHASES}
        rows.append({"arm": arm, "seed": seed} | {name: row[name] for name in plot.COUNTS} | cells)
    return rows


def keep(args: Args, key: Key, directory: Path) -> float:
    """Add a run that has come to its end to the tables, sorted, so that runs in any order make the same files.

    Returns the seconds of its steps, without its start and its evaluations.
    """
    task, regime, arm, seed = key
    records, made = read_metrics(directory), json.loads((directory / "env.json").read_text())
    seconds = sum(record.get("time/step", 0) for record in records)
    with WRITING:
        runs = finished(args.out)
        flags = shlex.join([f"algos/{ARMS[arm][0]}.py", *as_flags(flags_of(key))])
        runs[key] = dict(zip(KEY, key, strict=True)) | {"seconds": round(seconds), "threads": made["threads"]}
        runs[key] |= {"commit": made["commit"], "command": flags}
        steps = [*steps_of(args.out, task, regime), *table_rows(arm, seed, records)]
        steps.sort(key=lambda row: (list(ARMS).index(row["arm"]), row["seed"], row["step"]))
        plain = [{name: tidy(value) for name, value in row.items()} for row in steps]
        write_csv(args.out / f"{task}-{regime}.csv", plain)
        write_csv(args.out / "runs.csv", [runs[key] for key in sorted(runs)])
    return seconds


def tidy(value: object) -> object:
    """A number as a cell: whole ones without a point, none for what is not there."""
    if isinstance(value, float):
        return "" if not np.isfinite(value) else int(value) if value == int(value) else value
    return value


def run_all(args: Args) -> None:
    done = finished(args.out)
    todo = [key for key in wanted(args) if key not in done]
    print(f"{len(wanted(args)) - len(todo)} of {len(wanted(args))} runs are finished", flush=True)

    def run(key: Key) -> None:
        task, regime, arm, seed = key
        flags = {"model": str(args.model.absolute())} | flags_of(key)
        job = Job(f"{task}-{regime}", arm, seed, tuple(flags.items()))
        directory = (ROOT / "runs" / "real_model" / job.name).absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        command, _ = command_of(job, directory)  # which goes on with what was stopped
        settings = {"cwd": ROOT, "env": worker_environment(args.threads), "stdout": subprocess.DEVNULL}
        done = subprocess.run(command, **settings, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"error: {shlex.join(command)} ended with {done.returncode}\n{done.stderr}")
        seconds = keep(args, key, directory)
        shutil.rmtree(directory / "checkpoints")  # gigabytes; the records are what is wanted
        print(f"{', '.join(map(str, key))}: {seconds:.0f} s", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(run, todo))


# --- Report -----------------------------------------------------------------------------------------------------------

HEAD = """# A real chat model, in short

Written by `python -m benchmarks.real_collapse` from the tables beside this page; runs.csv has the command of each run.
SmolLM2-135M-Instruct with its weights unpacked from four bits, {num_prompts} prompts x {num_generations} responses,
three worked turns before each question. Training numbers at the end are means over the last nine steps, ± is the
standard deviation over seeds; pass@k is on held-out problems; a difference has its 95 % t-interval over seeds. Seconds
are medians over steps, one thread a run, with other work beside it. One seed says that a method learns, and nothing
about which is better.
"""

SECTION = """## {task}, {updates}

`--task {spec}`, {num_steps} steps, learning rate {learning_rate:g}; {held_out} held-out problems. Before training:
pass@1 {before_1:.3f}, pass@32 {before_32:.3f}.

![{task}, {regime}]({task}-{regime}.png)

{summary}

{phases}
"""

TOY = """![{task}, {regime}, beside the toy]({task}-{regime}-toy.png)

What an arm does against its base here and on the toy (benchmarks.claims): means over seeds, lines from the lowest to
the highest one. {words}
"""


def phase_table(rows: list[dict]) -> list[str]:
    """Seconds of a step by its phases: medians over steps, which a pause does not move, and means over seeds."""
    seconds: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows:
        if row["step"] > 0:
            steps = seconds.setdefault(row["arm"], {}).setdefault(row["seed"], [])
            steps.append([row[f"seconds_{phase}"] for phase in PHASES])
    cells = [
        (arm, *(plus_minus(column) for column in zip(*(np.median(steps, 0) for steps in seeds.values()), strict=True)))
        for arm, seeds in seconds.items()
    ]
    return markdown(("seconds a step", "sampling", "checking", "scoring", "update", "all"), cells)


def coverage_table(rows: list[dict]) -> list[str]:
    """The share of a problem's distinct right solutions among its samples, before training and at the end."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if np.isfinite(row["coverage"]):
            found.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(row["coverage"])
    cells = [
        (arm, *(plus_minus(seed[end] for seed in seeds.values()) for end in (0, -1))) for arm, seeds in found.items()
    ]
    return ["", *markdown(("coverage", "before", "at the end"), cells)] if cells else []


def at_end(group: Group) -> dict[str, dict[int, float]]:
    """Reward and entropy over the last steps, pass@1 and pass@32 at the last evaluation: name -> seed -> value."""
    found = {key: {run.seed: run.training[key][-WINDOW:].mean() for run in group.runs} for key in ("reward", "entropy")}
    return found | {f"pass@{k}": {run.seed: run.evaluations[-1][f"pass@{k}"] for run in group.runs} for k in (1, 32)}


def summary_table(groups: list[Group]) -> list[str]:
    rows = []
    for group in groups:
        samples = np.mean([run.training["samples"][-1] for run in group.runs])
        ends = [plus_minus(by_seed.values()) for by_seed in at_end(group).values()]
        rows.append((group.label, len(group.runs), *ends, f"{samples:,.0f}"))
    return markdown(("arm", "seeds", "reward", "entropy", "pass@1", "pass@32", "samples"), rows)


def base_here(arm: str, known: Collection[str]) -> str:
    """What an arm is held against: its base, or GRPO where that is not among these; "" where neither is."""
    bases = (ARMS[arm][1].base, "grpo")
    return next((base for base in bases if base in known and base != arm), "")


def difference_table(groups: list[Group]) -> list[str]:
    """Each arm less the one that it is held against, on the seeds that both have; two at least."""
    ends, rows = {group.label: at_end(group) for group in groups}, []
    for arm, mine in ends.items():
        base = base_here(arm, ends)
        seeds = sorted({*mine["entropy"]} & {*ends[base]["entropy"]}) if base else []
        if len(seeds) > 1:
            found = [interval(mine[key][seed] - ends[base][key][seed] for seed in seeds) for key in mine]
            cells = [f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in found]
            rows.append((f"{arm}, less {base}", *cells))
    return ["", *markdown(("difference at the end", "reward", "entropy", "pass@1", "pass@32"), rows)] if rows else []


def draw_runs(groups: list[Group]) -> Figure:
    """Curves of training, and of pass@1 where there is more than start and end: else a dot for each arm's end."""
    figure = plot.draw_over(groups, spread="range")
    if max(len(run.evaluations) for group in groups for run in group.runs) > 2:
        return figure
    axis = figure.axes[2]
    axis.clear()
    axis.axvline(groups[0].runs[0].evaluations[0]["pass@1"], color=MUTED, linewidth=1, linestyle=":")
    for row, group in enumerate(groups):
        ends = list(at_end(group)["pass@1"].values())
        axis.plot((min(ends), max(ends)), (row, row), color=group.color, linewidth=1.4)
        axis.plot(np.mean(ends), row, "o", color=group.color)
    axis.set_yticks(range(len(groups)), [group.label for group in groups], fontsize=9)
    axis.set_ylim(len(groups) - 0.5, -0.5)  # the first one on top
    axis.grid(visible=False, axis="y")
    axis.set(title="Held-out pass@1", xlabel="at the end (dotted: before)")
    return figure


# --- Beside the toy ---------------------------------------------------------------------------------------------------

BESIDE = ("entropy", "reward", "pass@1", "pass@32")
Both = dict[str, dict[str, tuple[list[float], list[float]]]]  # outcome -> arm -> differences to the base: toy, here


def beside_toy(groups: list[Group], toy: Regime) -> Both:
    """Of every arm that has its base in both, the difference at the end, seed by seed."""
    ends, found = {group.label: at_end(group) for group in groups}, {outcome: {} for outcome in BESIDE}
    for arm, mine in ends.items():
        base = base_here(arm, ends)
        if not base or not (seeds := shared(toy, arm, base)):
            continue
        for outcome, by_arm in found.items():
            small = [
                one.at(outcome, one.horizon).mean() - other.at(outcome, other.horizon).mean()
                for one, other in ((toy[arm][seed], toy[base][seed]) for seed in seeds)
            ]
            both = sorted({*mine[outcome]} & {*ends[base][outcome]})
            if both:
                by_arm[arm] = small, [mine[outcome][seed] - ends[base][outcome][seed] for seed in both]
    return found


def draw_beside_toy(both: Both, path: Path) -> None:
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(3.7 * len(both), 4), layout="constrained")
        axes = figure.subplots(1, len(both))
        for axis, (outcome, by_arm) in zip(axes, both.items(), strict=True):
            axis.axhline(0, color=MUTED, linewidth=1)
            axis.axvline(0, color=MUTED, linewidth=1)
            for index, (arm, (toy, here)) in enumerate(by_arm.items()):
                look = {"color": plot.PALETTE[index], "linewidth": 1.2}
                x, y = np.mean(toy), np.mean(here)
                axis.plot([min(toy), max(toy)], [y, y], **look)
                axis.plot([x, x], [min(here), max(here)], **look)
                axis.plot(x, y, MARKERS[index % len(MARKERS)], color=look["color"], markersize=7, label=arm)
            axis.set(title=outcome, xlabel="toy: less its base")
        axes[0].set(ylabel="real model: less its base")
        plot.below(figure, axes[0])
        figure.savefig(path, dpi=110)


def told_apart(both: Both, problems: int) -> str:
    """Which of the differences on the real model are told from 0, in words, and the toy's beside them."""
    seeds = {len(here) for by_arm in both.values() for _, here in by_arm.values()}
    found = {
        (arm, outcome): (interval(here), float(np.mean(toy)))
        for outcome, by_arm in both.items()
        for arm, (toy, here) in by_arm.items()
    }
    apart = [
        f"`{arm}` in {outcome} ({mean:+.2f}, on the toy {toy:+.2f})"
        for (arm, outcome), ((mean, low, high), toy) in found.items()
        if low > 0 or high < 0
    ]
    return (
        f"Of {number_word(len(found), 'difference')} to a base on the real model {len(apart)} are told from 0 by a "
        f"95 % interval ({min(seeds)} seeds, {problems} problems; {LEVEL * len(found):.1f} would be by chance): "
        f"{', '.join(apart) or 'none'}."
    )


def other_settings(arms: Collection[str], toy: Regime) -> str:
    """Which arms differ from the toy's in more than what is of all arms alike, and in what; "" for none."""
    said = []
    for arm in arms:
        script, one = ARMS[arm]
        here, there = flags_of(("sums", "off-policy", arm, 1)), next(iter(toy[arm].values())).record["flags"]
        usual = vars(import_module(f"algos.{script}").Args())
        names = sorted({*one.flags, *CHANGES.get(arm, {}), *([knob_of(arm)[0]] if knob_of(arm)[0] else [])})
        pairs = {name: tuple(flags.get(name, usual[name]) for flags in (here, there)) for name in names}
        differs = [f"{name} {mine}, there {other}" for name, (mine, other) in pairs.items() if mine != other]
        said += [f"`{arm}` ({'; '.join(differs)})"] if differs else []
    return f"Of these arms some have other settings than on the toy: {', '.join(said)}." if said else ""


def beside_words(both: Both, toy: Regime, task: str) -> str:
    arms = dict.fromkeys(arm for by_arm in both.values() for arm in by_arm)
    return f"{told_apart(both, held_out(task))} {other_settings(arms, toy)}".strip()


def toy_section(out: Path, task: str, regime: str, groups: list[Group], rows: Path = ROWS) -> str:
    """Figure and sentence; "" where the toy has no such regime, or no arm that both have."""
    toy = load(rows)[regime] if regime in TOY_REGIMES else Regime({})
    both = beside_toy(groups, toy)
    if not any(both.values()):
        return ""
    draw_beside_toy(both, out / f"{task}-{regime}-toy.png")
    return TOY.format(task=task, regime=regime, words=beside_words(both, toy, task))


@cache
def held_out(task: str) -> int:
    """How many problems an evaluation asks."""
    return len(load_problems(TASKS[task]["task"], None, SIZE["eval_problems"])[1])


def section(out: Path, task: str, regime: str) -> str | None:
    if not (rows := steps_of(out, task, regime)):
        return None
    groups = plot.load_runs([out / f"{task}-{regime}.csv"])
    with matplotlib.rc_context(STYLE):  # of two seeds a standard deviation would reach beyond what there is
        plot.save(draw_runs(groups), out / f"{task}-{regime}", ("png",))
    start = groups[0].runs[0].evaluations[0]
    toy = toy_section(out, task, regime, groups)
    return SECTION.format(
        task=task,
        regime=regime,
        spec=TASKS[task]["task"],
        updates=UPDATES[regime],
        num_steps=TASKS[task]["num_steps"],
        held_out=held_out(task),
        learning_rate=REGIMES[regime]["learning_rate"],
        before_1=start["pass@1"],
        before_32=start["pass@32"],
        summary="\n".join(summary_table(groups) + difference_table(groups)),
        phases="\n".join(phase_table(rows) + coverage_table(rows)),
    ) + (f"\n{toy}" if toy else "")


def show_in_readme() -> None:
    """Put the figure beside the toy and its sentence between the README's two marks."""
    groups = plot.load_runs([RESULTS / "sums-off-policy.csv"])
    toy = load(ROWS)["off-policy"]
    words = beside_words(beside_toy(groups, toy), toy, "sums")
    picture = "![methods on the real model, beside the toy](benchmarks/results/real_model/sums-off-policy-toy.png)"
    put_between(ROOT / "README.md", "real", f"{picture}\n\n{words}")


def report(args: Args) -> None:
    sections = [section(args.out, task, regime) for task in TASKS for regime in REGIMES]
    text = "\n".join([HEAD.format(**SIZE), *filter(None, sections)])
    (args.out / "RESULTS.md").write_text(text)
    if args.out == RESULTS and steps_of(RESULTS, "sums", "off-policy"):
        show_in_readme()
    print(text)


def main(args: Args) -> None:
    check_known("stages", args.stages, ("run", "report"))
    check_known("tasks", args.tasks, TASKS)
    check_known("regimes", args.regimes, REGIMES)
    check_known("arms", args.arms, ARMS)
    if "run" in args.stages:
        if not args.model.is_dir():
            raise SystemExit(f"error: no model in {args.model}; make it with python -m benchmarks.real_model")
        run_all(args)
    if "report" in args.stages and finished(args.out):
        report(args)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
