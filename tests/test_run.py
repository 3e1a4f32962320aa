"""The run directory and what is written there, the evaluation's numbers, and one short training run of it all."""

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import math
import os
import platform
import pty
import re
import resource
import runpy
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
import torch
import tyro
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import common.records
import common.signals
from algos.grpo import Args
from benchmarks.export import export
from common import lock
from common.arguments import RECORDED, Range, Signed, check_args, exit_on_bad_input
from common.basics import Timer, random_seed, warn_once
from common.batch import Response, Sample
from common.curves import draw_curves
from common.evaluate import bootstrap_interval, pass_at_k, pass_metrics
from common.loading import load_policy, savable
from common.policy import Policy
from common.problems import Problem
from common.records import commit_of, dense_line, environment
from common.run import Run, checkpoints_of
from common.tracker import check_project, run_id
from common.verifier import Verdict, Verifier
from tests.helpers import save_tiny

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "algos" / "grpo.py"
FAST = {
    "num-steps": 3,
    "num-prompts": 4,
    "num-generations": 2,
    "num-minibatches": 2,
    "max-response-length": 6,
    "eval-problems": 2,
    "eval-samples": 4,
    "eval-every": 2,
    "save-every": 1,
    "reward-mode": "random",
    "device": "cpu",
}


def flags(options: dict) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def run_script(options: dict, *switches: str) -> int:
    """Run the script in this process and return its exit status; another exception is the traceback a user sees."""
    before = sys.argv, sys.path[:], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = [str(SCRIPT), *switches, *flags(FAST | options)]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return 0
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv, sys.path[:], handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def read_lines(path: Path) -> list[dict]:
    """Strict JSON: the bare words NaN and Infinity are not."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def checkpoints(run: Path) -> list[str]:
    """Everything in the directory of checkpoints, hidden and half-written entries too."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 8) for b in range(1, 8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_checkpoint, task) -> SimpleNamespace:
    """One whole run, not on a terminal: its directory and what it printed."""
    directory, out = tmp_path_factory.mktemp("finished") / "run", io.StringIO()
    with contextlib.redirect_stdout(out):
        status = run_script({"model": tiny_checkpoint, "task": task, "output-dir": directory})
    return SimpleNamespace(directory=directory, status=status, out=out.getvalue())


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the steps of a tiny model."""
    monkeypatch.setattr(common.records, "draw_curves", lambda *_: None)


@pytest.fixture
def train(tmp_path: Path, tiny_checkpoint: Path, task: Path, no_curves) -> Callable[..., int]:
    """A run in tmp_path / "run" with some flags changed; it evaluates and draws nothing."""

    def start(options: dict | None = None, *switches: str, name: str = "run") -> int:
        defaults = {"model": tiny_checkpoint, "task": task, "output-dir": tmp_path / name, "eval-every": 0}
        return run_script(defaults | (options or {}), *switches)

    return start


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """A started Run without a model; the handlers it sets are taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def make(
        directory: str = "run",
        console: Console | None = None,
        policy: object = None,
        extra: dict | None = None,
        **changes,
    ) -> Run:
        run = Run("grpo", Args(output_dir=str(tmp_path / directory), **changes))
        run.records.console = console or run.records.console
        run.start(policy or StubPolicy(), SimpleNamespace(cursor=0), extra or {})
        started.append(run)
        return run

    started: list[Run] = []
    yield make
    lock.release()
    for run in reversed(started):
        run.signals.close()
    for number, handler in before.items():
        signal.signal(number, handler)


class StubPolicy:
    """What Run.save needs of a policy."""

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "model.safetensors").write_text("weights")

    def save_optimizer(self, directory: Path) -> None:
        (directory / "optimizer").mkdir()


class StubModel:
    """What Run.save and Run.start need of a further model: one number."""

    def __init__(self, value: int = 0):
        self.value = value

    def save_state(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "value").write_text(str(self.value))

    def restore_state(self, directory: Path) -> None:
        self.value = int((directory / "value").read_text())


# --- One training run -----------------------------------------------------------------------------------------------

STEP_KEYS = set(
    """step rollout/num_samples rollout/entropy rollout/reward rollout/response_length rollout/truncated_ratio
    rollout/zero_std_ratio rollout/all_right_ratio rollout/all_wrong_ratio rollout/sampler_gap_mean
    rollout/sampler_gap_max rollout/importance_mean rollout/sampling_rounds rollout/trained_group_ratio
    policy/entropy policy/entropy_right policy/entropy_wrong policy/loss policy/approx_kl
    policy/clip_high_ratio policy/clip_low_ratio policy/trained_token_ratio policy/grad_norm policy/learning_rate
    policy/skipped_updates verifier/timeout_ratio verifier/no_answer_ratio verifier/error_ratio time/rollout
    time/verify time/score time/update time/step tokens/rollout tokens/trained""".split()
)
EVAL_KEYS = {f"eval/{name}{end}" for name in ("avg@4", "pass@1", "pass@2", "pass@4") for end in ("", "_low", "_high")}
EVAL_KEYS |= {"eval/entropy"}


def test_metrics_of_a_run(finished):
    """The names are an interface: plots, tests and users' scripts read them."""
    assert finished.status == 0
    records = read_lines(finished.directory / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[0].keys() == {"step"} | EVAL_KEYS
    assert records[1].keys() == STEP_KEYS
    assert records[2].keys() == STEP_KEYS | EVAL_KEYS  # every second step
    assert records[3].keys() == STEP_KEYS | EVAL_KEYS  # the last step
    for record in records[1:]:
        ratios = [value for key, value in record.items() if key.endswith("_ratio")]
        assert all(0 <= value <= 1 for value in ratios)
        assert record["tokens/trained"] <= record["tokens/rollout"] <= 4 * 2 * 6
        parts = sum(record[f"time/{part}"] for part in ("rollout", "verify", "score", "update"))
        assert 0 < parts <= record["time/step"]
        assert record["policy/skipped_updates"] == 0
    assert [record["policy/learning_rate"] for record in records[1:]] == pytest.approx([2e-5, 4e-5, 6e-5])  # warm-up


def test_arguments_and_environment_of_a_run(finished, tiny_checkpoint, task):
    arguments = json.loads((finished.directory / "args.json").read_text())
    assert arguments.keys() == {*RECORDED} | {field.name for field in dataclasses.fields(Args)}
    assert arguments["algorithm"] == "grpo"
    assert arguments["model"] == str(tiny_checkpoint) and arguments["task"] == str(task)
    assert arguments["num_prompts"] == 4 and arguments["learning_rate"] == 1e-4 and arguments["resume"] is None
    environment = json.loads((finished.directory / "env.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["command"][1:3] == [str(SCRIPT), "--num-steps"]
    assert {"commit", "device", "python", "transformers", "started", "machine"} <= environment.keys()


def test_samples_of_a_run(finished):
    records = read_lines(finished.directory / "samples.jsonl")
    assert {record["step"] for record in records} == {1, 2, 3}
    for record in records:
        assert record["prompt"].endswith("=") and int(record["gold"]) == sum(map(int, record["prompt"][:-1].split("+")))
        assert record["reward"] in (0.0, 1.0) and record["reason"] in ("match", "mismatch", "no_answer")
        assert 1 <= record["length"] <= 6 and isinstance(record["truncated"], bool)
        assert 0 < record["entropy"] < math.log(258) and isinstance(record["response"], str)


def test_curves_of_a_run(finished):
    picture = (finished.directory / "curves.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 10_000
    names = {path.name for path in finished.directory.iterdir()}
    records = {"metrics.jsonl", "samples.jsonl", "evaluations.jsonl"}
    assert names == {"args.json", "env.json", *records, "curves.png", "checkpoints"}


def test_curves_of_a_run_without_a_single_right_answer(tmp_path):
    """Nulls, no evaluation, one step: what a control or a first look gives."""
    values = {"policy/entropy": 1.0, "policy/entropy_right": None, "policy/entropy_wrong": 1.0, "rollout/reward": 0.0}
    ratios = {"rollout/all_right_ratio": 0.0, "rollout/all_wrong_ratio": 1.0, "rollout/response_length": 4.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1} | values | ratios) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they would appear among the user's lines
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "title")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]
    (tmp_path / "metrics.jsonl").write_text("")  # stopped in the first step
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "none.png", "title")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("title", ["mt$5_$x", "a^b_c", "$", r"\frac", "lr=1e-4, 50 %"])
def test_any_directory_has_curves(title, tmp_path):
    """Its name is their title, and no formula."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rollout/reward": 0.5}\n')
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title)
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_checkpoint_is_a_hugging_face_model(finished, tiny_checkpoint):
    directory = finished.directory / "checkpoints" / "step-000003"
    model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    saved, original = AutoTokenizer.from_pretrained(directory), AutoTokenizer.from_pretrained(tiny_checkpoint)
    assert saved("1+1= é").input_ids == original("1+1= é").input_ids and saved.eos_token_id == original.eos_token_id
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)  # it has learned something


def test_the_last_two_checkpoints_stay(finished):
    assert checkpoints(finished.directory) == ["step-000002", "step-000003"]


def test_plain_lines_when_not_on_a_terminal(finished):
    """A log file or a pipe gets one line a step, unwrapped, without control characters."""
    first, *lines = finished.out.splitlines()
    lines = [first, *lines[4:]]  # after the first evaluation the run introduces itself
    assert len(lines) == 5 and "\x1b" not in finished.out and "\r" not in finished.out
    for step, line in enumerate(lines[:4]):
        assert re.match(rf"step {step}/3  ", line)
        assert re.search(r"pass@1 \d\.\d{3}  pass@4 \d\.\d{3}$", line)
        assert step == 0 or re.search(r"reward \d\.\d{3}  entropy \d\.\d{3}  length \d\.\d", line)
    assert str(finished.directory) in lines[4]


def test_a_run_introduces_itself(finished):
    """The arithmetic of a step, and one prompt and response as the model has them, every character visible."""
    _, arithmetic, ends, prompt, response, *_ = finished.out.splitlines()
    assert ends == "a response ends with '<|endoftext|>', or after 6 tokens"
    assert arithmetic == "a step: 4 prompts x 2 responses = 8 rows; 2 updates of 4 rows"
    assert re.fullmatch(r"prompt \(4 tokens\): '\d\+\d='", prompt)
    assert re.match(r"response \(\d+ tokens, \w+\): ['\"]", response)


def test_no_evaluation(train, tmp_path):
    assert train({"eval-every": 0, "num-steps": 2, "save-every": 0}) == 0
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record.keys() for record in records] == [STEP_KEYS, STEP_KEYS]
    assert checkpoints(tmp_path / "run") == ["step-000002"]  # save-every 0: only at the end


def test_default_directory(no_curves, tmp_path, monkeypatch, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    options = {"model": tiny_checkpoint, "task": "reversing:length=3", "num-steps": 1, "seed": 7, "eval-every": 0}
    assert run_script(options) == 0
    [run] = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"grpo-reversing-length=3-s7-\d{8}-\d{6}.*", run.name)


# --- Controls -------------------------------------------------------------------------------------------------------


def test_random_rewards_are_a_fair_coin_that_repeats():
    problems = [Problem("1+1=", "2", f"p{i // 8}", "math") for i in range(2000)]
    responses = [str(i % 5) for i in range(2000)]
    first = [verdict.reward for verdict in Verifier("random", 3)(problems, responses)]
    assert set(first) == {0.0, 1.0}
    assert np.mean(first) == pytest.approx(0.5, abs=0.05)  # 4.5 standard errors
    assert first == [verdict.reward for verdict in Verifier("random", 3)(problems, responses)]
    assert first != [verdict.reward for verdict in Verifier("random", 4)(problems, responses)]
    checked = [verdict.reward for verdict in Verifier()(problems, responses)]
    assert abs(np.corrcoef(first, checked)[0, 1]) < 0.1  # they say nothing about the answer


def test_random_rewards_of_a_run(finished):
    """Half of the responses of a model that knows nothing are rewarded."""
    rewards = [record["rollout/reward"] for record in read_lines(finished.directory / "metrics.jsonl")[1:]]
    assert 0.1 < np.mean(rewards) < 0.9  # 24 tosses
    evaluated = read_lines(finished.directory / "metrics.jsonl")[-1]["eval/pass@4"]
    assert evaluated < 0.5  # an evaluation always checks: four tosses would give 0.94


def test_same_seed_same_run(train, tmp_path, finished):
    """Whether it is evaluated or not: nothing outside a step consumes its randomness."""
    assert train() == 0
    for name in ("checkpoints/step-000003/model.safetensors", "samples.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished.directory / name).read_bytes()


def test_another_seed_another_run(train, tmp_path, finished):
    assert train({"seed": 2, "num-steps": 1}) == 0
    assert (tmp_path / "run" / "samples.jsonl").read_text() not in (finished.directory / "samples.jsonl").read_text()


# --- Updates that are not finite --------------------------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch) -> Callable[[set[int] | range, float], None]:
    """Make the gradient of some calls of Policy.backward, counted from 0, NaN or infinite."""
    backward, calls = Policy.backward, itertools.count()

    def set_up(bad: set[int] | range, value: float = math.nan) -> None:
        def poisoned(self: Policy, *args) -> None:
            backward(self, *args)
            if next(calls) in bad:
                self.head.weight.grad = torch.full_like(self.head.weight, value)

        monkeypatch.setattr(Policy, "backward", poisoned)

    return set_up


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_update_without_finite_gradient_is_skipped(value, train, poison, tmp_path):
    """Two of four minibatches in step 1, one in step 2: never three in a row."""
    poison({0, 2, 3, 5}, value)
    assert train({"num-minibatches": 4}) == 0
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["policy/skipped_updates"] for record in records] == [3, 1, 0]
    assert all(math.isfinite(record["policy/grad_norm"]) for record in records)
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-000003" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_skipped_step_changes_nothing(train, poison, tmp_path, tiny_checkpoint):
    poison(range(2))
    assert train({"num-steps": 1}) == 0
    [record] = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert record["policy/skipped_updates"] == 2
    assert record["policy/grad_norm"] is None  # there is none to average
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoints" / "step-000001" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_three_skipped_updates_in_a_row_end_the_run(train, poison, tmp_path, capsys, tiny_checkpoint):
    """Two a step: the third is in step 2 of 3."""
    poison(range(100))
    assert train({"save-every": 0}) == 1
    err = capsys.readouterr().err
    *_, line = err.splitlines()  # after a warning at the first of them
    assert line.startswith("error: ") and "three updates in a row" in line
    assert "--learning-rate" in err  # what to do
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["policy/skipped_updates"] for record in records] == [2, 2]
    assert checkpoints(tmp_path / "run") == ["step-000002"]
    before = load_file(tiny_checkpoint / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_resumed_run_still_ends_after_three(train, poison, tmp_path, capsys):
    """The count of skipped updates is saved with a run that ended so, and may not put it beyond the limit."""
    poison(range(100))
    assert train({"save-every": 0}) == 1
    assert run_script({"resume": tmp_path / "run", "num-steps": 5, "eval-every": 0, "save-every": 0}) == 1
    assert "three updates in a row" in capsys.readouterr().err


def test_loss_that_is_not_finite(train, monkeypatch, tmp_path):
    """The second minibatch of each step alone is scored; a NaN from there reaches the loss."""
    score = Policy.score

    def poisoned(self: Policy, *args) -> tuple:
        logprobs, entropy = score(self, *args)
        return logprobs * math.nan, entropy

    monkeypatch.setattr(Policy, "score", poisoned)
    assert train({"num-steps": 2}) == 0
    for record in read_lines(tmp_path / "run" / "metrics.jsonl"):
        assert record["policy/skipped_updates"] == 1
        assert math.isfinite(record["policy/loss"]) and math.isfinite(record["policy/grad_norm"])  # of the first
    weights = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


# --- Checkpoints that cannot be written -----------------------------------------------------------------------------


def test_run_goes_on_without_a_checkpoint_when_weights_cannot_be_written(train, monkeypatch, tmp_path, capsys):
    save, calls = Policy.save, itertools.count(1)

    def full_once(self: Policy, directory: Path) -> None:
        if next(calls) == 3:  # the first one is for trial
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, directory)

    monkeypatch.setattr(Policy, "save", full_once)
    assert train() == 0
    out = capsys.readouterr().out
    assert "warning: no checkpoint at step 2" in out and "No space left on device" in out
    assert checkpoints(tmp_path / "run") == ["step-000001", "step-000003"]
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 3


def test_previous_checkpoint_stays_when_state_cannot_be_written(make_run, monkeypatch, capsys):
    run = make_run(num_steps=9)
    run.save(1)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("unexpected pos 64 vs 0")))
    run.save(2)
    assert checkpoints(run.directory) == ["step-000001"]
    assert "warning: no checkpoint at step 2" in capsys.readouterr().out


def test_nothing_but_whole_checkpoints_under_the_final_name(make_run, monkeypatch):
    """A process killed while it writes leaves a name that no one takes for a checkpoint; the next save clears it."""
    run = make_run(num_steps=9)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # not an Exception
    with pytest.raises(KeyboardInterrupt):
        run.save(1)
    [left] = checkpoints(run.directory)
    assert not left.startswith("step-")
    (run.directory / "checkpoints" / left / "leftover").write_text("")
    monkeypatch.undo()
    run.save(1)
    assert checkpoints(run.directory) == ["step-000001"]
    assert not (run.directory / "checkpoints" / "step-000001" / "leftover").exists()


def test_further_models_are_saved_and_come_back(make_run):
    """Beside the policy, under their names; the stream goes on where it was."""
    run = make_run(num_steps=9, extra={"reference": StubModel(7), "critic": StubModel(8)})
    run.state["integral"], run.stream.cursor = 0.5, 48
    run.save(1)
    [checkpoint] = (run.directory / "checkpoints").iterdir()
    assert sorted(path.name for path in checkpoint.iterdir()) == [
        *("extra", "model.safetensors", "optimizer", "training_state.pt")
    ]
    models = {"reference": StubModel(), "critic": StubModel()}
    again = make_run(num_steps=9, resume=str(run.directory), extra=models)
    assert (models["reference"].value, models["critic"].value) == (7, 8)
    assert again.state == {"integral": 0.5} and again.stream.cursor == 48


def test_a_fresh_run_has_no_memory(make_run):
    model = StubModel(7)
    run = make_run(num_steps=9, extra={"reference": model})
    assert run.state == {} and run.stream.cursor == 0 and model.value == 7


def test_a_further_model_that_cannot_be_written_is_no_checkpoint(make_run, capsys):
    model = StubModel(7)
    run = make_run(num_steps=9, extra={"critic": model})
    run.save(1)
    model.save_state = lambda directory: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    run.save(2)
    assert checkpoints(run.directory) == ["step-000001"]
    assert "warning: no checkpoint at step 2" in capsys.readouterr().out


def refuse(*_) -> None:
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_three_failed_saves_in_a_row_end_the_run(make_run, capsys, no_curves):
    """With what the writer said; a save that succeeds in between begins the count anew."""
    run = make_run(num_steps=99, save_every=1)
    whole, done = run.policy.save, []
    with pytest.raises(SystemExit) as stop:
        for step in run.steps():
            done.append(step)
            run.policy.save = whole if step == 3 else refuse
            if run.saves(step):
                run.save(step)
        run.finish()
    assert done == [1, 2, 3, 4, 5, 6] and stop.value.code == 1
    out, err = capsys.readouterr()
    assert out.count("warning: no checkpoint at step") == 5 and "and there is none before" in out
    assert err.startswith("error: 3 checkpoints in a row") and "Disk quota exceeded; free some space there" in err
    assert checkpoints(run.directory) == ["step-000003"]


def test_a_last_checkpoint_that_cannot_be_written_says_why(make_run, capsys, no_curves):
    run = make_run(num_steps=1)
    run.policy.save_optimizer = lambda directory: {}["no such key"]
    for step in run.steps():
        run.save(step)
    with pytest.raises(SystemExit) as stop:
        run.finish()
    err = capsys.readouterr().err
    assert stop.value.code == 1 and "KeyError: 'no such key'" in err and "free" not in err


@pytest.mark.parametrize(
    "error", [OSError(28, os.strerror(28)), ValueError("this config cannot be saved"), KeyError(1)]
)
def test_what_cannot_be_saved_is_refused_before_the_first_step(error, make_run, tmp_path):
    """And nothing is left, not even the directories above."""
    policy = StubPolicy()
    policy.save = lambda directory: (_ for _ in ()).throw(error)
    with pytest.raises(common.InputError, match=re.escape(f"{type(error).__name__}: {error}")):
        make_run("above/run", policy=policy)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_leaves_nothing(make_run):
    run = make_run(num_steps=9)
    assert checkpoints(run.directory) == []


def fill_with(files: list[str], directory: Path) -> dict[str, str]:
    """Write a user's files there, and return what is in a directory with everything below."""
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("mine" if name[-1] != "0" else "")
    return contents(directory)


def contents(directory: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in directory.rglob("*")}


MINE = ["notes.txt", "wandb/offline-run-1/run.wandb", "wandb/latest-run/0", "checkpoints/.trial.partial/0"]


def refuse_to_save(patch: pytest.MonkeyPatch) -> dict:
    patch.setattr(StubPolicy, "save", refuse)
    return {}


def interrupt_the_trial(patch: pytest.MonkeyPatch) -> dict:
    def save(self: StubPolicy, directory: Path) -> None:
        directory.mkdir(parents=True)
        raise KeyboardInterrupt

    patch.setattr(StubPolicy, "save", save)
    return {}


def refuse_records(patch: pytest.MonkeyPatch) -> dict:
    patch.setattr(common.records, "write_whole", refuse)
    return {}


def interrupt_the_last_record(patch: pytest.MonkeyPatch) -> dict:
    def write(path: Path, text: str) -> None:
        path.with_name(f".{path.name}.partial").write_text(text)
        if path.name == "env.json":
            raise KeyboardInterrupt
        path.write_text(text)

    patch.setattr(common.records, "write_whole", write)
    return {}


def refuse_tracking(patch: pytest.MonkeyPatch) -> dict:
    def init(**options) -> None:
        (Path(options["dir"]) / "wandb" / "offline-run-2").mkdir(parents=True)
        raise RuntimeError("bogus")

    patch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, login=lambda prompt: False))
    return {"track": True}


@pytest.mark.parametrize("mine", [MINE, MINE[:1], []], ids=["all", "some", "none"])
@pytest.mark.parametrize(
    "fault", [refuse_to_save, interrupt_the_trial, refuse_records, interrupt_the_last_record, refuse_tracking]
)
def test_a_start_that_fails_leaves_what_was_there(fault, mine, make_run, monkeypatch, tmp_path):
    """And nothing of its own, whether it made the directory or found it."""
    before = fill_with([f"run/{name}" for name in mine], tmp_path)
    options = fault(monkeypatch)
    with pytest.raises((common.InputError, KeyboardInterrupt)):
        make_run(**options)
    before.pop(str(tmp_path / "run/checkpoints/.trial.partial/0"), None)  # a trial is a run's own, whichever made it
    before.pop(str(tmp_path / "run/checkpoints/.trial.partial"), None)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    "metrics.jsonl samples.jsonl evaluations.jsonl args.json env.json curves.png checkpoints checkpoints/step-000100/a "
    "checkpoints/my-base-model/weights.bin checkpoints/.step-000002.partial/a".split(),
)
@pytest.mark.parametrize("late", [False, True])
def test_a_directory_that_holds_something_else_is_refused(name, late, tmp_path):
    """Whatever a run would write over or prune, at the first look and once more before anything is written."""
    args = Args(output_dir=str(tmp_path / "run"))
    run = Run("grpo", args) if late else None
    before = fill_with([f"run/{name}"], tmp_path)
    with pytest.raises(common.InputError, match=r"already holds .*; use another name$"):
        run.start(StubPolicy(), SimpleNamespace(cursor=0)) if late else Run("grpo", args)
    lock.release()
    assert contents(tmp_path) == before


def test_a_start_that_was_killed_is_no_hindrance(make_run, tmp_path):
    """It leaves empty files, half of one and a trial: the same command works again."""
    names = ["metrics.jsonl", "samples.jsonl", "evaluations.jsonl", ".metrics.jsonl.partial", ".lock", "curves.png"]
    (tmp_path / "run" / "checkpoints" / ".trial.partial").mkdir(parents=True)
    for name in names:
        (tmp_path / "run" / name).touch()
    make_run(num_steps=9).save(1)
    assert checkpoints(tmp_path / "run") == ["step-000001"]


def test_what_another_run_left_is_no_checkpoint_of_this_one(make_run, capsys):
    """A checkpoint that appears under the name of the next one is neither taken for it nor written over."""
    run = make_run(num_steps=9)
    run.save(1)
    other = run.directory / "checkpoints" / "step-000002"
    before = fill_with(["model.safetensors"], other)
    run.save(2)
    assert "warning: no checkpoint at step 2, the previous one is kept" in capsys.readouterr().out
    assert checkpoints(run.directory) == ["step-000001", "step-000002"] and contents(other) == before
    with pytest.raises(common.InputError, match=r"step-000002/training_state.pt is missing"):
        Run("grpo", Args(resume=str(run.directory), num_steps=9))


def copy_of(checkpoint: Path, name: str) -> None:
    shutil.copytree(checkpoint, checkpoint.with_name(name))


def link_to(checkpoint: Path, name: str) -> None:
    checkpoint.with_name(name).symlink_to(checkpoint.name)


def archive_of(checkpoint: Path, name: str) -> None:
    checkpoint.with_name(name).write_text("an archive")


@pytest.mark.parametrize(
    ("keep", "name"),
    [
        (copy_of, "step-000002-best"),
        (copy_of, "step-000002.bak"),
        (copy_of, "step-best"),
        (copy_of, "step-00002"),
        (copy_of, "step-0000002"),
        (copy_of, "step-٠٠٠٠٠٢"),
        (link_to, "step-latest"),
        (link_to, "step-000009"),
        (archive_of, "step-000002.tar.gz"),
        (archive_of, "step-000009"),
    ],
)
def test_what_a_user_keeps_among_the_checkpoints_stays(keep, name, make_run):
    """It is neither resumed from nor pruned, and does not push the run's own out."""
    run = make_run(num_steps=9)
    for step in (1, 2):
        run.save(step)
    keep(run.directory / "checkpoints" / "step-000002", name)
    lock.release()
    again = make_run(num_steps=9, resume=str(run.directory))
    assert again.checkpoint.name == "step-000002" and again.first_step == 3
    for step in (3, 4):
        again.save(step)
    assert checkpoints(run.directory) == sorted(["step-000003", "step-000004", name])


def test_a_copy_under_the_name_of_another_step_is_said(make_run):
    """It pushes none out, and is not taken for what it is not."""
    run = make_run(num_steps=9)
    for step in (1, 2):
        run.save(step)
    copy_of(run.directory / "checkpoints" / "step-000002", "step-000007")
    for step in (3, 4):
        run.save(step)
    assert checkpoints(run.directory) == ["step-000003", "step-000004", "step-000007"]
    with pytest.raises(common.InputError, match="step-000007 is a copy of step 2; remove "):
        Run("grpo", Args(resume=str(run.directory), num_steps=9))


def test_a_run_without_a_checkpoint_is_no_circle(make_run):
    """Each way says one that is open."""
    run = make_run(num_steps=9)
    with pytest.raises(common.InputError, match=r"already holds a run; use another name$"):
        Run("grpo", Args(output_dir=str(run.directory)))
    with pytest.raises(common.InputError, match=r"with another --output-dir or once this directory is removed$"):
        Run("grpo", Args(resume=str(run.directory), num_steps=9))


def test_a_checkpoint_after_the_directory_of_checkpoints_is_gone(make_run):
    run = make_run(num_steps=9)
    run.save(1)
    shutil.rmtree(run.directory / "checkpoints")
    run.save(2)
    assert checkpoints(run.directory) == ["step-000002"] and not run.unsaved


# The weights of the tiny model take 107 kB and the optimiser's state twice that: the first limit cuts into the weights,
# the second into the state.
@pytest.mark.parametrize("limit", [50_000, 150_000])
def test_disk_that_is_really_full(limit, make_run, tiny_checkpoint, capsys):
    """No patched writer: the kernel refuses to let a file grow, so that each library fails in its own way."""
    policy = load_policy(str(tiny_checkpoint), device="cpu")
    policy.step()  # fills the optimiser's state
    run = make_run(num_steps=9, policy=policy)
    run.save(1)
    written = (run.directory / "checkpoints" / "step-000001").rglob("*")
    sizes = sorted(path.stat().st_size for path in written if path.is_file())
    assert sizes[-2] < 150_000 < sizes[-1] and sizes[-2] > 50_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        run.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "warning: no checkpoint at step 2" in capsys.readouterr().out
    assert checkpoints(run.directory) == ["step-000001"]
    run.save(3)  # there is room again
    assert checkpoints(run.directory) == ["step-000001", "step-000003"]


# --- What is saved of a model -----------------------------------------------------------------------------------------

GREEDY = {"do_sample": False}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (GREEDY | {"temperature": 0.6}, GREEDY),
        (GREEDY | {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "typical_p": 0.9}, GREEDY),
        ({"temperature": 0.7, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        (GREEDY | {"epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3}, GREEDY),
        ({"early_stopping": True, "length_penalty": 2.0, "max_new_tokens": 9}, {"max_new_tokens": 9}),
        ({"pad_token_id": -1}, {}),
        ({"output_scores": True}, {}),
        ({"do_sample": True, "temperature": 0.6, "output_scores": True}, {"do_sample": True, "temperature": 0.6}),
        ({"use_cache": False, "cache_implementation": "static"}, {"use_cache": False}),
    ],
)
def test_a_generation_config_that_the_library_refuses_to_write_is_mended(fields, kept, tmp_path, capsys):
    warn_once.cache_clear()
    config = GenerationConfig(eos_token_id=[3, 256], bos_token_id=1, **fields)
    with pytest.raises(ValueError):
        config.save_pretrained(tmp_path)
    mended = savable(config, "some/model")
    mended.save_pretrained(tmp_path)
    written = {k: v for k, v in GenerationConfig.from_pretrained(tmp_path).to_diff_dict().items() if "version" not in k}
    assert written == {"eos_token_id": [3, 256], "bos_token_id": 1} | kept
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: model some/model: checkpoints leave ") and next(iter(fields.keys() - kept)) in line


def test_a_generation_config_that_can_be_written_stays(capsys):
    config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, eos_token_id=[3, 256])
    assert savable(config, "some/model") is config and capsys.readouterr().err == ""


def test_a_greedy_model_with_a_temperature_is_saved(train, tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [256, 10]}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    assert train({"model": tmp_path / "model", "num-steps": 1}) == 0
    saved = GenerationConfig.from_pretrained(tmp_path / "run" / "checkpoints" / "step-000001")
    assert saved.eos_token_id == [256, 10]


def test_export_in_the_models_own_dtype(train, tmp_path, capsys):
    """Half the size; what was learned, rounded once. The checkpoint stays."""
    save_tiny(tmp_path / "model", dtype=torch.bfloat16)
    assert train({"model": tmp_path / "model", "num-steps": 1}) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000001"
    export(checkpoint, tmp_path / "out", "auto")
    assert "bfloat16" in capsys.readouterr().out
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "out", checkpoint))
    assert ours.keys() == theirs.keys() and {tensor.dtype for tensor in theirs.values()} == {torch.float32}
    assert all(torch.equal(ours[name], theirs[name].bfloat16()) for name in theirs)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16 and AutoTokenizer.from_pretrained(tmp_path / "out")("1+").input_ids


def test_export_refuses(finished, tmp_path):
    checkpoint = finished.directory / "checkpoints" / "step-000003"
    with pytest.raises(common.InputError, match="already there"):
        export(checkpoint, finished.directory, "auto")
    with pytest.raises(common.InputError, match="cannot be loaded"):
        export(tmp_path, tmp_path / "out", "float16")
    shutil.copytree(checkpoint, tmp_path / "alone" / "checkpoints" / checkpoint.name)
    with pytest.raises(common.InputError, match="use --dtype"):
        export(tmp_path / "alone" / "checkpoints" / checkpoint.name, tmp_path / "out", "auto")
    assert not (tmp_path / "out").exists()


def test_export_to_a_full_disk(finished, tmp_path):
    """One line, and nothing that the next try would find there; an empty directory may be there."""
    checkpoint = finished.directory / "checkpoints" / "step-000003"
    (tmp_path / "there").mkdir()
    command = f"ulimit -f 64; exec {sys.executable} -m benchmarks.export {checkpoint} {tmp_path / 'out'}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be written" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    export(checkpoint, tmp_path / "there", "float16")
    assert {path.name for path in tmp_path.iterdir()} == {"there"}
    assert (tmp_path / "there" / "model.safetensors").exists()


# --- Records that cannot be written -----------------------------------------------------------------------------------


def fill(run: Run, name: str) -> Path:
    """From now on the file cannot grow."""
    path = run.directory / name
    path.rename(path.with_name(f"{name}.before"))
    path.symlink_to("/dev/full")
    return path


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "evaluations.jsonl"])
def test_records_wait_for_a_full_disk(name, make_run, capsys, no_curves):
    run = make_run(num_steps=9)
    write = {
        "metrics.jsonl": lambda step: run.log(step, {"a": step}),
        "samples.jsonl": lambda step: run.log_samples(step, some_samples(1), some_entropy(1)),
        "evaluations.jsonl": lambda step: run.log_evaluation(step, {"right": [1, 0]}),
    }[name]
    write(1)
    path = fill(run, name)
    write(2)
    write(3)
    path.unlink()
    path.with_name(f"{name}.before").rename(path)
    write(4)
    assert [record["step"] for record in read_lines(path)] == [1, 2, 3, 4]
    out = capsys.readouterr().out
    assert out.count(f"warning: {path} cannot be written (No space left on device)") == 1
    assert out.count("can be written again; the lines that waited (2)") == 1
    run.finish()


def test_records_that_never_could_be_written_end_in_an_error(make_run, capsys, no_curves):
    run = make_run(num_steps=1)
    fill(run, "metrics.jsonl")
    run.log(1, {"a": 1})
    with pytest.raises(SystemExit) as stop:
        run.finish()
    assert stop.value.code == 1 and "1 lines of" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [100, 130, 150])
def test_half_a_line_is_taken_back(limit, make_run):
    """The kernel writes what there is room for."""
    run = make_run(num_steps=9)
    run.log(1, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        run.log(2, {"text": 2.0} | {f"key-{i}": i for i in range(20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [record["step"] for record in read_lines(run.directory / "metrics.jsonl")] == [1]
    run.log(3, {"a": 1})
    assert [record["step"] for record in read_lines(run.directory / "metrics.jsonl")] == [1, 2, 3]


def test_a_directory_that_was_removed_comes_back(make_run, capsys, no_curves):
    """With the arguments, so that the run can be resumed."""
    run = make_run(num_steps=9)
    run.log(1, {"a": 1})
    shutil.rmtree(run.directory)
    run.log(2, {"a": 1})
    run.save(2)
    assert [record["step"] for record in read_lines(run.directory / "metrics.jsonl")] == [2]
    assert "args.json was gone" in capsys.readouterr().out
    assert make_run(num_steps=9, resume=str(run.directory)).first_step == 3


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), ValueError("font"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")]
)
def test_curves_that_cannot_be_drawn_are_said_once(error, make_run, monkeypatch, capsys):
    monkeypatch.setattr(common.records, "draw_curves", lambda *_: (_ for _ in ()).throw(error))
    run = make_run(num_steps=2)
    for step in run.steps():
        run.log(step, {"eval/pass@1": 0.5})
    run.finish()
    assert capsys.readouterr().out.count("curves.png cannot be drawn") == 1


@pytest.mark.parametrize("name", ["args.json", "env.json", "metrics.jsonl", "samples.jsonl", "evaluations.jsonl"])
def test_a_disk_that_is_full_at_the_start(name, make_run, monkeypatch, tmp_path):
    write = common.records.write_whole
    monkeypatch.setattr(
        common.records, "write_whole", lambda path, text: refuse() if path.name == name else write(path, text)
    )
    with pytest.raises(common.InputError, match="Disk quota exceeded"):
        make_run()
    assert list(tmp_path.iterdir()) == []


# --- One process, one directory ---------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from common import lock
lock.take(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[Callable[[Path], subprocess.Popen]]:
    """Another process that has the lock of a directory."""
    started = []

    def start(directory: Path) -> subprocess.Popen:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", HOLDER, str(directory)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "taken\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_directory_has_one_process(make_run, holder, monkeypatch):
    run = make_run(num_steps=9)
    run.save(1)
    lock.release()
    other = holder(run.directory)
    before = sorted(run.directory.iterdir())
    for _ in range(2):
        with pytest.raises(common.InputError, match=rf"being written by process {other.pid} on {platform.node()}"):
            make_run(num_steps=9, resume=str(run.directory))
    assert sorted(run.directory.iterdir()) == before
    other.kill()
    other.wait()  # leaves its file behind
    assert (run.directory / ".lock").exists()
    make_run(num_steps=9, resume=str(run.directory))


def test_two_processes_that_both_saw_no_lock(make_run, holder):
    """One is faster between the first look and the start."""
    run = make_run(num_steps=9)
    run.save(1)
    lock.release()
    second = Run("grpo", Args(resume=str(run.directory), output_dir=str(run.directory), num_steps=9))
    holder(run.directory)
    with pytest.raises(common.InputError, match="being written by process"):
        second.start(StubPolicy(), SimpleNamespace(cursor=0))


def test_a_run_that_went_on_meanwhile(make_run):
    run = make_run(num_steps=9)
    run.save(1)
    lock.release()
    second = Run("grpo", Args(resume=str(run.directory), output_dir=str(run.directory), num_steps=9))
    run.save(2)
    with pytest.raises(common.InputError, match="another process has just gone on with it"):
        second.start(StubPolicy(), SimpleNamespace(cursor=0))


def no_locks(*_) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({}, False),
        ({"began": "another boot 1"}, True),  # its number is another process's now
        ({"pid": 2**22 + 1, "began": "x"}, True),
        ({"host": "elsewhere"}, False),  # cannot be asked
        ({"host": "elsewhere", "began": "x"}, False),
    ],
)
def test_a_file_system_without_locks(change, free, monkeypatch, tmp_path):
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    (tmp_path / ".lock").write_text(json.dumps(lock.this_process() | change))
    with (
        contextlib.nullcontext() if free else pytest.raises(common.InputError, match=r"remove \S+/\.lock if it is gone")
    ):
        lock.take(tmp_path)
    lock.release()
    assert (tmp_path / ".lock").exists() != free


def test_a_free_lock_of_another_host_is_said(tmp_path, capsys):
    (tmp_path / ".lock").write_text(json.dumps(lock.this_process() | {"host": "elsewhere", "pid": 7}))
    lock.take(tmp_path)
    lock.release()
    assert capsys.readouterr().err.startswith("warning: process 7 on elsewhere has not closed")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": 1}', "\0\0"])
def test_a_damaged_lock_holds_nobody_up(text, tmp_path):
    (tmp_path / ".lock").write_text(text)
    lock.take(tmp_path)
    lock.release()


# --- Run and Timer --------------------------------------------------------------------------------------------------


def test_numbers_that_do_not_exist_become_null(make_run):
    run = make_run(num_steps=9)
    run.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5, "e": 3})
    assert read_lines(run.directory / "metrics.jsonl") == [
        {"step": 1, "a": None, "b": None, "c": None, "d": 0.5, "e": 3}
    ]


@pytest.mark.parametrize(("rows", "most"), [(2, 4), (4, 4), (64, 4), (65, 4), (6, 3)])
def test_samples_are_few_and_spread(rows, most, make_run):
    run = make_run(num_steps=9)
    run.records.log_samples(1, some_samples(rows), some_entropy(rows), most)
    records = read_lines(run.directory / "samples.jsonl")
    assert 1 <= len(records) <= most
    picked = [int(record["prompt"]) for record in records]
    assert picked == sorted(set(picked)) and picked[-1] >= rows // 2


def some_samples(rows: int) -> list[Sample]:
    verdict, response = Verdict(0.0, "no_answer", None), Response([65, 256], [-1.0, -1.0], False)
    return [Sample(Problem(str(row), "2", "id", "math"), [49], response, "A", verdict) for row in range(rows)]


def some_entropy(rows: int, value: float = 1.5) -> dict:
    return {"entropy": torch.full((rows, 2), value), "mask": torch.ones(rows, 2, dtype=torch.bool)}


def test_sample_without_finite_entropy_is_still_json(make_run):
    run = make_run(num_steps=9)
    run.log_samples(1, some_samples(1), some_entropy(1, math.nan))
    [record] = read_lines(run.directory / "samples.jsonl")
    assert record["entropy"] is None


def test_hostile_text_in_samples_stays_on_one_line(make_run):
    """Line separators, control characters and half a surrogate pair are what models write."""
    run = make_run(num_steps=9)
    [sample] = some_samples(1)
    text = "a\nb\r\u2028\x85\x00\ud800\x1b[31m"
    run.log_samples(1, [dataclasses.replace(sample, text=text)], some_entropy(1))
    [record] = read_lines(run.directory / "samples.jsonl")
    assert record["response"] == text


@pytest.mark.parametrize(
    ("every", "num_steps", "due"),
    [(0, 5, []), (1, 3, [0, 1, 2, 3]), (2, 5, [0, 2, 4, 5]), (10, 3, [0, 3])],
)
def test_when_a_run_evaluates_and_saves(every, num_steps, due, make_run):
    """Every so many steps and at the end; it evaluates before the first step too, and saves at the end in any case."""
    run = make_run(num_steps=num_steps, eval_every=every, save_every=every)
    assert [step for step in range(num_steps + 1) if run.evaluates(step)] == due
    steps = range(1, num_steps + 1)
    assert [step for step in steps if run.saves(step)] == sorted({*due, num_steps} - {0})
    run.fail("it cannot go on")
    assert all(run.saves(step) for step in steps)


def test_a_resumed_run_does_not_evaluate_before_its_first_step(make_run):
    run = make_run(num_steps=9, eval_every=1)
    run.save(2)
    again = make_run(num_steps=9, eval_every=1, resume=str(run.directory))
    assert not again.evaluates(0) and again.evaluates(3)


def test_checkpoints_stand_in_the_order_of_their_steps(tmp_path):
    """By name step-1000000 comes before step-999999: the newest would be the one that is deleted."""
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        (tmp_path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    assert [path.name for path in checkpoints_of(tmp_path)][-2:] == ["step-1000000", "step-1000001"]


def test_skipped_updates_are_counted_across_a_resume(make_run, capsys):
    warn_once.cache_clear()
    run = make_run(num_steps=9)
    for norm in (math.nan, math.inf, 0.0, 1.5, math.nan, math.nan):
        run.count_update(norm)
        assert not run.ends(1)
    assert capsys.readouterr().err.count("skipped an update") == 1
    run.save(1)  # the two are not forgotten
    again = make_run(num_steps=9, resume=str(run.directory))
    again.count_update(-math.inf)
    assert again.ends(2) and "three updates in a row" in again.failure


def test_steps_stop_after_the_step_in_which_a_signal_came(make_run, capsys):
    run, done = make_run(num_steps=9), []
    with pytest.raises(SystemExit) as stop:
        for step in run.steps():
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            done.append(step)
            assert run.ends(step) == (step == 3)
        run.finish()
    assert done == [1, 2, 3] and stop.value.code == 143
    out = capsys.readouterr().out
    assert "SIGTERM: finishing this step" in out and f"--resume {run.directory}" in out


def test_a_signal_while_the_ranks_talk_is_not_lost(make_run, monkeypatch):
    """All ranks have to stop after the same step: a signal that one has told no other of yet waits for the next one."""
    run = make_run(num_steps=9)

    def largest(value: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return value

    with monkeypatch.context() as patch:
        patch.setattr("common.run.ranks.largest", largest)
        assert not run.ends(1)
    assert run.ends(2)


def test_second_signal_stops_at_once(make_run, monkeypatch):
    monkeypatch.setattr(common.signals, "SAME", 0.0)  # else it takes a second, within which both are one request
    run = make_run(num_steps=9)
    with pytest.raises(SystemExit) as stop:
        for _ in run.steps():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the step went on")
    assert stop.value.code == 130


def test_failure_ends_the_run(make_run, capsys):
    run = make_run(num_steps=9)
    with pytest.raises(SystemExit) as stop:
        for step in run.steps():
            run.fail("it cannot go on")
            assert run.ends(step)
        run.finish()
    assert stop.value.code == 1 and capsys.readouterr().err == "error: it cannot go on\n"


def test_runs_that_start_together_do_not_share_a_directory(tmp_path, monkeypatch, make_run):
    """As when a shell loop starts the same seed with several learning rates in the background."""
    monkeypatch.chdir(tmp_path)
    runs = [Run("grpo", Args(learning_rate=rate)) for rate in (1e-4, 3e-4)]
    runs[1].directory = runs[0].directory  # the same second
    for run in runs:
        run.start(StubPolicy(), SimpleNamespace(cursor=0))
        run.log(1, {"a": 1})
        run.signals.close()
    assert runs[1].directory.name == f"{runs[0].directory.name}-2"
    recorded = [json.loads((run.directory / "args.json").read_text())["learning_rate"] for run in runs]
    assert recorded == [1e-4, 3e-4]


def test_a_default_name_is_never_too_long(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run("grpo", Args(task=f"/data/{'é' * 200}.jsonl"))


def test_environment_without_git(monkeypatch, tmp_path):
    """Slim containers have none; a tarball of the sources is no repository either."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["commit"] is None


def test_only_a_changed_program_makes_a_commit_dirty(tmp_path):
    def git(*words: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *name, *words], check=True, capture_output=True)

    (tmp_path / "algos").mkdir()
    (tmp_path / "algos" / "a.py").write_text("1")
    (tmp_path / "table.csv").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "a")
    clean = commit_of(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "table.csv").write_text("2")
    (tmp_path / "own.py").write_text("not tracked")
    assert commit_of(tmp_path) == clean
    (tmp_path / "algos" / "a.py").write_text("2")
    assert commit_of(tmp_path) == f"{clean}-dirty"


def test_bad_input_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_bad_input():
        raise common.InputError("first\n  second\tthird")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: first second third\n"


# --- Flags ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Flags(Args):
    wrong_reward: Signed = -1.0
    """reward of a wrong answer"""
    share: Annotated[float, Range(-1, 1)] = 0.0
    count: Annotated[int, Range(low=-3)] | None = None
    plain: float = 0.0


def test_flags_with_a_range_are_parsed_like_any_other(capsys):
    args = tyro.cli(Flags, args=["--wrong-reward", "-0.5", "--share=-1", "--count", "-2"])
    assert (args.wrong_reward, args.share, args.count, args.plain) == (-0.5, -1.0, -2, 0.0)
    with pytest.raises(SystemExit):
        tyro.cli(Flags, args=["--help"])
    shown = [" ".join(line.strip("│ ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "--wrong-reward FLOAT reward of a wrong answer (default: -1.0)" in shown
    assert "--share FLOAT (default: 0.0)" in shown and "--count {None}|INT (default: None)" in shown
    with pytest.raises(SystemExit):
        tyro.cli(Flags, args=["--share", "half"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"wrong_reward": -1e9, "share": -1.0, "count": -3}, None),
        ({"wrong_reward": 1e9, "share": 1.0, "count": 10**400}, None),
        ({"wrong_reward": math.nan}, "--wrong-reward is nan; it must be a finite number"),
        ({"wrong_reward": -math.inf}, "--wrong-reward is -inf; it must be a finite number"),
        ({"share": -1.01}, "--share is -1.01; it must be a finite number, at least -1, at most 1"),
        ({"share": 2.0}, "--share is 2.0; it must be a finite number, at least -1, at most 1"),
        ({"count": -4}, "--count is -4; it must be a finite number, at least -3"),
        ({"plain": -0.1}, "--plain is -0.1; it must be a finite number, 0 or more"),
        ({"temperature": 0.0}, "--temperature is 0.0; it must be a finite number, greater than 0"),
    ],
)
def test_a_flag_is_held_to_its_range(changes, message):
    if message is None:
        check_args(Flags(**changes))
        return
    with pytest.raises(common.InputError) as error:
        check_args(Flags(**changes))
    assert str(error.value) == message


# --- Small things -----------------------------------------------------------------------------------------------------


def test_timer():
    timer = Timer()
    for _ in range(2):
        with timer("rollout"):
            time.sleep(0.02)
    times = timer.pop()
    assert times.keys() == {"time/rollout", "time/step"}
    assert 0.04 <= times["time/rollout"] <= times["time/step"]
    assert timer.pop().keys() == {"time/step"}  # starts afresh


@pytest.mark.parametrize(("before", "now"), [(None, "0.32"), ("0.32", None), ("0.31", "0.32"), (None, None)])
def test_a_resumed_run_with_another_sampler_says_so(before, now, make_run, monkeypatch, capsys):
    """Also where auto chose on another machine."""
    for version, resume in ((before, None), (now, "run")):
        module = SimpleNamespace(__version__=version) if version else None
        monkeypatch.setitem(sys.modules, "vllm", module) if module else monkeypatch.delitem(sys.modules, "vllm", False)
        if resume is None:
            run = make_run(num_steps=9)
            run.save(1)
            capsys.readouterr()
        else:
            make_run(num_steps=9, resume=str(run.directory))
    assert ("another objective" in capsys.readouterr().err) == (bool(before) != bool(now))


def test_random_seed_is_fixed_across_processes_and_spread():
    """Pinned: another value would make a run that is resumed elsewhere another run."""
    assert random_seed(1, 2) == 5673316911369133891
    seeds = {random_seed(seed, step) for seed in range(100) for step in range(100)}
    assert len(seeds) == 10_000 and all(0 <= seed < 2**63 for seed in seeds)


def test_dense_line():
    latest = {"rollout/reward": 0.25, "policy/entropy": 1.0, "rollout/response_length": 12.34, "policy/loss": 9.0}
    assert dense_line(latest) == "reward 0.250  entropy 1.000  length 12.3"
    rates = {"eval/pass@1": 0.1, "eval/pass@1_low": 0.0, "eval/pass@2": 0.2, "eval/pass@16": 0.3, "eval/avg@16": 0.1}
    assert dense_line(rates) == "pass@1 0.100  pass@16 0.300"
    assert dense_line({}) == ""


# --- Terminal and tracker ---------------------------------------------------------------------------------------------


def test_bar_on_a_terminal(make_run, no_curves):
    out = io.StringIO()
    run = make_run(console=Console(force_terminal=True, file=out, width=100), num_steps=2)
    run.log(0, pass_metrics(np.array([1, 0]), 2))
    for step in run.steps():
        run.log(step, {"rollout/reward": 0.5})
        run.log_samples(step, some_samples(1), some_entropy(1))
        run.save(step)
        run.ends(step)
    run.finish()
    text = out.getvalue()
    assert "2/2" in text and "reward 0.500" in text and "pass@1 0.250  pass@2 0.500" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is shown again


def test_interrupting_twice_on_a_terminal(tmp_path, tiny_checkpoint, task):
    """A real terminal: a bar, a word on the first Ctrl-C, an end on the second, and the cursor is back."""
    options = {"model": tiny_checkpoint, "task": task, "output-dir": tmp_path / "run", "eval-every": 0}
    long = {"num-prompts": 64, "num-generations": 64, "max-response-length": 100, "num-minibatches": 64}
    command = [sys.executable, str(SCRIPT), *flags(FAST | options | long)]
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown = b""

    def read_until(wanted: bytes) -> None:
        nonlocal shown
        end = time.monotonic() + 120
        while wanted not in shown and time.monotonic() < end:
            if select.select([master], [], [], 1)[0]:
                try:
                    shown += os.read(master, 65536)
                except OSError:  # the other side is closed
                    break
        assert wanted in shown, shown.decode()

    try:
        read_until(b"0/3")
        process.send_signal(signal.SIGINT)
        read_until(b"finishing this step")
        time.sleep(common.signals.SAME + 0.1)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - started < 10
        read_until(b"\x1b[?25h")
    finally:
        process.kill()
        os.close(master)
    assert b"Traceback" not in shown
    assert checkpoints(tmp_path / "run") == [] and (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_tracker_gets_what_exists(monkeypatch, make_run, no_curves):
    """Against a stand-in: what is sent, under which name, and that an account is never asked for."""
    calls = []
    tracker = SimpleNamespace(log=lambda *a, **k: calls.append((a, k)), finish=lambda: calls.append("finish"))
    wandb = SimpleNamespace(init=lambda **k: calls.append(k) or tracker, login=lambda prompt: False)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = make_run(num_steps=2, track=True, wandb_project_name="mine")
    run.log(1, {"a": 0.5, "b": math.nan})
    run.finish()
    assert calls[0]["mode"] == "offline" and calls[0]["project"] == "mine" and calls[0]["name"] == "run"
    assert calls[0]["config"]["num_steps"] == 2 and calls[0]["dir"] == str(run.directory)
    assert calls[1:] == [(({"a": 0.5},), {"step": 1}), "finish"]


@pytest.mark.parametrize(
    "name", ["run", "lr=1e-4,seed=1", "a b", "x" * 200, "a:b;c#d?e'f", "é∑", " run ", "\udcff", "-", "a\nb"]
)
def test_any_directory_has_an_id_that_wandb_takes(name):
    settings = pytest.importorskip("wandb").Settings
    chosen = run_id(name)
    assert settings(run_id=chosen).run_id == chosen and len(chosen) <= 64
    assert chosen == run_id(name) != run_id(f"{name}!")  # a resumed run's is the same


@pytest.mark.parametrize(
    "project",
    ["a/b", "team/project/x", "a:b", "100%", "a?b", "a#b", "a\\b", "x" * 129, "", "  ", " a", "a\nb", "a\x00"],
)
def test_a_project_that_wandb_refuses_is_refused_before_anything_is_written(
    project, train, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    assert train({"wandb-project-name": project}, "--track") == 2
    assert capsys.readouterr().err.startswith("error: --wandb-project-name")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("project", ["entropy", "my project", "x" * 128, "a.b-c_d=1", "é"])
def test_a_project_that_wandb_takes(project):
    check_project(project)
    assert pytest.importorskip("wandb").Settings(project=project).project == project


@pytest.mark.parametrize("call", ["login", "init"])
def test_a_tracker_that_cannot_start_leaves_nothing(call, make_run, monkeypatch, tmp_path):
    wandb = SimpleNamespace(init=lambda **k: None, login=lambda prompt: False)
    setattr(wandb, call, lambda **_: (_ for _ in ()).throw(RuntimeError("permission denied")))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(common.InputError, match="permission denied"):
        make_run(track=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["log", "finish"])
def test_a_tracker_that_fails_ends_alone(call, make_run, monkeypatch, capsys, no_curves):
    tracker = SimpleNamespace(log=lambda *a, **k: None, finish=lambda: None)
    setattr(tracker, call, lambda *a, **k: (_ for _ in ()).throw(BrokenPipeError("service is gone")))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **k: tracker, login=lambda prompt: False))
    run = make_run(num_steps=2, track=True)
    for step in run.steps():
        run.log(step, {"a": 0.5})
    run.finish()
    assert capsys.readouterr().out.count("Weights & Biases gets nothing more (BrokenPipeError: service is gone)") == 1
    assert len(read_lines(run.directory / "metrics.jsonl")) == 2


def test_tracking_offline(train, tmp_path, monkeypatch):
    """With the real library and no account: it neither asks nor needs the network."""
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert train({"num-steps": 2, "eval-every": 1}, "--track") == 0
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 3


# --- Evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n):
    for right, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([1] * right + [0] * (n - right), k))
        share = sum(any(subset) for subset in subsets) / len(subsets)
        assert pass_at_k(n, np.array([right]), k)[0] == pytest.approx(share, abs=1e-12), (n, right, k)


def test_pass_at_k_of_many_samples():
    right = np.arange(1025)
    for k in (1, 2, 32, 1024):
        values = pass_at_k(1024, right, k)
        assert values[0] == 0 and values[-1] == 1 and (np.diff(values) >= 0).all()
        exact = [1 - math.comb(1024 - r, k) / math.comb(1024, k) for r in (1, 10, 500)]
        assert values[[1, 10, 500]] == pytest.approx(exact, abs=1e-12)


def test_bootstrap_interval():
    values = np.random.default_rng(0).random(64)
    low, high = bootstrap_interval(values)
    assert values.min() < low < values.mean() < high < values.max()
    error = values.std() / math.sqrt(len(values))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)  # the normal approximation
    assert bootstrap_interval(values) == (low, high) and bootstrap_interval(values, seed=1) != (low, high)
    narrow = bootstrap_interval(np.tile(values, 16))
    assert narrow[1] - narrow[0] == pytest.approx((high - low) / 4, rel=0.1)
    assert bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)
    assert bootstrap_interval(np.array([0.5])) == (0.5, 0.5)


@pytest.mark.parametrize(("n", "ks"), [(32, [1, 2, 4, 8, 16, 32]), (6, [1, 2, 4, 6]), (1, [1])])
def test_pass_metrics(n, ks):
    right = np.random.default_rng(0).integers(0, n + 1, 20)
    metrics = pass_metrics(right, n)
    names = [f"eval/avg@{n}", *(f"eval/pass@{k}" for k in ks)]
    assert list(metrics) == [name + end for name in names for end in ("", "_low", "_high")]
    assert metrics[f"eval/avg@{n}"] == metrics["eval/pass@1"] == pytest.approx(right.mean() / n)
    assert metrics[f"eval/pass@{n}"] == (right > 0).mean()
    rates = [metrics[f"eval/pass@{k}"] for k in ks]
    assert rates == sorted(rates)
    for name in names:
        assert type(metrics[name]) is float and metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
