"""Curves of the comparison through the collapse, as SVG that takes its colours from the page."""

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup

from benchmarks.claims import Judged, curve, number
from benchmarks.gallery.svg import LOOK, MUTED, ONE, TWO, to_page
from benchmarks.plot import band
from benchmarks.readings import MARGINS, Regime, Run, base_of
from benchmarks.report import plus_minus
from common.curves import STYLE as BASE

COLORS = (ONE, TWO, MUTED)
DASHES = ("-", "--", ":")  # so that curves differ without colour too
STYLE = BASE | LOOK | {"axes.titleweight": "normal", "font.size": 12}
TITLES = {"entropy": "Entropy, nats per token"}  # all else is called by its name


def shown(runs: Regime, method: str, judged: list[Judged]) -> dict[str, list[Run]]:
    """The runs of a method, of its base, and of what its promises are held against; none where it was not run."""
    names = dict.fromkeys((method, base_of(method), *(one.base for one in judged)))
    arms = {name: [*runs[name].values()] for name in names if name in runs}
    return dict([*arms.items()][: len(COLORS)]) if method in runs else {}


def chart(name: str, outcome: str, arms: dict[str, list[Run]], regime: str) -> Markup:
    """One outcome over steps, of some arms, the first in the page's own colour."""
    title = TITLES.get(outcome, outcome[0].upper() + outcome[1:] if outcome == "coverage" else outcome)
    sentences = []
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.4, 3.1))
        figure.subplots_adjust(left=0.125, right=0.985, top=0.9, bottom=0.155)
        for (label, some), color, dash in zip(arms.items(), COLORS, DASHES, strict=False):
            curves = [curve(run, outcome) for run in some]
            first, last = (plus_minus(np.array([y[at] for _, y in curves])) for at in (0, -1))
            seeds = f"{len(some)} seed{'s' * (len(some) > 1)}"
            sentences.append(f"{label}: {first} at first, {last} at the end, {seeds}.")
            band(axis, curves, color, linestyle=dash)
        axis.set(xlabel="step", title=title)
        return to_page(figure, name, f"{title}, {regime}: {' and '.join(arms)}", " ".join(sentences))


def panels(name: str, arms: dict[str, list[Run]], regime: str) -> list[Markup]:
    """A chart for each primary outcome."""
    return [chart(f"{name}-{regime}-{outcome.replace('@', '-')}", outcome, arms, regime) for outcome in MARGINS]


def verdicts(judged: list[Judged]) -> list[tuple[str, str, str, str]]:
    """Promise, "read here as", effect and verdict of each; nothing is promised of a plain outcome."""
    return [
        (one.claim.promise if one.claim else "", one.found.words if one.found else "", number(one.found), one.verdict)
        for one in judged
    ]
