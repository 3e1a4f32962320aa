"""Figures of the comparison through the collapse, for benchmarks.claims.

Colours are told apart by colour-blind readers, and dashes without any. An arm with a run that destroyed the policy
(readings.Run.destroyed) is drawn in full in a panel with a scale of its own, so that it leaves the others readable.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from PIL import Image

from benchmarks.collapse import FIRST
from benchmarks.judging import DESTROYED, Judged, family_of, own_controls
from benchmarks.methods import FAMILIES, METHODS
from benchmarks.plot import DASHES, PALETTE, band
from benchmarks.readings import MARGINS, Regime, Run, base_of, ends
from common.curves import INK, MUTED, STYLE

FEWEST_ENDS = 3  # arms in the picture of where they end
MOST_LINES = 7  # in one panel
SHORT_NAME = 22  # characters: two such names have room side by side under a panel
ROOM = 0.06  # of a frame's height and width, around what it holds
Groups = dict[str, tuple[str, list[str]]]  # title of a panel -> the arm in ink, and the others
Against = dict[tuple[str, str], list[Judged]]  # (arm, base) -> the primary outcomes, as judging.against_bases has them
Draw = Callable[[Axes, list[Run], dict], None]  # an arm's runs in a panel, with its colour, dashes and label
FIGURES = {  # outcome -> title, labels of the axes
    "front": ("pass@32 against pass@1 over training: square: start, dot: end, mean over seeds", ("pass@1", "pass@32")),
    "entropy": (
        "Entropy of the rollouts, mean over 25 steps, on a log scale; band: from the lowest to the highest seed",
        ("step", "nats per token"),
    ),
    "coverage": (
        "Share of a problem's solutions among its 64 samples; band: from the lowest to the highest seed",
        ("step", "coverage"),
    ),
}
NATS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3)  # ticks of a log scale
EFFECTS = "Methods less their bases at the end; number of seeds; full dot: told from 0, grey: margin"
ENDS = "Where arms end, against their entropy (log scale); means over seeds; dot: a method, cross: another arm"
CONTROLLED = ("front", "entropy")  # of these, those that show methods beside their controls
SIDES = (("left", "bottom"), ("left", "top"), ("right", "bottom"), ("right", "top"))  # of a name, at its dot


def write(figure: Figure, path: Path) -> None:
    """As a PNG of 128 colours, a third as large as one of all and the same to the eye."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def tick_nats(axis: Axis) -> None:
    """Label entropies on a log scale; unlike ticks that are set, these leave the frame as it is."""
    axis.set_major_locator(FixedLocator(NATS))
    axis.set_major_formatter("{x:g}")


# --- One arm in a panel -----------------------------------------------------------------------------------------------


def curve(run: Run, outcome: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a primary outcome over a run."""
    if outcome == "entropy":
        return run.windows, run.training["entropy"]
    return run.steps, run.counts[outcome].mean(1)


def over_steps(outcome: str) -> Draw:
    """Mean over seeds, in a band from the lowest to the highest: a standard deviation may reach below 0."""

    def draw(axis: Axes, some: list[Run], look: dict) -> None:
        band(axis, [curve(run, outcome) for run in some], look.pop("color"), spread="range", **look)

    return draw


def front(axis: Axes, some: list[Run], look: dict) -> None:
    """The way of pass@1 and pass@32 over the evaluations that all seeds have; a dot at its end."""
    if some:
        count = min(len(run.steps) for run in some)
        x, y = (np.mean([run.counts[k].mean(1)[:count] for run in some], axis=0) for k in ("pass@1", "pass@32"))
        axis.plot(x, y, linewidth=1.8, **look)
        axis.plot(x[-1:], y[-1:], "o", color=look["color"], markersize=5)
        axis.plot(x[:1], y[:1], "s", color=MUTED, markersize=4)


def drawing(name: str) -> Draw:
    return front if name == "front" else over_steps(name)


# --- Small multiples --------------------------------------------------------------------------------------------------


def families(runs: Regime) -> Groups:
    """The methods of each family beside GRPO."""
    shown = [arm for arm in METHODS if arm in runs and arm != "grpo"]
    return {family: ("grpo", [arm for arm in shown if METHODS[arm].family == family]) for family in FAMILIES}


def controls(runs: Regime) -> Groups:
    """What GRPO's flags change, and each method with its own controls beside its base."""
    of_grpo = [arm for arm in METHODS["grpo"].arms if arm in runs and arm != "grpo"]
    groups = {"grpo": ("grpo", of_grpo)} if of_grpo else {}
    for method in METHODS:
        if own := [arm for arm in own_controls(method) if arm in runs]:
            base = base_of(method)  # which may be one of these
            groups[method] = (base, [arm for arm in (method, *own) if arm in runs and arm != base])
    return groups


def panels(runs: Regime, groups: Groups) -> Iterator[tuple[str, str, list[str]]]:
    """Title, arm in ink and others of each panel: the groups in parts of at most MOST_LINES, then the destroyed.

    The last one's title is "destroyed"; it is there if an arm is.
    """
    gone = [arm for _, arms in groups.values() for arm in arms if runs.destroyed(arm)]
    kept = {title: (ink, [arm for arm in arms if arm not in gone]) for title, (ink, arms) in groups.items()}
    for title, (ink, arms) in (kept | {"destroyed": ("grpo", gone)}).items():
        size = -(-len(arms) // max(1, -(-len(arms) // MOST_LINES)))  # so that the parts are about equal
        parts = [arms[i : i + size] for i in range(0, len(arms), max(1, size))]
        for index, part in enumerate(parts, 1):
            yield title + (f" ({index})" if len(parts) > 1 else ""), ink, part


def small_multiples(runs: Regime, groups: Groups, name: str, regime: str, path: Path) -> None:
    """One panel for each group of one of FIGURES; names stand under the panels, where no line can run behind them."""
    shown = [*panels(runs, groups)] or [("baseline", "grpo", [])]
    draw, (title, labels) = drawing(name), FIGURES[name]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    size = (4.3 * columns + 0.4, 3.9 * lines + 0.5)
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        for axis, (group, ink, arms) in zip(axes.flat, shown, strict=False):
            draw(axis, [*runs.get(ink, {}).values()], {"color": INK, "label": ink, "linestyle": "-"})
            for index, arm in enumerate(arms):
                look = {"color": PALETTE[index], "label": arm, "linestyle": DASHES[(index + 1) % len(DASHES)]}
                draw(axis, [*runs[arm].values()], look)
            axis.set(title=f"{group}, on a scale of its own" if group.startswith("destroyed") else group)
            beside = 2 if max(map(len, (ink, *arms))) <= SHORT_NAME else 1
            axis.legend(loc="upper left", bbox_to_anchor=(0, -0.09), ncols=beside, fontsize=8, handlelength=2.6)
            if name == "entropy":
                axis.set_yscale("log", subs=[])
                tick_nats(axis.yaxis)
        share([axis for axis, (group, *_) in zip(axes.flat, shown, strict=False) if not group.startswith("destroyed")])
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        figure.supxlabel(labels[0], fontsize=10)
        figure.supylabel(labels[1], fontsize=10)
        title = textwrap.fill(f"{regime.capitalize()}. {title}", int(11 * size[0]))  # letters that fit on a line
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
        write(figure, path)


def share(axes: Sequence[Axes]) -> None:
    """Give panels the frame that holds all of them."""
    for limits in ("xlim", "ylim"):
        found = np.array([getattr(axis, f"get_{limits}")() for axis in axes]).reshape(-1, 2)
        for axis in axes:
            axis.set(**{limits: (found[:, 0].min(), found[:, 1].max())})


# --- The first methods in one figure ----------------------------------------------------------------------------------


def within(axis: Axes, points: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Set the frame to what these points need, with some room."""
    for limits, values in zip(("xlim", "ylim"), zip(*points, strict=True), strict=True):
        low, high = min(map(np.min, values)), max(map(np.max, values))
        room = ROOM * (high - low) or ROOM
        axis.set(**{limits: (low - room, high + room)})


def first_methods(runs: Regime, path: Path) -> None:
    """The front and the entropy of the eight first and GRPO with mixed groups, in the order of the first table.

    The frames are those of arms that keep a policy; one that does not leaves them, and its name says so.
    """
    arms = [arm for arm in dict.fromkeys(["grpo", "grpo, mixed groups", *FIRST]) if arm in runs]
    intact = [run for arm in arms if not runs.destroyed(arm) for run in runs[arm].values()]
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for index, arm in enumerate(arms):
            look = {"color": INK if arm == "grpo" else PALETTE[index - 1], "linestyle": DASHES[index % len(DASHES)]}
            name = f"{arm} (leaves the frames)" if runs.destroyed(arm) else arm
            for axis, draw in zip(axes, (front, over_steps("entropy")), strict=True):
                draw(axis, [*runs[arm].values()], look | {"label": name})
            if runs.destroyed(arm):
                axes[1].collections[-1].remove()  # of its band only shreds are inside
        if intact:
            within(axes[0], [(run.counts["pass@1"].mean(1), run.counts["pass@32"].mean(1)) for run in intact])
            within(axes[1], [curve(run, "entropy") for run in intact])
        axes[0].set(title="pass@32 against pass@1", xlabel="pass@1", ylabel="pass@32")
        axes[1].set(title="Entropy; band: lowest to highest seed", xlabel="step", ylabel="nats per token")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=9, handlelength=3)
        write(figure, path)


# --- All methods in one figure ----------------------------------------------------------------------------------------


def measured(judged: Against) -> dict[str, tuple[str, list[Judged]]]:
    """Methods, without their controls, that were run with their bases -> the base and the primary outcomes."""
    return {arm: (base, some) for (arm, base), some in judged.items() if arm in METHODS and some[0].found}


def dots(axis: Axes, some: dict[str, Judged], rows: dict[str, int], margin: float) -> None:
    """One outcome of each arm at its row: mean, 95 % interval, the margin in grey.

    A full dot is told from 0 after the correction of its table, an empty one is not; one seed is a cross, without an
    interval. What a destroyed policy differs by would stretch the frame, and so would those of the farthest tenth that
    are more than three times as far off as the others: an arrow at its edge shows the side, of a destroyed policy in
    another colour.
    """
    gone = {arm for arm, one in some.items() if one.verdict.endswith(DESTROYED)}
    needed = {arm: np.nanmax(np.abs([o.found.mean, o.found.low, o.found.high])) for arm, o in some.items()}
    spans = np.sort([max(margin, needed[arm]) for arm in some if arm not in gone] or [margin])
    usual = spans[max(0, len(spans) - 1 - -(-len(spans) // 10))]  # the farthest but for the few
    reach = (1 + ROOM) * spans[spans <= 3 * usual][-1]
    axis.axvspan(-margin, margin, color=STYLE["grid.color"], linewidth=0)
    axis.axvline(0, color=MUTED, linewidth=0.8)
    for arm, one in some.items():
        mean, row = one.found.mean, rows[arm]
        if arm in gone or needed[arm] > reach:
            color = PALETTE[1 if arm in gone else 0]
            axis.plot(np.sign(mean) * (1 - ROOM) * reach, row, "<" if mean < 0 else ">", color=color)
        else:
            face = PALETTE[0] if one.says_more else "white"
            axis.plot((one.found.low, one.found.high), (row, row), color=PALETTE[0], linewidth=1.4)
            mark = "x" if one.found.seeds < 2 else "o"
            axis.plot(mean, row, mark, color=PALETTE[0], markerfacecolor=face, markersize=4.5)
    axis.set(xlim=(-reach, reach), ylim=(len(rows) - 0.4, -0.6))


def effects(judged: Against, title: str, path: Path) -> None:
    """Each method less its base in each primary outcome, by families; at the right the base and the number of seeds."""
    shown = measured(judged)
    rows: dict[str, int] = {}  # of headings and methods, from the top
    for family in FAMILIES:
        if arms := [arm for arm in shown if family_of(arm) == family]:
            rows |= {row: len(rows) + index for index, row in enumerate((f"{family}:", *arms))}
    size = (9.6, 0.19 * len(rows) + 1.3)
    with matplotlib.rc_context(STYLE | {"font.size": 8.5, "axes.titlesize": 10}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(MARGINS), sharey=True)
        for index, (axis, (outcome, margin)) in enumerate(zip(axes, MARGINS.items(), strict=True)):
            dots(axis, {arm: some[index] for arm, (_, some) in shown.items()}, rows, margin)
            axis.set_title(outcome)
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0].set_yticks([*rows.values()], [*rows])
        for label in axes[0].get_yticklabels():
            label.set_fontweight("bold" if label.get_text().endswith(":") else "normal")
        right = axes[-1].secondary_yaxis("right")
        bases = [f"less {base} ({some[0].found.seeds})" for base, some in shown.values()]
        right.set_yticks([rows[arm] for arm in shown], bases)
        right.tick_params(length=0, labelsize=7, labelcolor=MUTED)
        right.spines["right"].set_visible(False)
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
        write(figure, path)


# --- What entropy goes with -------------------------------------------------------------------------------------------


def name_corners(dot: np.ndarray, name: str, side: tuple[str, str]) -> np.ndarray:
    """The lower left and the upper right corner of a name at a dot, in a panel whose dots fill 1 by 1: (2, 2)."""
    size, gap = np.array((0.0135 * len(name), 0.035)), np.array((0.012, 0.002))
    low = np.where(np.isin(side, ("left", "bottom")), dot + gap, dot - gap - size)
    return np.array((low, low + size))


def with_room(found: dict[str, dict[str, float]], outcome: str, most: int = 12) -> dict[str, tuple[str, str]]:
    """GRPO, and the arms farthest off the middle of an outcome against log entropy whose names hide nothing -> side."""
    arms, points = [*found], np.array([(np.log(end["entropy"]), end[outcome]) for end in found.values()])
    places = (points - points.min(axis=0)) / np.maximum(np.ptp(points, axis=0), 1e-9)  # in the frame, of 1 by 1
    far = (((places - np.median(places, axis=0)) / np.maximum(places.std(axis=0), 1e-9)) ** 2).sum(1)
    taken = [np.array((place - 0.01, place + 0.01)) for place in places]  # corners of dots, then of names too

    def free(corners: np.ndarray) -> bool:
        inside = (corners[0] > -0.05).all() and (corners[1] < 1.05).all()
        return inside and not any((corners[0] < high).all() and (corners[1] > low).all() for low, high in taken)

    named: dict[int, tuple[str, str]] = {}
    for index in sorted(range(len(arms)), key=lambda index: (arms[index] != "grpo", -far[index])):
        sides = [side for side in SIDES if free(name_corners(places[index], arms[index], side))]
        alone = (np.abs(places[[*named]] - places[index]) > 0.01).any(1).all()  # else a name would stand for two dots
        if sides and alone and len(named) < most:
            named[index] = sides[0]
            taken.append(name_corners(places[index], arms[index], sides[0]))
    return {arms[index]: side for index, side in named.items()}


def with_entropy(runs: Regime, title: str, path: Path) -> None:
    """Where arms end: pass@32 and pass@1 against entropy, a dot for each arm that keeps a policy."""
    found = ends(runs)
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, outcome in zip(axes, ("pass@32", "pass@1"), strict=True):
            named = with_room(found, outcome)
            for arm, end in found.items():
                look = {"color": INK if arm == "grpo" else PALETTE[0] if arm in METHODS else MUTED}
                axis.plot(end["entropy"], end[outcome], "o" if arm in METHODS else "x", markersize=4.5, **look)
                if arm in named:
                    across, up = named[arm]
                    by = (4 if across == "left" else -4, 1 if up == "bottom" else -1)
                    place = {"xytext": by, "textcoords": "offset points", "ha": across, "va": up, "fontsize": 7.5}
                    axis.annotate(arm, (end["entropy"], end[outcome]), **place, **look)
            axis.set_xscale("log", subs=[])
            tick_nats(axis.xaxis)
            axis.set(title=outcome, xlabel="nats per token")
        figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
        write(figure, path)


# --- All of a regime --------------------------------------------------------------------------------------------------


def draw_all(runs: Regime, judged: Against, regime: str, out: Path) -> None:
    """All figures of a regime, as <regime>-<name>.png.

    "first"; "ends" of FEWEST_ENDS arms or more; "effects" if a method was run with its base; and small multiples:
    FIGURES by family, CONTROLLED by method where a control was run.
    """
    first_methods(runs, out / f"{regime}-first.png")
    if len(ends(runs)) >= FEWEST_ENDS:
        with_entropy(runs, f"{regime.capitalize()}. {ENDS}", out / f"{regime}-ends.png")
    if shown := measured(judged):
        alone = any(one.found.seeds < 2 for _, some in shown.values() for one in some)
        title = f"{regime.capitalize()}. {EFFECTS}" + ", cross: one seed" * alone
        effects(judged, title, out / f"{regime}-effects.png")
    some = controls(runs)
    todo = [(families(runs), name, f"{regime}-{name}.png") for name in FIGURES]
    todo += [(some, name, f"{regime}-controls-{name}.png") for name in CONTROLLED if some]
    for groups, name, file in todo:
        small_multiples(runs, groups, name, regime, out / file)
