"""benchmarks.figures on made-up runs: what is in which panel, and which frame it has."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageColor

from benchmarks import figures
from benchmarks.collapse import ARMS, active_columns
from benchmarks.judging import against_bases
from benchmarks.methods import METHODS
from benchmarks.readings import Regime, Run, read
from tests.test_readings import record


@pytest.fixture
def runs() -> Regime:
    """GRPO, methods of two families, and NSR, which loses its policy while its entropy rises far beyond theirs."""
    passed = {"nsr": [[2, 2], [1, 0], [0, 0]]}
    start = {"nsr": 3.0, "clip_cov": 0.25}
    fall = np.linspace(0, 0.1, 20)  # the windows of a record of 100 steps

    def run(arm: str, seed: int) -> Run:
        columns = dict.fromkeys(active_columns(ARMS[arm][0]), 0.5) | {"entropy": [*start.get(arm, 0.2) - fall]}
        return read(record(passed.get(arm, [[2, 1], [3, 2], [3, 3]]), arm, seed, **columns))

    arms = ("grpo", "grpo, mixed groups", "clip_cov", "maxrl", "nsr")
    return Regime({arm: {seed: run(arm, seed) for seed in (1, 2)} for arm in arms})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Figure]:
    """Figures as they were when they were written."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "write", lambda figure, _: kept.append(figure))
    return kept


def names(axis: Axes) -> list[str]:
    return axis.get_legend_handles_labels()[1]


def test_a_picture_is_small_and_has_its_colours(runs: Regime, tmp_path: Path) -> None:
    figures.first_methods(runs, tmp_path / "first.png")
    with Image.open(tmp_path / "first.png") as picture:
        assert picture.mode == "P" and picture.size[0] == 1210  # 11 inches of 110 pixels
        colours = np.array(picture.convert("RGB")).reshape(-1, 3)
    for wanted in (figures.INK, *figures.PALETTE[:2]):
        assert np.abs(colours - np.array(ImageColor.getrgb(wanted))).max(1).min() < 12


def test_a_destroyed_arm_has_a_panel_of_its_own(runs: Regime) -> None:
    assert [*figures.panels(runs, figures.families(runs))] == [
        ("baseline", "grpo", ["maxrl"]),
        ("token weight", "grpo", ["clip_cov"]),
        ("destroyed", "grpo", ["nsr"]),
    ]
    del runs["nsr"]
    assert [title for title, *_ in figures.panels(runs, figures.families(runs))] == ["baseline", "token weight"]


def test_controls_stand_beside_their_methods(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    """Each panel has the method, its controls and its base in ink; what GRPO's flags change has one too."""
    assert not figures.controls(runs)
    runs |= {"clip_cov, random selection": runs["maxrl"], "grpo, rows split": runs["maxrl"]}
    runs |= {"grpo, random reward": runs["nsr"], "lp_reg": runs["maxrl"], "lp_reg, no penalty": runs["grpo"]}
    assert [*figures.panels(runs, figures.controls(runs))] == [
        ("grpo", "grpo", ["grpo, rows split"]),
        ("clip_cov", "grpo, mixed groups", ["clip_cov", "clip_cov, random selection"]),
        ("lp_reg", "lp_reg, no penalty", ["lp_reg"]),  # the base is a control itself
        ("destroyed", "grpo", ["grpo, random reward"]),
    ]
    figures.draw_all(runs, against_bases(runs, "off-policy"), "off-policy", tmp_path)
    assert names(drawn[-1].axes[1]) == ["grpo, mixed groups", "clip_cov", "clip_cov, random selection"]


def test_a_family_of_many_is_parted_evenly(runs: Regime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_LINES", 2)
    runs |= dict.fromkeys(("passk", "opo"), runs["maxrl"])
    assert [(title, len(arms)) for title, _, arms in figures.panels(runs, figures.families(runs))][:2] == [
        ("baseline (1)", 2),
        ("baseline (2)", 1),
    ]


def test_panels_of_families_share_a_frame_that_the_destroyed_one_does_not_stretch(
    runs: Regime, drawn: list[Figure], tmp_path: Path
) -> None:
    figures.draw_all(runs, against_bases(runs, "off-policy"), "off-policy", tmp_path)
    assert len(drawn) == 3 + len(figures.FIGURES)
    first, second, gone, *_ = drawn[3 + [*figures.FIGURES].index("entropy")].axes
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()
    assert {axis.get_yscale() for axis in (first, second, gone)} == {"log"}  # which the other outcomes have not
    assert drawn[3].axes[0].get_yscale() == "linear" and first.get_ylim()[1] < 0.3 and gone.get_ylim()[1] > 3
    assert names(second) == ["grpo", "clip_cov"] and gone.get_title(loc="left") == "destroyed, on a scale of its own"


def test_the_figure_of_first_methods_is_framed_by_those_that_keep_a_policy(
    runs: Regime, drawn: list[Figure], tmp_path: Path
) -> None:
    figures.first_methods(runs, tmp_path / "first.png")
    [figure] = drawn
    both, entropy = figure.axes
    assert names(both) == names(entropy) == ["grpo", "grpo, mixed groups", "clip_cov", "nsr (leaves the frames)"]
    assert entropy.get_ylim()[1] < 0.3 and both.get_xlim()[0] > 0.3
    assert len(entropy.collections) == 3  # a band for each but nsr
    ends = {line.get_label(): line.get_xdata()[-1] for line in both.lines if line.get_label() in ("grpo", "clip_cov")}
    assert ends == pytest.approx({"grpo": 0.75, "clip_cov": 0.75})
    [curve] = [line for line in entropy.lines if line.get_label() == "clip_cov"]
    assert curve.get_ydata()[-1] == pytest.approx(0.15, abs=0.02)  # a mean over 25 steps


def test_where_arms_end_is_drawn_against_their_entropy(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    """nsr, which is destroyed, is left out; of arms at one place one has a name, and GRPO always."""
    runs |= {"opo": runs["maxrl"], "heal": runs["maxrl"], "clip_cov, random selection": runs["clip_cov"]}
    figures.with_entropy(runs, "title", tmp_path / "ends.png")
    [figure] = drawn
    for axis, height in zip(figure.axes, (1.0, 0.75), strict=True):
        places = [(round(line.get_xdata()[0], 2), line.get_ydata()[0], line.get_marker()) for line in axis.lines]
        dot, cross, high = (0.11, height, "o"), (0.11, height, "x"), (0.16, height, "o")  # of heal there is none
        assert sorted(places) == sorted([dot] * 3 + [cross, high, (*high[:2], "x")]) and axis.get_xscale() == "log"
        assert [text.get_text() for text in axis.texts] == ["grpo", "clip_cov"]


def test_names_of_arms_hide_no_dot_and_no_other_name(drawn: list[Figure], tmp_path: Path, monkeypatch) -> None:
    places = np.random.default_rng(0).normal(size=(40, 3)) @ np.array([[0.5, 0, 0], [0, 0.1, 0.05], [0.3, 0, 0.1]])
    arms = [*sorted(METHODS, key="grpo".__eq__)[-39:], "forking_tokens, random selection"]
    found = {a: {"entropy": np.exp(x), "pass@32": y, "pass@1": z} for a, (x, y, z) in zip(arms, places, strict=True)}
    monkeypatch.setattr(figures, "ends", lambda runs: found)
    figures.with_entropy(Regime({}), "title", tmp_path / "ends.png")
    [figure] = drawn
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        dots = [axis.transData.transform(line.get_xydata()[0]) for line in axis.lines]
        frames = [text.get_window_extent() for text in axis.texts]
        assert len(dots) == 40 and len(frames) == 12
        assert not [(at, frame) for at in dots for frame in frames if frame.contains(*at)]
        assert not [pair for pair in itertools.combinations(frames, 2) if pair[0].overlaps(pair[1])]
        assert all(axis.bbox.contains(*corner) for frame in frames for corner in frame.corners())


def test_the_figure_of_effects_has_a_mark_for_each_method(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    """Two seeds have a dot, full where the effect is told from 0; one seed is a cross, a destroyed policy an arrow."""
    del runs["maxrl"][2]
    judged = against_bases(runs, "off-policy")
    figures.effects(judged, "title", tmp_path / "effects.png")
    [figure] = drawn
    axes = dict(zip(("pass@1", "pass@32", "coverage", "entropy"), figure.axes, strict=False))
    places, labels = axes["pass@1"].get_yticks(), axes["pass@1"].get_yticklabels()
    rows = {label.get_text(): place for label, place in zip(labels, places, strict=True)}
    assert [*rows] == ["baseline:", "maxrl", "token weight:", "clip_cov", "sample weight:", "nsr"]

    def marks(outcome: str, arm: str) -> dict[str, Line2D]:
        lines = [line for line in axes[outcome].lines if line.get_ydata()[0] == rows[arm]]
        return {line.get_marker(): line for line in lines if line.get_marker() != "None"}

    assert [*marks("pass@1", "maxrl")] == ["x"]
    assert [*marks("pass@1", "nsr")] == ["<"] and [*marks("entropy", "nsr")] == [">"]
    assert marks("pass@1", "clip_cov")["o"].get_markerfacecolor() == "white"  # no difference at all
    full = marks("entropy", "clip_cov")["o"]
    assert full.get_markerfacecolor() != "white" and full.get_xdata() == pytest.approx([0.05])
    assert axes["entropy"].get_xlim()[1] < 0.1  # nsr's 2.8 does not stretch it
    assert figure.axes[-1].child_axes[0].get_yticklabels()[1].get_text() == "less grpo, mixed groups (2)"


def test_bands_are_from_the_lowest_to_the_highest(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    """A mean less a deviation would be below 0, which a log axis has not: of 0.01 and 0.2 it is -0.03."""
    for seed, entropy in ((1, 0.01), (2, 0.2)):
        runs["maxrl"][seed] = read(record([[2, 1]] * 3, "maxrl", seed, entropy=entropy))
    figures.draw_all(runs, against_bases(runs, "off-policy"), "off-policy", tmp_path)
    figure = drawn[3 + [*figures.FIGURES].index("entropy")]
    edges = figure.axes[0].collections[-1].get_paths()[0].vertices[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((0.01, 0.2))
    for name in ("entropy", "coverage"):
        figure = drawn[3 + [*figures.FIGURES].index(name)]
        assert figure.get_suptitle().endswith("band: from the lowest to the highest seed")


def test_marks_that_are_not_drawn_are_not_in_the_title(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    for seeds in (2, 1):
        runs["maxrl"] = {seed: runs["maxrl"][seed] for seed in range(1, seeds + 1)}
        drawn.clear()
        figures.draw_all(runs, against_bases(runs, "off-policy"), "off-policy", tmp_path)
        assert drawn[2].get_suptitle().endswith("grey: margin" + ", cross: one seed" * (seeds == 1))


def test_marks_lie_above_the_grid() -> None:
    assert figures.STYLE["axes.axisbelow"] is True


def test_a_few_methods_far_off_do_not_stretch_the_frame_of_effects(
    runs: Regime, drawn: list[Figure], tmp_path: Path
) -> None:
    """An arrow in the colour of those that keep a policy."""
    acts = {"algo/gate_mean": 0.5}
    far = [read(record([[2, 1], [3, 2], [3, 3]], "sapo", seed, entropy=0.9, **acts)) for seed in (1, 2)]
    runs |= {"sapo": dict(enumerate(far, 1))}
    figures.effects(against_bases(runs, "off-policy"), "title", tmp_path / "effects.png")
    entropy = drawn[0].axes[3]
    arrows = [line.get_color() for line in entropy.lines if line.get_marker() == ">"]
    assert entropy.get_title(loc="left") == "entropy" and entropy.get_xlim()[1] < 0.1
    assert sorted(arrows) == sorted(figures.PALETTE[:2])  # sapo and nsr
    near = ("dr_grpo", "gmpo", "archer", "clip_b", "aem", "still3", "opo")
    runs |= dict.fromkeys(near, runs["maxrl"]) | {"gspo": runs["sapo"]}
    figures.effects(against_bases(runs, "off-policy"), "title", tmp_path / "effects.png")
    entropy = drawn[1].axes[3]
    arrows = [line.get_color() for line in entropy.lines if line.get_marker() == ">"]
    assert entropy.get_xlim()[1] < 0.1 and arrows.count(figures.PALETTE[0]) == 2  # sapo and gspo are the few


def test_titles_are_not_cut(runs: Regime, drawn: list[Figure], tmp_path: Path) -> None:
    """Nor over a single panel, as the controls of one method have."""
    runs |= {"clip_cov, random selection": runs["maxrl"]}
    figures.first_methods(runs, tmp_path / "first.png")
    figures.draw_all(runs, against_bases(runs, "off-policy"), "off-policy", tmp_path)
    for figure in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        titles = [text for axis in figure.axes for text in (axis.title, axis._left_title, axis._right_title)]
        for text in filter(lambda text: text.get_text(), [*titles, *figure.texts]):
            box = text.get_window_extent(renderer)
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text.get_text()
