"""The law R = -a exp(H) + b: what its fit on the beginning of a run says of the run's end, against simpler guesses.

    python -m benchmarks.law                       # all kept runs: law.md and law.png under benchmarks/results/collapse

Cui et al. (The Entropy Mechanism, arXiv 2505.22617) fit reward to entropy on the first 36 steps, some 15 % of a run,
and read off how far it will come: b - a where entropy is gone. Here reward and entropy are those of the training
rollouts (theirs: held-out accuracy), the fit is by least squares, and 36 % of a run is tried beside 15 %. Five guesses
of the reward at the end, its mean over the last sixteenth of a run (25 of 400 steps):

- law: b - a exp(H) at the entropy that was measured there, so it is told what the rivals have to do without.
- line in H: the same with H for exp(H), which differ little where H is small.
- line over steps: reward as a straight line over steps, prolonged.
- last value: the mean over as many steps at the end of the fitted part.
- ceiling: b - a. As a guess of the end it is meant for runs that have used up their entropy.

The paper speaks of runs in which nothing intervenes in entropy; the table by arm says which arms these are for.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import RESULTS
from benchmarks.collapse import ARMS, REGIMES
from benchmarks.readings import column
from benchmarks.report import markdown, plus_minus
from common.curves import BLUE, GREEN, INK, MUTED, ORANGE, RED, STYLE

LAWS = {"R = -a exp(H) + b": np.exp, "straight line in H": np.asarray}  # what reward is linear in
GUESSES = {"law": BLUE, "line in H": GREEN, "line over steps": ORANGE, "last value": MUTED, "ceiling": RED}
RIVALS = ("line over steps", "last value")
SHARES = (0.15, 0.36)  # of a run, from its beginning, that a fit sees
END = 1 / 16  # of a run, whose mean is its end


@dataclass
class Args:
    rows: Path = RESULTS / "collapse" / "runs"
    """where benchmarks.collapse keeps its runs"""
    out: Path = RESULTS / "collapse"


# --- The fit and the guesses ------------------------------------------------------------------------------------------


def fit_law(entropy: np.ndarray, reward: np.ndarray, of: Callable = np.exp) -> tuple[float, float]:
    """a and b of R = -a of(H) + b by least squares; NaN where fewer than three points or one entropy leave it open."""
    known = np.isfinite(entropy) & np.isfinite(reward)
    x = of(entropy[known])
    if len(x) < 3 or np.ptp(x) < 1e-9:
        return float("nan"), float("nan")
    slope, offset = np.polyfit(x, reward[known], 1)
    return float(-slope), float(offset)


def explained(entropy: np.ndarray, reward: np.ndarray, of: Callable = np.exp) -> float:
    """R^2 of that fit on its own points; NaN where there is none or the reward is one."""
    a, b = fit_law(entropy, reward, of)
    known = np.isfinite(entropy) & np.isfinite(reward)
    spread = reward[known].var() if known.any() else 0.0
    return float(1 - np.mean((reward - (b - a * of(entropy)))[known] ** 2) / spread) if spread else float("nan")


def guess(steps: np.ndarray, entropy: np.ndarray, reward: np.ndarray, share: float) -> dict[str, float] | None:
    """GUESSES of the reward at the end of a run from a share of its points, with the `measured` one, `a` and `b`.

    Points where entropy or reward is missing do not count. None where the two parts would overlap or be too short.
    """
    known = np.isfinite(entropy) & np.isfinite(reward)
    steps, entropy, reward = steps[known], entropy[known], reward[known]
    fitted, tail = round(share * len(reward)), max(1, round(END * len(reward)))
    if fitted < 3 or fitted + tail > len(reward):
        return None
    first, last = slice(fitted), slice(len(reward) - tail, None)
    a, b = fit_law(entropy[first], reward[first])
    c, d = fit_law(entropy[first], reward[first], np.asarray)
    line = np.polyfit(steps[first], reward[first], 1)
    return {
        "a": a,
        "b": b,
        "measured": float(reward[last].mean()),
        "law": float(b - a * np.exp(entropy[last]).mean()),
        "line in H": float(d - c * entropy[last].mean()),
        "line over steps": float(np.polyval(line, steps[last]).mean()),
        "last value": float(reward[max(0, fitted - tail) : fitted].mean()),
        "ceiling": b - a,
    }


# --- The kept runs ----------------------------------------------------------------------------------------------------


def kept_runs(rows: Path) -> list[dict]:
    """The records of all finished runs of the two regimes, as benchmarks.collapse wrote them; none of the tuning's.

    By regime, arm and seed, a method before its controls. Without those whose rewards are coin tosses, as these tell
    nothing of what is learned or lost.
    """
    place = {arm: number for number, arm in enumerate(ARMS)}
    kept = []
    for regime in REGIMES:
        records = [json.loads(path.read_text()) for path in (rows / regime).glob("*.json")]
        records = [record for record in records if record["flags"].get("reward_mode") != "random"]
        kept += sorted(records, key=lambda record: (place[record["arm"]], record["seed"]))
    return kept


def guesses_of(records: Iterable[dict]) -> list[dict]:
    """One row for each run and share; runs that are too short have none."""
    found = []
    for record in records:
        series = [column(record, name) for name in ("step", "entropy", "reward")]
        about = {"regime": record["group"], "arm": record["arm"], "seed": record["seed"]}
        for share in SHARES:
            if (made := guess(*series, share)) and np.isfinite(made["a"]):
                found.append(about | {"share": share, "r2": explained(*series[1:])} | made)
    return found


# --- Report -----------------------------------------------------------------------------------------------------------

PAGE = """# The law R = -a exp(H) + b

Written by `python -m benchmarks.law` from the runs under `runs`, but for those whose rewards are coin tosses; what is
fitted and guessed stands at its head. Errors are absolute differences to the reward measured at the end of a run: mean
± standard deviation over runs.

{sentences}

![the fit, and guesses against what was measured](law.png)

{errors}

## By arm, fitted on the first {share:.0%}

a, b: means over runs. R²: of the law fitted on whole runs. The last columns are mean errors.

{arms}
"""
NOTHING = """# The law R = -a exp(H) + b

Written by `python -m benchmarks.law`. No run of the comparison is kept yet.
"""


def misses(rows: Sequence[dict], name: str) -> np.ndarray:
    """Absolute errors of a guess."""
    return np.array([abs(row[name] - row["measured"]) for row in rows])


def wins(rows: Sequence[dict]) -> int:
    """Runs in which the law comes nearer than each of its rivals."""
    return int((misses(rows, "law") < np.min([misses(rows, name) for name in RIVALS], axis=0)).sum())


def sentences(rows: Sequence[dict]) -> list[str]:
    """What the errors say, by rule, for each share."""
    lines = []
    for share in SHARES:
        if not (some := [row for row in rows if row["share"] == share]):
            continue
        found = {name: misses(some, name).mean() for name in GUESSES}
        best = min(found, key=found.get)
        above = sum(row["ceiling"] > row["measured"] for row in some)
        nearer = f"{wins(some)} of {len(some)}"
        lines.append(
            f"- Fitted on the first {share:.0%} of a run, the guess with the smallest mean error is "
            f"**{best}** ({found[best]:.3f}). The law, told the entropy at the end, misses by {found['law']:.3f} (with "
            f"H for exp(H): {found['line in H']:.3f}), and is nearer than both rivals in {nearer} runs; the "
            f"ceiling misses by {found['ceiling']:.3f} and lies above the end in {above}."
        )
    return lines


def error_table(rows: Sequence[dict], by: str) -> list[str]:
    """A line for each value of a column and each share."""
    cells = []
    for value in dict.fromkeys(row[by] for row in rows):
        for share in SHARES:
            if some := [row for row in rows if row[by] == value and row["share"] == share]:
                errors = [plus_minus(misses(some, name)) for name in GUESSES]
                cells.append((value, f"first {share:.0%}", len(some), *errors, f"{wins(some)} of {len(some)}"))
    return markdown((by, "fitted on", "runs", *GUESSES, "law beats both rivals"), cells)


def arm_table(rows: Sequence[dict]) -> list[str]:
    cells = []
    for regime, arm in dict.fromkeys((row["regime"], row["arm"]) for row in rows):
        some = [row for row in rows if (row["regime"], row["arm"], row["share"]) == (regime, arm, SHARES[0])]
        fits = [f"{np.mean([row[key] for row in some]):.2f}" for key in ("a", "b", "r2")]
        ends = f"{np.mean([row['measured'] for row in some]):.3f}"
        cells.append((arm, regime, len(some), *fits, ends, *(f"{misses(some, name).mean():.3f}" for name in GUESSES)))
    return markdown(("arm", "regime", "runs", "a", "b", "R²", "reward at the end", *GUESSES), cells)


def against(axis: Axes, rows: Sequence[dict], title: str, frame: tuple[float, float] = (-0.05, 1.4)) -> None:
    """Guesses (up) against what was measured: a dot is a run, the line is where they agree."""
    for name, color in GUESSES.items():
        guessed = np.clip([row[name] for row in rows], *frame)
        axis.scatter([row["measured"] for row in rows], guessed, s=18, color=color, alpha=0.7, linewidth=0, label=name)
    axis.axline((0, 0), slope=1, color=INK, linewidth=1)
    axis.set(title=title, xlabel="reward measured at the end", ylim=frame)
    axis.set_ylabel("guessed (what is beyond stands at the edge)")


def draw(records: Sequence[dict], rows: Sequence[dict], path: Path) -> None:
    """GRPO's runs with the fit on their first part, and the guesses of all runs against what was measured."""
    shown = [record for record in records if record["arm"] == "grpo"] or records[:1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        axes = figure.subplots(1, 3)
        for record in shown:
            entropy, reward = column(record, "entropy"), column(record, "reward")
            fitted = round(SHARES[0] * len(reward))
            axes[0].scatter(entropy[fitted:], reward[fitted:], s=9, color=MUTED, alpha=0.6, linewidth=0)
            axes[0].scatter(entropy[:fitted], reward[:fitted], s=12, color=BLUE, linewidth=0)
            a, b = fit_law(entropy[:fitted], reward[:fitted])
            grid = np.linspace(0, np.nanmax(entropy), 100)
            axes[0].plot(grid, b - a * np.exp(grid), color=BLUE, linewidth=1, alpha=0.6)
        axes[0].invert_xaxis()
        title = f"{shown[0]['arm']}: fit on the first {SHARES[0]:.0%} (blue)"
        axes[0].set(title=title, xlabel="entropy, nats per token (falls to the right)", ylabel="reward", ylim=(0, 1.05))
        for axis, share in zip(axes[1:], SHARES, strict=True):
            against(axis, [row for row in rows if row["share"] == share], f"All runs, fitted on the first {share:.0%}")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower right", ncols=len(GUESSES), fontsize=10)
        figure.savefig(path, dpi=110)


def main(args: Args) -> None:
    records = kept_runs(args.rows)
    rows = guesses_of(records)
    args.out.mkdir(parents=True, exist_ok=True)
    text = NOTHING
    if rows:
        parts = {"sentences": sentences(rows), "errors": error_table(rows, "regime"), "arms": arm_table(rows)}
        text = PAGE.format(share=SHARES[0], **{name: "\n".join(lines) for name, lines in parts.items()})
        draw(records, rows, args.out / "law.png")
    (args.out / "law.md").write_text(text)
    print("\n".join(sentences(rows)) or "no run is kept yet")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
