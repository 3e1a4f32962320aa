"""benchmarks.collapse: which runs there are and in which order, how one is made, kept, resumed, and never repeated."""

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmarks import collapse
from benchmarks.collapse import ARMS, METHODS, Args, decode, encode, short
from benchmarks.methods import Arm
from tests import sync
from tests.algorithms.oracle import grads_of, load, random_batch

ROOT = Path(__file__).resolve().parents[1]
TINY = {"num_prompts": 4, "num_generations": 2, "eval_problems": 3, "eval_samples": 4, "save_every": 1}


# --- What is to be run ------------------------------------------------------------------------------------------------


def test_every_file_and_control_is_in_one_tier() -> None:
    arms = [arm for tier in collapse.TIERS.values() for arm in tier]
    assert sorted(arms) == sorted(ARMS) and {*sync.algorithms()} <= {*arms}
    assert {METHODS[name].family for name in collapse.TIERS["families"]} == {
        record.family for name, record in METHODS.items() if name not in collapse.FIRST
    }


def test_order_and_seeds() -> None:
    """Seed by seed: first methods, controls, one of each family, the rest, then on-policy; five seeds or three."""
    order = [one for part in collapse.rounds(Args()) for one in part]
    assert len(set(order)) == len(order)
    assert [arm for _, arm, _ in order[:8]] == collapse.FIRST
    assert {regime for regime, _, _ in order[: len(ARMS)]} == {"off-policy"} and order[len(ARMS)][0] == "on-policy"
    assert [seed for _, _, seed in order] == sorted(seed for _, _, seed in order)
    seeds = {arm: [s for r, a, s in order if a == arm and r == "off-policy"] for arm in ARMS}
    assert seeds["nsr"] == seeds["grpo, random reward"] == [1, 2, 3, 4, 5] and seeds["vapo"] == [1, 2, 3]
    assert [s for r, a, s in order if (r, a) == ("on-policy", "grpo, mixed groups")] == [1, 2, 3]
    at_one_update = {a for r, a, _ in order if r == "on-policy"}
    assert at_one_update == {*collapse.FIRST, "grpo, mixed groups", "grpo, token mean", "forking_tokens, a fifth"}
    assert {ARMS[arm][1].base for arm in at_one_update if arm != "grpo"} <= at_one_update
    assert [a for g, a, s in order if (g, s) == ("from-grpo", 3)] == collapse.STARTED
    assert [(a, s) for g, a, s in order if g == "causes"] == [(arm, 1) for arm in collapse.CAUSES]
    few = collapse.rounds(Args(only=("families",), seeds=(7,)))
    assert few == [[("off-policy", arm, 7) for arm in collapse.TIERS["families"]]]


def test_every_arm_has_a_base_and_every_method_says_what_shows_it_active() -> None:
    shared = "".join(path.read_text() for path in (ROOT / "common").glob("*.py"))
    for name, (script, arm) in ARMS.items():
        assert (arm.base in ARMS and arm.base != name) or name == "grpo"
        known = re.findall(r'"((?:algo|policy|rollout)/[^"]+)"', sync.read(script) + shared)
        patterns = [re.sub(r"\\{\w+\\}", r"\\w+", re.escape(key)) for key in known]
        for key in METHODS[script].active:
            assert any(re.fullmatch(pattern, key) for pattern in patterns), (name, key)


def test_flags_of_every_run_are_those_of_its_script() -> None:
    """And differ from those of its base as its record says, and in nothing else."""
    for arm, (script, one) in collapse.EVERY.items():
        fields = {f.name: f for f in dataclasses.fields(importlib.import_module(f"algos.{script}").Args)}
        knob, values = collapse.knob_of(arm)
        flags = dict(collapse.flags_of(arm, "off-policy", collapse.HORIZON, {knob: values[0]} if knob else {}))
        assert flags.keys() <= fields.keys()
        regime = collapse.REGIMES["on-policy" if METHODS[script].one_update else "off-policy"]
        assert flags["learning_rate"] == one.flags.get("learning_rate", regime["learning_rate"])
        assert ("num_minibatches" in flags) != METHODS[script].one_update
        shared = {*collapse.SIZE, *collapse.HORIZON, *regime}
        assert flags.keys() - shared == {*one.flags, *([knob] if knob else [])} - shared
        if arm in collapse.CAUSES:
            changed = {*one.flags} - {"clip_ratio_high"} - ({*collapse.NSR_TIMES_TEN} if script != one.base else set())
            assert one.base in METHODS and len(changed) == 1
        for key, value in [*one.flags.items(), *((knob, value) for value in values)]:
            assert type(value) is type(fields[key].default), (arm, key)


@pytest.mark.parametrize("weight", [0.05, 0.5])
def test_the_kl_that_nsr_is_given_is_nothing_but_a_kl(weight: float) -> None:
    """Ten times the gradient of NSR, as it is tuned, with a KL to the initial policy; and ten times the bound on it."""
    script, one = collapse.CAUSES[f"nsr, KL {weight}"]
    (nsr, usual), (other, args) = load("nsr", **collapse.tuned(Args(), "nsr")), load(script, **one.flags)
    assert one.base == "nsr" and args.max_grad_norm == 10 * usual.max_grad_norm
    batch, logprobs, entropy = random_batch(0)
    nsr.assign_credit(batch, usual, {})
    loss, _ = nsr.policy_loss(logprobs, entropy, batch, usual)
    gap = batch["ref_logprobs"] - logprobs
    loss = loss + weight * (gap.exp() - gap - 1)[batch["mask"]].mean()  # k3
    (expected,) = torch.autograd.grad(10 * loss, logprobs)
    other.assign_credit(batch, args, {})
    torch.testing.assert_close(grads_of(other, args, batch, logprobs, entropy)[1][0], expected, rtol=1e-12, atol=1e-12)


def write_tuning(args: Args, arm: str, scores: dict) -> None:
    for job in collapse.tuning_jobs(args, [arm]):
        score = scores.get(dict(job.flags)[collapse.knob_of(arm)[0]])
        if score is not None:
            job.file(args).parent.mkdir(parents=True, exist_ok=True)
            record = {"ended": score if isinstance(score, str) else None, "evaluations": [{"pass@1": score}]}
            job.file(args).write_text(json.dumps(record))


def test_the_better_value_is_kept_and_controls_share_it(tmp_path: Path) -> None:
    args = Args(rows=tmp_path)
    with pytest.raises(LookupError, match=r"tuning/kl_cov-kl_cov_ratio=0\.02-s101"):
        collapse.main_job(args, "off-policy", "kl_cov", 1)
    write_tuning(args, "kl_cov", {0.02: 0.3, 0.1: 0.35})
    for arm in ("kl_cov", "kl_cov, random selection", "kl_cov, annealed"):
        assert dict(collapse.main_job(args, "off-policy", arm, 1).flags)["kl_cov_ratio"] == 0.1
    write_tuning(args, "nsr", {0.1: 0.2, 0.3: "error: no finite loss"})
    assert collapse.tuned(args, "nsr") == {"positive_weight": 0.1}
    assert collapse.tuned(args, "nsr, wrong alone") == collapse.tuned(args, "grpo") == {}
    assert not [one for one in collapse.tuning_jobs(args, ARMS) if one.seed in range(1, 6)]


# --- What is kept -----------------------------------------------------------------------------------------------------


def test_numbers_of_a_file() -> None:
    assert decode(encode([*range(79)])) == [*range(79)] and encode([0, 9, 64]) == "09p"
    with pytest.raises(ValueError, match="78"):
        encode([79])
    assert [short(v) for v in (0.123456, 123456.0, 3.0, float("nan"), None, 1e-7)] == [
        0.1235,
        123500,
        3,
        None,
        None,
        1e-7,
    ]


def test_a_window_is_a_mean_of_what_is_known() -> None:
    assert collapse.mean([1.0, None, 2.0]) == 1.5 and collapse.mean([None]) is None


# --- Running ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Args:
    """Runs of two steps of one small arm, without a knob."""
    monkeypatch.setattr(collapse, "SIZE", TINY)
    monkeypatch.setattr(collapse, "HORIZON", {"num_steps": 2, "eval_every": 1})
    monkeypatch.setitem(collapse.REGIMES, "off-policy", {"num_minibatches": 2, "learning_rate": 1e-4})
    monkeypatch.setitem(ARMS, "entropic", ("entropic", Arm(flags={"kp": 2.0})))
    place = {"work": tmp_path / "work", "rows": tmp_path / "rows"}
    return Args(arms=("entropic",), seeds=(3,), regimes=("off-policy",), num_steps=2, **place)


def test_a_run_becomes_a_file_and_is_not_repeated(tiny: Args, capsys, monkeypatch) -> None:
    collapse.main(tiny)
    path = tiny.rows / "off-policy" / "entropic-s3.json"
    assert [*tiny.rows.rglob("*.*")] == [path] and not [*tiny.work.rglob("*.*")]
    record = json.loads(path.read_text())
    assert record["arm"] == "entropic" and record["base"] == "grpo" and record["seed"] == 3
    assert record["flags"]["kp"] == 2.0 and record["flags"]["num_prompts"] == 4
    assert record["steps"] == 2 and record["ended"] is None and record["commit"] and record["cpu_seconds"] >= 1
    training = record["training"]
    assert training["step"] == [2] and training["samples"] == [16] and 0 < training["entropy"][0] < 1
    assert {*record["active"]} <= {*training} and training["algo/alpha"][0] is not None
    assert [one["step"] for one in record["evaluations"]] == [0, 1, 2]
    totals = decode(record["total"])
    for one in record["evaluations"]:
        right, distinct = decode(one["right"]), decode(one["distinct"])
        assert len(right) == len(distinct) == len(totals) == 3 and max(right) <= 4
        assert one["pass@1"] == one["avg@4"] == pytest.approx(sum(right) / 12, abs=1e-4)
        share = sum(found / total for found, total in zip(distinct, totals, strict=True)) / 3
        assert one["coverage"] == pytest.approx(share, abs=1e-4)
        assert not [key for key in one if key.endswith("_low")]
    assert path.stat().st_size < 2500
    capsys.readouterr()
    monkeypatch.setattr(collapse, "run", lambda *_: pytest.fail("made a second time"))
    collapse.main(tiny)
    assert "1 runs are kept" in capsys.readouterr().out


def test_lists_that_wait_for_no_tuning_go_side_by_side_and_nothing_is_made_twice(tiny: Args, monkeypatch) -> None:
    """One arm of each of two tiers, whose runs meet; OPO's stand in both regimes and are made once."""
    made, both = [], threading.Barrier(2, timeout=60)

    def run(args: Args, one: collapse.Job) -> str:
        made.append(one.name)
        if one.seed == 3 and one.arm != "opo":
            both.wait()
        return "done"

    monkeypatch.setattr(collapse, "run", run)
    arms = ("entropic", "grpo, mixed groups")
    collapse.main(dataclasses.replace(tiny, arms=arms))
    assert sorted(made) == ["off-policy/entropic-s3", "off-policy/grpo-mixed-groups-s3"]
    made.clear()
    collapse.main(dataclasses.replace(tiny, arms=("opo",), regimes=tuple(collapse.REGIMES)))
    assert made == ["on-policy/opo-s3"]


def test_a_stopped_run_goes_on_from_its_checkpoint(tiny: Args) -> None:
    one = collapse.main_job(tiny, "off-policy", "entropic", 3)
    directory = tiny.work / one.name
    command, begun = collapse.command_of(one, directory)
    assert begun == 0 and command[-2:] == ["--output-dir", str(directory)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not [*directory.glob("checkpoints/step-*")] and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() in (0, 143)
    assert collapse.command_of(one, directory)[0][2:] == ["--resume", str(directory)]
    assert collapse.run(tiny, one).endswith("CPU seconds unknown: resumed")
    record = json.loads(one.file(tiny).read_text())
    assert record["steps"] == 2 and record["resumed_at"] in (1, 2) and record["cpu_seconds"] is None
    assert record["training"]["samples"] == [16] and [e["step"] for e in record["evaluations"]] == [0, 1, 2]


def test_runs_from_grpo_begin_at_its_first_good_checkpoint(tiny: Args, monkeypatch) -> None:
    """Which is found once, by its record; a run from it that was stopped is known again."""
    args = dataclasses.replace(tiny, arms=("grpo",), regimes=("from-grpo",), seeds=(1,))
    monkeypatch.setattr(collapse, "ENOUGH", 2.0)
    with pytest.raises(SystemExit, match=r"no evaluation in 2 steps has pass@1 of 2\.0"):
        collapse.main(args)
    assert not [*args.rows.rglob("*.json")]
    monkeypatch.setattr(collapse, "ENOUGH", 0.0)
    collapse.make_start(args)  # goes on where it was
    gone_on = json.loads((args.rows / "from-grpo" / "grpo-start-s201.json").read_text())
    assert gone_on["steps"] == gone_on["flags"]["num_steps"] == 2
    (args.rows / "from-grpo" / "grpo-start-s201.json").unlink()
    args = dataclasses.replace(args, work=tiny.work / "anew")
    collapse.main(args)
    start, one = (
        json.loads((args.rows / "from-grpo" / name).read_text()) for name in ("grpo-start-s201.json", "grpo-s1.json")
    )
    assert start["seed"] == collapse.START_SEED and start["setting"] == "start" and start["steps"] == 1
    assert one["group"] == "from-grpo" and one["setting"] == "" and one["steps"] == 2
    where = Path(one["flags"]["model"])
    assert where.name == "step-000001" and where.is_dir()
    file = args.rows / "from-grpo" / "grpo-start-s201.json"
    file.write_text(json.dumps(start | {"steps": 2}))  # of a run that went further: the same name, another policy
    with pytest.raises(LookupError, match="not there yet"):
        collapse.main_job(args, "from-grpo", "grpo", 1)
    file.write_text(json.dumps(start))
    job = collapse.main_job(args, "from-grpo", "grpo", 1)
    directory = args.work / job.name
    (directory / "checkpoints" / "step-000001").mkdir(parents=True)
    (directory / "args.json").write_text(json.dumps({"seed": 1} | dict(job.flags) | {"model": f"/repository/{where}"}))
    assert collapse.command_of(job, directory)[1] == 1
    assert collapse.named(ROOT / "runs" / "x") == "runs/x"


def test_runs_from_two_starts_are_not_mixed(tiny: Args, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on another processor, whose GRPO has other evaluations; where no run has begun yet, the new one is kept."""
    args = dataclasses.replace(tiny, arms=("grpo",), regimes=("from-grpo",), seeds=(1,))
    monkeypatch.setattr(collapse, "ENOUGH", 0.0)
    collapse.make_start(args)
    file = collapse.start_job(args, 0).file(args)
    kept = json.loads(file.read_text())
    other = json.dumps(kept | {"evaluations": kept["evaluations"][:1]})
    file.write_text(other)
    collapse.make_start(args)
    assert json.loads(file.read_text()) == kept
    file.with_name("grpo-s1.json").write_text("{}")
    collapse.make_start(args)  # the same once more
    file.write_text(other)
    with pytest.raises(SystemExit, match=r"not the run whose checkpoint the 1 others in .*from-grpo began at"):
        collapse.make_start(args)
    assert file.read_text() == other


def test_kept_runs_from_grpo_began_at_one_policy() -> None:
    kept = [json.loads(path.read_text()) for path in (collapse.ROWS / "from-grpo").glob("*.json")]
    begun = {(run["evaluations"][0]["right"], run["evaluations"][0]["distinct"]) for run in kept if not run["setting"]}
    end = {(run["evaluations"][-1]["right"], run["evaluations"][-1]["distinct"]) for run in kept if run["setting"]}
    assert begun <= end and len(end) <= 1


def test_a_run_of_another_plan_begins_anew(tiny: Args) -> None:
    one = collapse.main_job(tiny, "off-policy", "entropic", 3)
    directory = tiny.work / one.name
    (directory / "checkpoints" / "step-000001").mkdir(parents=True)
    settings = {"seed": 3} | dict(one.flags)
    (directory / "args.json").write_text(json.dumps(settings))
    assert collapse.command_of(one, directory)[1] == 1
    (directory / "args.json").write_text(json.dumps(settings | {"num_steps": 9}))
    assert collapse.command_of(one, directory)[1] == 0 and not directory.exists()


@pytest.mark.parametrize(("status", "words"), [(2, "error: --kp is -1"), (1, "Traceback, KeyError: 3"), (-9, "")])
def test_a_script_that_fails_leaves_no_file(tiny: Args, monkeypatch, status: int, words: str) -> None:
    end = f"import os, sys; sys.stderr.write({words!r}); sys.stderr.flush(); "
    end += "os.kill(os.getpid(), 9)" if status < 0 else f"os._exit({status})"
    monkeypatch.setattr(collapse, "command_of", lambda *_: ([sys.executable, "-c", end], 0))
    one = collapse.main_job(tiny, "off-policy", "entropic", 3)
    assert collapse.run(tiny, one) == f"stopped ({status}) {words}"
    assert not one.file(tiny).exists()


def test_a_run_that_another_process_is_at_is_left_alone(tiny: Args) -> None:
    one = collapse.main_job(tiny, "off-policy", "entropic", 3)
    directory = tiny.work / one.name
    directory.mkdir(parents=True)
    holder = "import sys, time; from pathlib import Path; from common import lock; lock.take(Path(sys.argv[1]))"
    words = [sys.executable, "-c", f"{holder}; print(1, flush=True); time.sleep(600)", str(directory)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        said = collapse.run(tiny, one)
        process.kill()
    assert said == "left alone: another process is at it"
    assert directory.exists() and not one.file(tiny).exists()


def test_what_is_left_to_do_is_printed_and_names_are_checked(tiny: Args, capsys) -> None:
    collapse.main(dataclasses.replace(tiny, dry_run=True))
    assert capsys.readouterr().out.startswith("off-policy/entropic-s3 --num-prompts 4 ")
    assert not tiny.work.exists()
    with pytest.raises(SystemExit, match="error: --arms knows "):
        collapse.main(Args(arms=("opoo",)))
