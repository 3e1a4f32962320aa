"""Pictures and tables of any runs: entropy, reward and pass@k, with bands over seeds.

    python -m benchmarks.plot runs/*
    python -m benchmarks.plot runs/* --by algorithm --out plots --format svg
    python -m benchmarks.plot table.csv

Takes run directories, finished or not, and tables as benchmarks.real_collapse writes them. Runs that differ in nothing
but their seed make one group, named by its algorithm and by those flags that set it apart from the others. Writes

- steps, samples, tokens: entropy, reward and held-out pass@1 over training steps, responses and tokens sampled. Methods
  that sample more in a step, as DAPO does, are compared fairly on the last two.
- law: reward against entropy, with the least-squares fit of R = -a exp(H) + b (Cui et al., arXiv 2505.22617).
- pass: pass@k before and after training, and what was gained.

A line is the mean over the runs of a group, and the band their standard deviation (or from the lowest to the highest).
Over steps, where some runs of a group have ended, those that go on are drawn one by one, thin. Entropy is
`rollout/entropy`, the mean of -log p over all tokens sampled, which has the same meaning for all methods.
"""

import csv
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import matplotlib
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.inputs import read_run as read
from benchmarks.law import explained, fit_law
from benchmarks.report import plus_minus
from common import InputError
from common.arguments import MAY_CHANGE, RECORDED, exit_on_bad_input
from common.curves import INK, MUTED, STYLE, smooth
from tests import sync

COLUMNS = {
    "reward": "rollout/reward",
    "entropy": "rollout/entropy",
    "length": "rollout/response_length",
    "zero_std_ratio": "rollout/zero_std_ratio",
    "approx_kl": "policy/approx_kl",
    "clip_high_ratio": "policy/clip_high_ratio",
    "clip_low_ratio": "policy/clip_low_ratio",
    "selected_ratio": "algo/selected_ratio",
    "selected_negative_ratio": "algo/selected_negative_ratio",
    "eval_entropy": "eval/entropy",
}
COUNTS = ("step", "samples", "tokens")
WINDOW = 9  # steps of the moving mean through which a run is read
# Nine colours that stay apart under the common kinds of colour blindness: Paul Tol's "muted", its two palest darkened.
# Dashes tell neighbours apart without any colour.
PALETTE = "#332288 #cc6677 #117733 #56a5d8 #882255 #ddaa33 #44aa99 #999933 #aa4499".split()
DASHES = ("-", "--", "-.", (0, (1, 1.2)))
SVG = {"svg.fonttype": "none", "svg.hashsalt": "plot"}  # text stays text; names in the file are no matter of chance
AXES = {"step": "training step", "samples": "responses sampled", "tokens": "tokens sampled"}
FILES = {"step": "steps", "samples": "samples", "tokens": "tokens"}
NO_GROUPING = {*MAY_CHANGE, *RECORDED, "seed"}  # these make no other kind of run


# --- Reading ----------------------------------------------------------------------------------------------------


@dataclass
class OneRun:
    """`training[column]` over training steps (COUNTS and COLUMNS); `evaluations`: the rows with a pass@1, in order."""

    name: str
    algorithm: str
    seed: int
    flags: dict[str, object]
    num_steps: int  # as planned
    training: dict[str, np.ndarray]
    evaluations: list[dict[str, float]]


@dataclass
class Group:
    """Runs that are seeds of one another, with how they are drawn."""

    label: str
    runs: list[OneRun] = field(default_factory=list)
    color: str = INK
    dashes: object = "-"

    def whole(self) -> list[OneRun]:
        """Those that came as far as the longest: only they are compared at their end."""
        ends = [run.training["step"][-1] for run in self.runs]
        return [run for run, end in zip(self.runs, ends, strict=True) if end == max(ends)]


def read_csv(path: Path) -> list[dict]:
    """Rows with numbers as numbers; an empty cell is NaN."""
    with path.open(newline="") as file:
        return [
            {k: v or "" if k in ("arm", "setting") else float(v or "nan") for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def rows_of(records: Iterable[dict]) -> list[dict[str, float]]:
    """Lines of a metrics.jsonl as rows of such a table, with the samples and tokens drawn so far."""
    rows, samples, tokens = [], 0, 0
    for record in records:
        samples += record.get("rollout/num_samples") or 0
        tokens += record.get("tokens/rollout") or 0
        cells = {name: record.get(key) for name, key in COLUMNS.items()}
        cells |= {key.removeprefix("eval/"): value for key, value in record.items() if re.match(r"eval/pass@\d+$", key)}
        row = {"step": record["step"], "samples": samples, "tokens": tokens}
        rows.append(row | {name: np.nan if value is None else value for name, value in cells.items()})
    return rows


def split_rows(rows: list[dict]) -> tuple[dict[str, np.ndarray], list[dict]]:
    """One run's rows as (columns over training steps, rows of evaluations)."""
    steps = [row for row in rows if row["step"] > 0]
    columns = {key: np.array([row.get(key, np.nan) for row in steps], dtype=float) for key in (*COUNTS, *COLUMNS)}
    return columns, [row for row in rows if np.isfinite(row.get("pass@1", np.nan))]


def has_training(training: dict[str, np.ndarray]) -> bool:
    """Whether there is a training step with a reward."""
    return bool(np.isfinite(training["reward"]).any())


def read_run(directory: Path) -> OneRun:
    """A run directory. Raises InputError if there is none or nothing in it yet."""
    try:
        flags, records = read(directory, {"algorithm": str, "seed": int, "num_steps": int})
    except InputError as error:
        raise InputError(f"no run ({error})") from None
    training, evaluations = split_rows(rows_of(records))
    if not has_training(training):
        raise InputError("no training step yet")
    found = (flags[key] for key in ("algorithm", "seed"))
    return OneRun(str(directory), *found, flags, flags["num_steps"], training, evaluations)


def read_table(path: Path) -> list[OneRun]:
    """The runs in a table with columns arm, seed, step, samples, tokens, reward, entropy and pass@k."""
    try:
        with path.open(newline="") as file:
            header = next(csv.reader(file), [])
        rows = read_csv(path) if {"arm", "seed", *COUNTS, "reward", "entropy"} <= {*header} else []
    except (ValueError, TypeError, OSError, csv.Error) as error:
        raise InputError(f"cannot be read ({error})") from None
    if not rows:
        raise InputError("no table of runs (columns arm, seed, step, samples, tokens, reward, entropy)")
    for number, row in enumerate(rows, 1):
        if bad := [key for key in ("seed", *COUNTS) if not row[key].is_integer()]:
            raise InputError(f"row {number}: {bad[0]} is no whole number")
    runs, last = [], int(max(row["step"] for row in rows))
    for arm, seed in dict.fromkeys((row["arm"], int(row["seed"])) for row in rows):
        training, evaluations = split_rows([row for row in rows if row["arm"] == arm and row["seed"] == seed])
        if not has_training(training):
            raise InputError(f"{arm}, seed {seed}: no training step with a reward")
        name, flags = f"{path}, {arm}, seed {seed}", {"table": path.stem}
        runs.append(OneRun(name, arm, seed, flags, last, training, evaluations))
    return runs


def load_runs(paths: Iterable[Path], by: Sequence[str] = (), say: Callable[[str], None] = print) -> list[Group]:
    """Groups of the runs in these directories and tables; `say` is told, a line each, what is left out or cut short."""
    runs = []
    for path in map(Path, paths):
        try:
            runs += read_table(path) if path.suffix == ".csv" else [read_run(path)]
        except InputError as error:
            say(f"left out: {path}: {error}")
    for run in runs:
        if (end := int(run.training["step"][-1])) < run.num_steps:
            say(f"unfinished: {run.name} ends at step {end} of {run.num_steps}")
        if not run.evaluations:
            say(f"no evaluation, left out of pass@k: {run.name}")
    return group_runs(runs, by, say)


# --- Groups -----------------------------------------------------------------------------------------------------


@cache
def own_flags(algorithm: str) -> frozenset[str]:
    """Flags in the file's own part: that they differ from another method's goes without saying."""
    if algorithm not in sync.algorithms():
        return frozenset()
    return frozenset(re.findall(r"^    (\w+)[:\w\[\], |\"]* = ", sync.own_parts(sync.read(algorithm))["args"], re.M))


def differing_flags(runs: list[OneRun], run: OneRun) -> list[str]:
    """Flags in which others differ from a run: own knobs inside its algorithm, common ones among all runs."""
    found = []
    for flag in run.flags.keys() - NO_GROUPING:
        values = {
            str(other.flags[flag])
            for other in runs
            if flag in other.flags
            and (other.algorithm == run.algorithm or flag not in own_flags(run.algorithm) | own_flags(other.algorithm))
        }
        if len(values) > 1:
            found.append(flag)
    return sorted(found)


def group_runs(runs: list[OneRun], by: Sequence[str] = (), say: Callable[[str], None] = print) -> list[Group]:
    """Runs of the same label together, in the order of their first ones, each group with a colour of its own."""
    known = {"algorithm"} | {flag for run in runs for flag in run.flags}
    if runs and (unknown := [name for name in by if name not in known]):
        raise InputError(f"--by {unknown[0]}: no run has this flag")
    groups: dict[str, Group] = {}
    for run in runs:
        differing = differing_flags(runs, run)
        shown = [name for name in by if name != "algorithm" and name in run.flags] if by else differing
        words = [run.algorithm] if not by or "algorithm" in by else []
        label = " ".join(words + [f"{name}={run.flags[name]}" for name in shown]) or "all runs"
        groups.setdefault(label, Group(label)).runs.append(run)
    for index, group in enumerate(groups.values()):
        group.color = PALETTE[index % len(PALETTE)]
        group.dashes = DASHES[(index + index // len(PALETTE)) % len(DASHES)]
        if pooled := {flag for run in group.runs for flag in differing_flags(group.runs, run)}:
            say(f"{group.label}: one group of runs that differ in {', '.join(sorted(pooled))}")
        seeds = [run.seed for run in group.runs]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            say(f"{group.label}: seed {', '.join(map(str, twice))} is there more than once")
    return list(groups.values())


# --- Numbers ----------------------------------------------------------------------------------------------------


def known_mean(values: np.ndarray) -> float:
    """The mean without NaNs; NaN of nothing else."""
    return float(np.mean(known)) if len(known := values[np.isfinite(values)]) else float("nan")


def at_samples(evaluations: list[dict], column: str, samples: float) -> float:
    """An evaluation's column where so many samples had been drawn, interpolated between evaluations."""
    return float(np.interp(samples, [row["samples"] for row in evaluations], [row[column] for row in evaluations]))


def at_reward(training: dict[str, np.ndarray], column: str, reward: float, window: int = WINDOW) -> float:
    """A smoothed column where the smoothed reward first reaches a value; NaN if it never does."""
    reached = np.flatnonzero(smooth(training["reward"], window) >= reward)
    return float(smooth(training[column], window)[reached[0]]) if len(reached) else float("nan")


def common_reward(runs: Iterable[dict[str, np.ndarray]], window: int = WINDOW) -> float:
    """The highest reward that the training of every run reaches (smoothed), in steps of 0.01 from below."""
    return float(np.floor(min(np.nanmax(smooth(run["reward"], window)) for run in runs) * 100) / 100)


def mean_and_spread(values: np.ndarray, spread: str = "std") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lower and upper edge over the first axis, NaNs left out; no band (all equal) where one value is left."""
    known = np.isfinite(values)
    count = known.sum(0)
    mean = np.where(known, values, 0).sum(0) / np.maximum(count, 1)
    if spread == "range":
        return mean, np.where(known, values, np.inf).min(0), np.where(known, values, -np.inf).max(0)
    deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / np.maximum(count - 1, 1))
    return mean, mean - deviation, mean + deviation


# --- Pictures ---------------------------------------------------------------------------------------------------


Curve = tuple[np.ndarray, np.ndarray]  # x and y


def over_runs(curves: Sequence[Curve], spread: str = "std") -> tuple[np.ndarray, ...]:
    """One curve or more as one, where all are there: x, mean, lower and upper edge, each (N,)."""
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= max(x[0] for x, _ in curves)) & (grid <= min(x[-1] for x, _ in curves))]
    return grid, *mean_and_spread(np.array([np.interp(grid, x, y) for x, y in curves]), spread)


def finite(curves: Sequence[Curve]) -> list[Curve]:
    """The curves without their NaNs, and without those that have nothing else."""
    curves = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in curves]
    return [(x, y) for x, y in curves if len(x)]


def band(
    axis: Axes,
    curves: Sequence[Curve],
    color: str,
    label: str | None = None,
    spread: str = "std",
    rest: bool = True,
    **line,
) -> None:
    """Mean and spread of several curves (x, y) where all are there; with `rest`, beyond that each by itself, thin."""
    curves = finite(curves)
    if not curves:
        return
    grid, mean, low, high = over_runs(curves, spread)
    axis.fill_between(grid, low, high, color=color, alpha=0.13, linewidth=0)
    axis.plot(grid, mean, color=color, label=label, **{"linewidth": 2} | line)
    ended = min(x[-1] for x, _ in curves)
    for x, y in curves:
        if rest and x[-1] > ended:
            axis.plot(x[x >= ended], y[x >= ended], color=color, **line | {"linewidth": 1, "alpha": 0.5})


def below(figure: Figure, axis: Axes) -> None:
    """The legend of one panel under the figure, where it covers no curve."""
    handles, labels = axis.get_legend_handles_labels()
    if labels:
        columns = max(1, min(len(labels), int(figure.get_figwidth() * 12 / (6 + max(map(len, labels))))))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=10, handlelength=2.6)


def about(spread: str) -> str:
    return "mean over seeds; band: " + ("one standard deviation" if spread == "std" else "lowest to highest")


def draw_over(groups: list[Group], x: str = "step", window: int = WINDOW, spread: str = "std") -> Figure:
    """Entropy, reward and held-out pass@1 over steps, samples or tokens."""
    evaluated = any(run.evaluations for group in groups for run in group.runs)
    figure = Figure(figsize=(6 + 4 * evaluated + 2, 4.6), layout="constrained")
    axes = figure.subplots(1, 2 + evaluated)
    titles = {"entropy": "Entropy (nats per token)", "reward": "Reward of the rollouts", "pass@1": "Held-out pass@1"}
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        for group in groups:
            line = {"color": group.color, "linestyle": group.dashes, "label": group.label, "spread": spread}
            runs = group.runs
            if x != "step":  # runs of equal steps end at about the same x: what one of them has beyond is no curve
                runs, line["rest"] = group.whole(), False
            if key == "pass@1":
                rows = [run.evaluations for run in runs if run.evaluations]
                curves = [(np.array([row[x] for row in e]), np.array([row[key] for row in e])) for e in rows]
                band(axis, curves, **line, **({"marker": "o", "markersize": 4} if x == "step" else {}))
            else:
                band(axis, [(r.training[x], smooth(r.training[key], window)) for r in runs], **line)
        axis.set(title=title, xlabel=AXES[x])
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if x != "step":
            axis.xaxis.set_major_formatter("{x:,.0f}")
    below(figure, axes[0])
    text = about(spread) + (f"; curves of training are moving means of {window} steps" if window > 1 else "")
    figure.suptitle(text, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def draw_law(groups: list[Group]) -> Figure:
    """Reward against entropy: a panel for each group, its steps as dots, their fit, and the other groups in grey."""
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(4 * columns + 0.6, 3.1 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True)
    axes = np.atleast_1d(axes).flatten()
    clouds = [[np.concatenate([run.training[key] for run in g.runs]) for key in ("entropy", "reward")] for g in groups]
    for index, (axis, group) in enumerate(zip(axes, groups, strict=False)):
        for entropy, reward in clouds[:index] + clouds[index + 1 :]:
            axis.scatter(entropy, reward, s=4, color="#dde2e7", linewidth=0, zorder=1)
        entropy, reward = clouds[index]
        axis.scatter(entropy, reward, s=11, color=group.color, alpha=0.45, linewidth=0, zorder=2)
        a, b = fit_law(entropy, reward)
        if np.isfinite(a):
            grid = np.linspace(np.nanmin(entropy), np.nanmax(entropy), 100)
            axis.plot(grid, b - a * np.exp(grid), color=INK, linewidth=1.6, zorder=3)
            r2 = explained(entropy, reward)
            text = f"R = {-a:.2f} exp(H) {'+' if b >= 0 else '-'} {abs(b):.2f},  R² {r2:.2f}"
            axis.set_xlabel(text, fontsize=10)
        axis.set_title(group.label, fontsize=11)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    axes[0].invert_xaxis()  # shared by all
    text = (
        "Reward (up) against entropy in nats per token (falls to the right): a dot is a step of one run; line: the fit"
    )
    figure.suptitle(text, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def pass_ks(runs: Iterable[OneRun]) -> list[int]:
    """The k of pass@k that all evaluated runs have."""
    found = [{int(k[5:]) for k in run.evaluations[0] if k.startswith("pass@")} for run in runs if run.evaluations]
    return sorted(set.intersection(*found)) if found else []


def draw_pass(groups: list[Group], spread: str = "std") -> Figure | None:
    """pass@k at the last evaluation with the first in grey, and the difference run by run; None without evaluations."""
    runs = {group.label: [run for run in group.whole() if len(run.evaluations) > 1] for group in groups}
    everything = [run for some in runs.values() for run in some]
    if not (ks := pass_ks(everything)):
        return None

    def curve(run: OneRun, end: int) -> np.ndarray:
        return np.array([run.evaluations[end][f"pass@{k}"] for k in ks])

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    after, gain = figure.subplots(1, 2)
    x, line = np.array(ks, dtype=float), {"marker": "o", "markersize": 4, "spread": spread}
    band(after, [(x, curve(run, 0)) for run in everything], MUTED, "before training", **line, linestyle=":")
    for group in groups:
        if mine := runs[group.label]:
            look = {"color": group.color, "linestyle": group.dashes} | line
            band(after, [(x, curve(run, -1)) for run in mine], label=group.label, **look)
            band(gain, [(x, curve(run, -1) - curve(run, 0)) for run in mine], **look)
    gain.axhline(0, color=MUTED, linewidth=1)
    after.set_title("Held-out pass@k, after training")
    gain.set_title("After less before, run by run")
    for axis in (after, gain):
        axis.set(xscale="log", xlabel="k")
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
    below(figure, after)
    figure.suptitle(about(spread), fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def draw_all(groups: list[Group], window: int = WINDOW, spread: str = "std") -> dict[str, Figure]:
    """File name without suffix -> picture."""
    with matplotlib.rc_context(STYLE | {"text.parse_math": False}):  # a $ in a flag's value is no formula
        figures = {name: draw_over(groups, x, window, spread) for x, name in FILES.items()}
        figures |= {"law": draw_law(groups), "pass": draw_pass(groups, spread)}
    return {name: figure for name, figure in figures.items() if figure}


def save(figure: Figure, path: Path, formats: Iterable[str] = ("png", "svg")) -> list[Path]:
    """Write a picture as path.png and path.svg."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(SVG):
        for suffix in formats:
            written.append(path.with_name(f"{path.name}.{suffix}"))
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(written[-1], dpi=130, format=suffix, metadata=metadata)
    return written


# --- Tables -----------------------------------------------------------------------------------------------------


def new_table(title: str, names: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("group", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def end_table(groups: list[Group], window: int = WINDOW) -> Table:
    """Reward and entropy over the last steps, pass@k at the last evaluation."""
    ks = pass_ks(run for group in groups for run in group.whole())
    ends = [f"pass@{k}" for k in (ks[:1] + ks[1:][-1:])]
    names = ("runs", "steps", "reward", "entropy", *ends, "samples", "tokens")
    table = new_table(f"At the end: training over the last {window} steps; mean ± standard deviation over runs", names)
    for group in groups:
        runs = group.whole()
        cells = [plus_minus(known_mean(run.training[key][-window:]) for run in runs) for key in ("reward", "entropy")]
        cells += [plus_minus(run.evaluations[-1][key] for run in runs if run.evaluations) for key in ends]
        drawn = [f"{np.mean([run.training[key][-1] for run in runs]):,.0f}" for key in ("samples", "tokens")]
        count = f"{len(runs)}" + (f" of {len(group.runs)}" if len(runs) < len(group.runs) else "")
        table.add_row(group.label, count, f"{runs[0].training['step'][-1]:.0f}", *cells, *drawn)
    return table


def matched_table(groups: list[Group], window: int = WINDOW) -> Table:
    """What equal samples buy, and the entropy that is left where the same reward is reached."""
    runs = [run for group in groups for run in group.whole()]
    budget, level = min(run.training["samples"][-1] for run in runs), common_reward((r.training for r in runs), window)
    names = ("reward", "entropy", "pass@1", f"entropy at reward {level:.2f}", "samples until then")
    table = new_table(f"After {budget:,.0f} samples, and where the reward of training first reaches {level:.2f}", names)
    for group in groups:
        mine = group.whole()
        cells = [
            plus_minus(np.interp(budget, run.training["samples"], smooth(run.training[key], window)) for run in mine)
            for key in ("reward", "entropy")
        ]
        cells.append(plus_minus(at_samples(run.evaluations, "pass@1", budget) for run in mine if run.evaluations))
        cells.append(plus_minus(at_reward(run.training, "entropy", level, window) for run in mine))
        until = [
            run.training["samples"][np.flatnonzero(smooth(run.training["reward"], window) >= level)[0]] for run in mine
        ]
        table.add_row(group.label, *cells, f"{np.mean(until):,.0f}")
    return table


@dataclass
class Args:
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run directories and tables of runs (.csv)"""
    out: Path = Path("plots")
    """folder for the pictures"""
    by: tuple[str, ...] = ()
    """flags to group runs by, such as algorithm; by default algorithm and all flags that differ"""
    format: tuple[Literal["png", "svg"], ...] = ("png", "svg")
    window: int = WINDOW
    """steps of the moving mean; 1: none"""
    band: Literal["std", "range"] = "std"
    """over seeds: one standard deviation, or from the lowest to the highest"""


def main(args: Args) -> None:
    width = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, markup=False, emoji=False, width=width)  # flags' values are no markup
    if args.window < 1:
        raise InputError("--window must be at least 1")
    groups = load_runs(args.paths, args.by, lambda text: print(text, file=sys.stderr))
    if not groups:
        raise InputError("nothing to draw; name run directories (runs/*) or tables of runs (.csv)")
    console.print(end_table(groups, args.window))
    console.print(matched_table(groups, args.window))
    figures = draw_all(groups, args.window, args.band)
    try:
        files = [str(path) for name, figure in figures.items() for path in save(figure, args.out / name, args.format)]
    except OSError as error:
        raise InputError(f"--out {args.out} cannot be written ({error.strerror}); name another folder") from None
    console.print(f"wrote {', '.join(files)}", soft_wrap=True)


if __name__ == "__main__":
    with exit_on_bad_input():
        main(tyro.cli(Args, description=__doc__))
