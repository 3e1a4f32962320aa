"""A run that was interrupted and resumed is the run that was not, to the bit (invariant I8 of the design).

Processes are real where being killed is the point; elsewhere the script runs in this process, so that an interrupt
lands exactly where the test wants it.
"""

import itertools
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import common.records
from algos.grpo import Args
from common import InputError, lock
from common.arguments import RECORDED
from common.identity import absolute_paths, are_digests, digest_problems
from common.policy import Policy
from common.problems import Problem
from common.run import Run

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "algos" / "grpo.py"
RECIPE = {
    "num-steps": 6,
    "save-every": 2,
    "eval-every": 6,
    "num-prompts": 8,
    "num-generations": 4,
    "num-minibatches": 2,
    "update-epochs": 2,
    "max-response-length": 40,
    "eval-problems": 4,
    "eval-samples": 2,
    "learning-rate": 1e-3,
    "beta": 0.05,  # the reference must stay the initial policy, not become the one that is resumed
    "reward-mode": "random",  # a random model is never right, and without reward nothing would be learned
    "temperature": 0.8,
    "device": "cpu",
}


def flags(options: dict) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def run_script(options: dict) -> int:
    """Run the script in this process and return its exit status."""
    before = sys.argv, sys.path[:], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = [str(SCRIPT), *flags(options)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return 0
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv, sys.path[:], handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def start(options: dict) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags(options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    """Until metrics.jsonl shows that step."""
    metrics, end = run / "metrics.jsonl", time.monotonic() + 240
    while f'{{"step": {step},' not in (metrics.read_text() if metrics.exists() else ""):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def same(a: object, b: object) -> bool:
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def metrics_but(run: Path, *left_out: str) -> list[dict]:
    """The records without the keys that start so."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.startswith(left_out)} for record in records]


def optimizer_of(checkpoint: Path) -> dict:
    """The optimiser's state, whichever ranks wrote it."""
    with tempfile.NamedTemporaryFile() as file:
        dcp_to_torch_save(checkpoint / "optimizer", file.name)
        return torch.load(file.name, weights_only=False)["optimizer"]


def assert_same_run(run: Path, straight: Path, *left_out: str) -> None:
    names = sorted(path.name for path in (straight / "checkpoints").iterdir())
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names
    assert metrics_but(run, "time/", *left_out) == metrics_but(straight, "time/", *left_out)
    for name in ("samples.jsonl", *(() if "eval/" in left_out else ("evaluations.jsonl",))):
        assert (run / name).read_bytes() == (straight / name).read_bytes()
    for name in names:
        ours, theirs = run / "checkpoints" / name, straight / "checkpoints" / name
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
        states = [torch.load(path / "training_state.pt", weights_only=True) for path in (ours, theirs)]
        assert same(*states)
        moments = [optimizer_of(path) for path in (ours, theirs)]
        assert moments[0]["state"], "nothing was compared"
        assert same(*moments)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> dict:
    task = tmp_path_factory.mktemp("task") / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 5) for b in range(1, 6)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))  # 18 to train on: 6 steps are 2.7 epochs
    return RECIPE | {"model": tiny_checkpoint, "task": task}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, recipe: dict) -> Path:
    """The run that nothing interrupts, in a process of its own."""
    run = tmp_path_factory.mktemp("straight") / "run"
    process = start(recipe | {"output-dir": run})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    (run.parent / "stderr").write_text(err)
    return run


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the steps, and only the processes of their own need draw them."""
    monkeypatch.setattr(common.records, "draw_curves", lambda *_: None)


def signal_at(patched: pytest.MonkeyPatch, call: int, number: int) -> None:
    """Send this process a signal inside a chosen optimiser step, counted from 1."""
    step, calls = Policy.step, itertools.count(1)

    def interrupted(self: Policy, *loss: torch.Tensor) -> float:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return step(self, *loss)

    patched.setattr(Policy, "step", interrupted)


# --- Real processes ---------------------------------------------------------------------------------------------------


def test_straight_run_learns(straight):
    """Else two equal runs would show nothing."""
    records = metrics_but(straight, "time/")
    assert [record["step"] for record in records] == list(range(7))
    assert all(record["policy/grad_norm"] > 0 for record in records[1:])
    assert all(record["policy/approx_kl"] > 0 for record in records[1:])
    assert len({record["policy/entropy"] for record in records[1:]}) == 6
    rewards = [record["rollout/reward"] for record in records[1:]]
    assert 0.2 < sum(rewards) / len(rewards) < 0.8


def test_good_run_says_nothing_on_standard_error(straight):
    assert (straight.parent / "stderr").read_text() == ""


def test_killed_and_resumed(straight, recipe, tmp_path):
    """I8: kill -9 after step 3, of which checkpoint 2 knows nothing, then resume."""
    run = tmp_path / "run"
    process = start(recipe | {"output-dir": run})
    wait_for_step(process, run, 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "checkpoints" / "step-000006").exists()
    process = start({"resume": run})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert_same_run(run, straight)


def test_terminated_and_resumed(straight, recipe, tmp_path):
    """As a scheduler does it: the step in hand becomes whole and is saved, and the exit status tells."""
    run = tmp_path / "run"
    process = start(recipe | {"output-dir": run})
    wait_for_step(process, run, 1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143 and "Traceback" not in err, out + err
    assert f"--resume {run}" in out
    last = metrics_but(run)[-1]["step"]
    assert 1 <= last < 6 and (run / "checkpoints" / f"step-{last:06d}").is_dir()
    assert run_script({"resume": run}) == 0
    assert metrics_but(run, "time/") == metrics_but(straight, "time/")
    name = "checkpoints/step-000006/model.safetensors"  # the other one that is kept depends on when the signal came
    assert (run / name).read_bytes() == (straight / name).read_bytes()


# --- Interrupts inside a step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_in_the_middle_of_an_update(number, straight, recipe, monkeypatch, tmp_path):
    """Four optimiser steps a step: the tenth is in the middle of step 3."""
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        signal_at(patched, 10, number)
        assert run_script(recipe | {"output-dir": run}) == 128 + number
    assert metrics_but(run, "time/") == metrics_but(straight, "time/")[:4]  # step 3 is whole
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000002", "step-000003"]
    assert run_script({"resume": run}) == 0
    assert_same_run(run, straight)


def test_more_steps_than_planned(straight, recipe, tmp_path):
    run = tmp_path / "run"
    assert run_script(recipe | {"output-dir": run, "num-steps": 3}) == 0
    assert "eval/pass@2" in metrics_but(run)[3]  # at the end, as it was planned then
    assert run_script({"resume": run, "num-steps": 6}) == 0
    assert_same_run(run, straight, "eval/")
    assert json.loads((run / "args.json").read_text())["num_steps"] == 6


def test_steps_after_the_checkpoint_are_forgotten(straight, recipe, tmp_path):
    """What a kill leaves behind: later records, half a line in each file, half a checkpoint, half an args.json."""
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    shutil.rmtree(run / "checkpoints" / "step-000006")
    (run / "checkpoints" / ".step-000006.partial").mkdir()
    (run / "checkpoints" / ".step-000006.partial" / "model.safetensors").write_text("half")
    (run / ".args.json.partial").write_text("{")
    for name in ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 7, "rollout/rew')
    assert run_script({"resume": run}) == 0
    assert_same_run(run, straight)
    assert json.loads((run / "args.json").read_text())["output_dir"] == str(run)  # a copy names its own place


def test_finished_run_has_nothing_left_to_do(straight, recipe, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    assert run_script({"resume": run}) == 0
    assert_same_run(run, straight)


# --- The record on its own ------------------------------------------------------------------------------------------


@pytest.fixture
def resumed_run(straight, tmp_path, recipe) -> Run:
    """A Run that goes on from a copy of the straight run's last checkpoint, not started yet."""
    shutil.copytree(straight, tmp_path / "copy")
    saved = json.loads((straight / "args.json").read_text())
    for name in RECORDED:
        del saved[name]
    return Run("grpo", Args(**saved | {"resume": str(tmp_path / "copy"), "num_steps": 9}))


@pytest.mark.parametrize("tail", ['{"step": 6, "rollo', "{", '"', "0", "\0\0\0\0", "nul", "[1,", '{"a": 1}\n', "\n"])
def test_half_a_line_is_dropped(tail, resumed_run):
    """Whatever a crash leaves at the end of a file, whole records stay and later ones start on a line of their own."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    metrics = resumed_run.directory / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + tail)
    try:
        resumed_run.start(None, SimpleNamespace(cursor=0))
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert metrics.read_text() == whole
    resumed_run.log(7, {"a": 1})
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == list(range(8))


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b'{"step": 3, "a": "\xe9"}', b'{"step": "3"}', b'{"step": null}'])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "evaluations.jsonl"])
def test_a_damaged_line_is_dropped(name, line, resumed_run):
    """Bytes that are no text, or no record, cost their own line."""
    path = resumed_run.directory / name
    whole = path.read_bytes()
    path.write_bytes(line + b"\n" + whole + line)
    try:
        resumed_run.start(None, SimpleNamespace(cursor=0))
    finally:
        lock.release()
        resumed_run.signals.close()
    assert path.read_bytes() == whole


def test_the_newest_checkpoint_is_taken(resumed_run):
    assert resumed_run.checkpoint.name == "step-000006" and resumed_run.first_step == 7
    assert resumed_run.cursor == 6 * 8
    assert list(resumed_run.steps()) == [7, 8, 9]


def test_memory_of_an_algorithm_comes_back(tmp_path):
    """A controller's numbers, to the bit and with their types."""
    state = {"integral": 0.1 + 0.2, "count": 3, "ready": True, "history": [1e-300, -0.0], "none": None}
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    policy = Policy.__new__(Policy)
    policy.save = lambda directory: directory.mkdir(parents=True)
    policy.save_optimizer = lambda directory: None
    run = Run("grpo", Args(output_dir=str(tmp_path / "run")))
    try:
        run.start(policy, SimpleNamespace(cursor=0))
        run.stream.cursor, run.state = 5, state
        run.save(4)
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    again = Run("grpo", Args(output_dir=str(tmp_path / "run"), resume=str(tmp_path / "run")))
    assert again.first_step == 5 and again.cursor == 5
    assert same(again.state, state) and repr(again.state) == repr(state)


def test_ranks_take_the_same_checkpoint(straight, tmp_path, monkeypatch):
    """Over a network file system one may not see the newest yet: the first rank's view counts."""
    shutil.copytree(straight, tmp_path / "copy")
    saved = json.loads((straight / "args.json").read_text())
    args = Args(**{key: value for key, value in saved.items() if key not in RECORDED})
    args.resume = str(tmp_path / "copy")
    names = [path.name for path in sorted((straight / "checkpoints").iterdir())]
    monkeypatch.setattr("common.run.ranks.agree", lambda value: value[:1] if value == names else value)
    assert len(names) == 2 and Run("grpo", args).checkpoint.name == names[0]


# --- What a run was made of -------------------------------------------------------------------------------------------


@pytest.fixture
def moved(straight, recipe, tmp_path) -> SimpleNamespace:
    """A run, its data and its model in places of one's own, to move and to change."""
    shutil.copytree(straight, tmp_path / "run")
    shutil.copytree(recipe["model"], tmp_path / "model")
    shutil.copy(recipe["task"], tmp_path / "sums.jsonl")
    args = json.loads((straight / "args.json").read_text())
    here = {"model": str(tmp_path / "model"), "task": str(tmp_path / "sums.jsonl"), "output_dir": str(tmp_path / "run")}
    (tmp_path / "run" / "args.json").write_text(json.dumps(args | here))
    return SimpleNamespace(run=tmp_path / "run", model=tmp_path / "model", task=tmp_path / "sums.jsonl")


def edit_args(run: Path, **changes) -> None:
    args = json.loads((run / "args.json").read_text()) | changes
    (run / "args.json").write_text(json.dumps({key: value for key, value in args.items() if value != "gone"}))


def test_paths_are_absolute(tmp_path, tiny_checkpoint, monkeypatch):
    """So that a run is resumed from another working directory by its own name alone."""
    shutil.copytree(tiny_checkpoint, tmp_path / "here" / "model")
    rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(30)]
    (tmp_path / "here" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path / "here")
    names = {"task": "sums.jsonl", "eval-task": "./sums.jsonl", "model": "model", "output-dir": "../run"}
    assert run_script(RECIPE | names | {"eval-task": "sums.jsonl", "num-steps": 1, "eval-every": 0}) == 0
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    assert args["task"] == args["eval_task"] == str(tmp_path / "here" / "sums.jsonl")
    assert args["model"] == str(tmp_path / "here" / "model") and args["output_dir"] == str(tmp_path / "run")
    assert args["digests"]["train"]["count"] == 27 and args["digests"]["eval"]["count"] == 3
    monkeypatch.chdir(tmp_path)
    assert run_script({"resume": "run", "num-steps": 2}) == 0


def test_home_is_written_out(tmp_path, tiny_checkpoint, monkeypatch):
    """A shell leaves the ~ of --task=~/x.jsonl alone; a run is resumed from wherever it was meant."""
    shutil.copytree(tiny_checkpoint, tmp_path / "home" / "model")
    rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(30)]
    (tmp_path / "home" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = {"task": "~/sums.jsonl", "eval-task": "~/sums.jsonl", "model": "~/model", "output-dir": "~/runs/run"}
    assert run_script(RECIPE | names | {"num-steps": 1, "eval-every": 0}) == 0
    args = json.loads((tmp_path / "home" / "runs" / "run" / "args.json").read_text())
    expected = {name.replace("-", "_"): place.replace("~", str(tmp_path / "home")) for name, place in names.items()}
    assert {name: args[name] for name in expected} == expected
    again = {"resume": "~/runs/run", "output-dir": "~/runs/../runs/run", "task": "~/sums.jsonl", "num-steps": 2}
    assert run_script(again) == 0
    assert not list((tmp_path / "cwd").iterdir())
    assert absolute_paths({"any_task": "~/a.jsonl", "model": "~/model"}) == {
        "any_task": str(tmp_path / "home" / "a.jsonl"),
        "model": str(tmp_path / "home" / "model"),
    }


def test_the_path_of_every_task_is_absolute(tmp_path, monkeypatch):
    """Also of one that a method of tomorrow brings; an id of the hub, a name or a procedural task is no path."""
    monkeypatch.chdir(tmp_path)
    names = {"task": "a.jsonl", "eval_task": "./b.parquet", "general_task": "../c.jsonl", "second_task": "d.csv.gz"}
    places = {"task": "a.jsonl", "eval_task": "b.parquet", "general_task": "c.jsonl", "second_task": "d.csv.gz"}
    expected = {name: str((tmp_path.parent if "../" in names[name] else tmp_path) / places[name]) for name in names}
    assert absolute_paths(names) == expected
    others = {"task": "countdown:numbers=4", "eval_task": "owner/name:config:split", "general_task": None}
    others |= {"second_task": "gsm8k", "third_task": "rg:chain_sum", "task_name": "a.jsonl", "taskless": "a.jsonl"}
    assert absolute_paths(others) == others


def further(**changes) -> SimpleNamespace:
    """A stand-in for the Args of a script with tasks of its own."""
    return SimpleNamespace(**vars(Args()) | {"other_task": "countdown:numbers=2", "idle_task": None} | changes)


PROBLEMS = [Problem(f"{a}+1=", str(a + 1), f"{a}", "math") for a in range(9)]


@pytest.mark.parametrize(
    ("problems", "changes", "words"),
    [
        (PROBLEMS, {}, None),
        (PROBLEMS, {"other_task": "moved.jsonl"}, None),
        (PROBLEMS[:-1], {}, "the content of --other-task has changed: it has 8 problems, and the run has 9"),
        (PROBLEMS[::-1], {}, "the content of --other-task has changed: its 9 problems are not the same as the run's"),
        (PROBLEMS[::-1], {"other_task": "moved.jsonl"}, "with another --other-task: its 9 problems are not the same"),
    ],
)
def test_a_further_task_is_known_by_its_content(problems, changes, words, straight, tmp_path):
    """Any flag that ends in _task: what may be another is its name, not its problems."""
    shutil.copytree(straight, tmp_path / "run")
    before = Run("grpo", further(output_dir=str(tmp_path / "new")))
    before.check_data(PROBLEMS, PROBLEMS)
    before.check_further(other_task=PROBLEMS)
    edit_args(tmp_path / "run", **vars(before.args) | {"digests": before.digests, "output_dir": str(tmp_path / "run")})
    assert are_digests(before.digests) and before.digests["other_task"] == digest_problems(PROBLEMS)
    again = Run("grpo", further(resume=str(tmp_path / "run"), **changes))
    again.check_data(PROBLEMS, PROBLEMS)
    if words is None:
        again.check_further(other_task=problems)
        return
    with pytest.raises(InputError, match=re.escape(words)):
        again.check_further(other_task=problems)


def test_a_further_task_that_was_not_recorded_keeps_its_name(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    edit_args(tmp_path / "run", **vars(further()))
    Run("grpo", further(resume=str(tmp_path / "run")))
    with pytest.raises(InputError, match="with another --other-task; leave that flag out"):
        Run("grpo", further(resume=str(tmp_path / "run"), other_task="countdown:numbers=4"))


def test_a_script_has_to_check_all_of_its_tasks(tmp_path):
    """Else nobody would notice that its content has changed."""
    run = Run("grpo", further(output_dir=str(tmp_path / "run")))
    run.check_data(PROBLEMS, PROBLEMS)
    with pytest.raises(ValueError, match=r"--other-task: .* check_further\(other_task="):
        run.start(None, SimpleNamespace(cursor=0))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["task", "model"])
def test_what_has_moved_is_found_by_its_flag(what, moved, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    place = getattr(moved, what).rename(tmp_path / "elsewhere" / getattr(moved, what).name)
    assert run_script({"resume": moved.run, "num-steps": 6}) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert run_script({"resume": moved.run, what: place}) == 0
    assert json.loads((moved.run / "args.json").read_text())[what] == str(place)
    assert run_script({"resume": moved.run}) == 0


def add_a_row(moved):
    with moved.task.open("a") as file:
        file.write(json.dumps({"prompt": "9+9=", "answer": "18"}) + "\n")


def change_an_answer(moved):
    moved.task.write_text(moved.task.read_text().replace('"answer": "5"', '"answer": "6"'))


def change_the_order(moved):
    moved.task.write_text("".join(f"{line}\n" for line in reversed(moved.task.read_text().splitlines())))


def change_a_weight(moved):
    path = moved.model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_the_config(moved):
    path = moved.model / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": ', '"rms_norm_eps": 1'))


def change_the_template(moved):
    (moved.model / "chat_template.jinja").write_text("{{ messages[0].content }}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_a_row, ["the content of --task has changed", "problems, and the run has"]),
        (change_an_answer, ["the content of --task has changed", "problems are not the same as the run's"]),
        (change_the_order, ["the content of --task has changed"]),
        (change_a_weight, ["the content of --model has changed", "weights"]),
        (change_the_config, ["the content of --model has changed"]),
        (change_the_template, ["the content of --model has changed"]),
    ],
)
def test_what_has_changed_is_refused(change, words, moved, capsys):
    change(moved)
    before = sorted((path, path.stat().st_mtime_ns) for path in moved.run.rglob("*"))
    assert run_script({"resume": moved.run}) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"error: cannot resume {moved.run}: ") and all(word in err for word in words)
    assert sorted((path, path.stat().st_mtime_ns) for path in moved.run.rglob("*")) == before


def test_other_evaluation_problems_are_refused(moved, tmp_path, capsys):
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "9+9=", "answer": "18"}) + "\n")
    assert run_script({"resume": moved.run, "eval-task": tmp_path / "eval.jsonl"}) == 2
    assert "with another --" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sums.jsonl", "{task}"])
def test_a_run_from_before_digests_goes_on(name, moved, monkeypatch):
    """Its paths are as they were typed; digests are taken down from now on."""
    monkeypatch.chdir(moved.task.parent)
    edit_args(moved.run, digests="gone", task=name.format(task=moved.task))
    assert run_script({"resume": moved.run}) == 0
    assert json.loads((moved.run / "args.json").read_text())["digests"]["train"]["count"] > 0


@pytest.mark.parametrize("digests", ["text", 5, [], {"train": 5}, {"train": {}}, {"a_task": {"count": 1}}])
def test_damaged_digests_are_said(digests, moved, capsys):
    edit_args(moved.run, digests=digests)
    status = run_script({"resume": moved.run})
    err = capsys.readouterr().err
    assert "Traceback" not in err and (status == 0 or (status == 2 and "args.json is damaged" in err))
