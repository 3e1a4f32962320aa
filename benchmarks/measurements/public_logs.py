"""The law R = -a exp(H) + b on training logs of real models that others have published.

    python -m benchmarks.public_logs --logs DIR    # logs that you have got
    python -m benchmarks.public_logs               # page and figure again, from the numbers that are kept

DIR holds a file for each run, in one of two forms:

- NAME.csv with the columns step, entropy (nats per token) and reward (mean of the step's rollouts); further columns and
  rows in which one of them is empty do not count;
- NAME.log, the console lines of verl: "step:12 - ... actor/entropy_loss:0.31 - ... critic/score/mean:0.52 - ...".

benchmarks/results/public_logs/sources.csv says of each log that was used where it is, what its run was, and where its
entropy was taken; NAME is the one there, and a log without a line there is read too. Those of Qwen3-0.6B are tables
whose columns are called otherwise. The two DeepSeek logs were read at every second step, and the one called "sampled"
at every fourth. Under twenty rows there is no fit.

What is guessed from which part of a log is what benchmarks.law does with our own runs. Writes to that folder fits.csv
(of all rows), series.csv (entropy and reward as means over at most SHOWN stretches of steps), RESULTS.md and fits.png.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

from benchmarks import RESULTS
from benchmarks.law import GUESSES, SHARES, against, error_table, explained, guess, sentences
from benchmarks.report import markdown, write_csv
from common.curves import BLUE, INK, MUTED, STYLE

KEYS = {"entropy": re.compile(r"actor/entropy(?:_loss)?:(\S+)"), "reward": re.compile(r"critic/score/mean:(\S+)")}
COLUMNS = ("step", "entropy", "reward")
LEAST, SHOWN = 20, 60  # rows of a log that is fitted, points of one that is kept
GROUPS = {"batches of hundreds of responses": 100, "one prompt a step, eight responses": 0}  # with at least so many
UNKNOWN = "logs without a line in sources.csv"
ALIKE = 0.03  # a difference in R^2 that is none


@dataclass
class Args:
    logs: Path | None = None
    """folder of logs; by default what is kept of them is shown again"""
    out: Path = RESULTS / "public_logs"


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> dict[str, np.ndarray]:
    """COLUMNS of a log where all three are known, in the order of its lines."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = [[row.get(key) for key in COLUMNS] for row in csv.DictReader(file)]
    else:
        rows = []
        for line in path.read_text(errors="replace").splitlines():
            if step := re.search(r"\bstep:(\d+) - ", line):
                found = [pattern.search(line) for pattern in KEYS.values()]
                rows.append([step[1], *(one and one[1] for one in found)])
    table = np.array([list(map(float, row)) for row in rows if all(row)]).reshape(-1, len(COLUMNS))
    return dict(zip(COLUMNS, table[np.isfinite(table).all(1)].T, strict=True))


def read_table(path: Path, words: Sequence[str] = ("name",)) -> list[dict]:
    """Rows of a csv file; all but the columns of words as numbers."""
    with path.open(newline="") as file:
        return [{k: v if k in words else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def fit(name: str, log: dict[str, np.ndarray]) -> list[dict]:
    """A row for each share of the log that is fitted."""
    entropy, reward = log["entropy"], log["reward"]
    about = {"name": name, "rows": len(reward), "r2_exp": explained(entropy, reward)}
    about["r2_line"] = explained(entropy, reward, np.asarray)
    return [about | {"share": share} | made for share in SHARES if (made := guess(*log.values(), share))]


def thinned(name: str, log: dict[str, np.ndarray]) -> list[dict]:
    """Means over at most SHOWN stretches of equal numbers of rows; the step is a stretch's last."""
    parts = np.array_split(np.arange(len(log["step"])), min(SHOWN, len(log["step"])))
    means = [{key: float(log[key][part].mean()) for key in ("entropy", "reward")} for part in parts]
    return [{"name": name, "step": int(log["step"][p[-1]])} | mean for p, mean in zip(parts, means, strict=True)]


def read_logs(folder: Path, out: Path) -> None:
    """Write fits.csv and series.csv of a folder of logs; say of each that is left out why."""
    fits, series = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".log")):
        log = read_log(path)
        if len(log["step"]) < LEAST:
            print(f"left out: {path.name} has {len(log['step'])} rows with step, entropy and reward, under {LEAST}")
            continue
        fits += fit(path.stem, log)
        series += thinned(path.stem, log)
    if not fits:
        raise SystemExit(f"error: no log in {folder} with {LEAST} rows of step, entropy and reward")
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "fits.csv", fits, digits=4)
    write_csv(out / "series.csv", series, digits=4)


# --- Report -----------------------------------------------------------------------------------------------------------

PAGE = """# The law R = -a exp(H) + b on public logs

Written by `python -m benchmarks.public_logs`. One run each; what is fitted and guessed stands at the head of
`benchmarks/measurements/law.py`. Errors are absolute differences to the reward measured at the end of a log: mean ±
standard deviation over logs. Where one error is a hundred times the others, the mean is that error.

{sentences}

![reward against entropy with the fit on the first {share:.0%}](fits.png)

{errors}

## By log

R² of exp(H) and of H over the whole log; then what a fit on the first part says.

{logs}

## Sources

Entropy is in nats per token of the full softmax, but the logs take its mean in different places, so a and b cannot be
compared across kinds.

{sources}
"""


def group_of(source: dict | None) -> str:
    if source is None:
        return UNKNOWN
    return next(words for words, least in GROUPS.items() if int(source["responses"]) >= least)


def told(rows: Sequence[dict]) -> list[str]:
    """What the numbers say, by rule, group by group."""
    lines = []
    for group in dict.fromkeys(row["group"] for row in rows):
        some = [row for row in rows if row["group"] == group]
        whole = [row for row in some if row["share"] == SHARES[0]]
        alike = sum(abs(row["r2_exp"] - row["r2_line"]) < ALIKE for row in whole)
        lines += [f"{group[0].upper()}{group[1:]}:", "", *sentences(some)]
        lines += [f"- exp(H) and H fit the whole log alike (R² within {ALIKE}) in {alike} of {len(whole)}.", ""]
    return lines[:-1]


def log_table(rows: Iterable[dict]) -> list[str]:
    cells = []
    for row in rows:
        fitted = f"{row['r2_exp']:.2f}, {row['r2_line']:.2f}", f"first {row['share']:.0%}"
        numbers = [f"{row[key]:.3g}" for key in ("a", "b")] + [f"{row[key]:.2f}" for key in ("measured", *GUESSES)]
        cells.append((row["name"], f"{row['rows']:.0f}", *fitted, *numbers))
    return markdown(("log", "rows", "R²", "fitted on", "a", "b", "measured", *GUESSES), cells)


def source_table(sources: Iterable[dict]) -> list[str]:
    heads = ("log", "model", "method", "task", "responses a step", "entropy", "licence")
    keys = ("model", "method", "task", "responses", "entropy", "licence")
    cells = ([f"[{one['name']}]({one['url']})", *(one[key] for key in keys)] for one in sources)
    return markdown(heads, cells)


def draw(rows: Sequence[dict], series: Sequence[dict], path: Path) -> None:
    """A panel for each log, its first part in blue with the fit on it, and all guesses against what was measured."""
    early = [row for row in rows if row["share"] == SHARES[0]]
    columns = min(5, len(early) + 1)
    lines = -(-(len(early) + 1) // columns)
    with matplotlib.rc_context(STYLE | {"font.size": 9, "axes.titlesize": 8}):
        figure = Figure(figsize=(3.1 * columns, 2.7 * lines), layout="constrained")
        axes = figure.subplots(lines, columns)
        panels = list(np.atleast_1d(axes).flat)
        for axis, row in zip(panels, early, strict=False):
            points = np.array([(one["entropy"], one["reward"]) for one in series if one["name"] == row["name"]])
            fitted = round(SHARES[0] * len(points))
            axis.scatter(*points[fitted:].T, s=8, color=MUTED, linewidth=0)
            axis.scatter(*points[:fitted].T, s=12, color=BLUE, linewidth=0)
            grid = np.linspace(0, points[:, 0].max(), 200)
            axis.plot(grid, row["b"] - row["a"] * np.exp(grid), color=INK, linewidth=1)
            axis.invert_xaxis()
            axis.set(title=row["name"], ylim=(-0.05, max(1.05, 1.05 * points[:, 1].max())))
        last = panels[len(early)]
        against(last, early, f"fitted on the first {SHARES[0]:.0%}", (-0.5, 2.5))
        last.legend(fontsize=7)
        for axis in panels[len(early) + 1 :]:
            axis.set_visible(False)
        words = "Reward (up) against entropy in nats per token (falls to the right); blue: what the fit has seen"
        figure.suptitle(words, fontsize=10, x=0.01, ha="left")
        figure.savefig(path, dpi=110)


def load(out: Path) -> tuple[list[dict], list[dict]]:
    """The fits, in groups, and the sources of those that have one."""
    listed = out / "sources.csv"
    known = read_table(listed, next(csv.reader(listed.open(newline="")))) if listed.exists() else []
    sources = {one["name"]: one for one in known}
    rows = [row | {"group": group_of(sources.get(row["name"]))} for row in read_table(out / "fits.csv")]
    order = [*GROUPS, UNKNOWN]
    rows.sort(key=lambda row: (order.index(row["group"]), row["name"]))
    return rows, [one for name, one in sources.items() if name in {row["name"] for row in rows}]


def page(rows: Sequence[dict], sources: Sequence[dict]) -> str:
    parts = {"sentences": told(rows), "errors": error_table(rows, "group"), "logs": log_table(rows)}
    parts["sources"] = source_table(sources)
    return PAGE.format(share=SHARES[0], **{name: "\n".join(lines) for name, lines in parts.items()})


def main(args: Args) -> None:
    if args.logs:
        read_logs(args.logs, args.out)
    rows, sources = load(args.out)
    (args.out / "RESULTS.md").write_text(page(rows, sources))
    draw(rows, read_table(args.out / "series.csv"), args.out / "fits.png")
    print(f"{len({row['name'] for row in rows})} logs: {args.out / 'RESULTS.md'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
