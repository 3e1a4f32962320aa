"""The readings of the comparison at forty steps: its tables, a figure for each regime, and CLAIMS.md.

    python -m benchmarks.claims                        # theorem and report: minutes
    python -m benchmarks.claims --stages report

It reads benchmarks/results/collapse: off-policy.csv and on-policy.csv (one row per run and step), tuning.csv and
theorem.csv; the README shows its first tables. The runs through the collapse are those of benchmarks.collapse.

Two regimes: eight updates per rollout, as in the papers, and one. OPO, on-policy by definition, is run in the second
and shown in both. Entropy is compared as `rollout/entropy`, the mean of -log p over every sampled token: the same
population of prompts for all, where `policy/entropy` of a method with dynamic sampling speaks of mixed groups alone.
"""

import csv
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from rich.console import Console

from algos import grpo
from benchmarks import RESULTS as ALL_RESULTS
from benchmarks import ROOT, plot
from benchmarks.measure import check_known
from benchmarks.methods import METHODS, Claim
from benchmarks.plot import WINDOW, band, read_csv, split_rows
from benchmarks.report import interval, markdown, plus_minus
from benchmarks.rollouts import Actor, countdown, differentiate, scored
from common import rollout
from common.basics import random_seed
from common.curves import STYLE, smooth
from common.loading import load_policy

RESULTS = ALL_RESULTS / "collapse"
# Eight small steps on a rollout, or one that is sqrt(8) times as long.
REGIMES = {
    "off-policy": {"num_minibatches": 8, "learning_rate": 1e-4},
    "on-policy": {"num_minibatches": 1, "learning_rate": 3e-4},
}
SIZE = {"num_prompts": 32, "num_generations": 8}

# The arms of these tables, with their colours; arm -> its knob, tried off-policy on seeds that are not used again.
COLORS = {arm: one.color for record in METHODS.values() for arm, one in record.arms.items() if one.color}
KNOBS = {name: record.knob for name, record in METHODS.items() if record.knob}
COLUMNS = plot.COLUMNS | {f"pass@{k}": f"eval/pass@{k}" for k in (1, 2, 4, 8, 16, 32)}


@dataclass
class Args:
    stages: tuple[str, ...] = ("theorem", "report")
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    tune_seeds: tuple[int, ...] = (101,)
    num_steps: int = 40
    tune_steps: int = 30


def tuning_rows() -> list[dict]:
    """Setting, seed and outcome of every tuning run."""
    path = RESULTS / "tuning.csv"
    return [row | {"seed": int(row["seed"])} for row in (read_csv(path) if path.exists() else [])]


def tuned(rows: list[dict]) -> dict[str, dict]:
    """Arm -> its knob's better value: the higher pass@1 on held-out problems after the tuning runs, mean over seeds."""
    chosen = {}
    for arm, (knob, values) in KNOBS.items():
        scores = {}
        for value in values:
            ends = [row["pass@1"] for row in rows if row["setting"] == f"{arm}-{knob}={value}"]
            if ends:
                scores[value] = np.mean(ends)
        if len(scores) == len(values):
            chosen[arm] = {knob: max(scores, key=scores.get)}
    return chosen


# --- The theorem ------------------------------------------------------------------------------------------------


def theorem(args: Args) -> None:
    """Step by step on-policy GRPO: -Cov(log p, A) over the batch's tokens, and the entropy change that was measured.

    The change is that of the mean entropy at the very positions of the batch, before and after the update.
    """
    rows = []
    for seed in args.seeds[:3]:
        options = grpo.Args(seed=seed, num_prompts=32, learning_rate=REGIMES["on-policy"]["learning_rate"])
        stream = countdown(seed)
        policy = load_policy(None, device="cpu", learning_rate=options.learning_rate)
        actor = Actor(policy)
        for step in range(1, args.num_steps + 1):
            samples = actor.sample(stream.take(32), 8, options.max_response_length, random_seed(seed, step))
            batch = scored(policy, samples)
            grpo.assign_credit(batch, options, {})
            _, grads = differentiate(grpo, (batch["old_logprobs"], batch["entropy"]), batch, options)
            policy.backward(batch, grads[0])
            policy.step()
            actor.sampler.sync()
            mask = batch["mask"]
            change = (policy.score(batch)[1] - batch["entropy"])[mask].mean().item()
            values = torch.stack([batch["old_logprobs"][mask], batch["advantages"][mask]])
            rows.append(
                {"seed": seed, "step": step, "minus_covariance": -values.cov()[0, 1].item(), "entropy_change": change}
                | {"reward": rollout.metrics(samples, 8)["rollout/reward"]}
            )
    write_csv(RESULTS / "theorem.csv", rows)


# --- Reading ----------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Runs:
    """The runs of one regime, as arrays over steps: `runs[arm][seed][column]`; `steps` start at 1."""

    def __init__(self, rows: list[dict]):
        self.evaluations: dict[str, dict[int, list[dict]]] = {}
        self.training: dict[str, dict[int, dict[str, np.ndarray]]] = {}
        for arm in COLORS:
            for seed in sorted({int(row["seed"]) for row in rows if row["arm"] == arm}):
                mine = [row for row in rows if row["arm"] == arm and row["seed"] == seed]
                columns, evaluated = split_rows(mine)
                self.training.setdefault(arm, {})[seed] = columns
                self.evaluations.setdefault(arm, {})[seed] = evaluated

    def seeds(self, *arms: str) -> list[int]:
        """Seeds that all of these arms have finished."""
        return sorted(set.intersection(*({*self.training.get(arm, {})} for arm in arms)))

    def end(self, arm: str, seed: int, column: str) -> float:
        """Mean over the last steps."""
        return float(self.training[arm][seed][column][-WINDOW:].mean())

    def last(self, arm: str, seed: int, column: str) -> float:
        """At the last evaluation."""
        return self.evaluations[arm][seed][-1][column]

    def at_samples(self, arm: str, seed: int, column: str, samples: float) -> float:
        """An evaluation's column where so many samples had been drawn."""
        return plot.at_samples(self.evaluations[arm][seed], column, samples)

    def at_reward(self, arm: str, seed: int, column: str, reward: float) -> float:
        """A smoothed column where the smoothed reward first reaches a value; NaN if it never does."""
        return plot.at_reward(self.training[arm][seed], column, reward)

    def common_reward(self, *arms: str) -> float:
        """The highest reward that every run of these arms reaches (smoothed), in steps of 0.01 from below."""
        return plot.common_reward(self.training[arm][seed] for arm in arms for seed in self.seeds(*arms))


def verdict(low: float, high: float, direction: int) -> str:
    """Whether the interval of a difference lies on the side that was claimed, on the other, or on both."""
    if not np.isfinite(low) or low <= 0 <= high:
        return "not seen"
    return "reproduced" if (low > 0) == (direction > 0) else "contradicted"


# --- Claims -----------------------------------------------------------------------------------------------------


Reading = tuple[str, Callable[[str, int], float]]  # in words, and what it measures of an arm's seed


def entropy_at_equal_reward(runs: Runs, arm: str, claim: Claim) -> Reading:
    level = runs.common_reward(arm, claim.base)
    return f"entropy where reward reaches {level:.2f}", lambda a, s: runs.at_reward(a, s, "entropy", level)


def pass_at_equal_samples(runs: Runs, arm: str, claim: Claim) -> Reading:
    budget = min(runs.evaluations[claim.base][s][-1]["samples"] for s in runs.seeds(claim.base))
    return f"pass@1 after {budget:,.0f} samples", lambda a, s: runs.at_samples(a, s, "pass@1", budget)


def selected_negative_share(runs: Runs, arm: str, claim: Claim) -> Reading:
    def measure(a: str, s: int) -> float:
        shares = runs.training[a][s]["selected_negative_ratio"]
        return np.mean(shares[np.isfinite(shares)]) - 0.5 if np.isfinite(shares).any() else float("nan")

    return "share of selected tokens with A < 0, less 1/2", measure


# How a claim of benchmarks/methods.py is read.
READINGS: dict[str, Callable[[Runs, str, Claim], Reading]] = {
    "entropy at the end": lambda runs, arm, claim: (
        "entropy at the last steps",
        lambda a, s: runs.end(a, s, "entropy"),
    ),
    "entropy at equal reward": entropy_at_equal_reward,
    "pass@k": lambda runs, arm, claim: (
        f"pass@{claim.number} at the end",
        lambda a, s: runs.last(a, s, f"pass@{claim.number}"),
    ),
    "pass@1 at equal samples": pass_at_equal_samples,
    "selected negative share": selected_negative_share,
    "distance from a target": lambda runs, arm, claim: (
        f"distance of entropy from {claim.number} at the last steps",
        lambda a, s: abs(runs.end(a, s, "entropy") - claim.number),
    ),
}


def claims(runs: Runs) -> list[tuple[str, str, str, tuple[float, float, float], str]]:
    """(method, what its paper promises, how it is read here, effect with interval, verdict)."""
    rows = []
    for arm, record in METHODS.items():
        for claim in record.claims:
            seeds = runs.seeds(arm, claim.base) if claim.base else runs.seeds(arm)
            if len(seeds) < 2:
                continue
            words, measure = READINGS[claim.reading](runs, arm, claim)
            if claim.base:
                words += f", less {claim.base}"
            effect = interval(measure(arm, s) - (measure(claim.base, s) if claim.base else 0) for s in seeds)
            word = verdict(*effect[1:], claim.direction)
            if claim.promise.startswith("not a claim"):
                word = {"reproduced": "higher", "contradicted": "lower"}.get(word, "no difference seen")
            rows.append((arm, claim.promise, words, effect, word))
    return rows


LAWS = {"R = -a exp(H) + b": np.exp, "straight line in H": np.asarray}  # what reward is linear in


def law_fits(reward: np.ndarray, entropy: np.ndarray) -> dict[str, tuple[float, float]]:
    """Slope and offset of reward as a function of exp(H), which the law says, and of H, by least squares."""
    return {name: tuple(map(float, np.polyfit(of(entropy), reward, 1))) for name, of in LAWS.items()}


def law(run: dict[str, np.ndarray], share: float) -> dict[str, float]:
    """RMSE over the rest of a run of three predictions of reward, each fitted on the first `share` of its steps.

    R = -a exp(H) + b and R = -a H + b by least squares, and the mean of the last WINDOW rewards of that part.
    """
    reward, entropy = run["reward"], run["entropy"]
    n = max(3, round(share * len(reward)))
    errors = {}
    for name, (slope, offset) in law_fits(reward[:n], entropy[:n]).items():
        errors[name] = float(np.sqrt(np.mean((slope * LAWS[name](entropy[n:]) + offset - reward[n:]) ** 2)))
    errors["last value"] = float(np.sqrt(np.mean((reward[max(0, n - WINDOW) : n].mean() - reward[n:]) ** 2)))
    return errors


# --- Report -----------------------------------------------------------------------------------------------------

HEAD = """# What the papers claim, and what the embedded task shows

Written by `python -m benchmarks.claims`; the runs are in the csv files beside this page. A model of 0.43 million
parameters, countdown, {num_prompts} prompts x {num_generations} responses, {num_steps} steps, seeds {seeds}; learning
rate 1e-4 with eight updates per rollout and 3e-4 with one (and for OPO, which makes one in either comparison); torch
{torch}, Python {python}, one CPU thread per run.

An effect is the difference to the baseline on the same seeds, with a 95 % t-interval over them. *Reproduced*: the
interval lies on the side that the paper promises. *Contradicted*: on the other side. *Not seen*: it holds 0. A toy can
show that an idea does on a toy what it says; it is no evidence against results at 7B or 32B. Many intervals are looked
at here, so a single narrow one should not impress.
"""

TUNING = """## Tuning

Each method's own knob, two values, {tune_steps} steps off-policy on seed {tune_seeds}, not used again; the value with
the higher pass@1 is kept. The papers' fractions of 2e-4 and 2e-3 select no token, or one, of this model's minibatches
of some 450 tokens, so the values tried are those that select a few.

{rows}

Kept: {kept}.
"""

REGIME = """## {title}: {updates} per rollout

![{regime}]({regime}.png)

Reward and entropy are means over the last nine steps' rollouts, pass@k is at the end; ± is the standard deviation over
seeds. "samples" counts every response drawn, those of dropped groups too.
{note}

{summary}

{claims}
"""

LAW = """## The law R = -a exp(H) + b

Root mean squared error of the later steps' reward, predicted from their entropy by a fit on the first ones, off-policy
(± over seeds). The law is of use where it beats both of its rivals.

{rows}
"""

THEOREM = """## The change of entropy

On-policy GRPO, step by step: -Cov(log p, A) over the tokens of a batch against the measured change of the mean entropy
at the same positions. The theorem is for a tabular softmax policy and plain gradient ascent; here a network learns with
AdamW. Where both are negative at every step, their agreement in sign says little: the correlations are the test.

{rows}
"""

PUBLISHED = """## What full scale showed

The paper's own figures, not ours: Cui et al., arXiv 2505.22617, Table 2, Qwen2.5 base models; AIME and AMC are avg@32.
One run each, no spread. The printed averages are not the plain means of the seven columns, which would be 39.1, 39.8,
41.7, 41.1 (7B) and 45.2, 46.5, 50.6, 51.6 (32B).

| | AIME24 | AIME25 | AMC | MATH500 | OMNI | Olympiad | Minerva | average as printed |
|---|---|---|---|---|---|---|---|---|
| 7B GRPO | 21.2 | 9.6 | 58.7 | 78.8 | 27.9 | 40.7 | 36.7 | 38.6 |
| 7B clip-higher | 18.1 | 11.5 | 56.6 | 79.2 | 29.8 | 43.3 | 40.4 | 38.8 |
| 7B Clip-Cov | 22.1 | 15.8 | 58.2 | 80.4 | 30.5 | 44.1 | 41.1 | 40.4 |
| 7B KL-Cov | 22.6 | 12.9 | 61.4 | 80.8 | 29.1 | 42.6 | 38.2 | 40.6 |
| 32B GRPO | 21.8 | 16.2 | 69.7 | 84.2 | 35.2 | 43.6 | 45.5 | 45.8 |
| 32B clip-higher | 35.6 | 22.3 | 69.5 | 77.2 | 35.1 | 42.5 | 43.0 | 47.2 |
| 32B Clip-Cov | 32.3 | 22.7 | 67.2 | 87.0 | 42.0 | 57.2 | 46.0 | 50.3 |
| 32B KL-Cov | 36.8 | 30.8 | 74.5 | 84.6 | 39.1 | 49.0 | 46.3 | 52.2 |"""


def draw(runs: Runs, path: Path, title: str) -> None:
    """Entropy, reward, entropy against reward, and pass@k before and after: means and one standard deviation."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(13, 9.5), constrained_layout=True)
        panels = {"entropy": axes[0, 0], "reward": axes[0, 1]}
        for arm, color in COLORS.items():
            seeds = runs.seeds(arm)
            if not seeds:
                continue
            curves = {k: np.array([smooth(runs.training[arm][s][k], WINDOW) for s in seeds]) for k in panels}
            for key, axis in panels.items():
                steps = [runs.training[arm][s]["step"] for s in seeds]
                band(axis, list(zip(steps, curves[key], strict=True)), color, arm)
            axes[1, 0].plot(curves["reward"].mean(0), curves["entropy"].mean(0), color=color, linewidth=2)
            axes[1, 0].plot(curves["reward"].mean(0)[-1], curves["entropy"].mean(0)[-1], "o", color=color)
            ks = [1, 2, 4, 8, 16, 32]
            ends = np.array([[runs.evaluations[arm][s][-1][f"pass@{k}"] for k in ks] for s in seeds])
            axes[1, 1].plot(ks, ends.mean(0), color=color, marker="o", linewidth=2)
        some = next(iter(runs.evaluations.values()))
        start = next(iter(some.values()))[0]
        axes[1, 1].plot(ks, [start[f"pass@{k}"] for k in ks], color="#8a97a3", linestyle="--", label="before training")
        axes[1, 1].legend()
        axes[1, 1].set(xscale="log", xticks=ks, xticklabels=ks, xlabel="k", title="pass@k on held-out problems, after")
        axes[0, 0].set(title="Entropy of the rollouts", xlabel="step", ylabel="nats per token")
        axes[0, 1].set(title="Reward of the rollouts", xlabel="step")
        axes[1, 0].set(title="Entropy at matched reward", xlabel="reward", ylabel="nats per token")
        axes[0, 0].legend(ncols=2, fontsize=9)
        figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, dpi=130)
        plt.close(figure)


def number(effect: tuple[float, float, float]) -> str:
    return f"{effect[0]:+.3f} ({effect[1]:+.3f} to {effect[2]:+.3f})"


def summary_table(runs: Runs) -> list[str]:
    rows = []
    for arm in COLORS:
        if seeds := runs.seeds(arm):
            cells = [[runs.end(arm, s, key) for s in seeds] for key in ("reward", "entropy")]
            cells += [[runs.last(arm, s, f"pass@{k}") for s in seeds] for k in (1, 32)]
            samples = np.mean([runs.training[arm][s]["samples"][-1] for s in seeds])
            rows.append((arm, len(seeds), *map(plus_minus, cells), f"{samples:,.0f}"))
    return markdown(("arm", "seeds", "reward", "entropy", "pass@1", "pass@32", "samples"), rows)


def claims_table(runs: Runs) -> list[str]:
    rows = [(a, p, r, number(e), v) for a, p, r, e, v in claims(runs)]
    return markdown(("method", "claim", "read here as", "effect (95 % over seeds)", "verdict"), rows)


def law_table(runs: Runs) -> list[str]:
    names = ("R = -a exp(H) + b", "straight line in H", "last value")
    rows = []
    for arm in ("grpo", "grpo, mixed groups"):
        for share in (0.15, 0.36):
            errors = [law(runs.training[arm][s], share) for s in runs.seeds(arm)]
            if errors:
                rows.append((arm, f"first {share:.0%}", *(plus_minus(e[n] for e in errors) for n in names)))
    return markdown(("arm", "fitted on", *names), rows)


def rank(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort().astype(float)


def theorem_lines(rows: list[dict]) -> list[str]:
    """Agreement of sign, and correlations, of predicted and measured change, seed by seed."""
    signs, pearson, spearman = [], [], []
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        predicted = np.array([row["minus_covariance"] for row in mine])
        measured = np.array([row["entropy_change"] for row in mine])
        signs.append(np.mean(np.sign(predicted) == np.sign(measured)))
        pearson.append(np.corrcoef(predicted, measured)[0, 1])
        spearman.append(np.corrcoef(rank(predicted), rank(measured))[0, 1])
    rows = (("same sign", signs), ("Pearson", pearson), ("Spearman", spearman))
    cells = [(name, f"{np.mean(found):.2f}", ", ".join(f"{v:.2f}" for v in found)) for name, found in rows]
    return markdown(("", "mean over seeds", "each seed"), cells)


def tuning_section(args: Args) -> str | None:
    if not (rows := tuning_rows()):
        return None
    cells = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        means = [f"{np.mean([row[key] for row in mine]):.3f}" for key in ("pass@1", "pass@32", "entropy")]
        cells.append((setting.replace("-", " ", 1), *means))
    kept = [f"{arm} {knob} {value:g}" for arm, knobs in tuned(rows).items() for knob, value in knobs.items()]
    seeds = ", ".join(map(str, args.tune_seeds))
    lines = markdown(("setting", "pass@1", "pass@32", "entropy at the end"), cells)
    return TUNING.format(tune_steps=args.tune_steps, tune_seeds=seeds, rows="\n".join(lines), kept=", ".join(kept))


def show_in_readme(tables: str) -> None:
    """Put the tables of the papers' own regime between the README's two marks."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition("<!-- claims -->\n")
    _, _, after = rest.partition("<!-- /claims -->\n")
    path.write_text(f"{before}<!-- claims -->\n{tables}\n\n<!-- /claims -->\n{after}")


def report(args: Args, console: Console) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    seeds = ", ".join(map(str, args.seeds))
    about = {"torch": torch.__version__, "python": platform.python_version(), "seeds": seeds}
    sections = [HEAD.format(**SIZE | {"num_steps": args.num_steps} | about)]
    sections.append(tuning_section(args))
    law_section = None
    for regime in REGIMES:
        path = RESULTS / f"{regime}.csv"
        if not path.exists():
            continue
        runs = Runs(read_csv(path))
        updates = "eight updates" if regime == "off-policy" else "one update"
        draw(runs, RESULTS / f"{regime}.png", f"Embedded countdown, {updates} per rollout: mean and spread over seeds")
        tables = {"summary": "\n".join(summary_table(runs)), "claims": "\n".join(claims_table(runs))}
        note = "OPO made one update per rollout, with the step of the other regime."
        if regime == "on-policy":
            note = "KL-Cov's penalty is exactly 0 here: its difference to its baseline is only that nothing is clipped."
        sections.append(REGIME.format(note=note, title=regime.capitalize(), updates=updates, regime=regime, **tables))
        if regime == "off-policy":
            law_section = LAW.format(rows="\n".join(law_table(runs)))
            show_in_readme(tables["summary"] + "\n\n" + tables["claims"])
    sections.append(law_section)
    if (RESULTS / "theorem.csv").exists():
        sections.append(THEOREM.format(rows="\n".join(theorem_lines(read_csv(RESULTS / "theorem.csv")))))
    sections.append(PUBLISHED)
    (RESULTS / "CLAIMS.md").write_text("\n".join(section for section in sections if section) + "\n")
    console.print(f"wrote {RESULTS.relative_to(ROOT)}/CLAIMS.md")


if __name__ == "__main__":
    args = tyro.cli(Args)
    console = Console(highlight=False)
    check_known("stages", args.stages, ("theorem", "report"))
    if "theorem" in args.stages:
        theorem(args)
    if "report" in args.stages:
        report(args, console)
