"""Pictures of any runs: what makes a group, what a band and a fit are, and what is left out with a word."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import ROOT, plot
from benchmarks.plot import Group, band, load_runs
from benchmarks.report import write_csv
from common import InputError

KS = (1, 2, 4)
CONSOLE = re.compile(r"\bConsole\(.*\)")


def write_run(place, name: str, algorithm: str, seed: int, steps: int = 12, evaluated: bool = True, **flags):
    """A run directory: reward rises by the law 1 - 0.5 exp(H), entropy falls faster with `speed`, DAPO draws more."""
    directory = place / name
    directory.mkdir()
    speed = flags.pop("speed", 1.0)
    defaults = {"num_steps": 12, "learning_rate": 1e-4, "output_dir": str(directory), "device": "cpu"}
    (directory / "args.json").write_text(json.dumps({"algorithm": algorithm, "seed": seed} | defaults | flags))
    samples, records = 20 if algorithm == "dapo" else 10, []
    for step in range(steps + 1):
        record = {"step": step}
        if step:
            entropy = 0.6 - 0.02 * speed * step + 0.01 * seed
            record |= {"rollout/entropy": entropy, "rollout/reward": 1 - 0.5 * np.exp(entropy)}
            record |= {"rollout/num_samples": samples, "tokens/rollout": 7 * samples, "algo/x": None}
        if evaluated and step in (0, steps):
            record |= {f"eval/pass@{k}": 0.1 * k + 0.01 * step * seed for k in KS} | {"eval/pass@1_low": 0.0}
        records.append(record)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 9')
    return directory


def labels(groups: list[Group]) -> dict[str, int]:
    return {group.label: len(group.runs) for group in groups}


def test_a_label_names_what_differs_and_no_more(tmp_path) -> None:
    """Own knobs set runs of one method apart, common flags any runs; a method's own clip is no difference to others."""
    runs = [write_run(tmp_path, f"a{s}", "kl_cov", s, kl_cov_ratio=0.02, kl_cov_coef=1.0) for s in (1, 2)]
    runs += [write_run(tmp_path, f"b{s}", "dapo", s, clip_ratio_high=0.28, device="cuda") for s in (1, 2)]
    runs += [write_run(tmp_path, "c1", "grpo", 1, clip_ratio_high=0.2)]
    said = []
    assert labels(load_runs(runs, say=said.append)) == {"kl_cov": 2, "dapo": 2, "grpo": 1} and not said
    runs.append(write_run(tmp_path, "d", "kl_cov", 1, kl_cov_ratio=0.1, kl_cov_coef=1.0))
    expected = {"kl_cov kl_cov_ratio=0.02": 2, "dapo": 2, "grpo": 1, "kl_cov kl_cov_ratio=0.1": 1}
    assert labels(load_runs(runs, say=said.append)) == expected and not said
    runs.append(write_run(tmp_path, "e", "grpo", 2, clip_ratio_high=0.2, learning_rate=3e-4))
    assert "grpo learning_rate=0.0003" in labels(load_runs(runs, say=said.append)) and not said
    assert labels(load_runs(runs, ["algorithm"], said.append)) == {"kl_cov": 3, "dapo": 2, "grpo": 2}
    assert "kl_cov: one group of runs that differ in kl_cov_ratio" in said
    assert "kl_cov: seed 1 is there more than once" in said
    assert labels(load_runs(runs, ["learning_rate"])) == {"learning_rate=0.0001": 6, "learning_rate=0.0003": 1}
    updates = {"opo": 1, "nsr": 8}  # a flag of the skeleton, which OPO's own part fixes
    runs = [write_run(tmp_path, name, name, 1, num_minibatches=count) for name, count in updates.items()]
    assert labels(load_runs(runs, say=said.append)) == {"opo": 1, "nsr": 1}
    with pytest.raises(InputError, match="--by nothing"):
        load_runs(runs, ["nothing"])


def test_band_is_mean_and_spread_where_all_are_there() -> None:
    curves = [(np.arange(1.0, 5), np.array([1.0, 2, 3, 4])), (np.arange(1.0, 4), np.array([3.0, 4, 7]))]
    for spread, half in (("std", np.array([1, 1, 2]) * np.sqrt(2)), ("range", np.array([1, 1, 2]))):
        figure = Figure()
        axis = figure.subplots()
        band(axis, curves, "red", "two", spread=spread)
        mean, rest = axis.lines
        assert mean.get_xdata().tolist() == [1, 2, 3] and mean.get_ydata().tolist() == [2, 3, 5]
        assert rest.get_xdata().tolist() == [3, 4] and rest.get_ydata().tolist() == [3, 4]  # the longer one, by itself
        assert rest.get_linewidth() < mean.get_linewidth()
        corners = axis.collections[0].get_paths()[0].vertices
        for x, y, h in zip((1, 2, 3), (2, 3, 5), half, strict=True):
            edges = corners[corners[:, 0] == x, 1]
            assert edges.min() == pytest.approx(y - h) and edges.max() == pytest.approx(y + h)


def test_band_over_samples_interpolates() -> None:
    figure = Figure()
    axis = figure.subplots()
    band(
        axis, [(np.array([0.0, 10]), np.array([0.0, 1])), (np.array([0.0, 20]), np.array([0.0, 4]))], "red", rest=False
    )
    assert [line.get_xdata().tolist() for line in axis.lines] == [[0, 10]]
    assert axis.lines[0].get_ydata()[-1] == pytest.approx((1 + 2) / 2)


def test_axes_and_tables_at_equal_samples(tmp_path) -> None:
    runs = [write_run(tmp_path, f"g{s}", "grpo", s) for s in (1, 2)]
    runs += [write_run(tmp_path, f"d{s}", "dapo", s) for s in (1, 2)]
    groups = load_runs(runs)
    for x, factor in (("step", 1), ("samples", 20), ("tokens", 140)):
        figure = plot.draw_over(groups, x, window=1)
        entropy = figure.axes[0].lines[1]  # of dapo
        assert entropy.get_xdata().tolist() == [factor * step for step in range(1, 13)]
        assert entropy.get_ydata() == pytest.approx([0.615 - 0.02 * step for step in range(1, 13)])
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo", "dapo"]
    table = plot.matched_table(groups, window=1)
    assert "After 120 samples" in table.title
    entropy = list(table.columns[2].cells)  # after 12 steps of grpo, 6 of dapo: 0.24 and 0.12 down
    assert entropy == ["0.375 ± 0.007", "0.495 ± 0.007"]
    assert list(table.columns[3].cells) == ["0.280 ± 0.085", "0.190 ± 0.042"]  # pass@1: half way for dapo
    end = plot.end_table(groups, window=2)
    assert list(end.columns[4].cells) == ["0.385 ± 0.007"] * 2 and list(end.columns[7].cells) == ["120", "240"]


def test_pass_picture_is_before_after_and_gain(tmp_path) -> None:
    figure = plot.draw_pass(load_runs([write_run(tmp_path, f"g{s}", "grpo", s) for s in (1, 3)]))
    (before, after), (gain, _) = figure.axes[0].lines, figure.axes[1].lines
    assert before.get_ydata() == pytest.approx([0.1, 0.2, 0.4]) and after.get_ydata() == pytest.approx(
        [0.34, 0.44, 0.64]
    )
    assert gain.get_ydata() == pytest.approx([0.24] * 3) and gain.get_xdata().tolist() == list(KS)


def test_unfinished_and_unreadable_runs_are_named(tmp_path) -> None:
    whole = [write_run(tmp_path, f"g{s}", "grpo", s) for s in (1, 2)]
    short = write_run(tmp_path, "short", "grpo", 3, steps=5)
    blind = write_run(tmp_path, "blind", "nsr", 1, evaluated=False)
    new = write_run(tmp_path, "new", "nsr", 2, steps=0)
    (tmp_path / "empty").mkdir()
    broken = write_run(tmp_path, "broken", "nsr", 3)
    (broken / "args.json").write_text("{")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    said: list[str] = []
    bad = [new, tmp_path / "empty", broken, tmp_path / "other.csv", tmp_path / "nothing.csv"]
    groups = load_runs([*whole, short, blind, *bad], say=said.append)
    assert labels(groups) == {"grpo": 3, "nsr": 1} and len(groups[0].whole()) == 2
    for words in (
        f"left out: {new}: no training step yet",
        f"left out: {tmp_path / 'empty'}: no run (args.json is missing or damaged)",
        f"left out: {broken}: no run (args.json is missing or damaged)",
        f"left out: {tmp_path / 'other.csv'}: no table of runs",
        f"left out: {tmp_path / 'nothing.csv'}: cannot be read",
        f"unfinished: {short} ends at step 5 of 12",
        f"no evaluation, left out of pass@k: {blind}",
    ):
        assert [line for line in said if line.startswith(words)], (words, said)
    assert len(said) == 7
    end = plot.end_table(groups)
    assert list(end.columns[1].cells) == ["2 of 3", "1"] and list(end.columns[5].cells)[1] == "-"
    assert plot.draw_all(groups).keys() == {*plot.FILES.values(), "law", "pass"}


def test_nothing_draws_through_pyplot() -> None:
    """It keeps every figure until someone closes it, and importing this into a notebook would change its backend."""
    files = [path for room in ("algos", "benchmarks", "common", "tests") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    through = re.compile(r"^\s*(import|from) (matplotlib|pylab)\b.*(pyplot|pylab)|matplotlib\.use\(", re.MULTILINE)
    assert not [path for path in files if path != Path(__file__) and through.search(path.read_text())]


def test_no_tool_takes_names_for_markup() -> None:
    """rich would drop [v2] of a path, end at [/old], and make a picture of :100:."""
    files = (ROOT / "benchmarks" / "tools").rglob("*.py")
    made = [call for path in files for call in CONSOLE.findall(path.read_text())]
    assert len(made) >= 5 and all("markup=False, emoji=False" in call for call in made)


def test_command_writes_pictures_and_tables(tmp_path, capsys) -> None:
    runs = [write_run(tmp_path, f"g{s}", "grpo", s) for s in (1, 2)]
    plot.main(plot.Args(tuple(runs), out=tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "At the end" in shown and "After 120 samples" in shown
    names = {f"{name}.{suffix}" for name in ("steps", "samples", "tokens", "law", "pass") for suffix in ("png", "svg")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names:
        data = (tmp_path / "out" / name).read_bytes()
        assert name in shown and len(data) > 5000
        assert data.startswith(b"\x89PNG") if name.endswith("png") else b"<text" in data and b">grpo<" in data


def test_tables_of_runs_are_read(tmp_path) -> None:
    """A group for each arm, with numbers at the end as the table has them."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, "samples": 8 * step, "tokens": 80 * step, "reward": 0.1 * seed}
        | {"entropy": 0.2, "pass@1": 0.3 if step in (0, 20) else math.nan, "pass@2": 0.5}
        for arm in ("grpo", "nsr")
        for seed in (1, 2)
        for step in range(21)
    ]
    write_csv(tmp_path / "t.csv", rows)
    groups = load_runs([tmp_path / "t.csv"])
    assert [(group.label, len(group.runs)) for group in groups] == [("grpo", 2), ("nsr", 2)]
    assert len({group.color for group in groups}) == 2
    [label, runs, steps, reward, *_] = [[*column.cells] for column in plot.end_table(groups).columns]
    assert label == ["grpo", "nsr"] and runs == ["2", "2"] and steps == ["20", "20"]
    assert reward == ["0.150 ± 0.071"] * 2


ROW = {"arm": "grpo", "seed": 1, "step": 1, "samples": 8, "tokens": 80, "reward": 0.1, "entropy": 0.2, "pass@1": 0.3}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 0, "samples": 0, "tokens": 0}, "grpo, seed 1: no training step"),
        ({"reward": ""}, "grpo, seed 1: no training step"),
        ({"reward": "inf"}, "grpo, seed 1: no training step"),
        *[({key: value}, f"row 1: {key} is no") for key in ("seed", *plot.COUNTS) for value in ("", "nan", "inf")],
        ({"seed": 1.5}, "row 1: seed is no"),
        ({"reward": "high"}, "cannot be read"),
        ({"arm": 200_000 * "a"}, "cannot be read"),
    ],
)
def test_broken_tables_are_left_out(tmp_path, changes: dict, words: str) -> None:
    """With the reason, and without what stands beside them."""
    write_csv(tmp_path / "t.csv", [ROW | changes])
    whole, said = write_run(tmp_path, "g", "grpo", 1), []
    assert labels(load_runs([tmp_path / "t.csv", whole], say=said.append)) == {"grpo": 1}
    assert [line.startswith(f"left out: {tmp_path / 't.csv'}: {words}") for line in said] == [True], said


@pytest.mark.parametrize("row", [ROW, ROW | {"entropy": ""}, ROW | {"arm": ""}, ROW | {"pass@1": ""}])
def test_small_tables_are_drawn(tmp_path, row: dict) -> None:
    write_csv(tmp_path / "t.csv", [row])
    plot.main(plot.Args((tmp_path / "t.csv",), out=tmp_path / "out", format=("svg",)))


def test_flags_are_no_markup(tmp_path, capsys) -> None:
    """Neither to the terminal nor to the pictures."""
    names = {1: "[/old] [v2] :100:.jsonl", 2: "$x_{.jsonl"}
    runs = [write_run(tmp_path, f"g{seed}", "grpo", seed, task=name) for seed, name in names.items()]
    plot.main(plot.Args(tuple(runs), out=tmp_path / "out", format=("svg",)))
    shown = capsys.readouterr().out
    assert all(f"grpo task={name}" in shown for name in names.values())
    assert "$x_{.jsonl" in (tmp_path / "out" / "steps.svg").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nothing"], "nothing to draw"),
        (["{run}", "--by", "x"], "--by x"),
        (["{run}", "--window", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags: list[str], words: str) -> None:
    run = write_run(tmp_path, "g", "grpo", 1)
    flags = [flag.format(run=run) for flag in flags]
    args = plot.tyro.cli(plot.Args, args=flags)
    with pytest.raises(InputError) as caught:
        plot.main(args)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_exit_status_of_bad_input(tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.plot", str(tmp_path / "nothing")]
    done = subprocess.run(command, cwd=plot.Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: nothing to draw")
