"""The picture of one run, from its metrics.jsonl."""

import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED = "#22303c", "#8a97a3"
BLUE, ORANGE, GREEN, RED = "#2563a8", "#d9730d", "#2e8b57", "#b8433f"
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "legend.frameon": False,
}


def smooth(values: np.ndarray, width: int = 9) -> np.ndarray:
    """Centred moving mean that ignores missing values and shrinks at the ends."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmean(w) if np.isfinite(w).any() else np.nan for w in windows])


def series(records: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric where it was logged; a logged null becomes NaN."""
    rows = [(r["step"], np.nan if r[key] is None else r[key]) for r in records if key in r]
    steps, values = zip(*rows, strict=True) if rows else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def draw_line(axis: Axes, records: list[dict], key: str, color: str, label: str | None = None) -> None:
    """One metric over steps: every value faintly, a moving mean on top."""
    steps, values = series(records, key)
    if np.isfinite(values).any():
        axis.plot(steps, values, color=color, alpha=0.25, linewidth=1)
        axis.plot(steps, smooth(values), color=color, linewidth=2, label=label)


def draw_pass_at_k(axis: Axes, records: list[dict]) -> None:
    """pass@k against k at the first and at the last evaluation, with their 95 % intervals."""
    evaluations = [r for r in records if "eval/pass@1" in r]
    ends = evaluations[:1] + evaluations[1:][-1:]
    for record, color, label in zip(ends, (MUTED, BLUE), ("step {}", "step {}"), strict=False):
        ks = sorted(
            int(k.partition("@")[2]) for k in record if k.startswith("eval/pass@") and k.rpartition("@")[2].isdigit()
        )
        mean, low, high = ([record[f"eval/pass@{k}{end}"] for k in ks] for end in ("", "_low", "_high"))
        axis.plot(ks, mean, "o-", color=color, linewidth=2, markersize=4, label=label.format(record["step"]))
        axis.fill_between(ks, low, high, color=color, alpha=0.15, linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, [str(k) for k in ks])
    if ends:
        axis.legend(loc="lower right")


def draw_curves(metrics: Path, picture: Path, title: str) -> None:
    """Reward, entropy, length, zero-spread groups, pass@k before and after, and entropy spent for reward."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    if not records:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 7), layout="constrained")
        axes = figure.subplots(2, 3)
        reward, entropy, length, spread, passes, trade = axes.flat

        reward.set_title("Reward")
        draw_line(reward, records, "rollout/reward", BLUE, "training rollouts")
        averages = next(
            (k for r in records for k in r if k.startswith("eval/avg@") and k.rpartition("@")[2].isdigit()), None
        )
        if averages:
            steps, values = series(records, averages)
            bars = np.array(
                [values - series(records, f"{averages}_low")[1], series(records, f"{averages}_high")[1] - values]
            )
            name = f"held out, {averages.removeprefix('eval/')}"
            reward.errorbar(steps, values, bars, fmt="o", color=ORANGE, markersize=4, capsize=2, label=name)
        if reward.get_legend_handles_labels()[0]:
            reward.legend(loc="best")

        entropy.set_title("Policy entropy (nats per token)")
        draw_line(entropy, records, "policy/entropy", INK, "all responses")
        draw_line(entropy, records, "policy/entropy_right", GREEN, "right")
        draw_line(entropy, records, "policy/entropy_wrong", RED, "wrong")
        if entropy.get_legend_handles_labels()[0]:
            entropy.legend(loc="best")

        length.set_title("Response length (tokens)")
        draw_line(length, records, "rollout/response_length", BLUE)

        spread.set_title("Groups without a learning signal")
        steps, right = series(records, "rollout/all_right_ratio")
        _, wrong = series(records, "rollout/all_wrong_ratio")
        if len(steps):
            layers = [smooth(wrong), smooth(right)]
            spread.stackplot(steps, layers, colors=(RED, GREEN), alpha=0.65, labels=("all wrong", "all right"))
            spread.legend(loc="upper right")
        spread.set_ylim(0, 1)

        passes.set_title("pass@k on held-out problems")
        draw_pass_at_k(passes, records)

        trade.set_title("Entropy spent for reward")
        steps, h = series(records, "policy/entropy")
        _, r = series(records, "rollout/reward")
        if len(steps):
            points = trade.scatter(smooth(h), smooth(r), c=steps, cmap="viridis", s=14)
            figure.colorbar(points, ax=trade, label="step", aspect=30)
        trade.invert_xaxis()

        for axis in (reward, entropy, length, spread):
            axis.set_xlabel("step")
        passes.set_xlabel("k")
        trade.set_xlabel("entropy (falls to the right)")
        trade.set_ylabel("reward")
        figure.suptitle(title, parse_math=False, color=INK, fontsize=13, x=0.01, ha="left")
        partial = picture.with_name(f".{picture.name}")
        figure.savefig(partial, dpi=130, format="png")
        partial.replace(picture)
