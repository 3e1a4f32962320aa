"""benchmarks.defaults: rows of finished default runs, kept once, and the table of them."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import defaults
from tests import sync


def write_run(directory: Path, name: str = "grpo", seed: int = 1, steps: int = 8, words: tuple = ()) -> None:
    """Reward k / 10, entropy 1 - k / 10, a second a step; evaluated at the start and the end."""
    directory.mkdir(parents=True)
    rows = [{"step": 0, "eval/pass@1": 0.1, "eval/pass@32": 0.9, "rollout/reward": None}]
    for k in range(1, steps + 1):
        rows.append({"step": k, "rollout/reward": k / 10, "policy/entropy": 1 - k / 10, "time/step": 1.0})
    rows[-1] |= {"eval/pass@1": 0.4, "eval/pass@32": 0.8}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "args.json").write_text(json.dumps({"algorithm": name, "seed": seed, "num_steps": 8}))
    command = ["python", f"algos/{name}.py", "--seed", str(seed), "--output-dir", str(directory), *words]
    (directory / "env.json").write_text(json.dumps({"command": command, "threads": 1, "commit": "abc"}))


def test_rows_of_finished_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Means of five steps on each side; runs that stopped early or had other flags are none."""
    write_run(tmp_path / "runs" / "grpo")
    write_run(tmp_path / "runs" / "again", seed=2)
    write_run(tmp_path / "runs" / "short", "dapo", steps=7)
    write_run(tmp_path / "runs" / "other", "nsr", words=("--beta", "0.1"))
    (tmp_path / "runs" / "empty").mkdir()
    out = tmp_path / "defaults.csv"
    for _ in range(2):  # a second reading changes nothing
        defaults.main(defaults.Args(runs=tmp_path / "runs", out=out))
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["seed"]) for row in rows] == [("grpo", "1"), ("grpo", "2")]
    assert rows[0]["reward_start"] == "0.3000" and rows[0]["reward_end"] == "0.6000"
    assert rows[0]["entropy_start"] == "0.7000" and rows[0]["entropy_end"] == "0.4000"
    assert rows[0]["pass@1"] == "0.4000" and rows[0]["pass@32"] == "0.8000" and rows[0]["seconds"] == "8"
    assert "| grpo | 1 | 0.300 to 0.600 | 0.700 to 0.400 | 0.400 | 0.800 | 8 |" in capsys.readouterr().out


def test_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = [], tmp_path / "defaults.csv"

    def run(name: str, flags: list[str], directory: Path) -> float:
        made.append((name, flags))
        write_run(directory, name, int(flags[1]))
        return 1.0

    monkeypatch.setattr(defaults, "run_script", run)
    for names in (("grpo",), ("grpo", "opo")):
        defaults.main(defaults.Args(names, seeds=(1, 3), parallel=1, out=out))
    assert [(name, flags[1]) for name, flags in made] == [("grpo", "1"), ("grpo", "3"), ("opo", "1"), ("opo", "3")]
    assert len(defaults.read(out)) == 4
    with pytest.raises(SystemExit, match="nothing"):
        defaults.main(defaults.Args(("nothing",), out=out))


def test_kept_rows_are_of_files_that_exist() -> None:
    rows = defaults.read(defaults.RESULTS / "defaults.csv")
    assert {name for name, _ in rows} <= set(sync.algorithms())
    assert all(0 <= float(row["pass@1"]) <= float(row["pass@32"]) <= 1 for row in rows.values())
