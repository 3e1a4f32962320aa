"""Curves of the comparison, from benchmarks/results/collapse, as SVG that takes its colours from the page."""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup

from benchmarks.gallery.svg import LOOK, MUTED, ONE, TWO, to_page
from benchmarks.report import plus_minus
from common.curves import STYLE as BASE
from common.curves import smooth

WINDOW = 9  # steps of the moving mean, and of what is called the end, as in benchmarks.collapse
KS = (1, 2, 4, 8, 16, 32)
REGIMES = {"off-policy": "eight updates per rollout", "on-policy": "one update per rollout"}
COLORS = (ONE, TWO, MUTED)
DASHES = ("-", "--", ":")  # so that curves differ without colour too
STYLE = BASE | LOOK | {"axes.titleweight": "normal", "font.size": 12}


@dataclass
class Arm:
    """One arm's runs: over seeds and steps (S, T), and pass@k before training and at the end (S, K)."""

    seeds: list[int]
    reward: np.ndarray
    entropy: np.ndarray
    before: np.ndarray
    after: np.ndarray


def read(path: Path) -> dict[str, Arm]:
    """The arms of one csv file; nothing where there is none."""
    if not path.exists():
        return {}
    runs: dict[str, dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs[row["arm"]][int(row["seed"])].append(row)
    arms = {}
    for name, by_seed in runs.items():
        training = [[row for row in rows if int(row["step"]) > 0] for rows in by_seed.values()]
        steps = min(map(len, training))
        evaluated = [[row for row in rows if row["pass@1"]] for rows in by_seed.values()]
        columns = {
            key: np.array([[float(row[key] or "nan") for row in rows[:steps]] for rows in training])
            for key in ("reward", "entropy")
        }
        ends = [np.array([[float(rows[at][f"pass@{k}"]) for k in KS] for rows in evaluated]) for at in (0, -1)]
        arms[name] = Arm(sorted(by_seed), columns["reward"], columns["entropy"], *ends)
    return arms


def spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the seeds, (S, ...) -> (...); 0 where there is one seed."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def chart(name: str, kind: str, arms: dict[str, Arm], regime: str) -> Markup:
    """One panel ("entropy", "reward" or "pass@k") of some arms, the first in the page's own colour."""
    title = {"entropy": "Entropy, nats per token", "reward": "Reward", "pass@k": "pass@k at the end"}[kind]
    sentences = []
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.4, 3.1))
        figure.subplots_adjust(left=0.125, right=0.985, top=0.9, bottom=0.155)
        for (label, arm), color, dash in zip(arms.items(), COLORS, DASHES, strict=False):
            if kind == "pass@k":
                x, curves = np.array(KS), arm.after
                ends = f"pass@1 {plus_minus(arm.after[:, 0])}, pass@32 {plus_minus(arm.after[:, -1])}"
            else:
                curves = np.array([smooth(run, WINDOW) for run in getattr(arm, kind)])
                x = np.arange(1, curves.shape[1] + 1)
                raw = getattr(arm, kind)
                ends = f"{plus_minus(raw[:, :WINDOW].mean(1))} in the first {WINDOW} steps, "
                ends += f"{plus_minus(raw[:, -WINDOW:].mean(1))} in the last {WINDOW}"
            sentences.append(f"{label}: {ends}, {len(arm.seeds)} seeds.")
            mean, band = curves.mean(0), spread(curves)
            marker = "o" if kind == "pass@k" else None
            axis.plot(x, mean, color=color, linestyle=dash, linewidth=2, marker=marker, markersize=4)
            axis.fill_between(x, mean - band, mean + band, color=color, alpha=0.16, linewidth=0)
        if kind == "pass@k":
            before = next(iter(arms.values())).before.mean(0)
            axis.plot(KS, before, color=MUTED, linewidth=1, marker=".", alpha=0.7)
            sentences.append(f"Before training: pass@1 {before[0]:.3f}, pass@32 {before[-1]:.3f} (thin line).")
            axis.set(xscale="log", xticks=KS, xticklabels=KS, xlabel="k")
            axis.minorticks_off()
        else:
            axis.set(xlabel="step")
        axis.set_title(title)
        return to_page(figure, name, f"{title}, {regime}: {' and '.join(arms)}", " ".join(sentences))


def panels(name: str, arms: dict[str, Arm], regime: str) -> list[Markup]:
    return [
        chart(f"{name}-{regime}-{kind.replace('@', '-')}", kind, arms, regime)
        for kind in ("entropy", "reward", "pass@k")
    ]


# --- The tables of CLAIMS.md --------------------------------------------------------------------------------------


def tables(markdown: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown text, each as rows of heading -> cell."""
    found, heads = [], None
    for line in markdown.splitlines():
        if not line.startswith("|"):
            heads = None
            continue
        cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
        if heads is None:
            heads = cells
            found.append([])
        elif set("".join(cells)) - set("-: "):
            found[-1].append(dict(zip(heads, cells, strict=True)))
    return found


def claims(path: Path) -> dict[str, list[dict[str, str]]]:
    """Regime -> rows with method, claim, "read here as", effect and verdict; nothing where there is no file."""
    if not path.exists():
        return {}
    found = {}
    for section in path.read_text().split("\n## "):
        regime = section.partition(":")[0].lower()
        if regime in REGIMES:
            found[regime] = next((rows for rows in tables(section) if rows and "verdict" in rows[0]), [])
    return found


def baselines(rows: list[dict[str, str]]) -> list[str]:
    """The arms that a method's claims are measured against: what comes after "less" in "read here as"."""
    ends = [row["read here as"].partition(", less ")[2] for row in rows]
    return [arm for arm in dict.fromkeys(ends) if arm and not re.match(r"\d", arm)]
