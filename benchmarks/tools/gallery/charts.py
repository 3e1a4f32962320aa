"""Curves of the comparison through the collapse, as SVG that takes its colours from the page.

Drawn by hand: there are four of these for each method and regime, and matplotlib takes longer and writes more.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from benchmarks.claims import number
from benchmarks.figures import curve
from benchmarks.judging import Judged, decides, own_controls
from benchmarks.plot import finite, over_runs
from benchmarks.readings import MARGINS, Regime, Run, base_of
from benchmarks.report import number_word, plus_minus

COLORS = ("var(--series-1)", "var(--series-2)", "var(--muted)")
DASHES = ("none", "6 3", "1.5 3")  # so that curves differ without colour too
TITLES = {"entropy": "Entropy, nats per token"}  # all else is called by its name
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 210, 34, 6, 22, 30
SPARK = (100, 36)  # width and height of a sparkline
SPARK_POINTS = 24


def shown(runs: Regime, method: str, judged: list[Judged]) -> dict[str, list[Run]]:
    """The runs of a method, of its base, and of the control that decides or what its promises are held against.

    None where it was not run.
    """
    controls = [control for control in own_controls(method) if decides(control)]
    names = dict.fromkeys((method, base_of(method), *controls, *(one.base for one in judged)))
    arms = {name: [*runs[name].values()] for name in names if name in runs}
    return dict([*arms.items()][: len(COLORS)]) if method in runs else {}


def points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def chart(name: str, outcome: str, arms: dict[str, list[Run]], regime: str) -> Markup:
    """One outcome over steps, of some arms, the first in the page's own colour; bands are one standard deviation."""
    title = TITLES.get(outcome, outcome[0].upper() + outcome[1:] if outcome == "coverage" else outcome)
    of_runs = {label: finite([curve(run, outcome) for run in some]) for label, some in arms.items()}
    bands = {label: over_runs(curves) for label, curves in of_runs.items() if curves}
    last = max((x[-1] for curves in of_runs.values() for x, _ in curves), default=1)
    drawn = [edge for _, _, low, high in bands.values() for edge in (low, high)]
    drawn += [y for curves in of_runs.values() for _, y in curves]
    ends = [min(map(np.min, drawn)), max(map(np.max, drawn))] if drawn else [0, 1]
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(*ends)
    low, high = ticks[0], ticks[-1]

    def across(step: np.ndarray | float) -> np.ndarray | float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def up(value: np.ndarray | float) -> np.ndarray | float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (value - low) / (high - low)

    parts = [f'<text x="{LEFT}" y="12">{title}</text>']
    digits = max(0, -int(np.floor(np.log10(ticks[1] - ticks[0]))))
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:.{digits}f}</text>'
        )
    for step in MaxNLocator(4, integer=True).tick_values(0, last):
        if step <= last:
            where = f'x="{across(step):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle"'
            parts.append(f'<text class="tick" {where}>{step:.0f}</text>')
    parts.append(f'<text class="tick" x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 2}" text-anchor="middle">step</text>')
    for label, color, dash in zip(arms, COLORS, DASHES, strict=False):
        if label in bands and len(bands[label][0]):
            x, mean, below, above = bands[label]
            if len(of_runs[label]) > 1:
                edge = points(across(np.append(x, x[::-1])), up(np.append(above, below[::-1])))
                parts.append(f'<polygon fill="{color}" points="{edge}"/>')
            look = f'stroke="{color}" stroke-dasharray="{dash}"'
            parts.append(f'<polyline {look} points="{points(across(x), up(mean))}"/>')
            for own, y in of_runs[label]:  # those that go on where another run has ended
                if own[-1] > x[-1]:
                    rest = points(across(own[own >= x[-1]]), up(y[own >= x[-1]]))
                    parts.append(f'<polyline class="rest" {look} points="{rest}"/>')
    sentences = []
    for label, curves in of_runs.items():
        first, end = (plus_minus(y[at] for _, y in curves) for at in (0, -1))
        sentences.append(f"{label}: {first} at first, {end} at the end, {number_word(len(curves), 'seed')}.")
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title" aria-describedby="{}-desc" class="chart">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>'
    ).format(
        *(WIDTH, HEIGHT, name, name, name, f"{title}, {regime}: {' and '.join(arms)}", name, " ".join(sentences))
    ) + Markup("\n".join(parts) + "</svg>")


def panels(name: str, arms: dict[str, list[Run]], regime: str) -> list[Markup]:
    """A chart for each primary outcome."""
    return [chart(f"{name}-{regime}-{outcome.replace('@', '-')}", outcome, arms, regime) for outcome in MARGINS]


def sparkline(outcome: str, mine: Sequence[Run], base: Sequence[Run], top: float) -> Markup:
    """The mean of an outcome over training, from 0 to `top`, with GRPO's behind it; what is higher runs along the top.

    Its title says in words what it shows.
    """
    width, height = SPARK
    words, lines = [], []
    for label, some in (("GRPO", base), ("", mine)):
        curves = finite([curve(run, outcome) for run in some])
        x, mean, _, _ = over_runs(curves) if curves else [np.array([])] * 4
        if not len(x):
            continue
        at = np.unique(np.linspace(0, len(x) - 1, SPARK_POINTS).round().astype(int))
        ends = max(run.horizon for run in some)
        y = (height - 1) - (height - 2) * np.minimum(mean[at] / top, 1)
        path = " ".join(f"{a:.0f},{b:.1f}" for a, b in zip(width * x[at] / ends, y, strict=True))
        look = ' class="base"' if label else ""
        lines.append(f'<polyline{look} points="{path}"/>')
        beyond = ", beyond the picture" * bool(mean.max() > top)
        words.append(f"{label} {mean[0]:.2f} to {mean[-1]:.2f}{beyond}".strip())
    text = f"{TITLES.get(outcome, outcome)}: {'; '.join(reversed(words))}"
    return Markup('<svg viewBox="0 0 {} {}" role="img" class="spark"><title>{}</title>').format(
        width, height, text
    ) + Markup("".join(lines) + "</svg>")


def verdicts(judged: list[Judged]) -> list[tuple[str, str, str, str]]:
    """Promise, "read here as", effect and verdict of each; nothing is promised of a plain outcome.

    An outcome that a promise has read at the same place is not said again.
    """
    promised = {one.found.words for one in judged if one.claim and one.found}
    return [
        (one.claim.promise if one.claim else "", one.words, number(one.found), one.verdict)
        for one in judged
        if one.claim or not one.found or one.found.words not in promised
    ]
