"""Every algorithm script, run as a user runs it: metrics, checkpoints, resuming, and what DAPO's sampling does.

The scripts run in this process; what all of them share is tested on grpo.py in test_run.py and test_resume.py, and on
a chosen few here. A new file costs one short run.
"""

import itertools
import json
import math
import re
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import common.records
import common.rollout
import common.tasks
from common.basics import warn_once
from common.batch import Response
from common.hf import TransformersSampler
from common.policy import Policy
from common.run import Run
from common.verifier import Verdict, Verifier
from tests import sync
from tests.algorithms.oracle import methods
from tests.test_run import STEP_KEYS

RECIPE = {
    "num-steps": 4,
    "num-prompts": 4,
    "num-generations": 3,
    "num-minibatches": 2,
    "max-response-length": 8,
    "eval-every": 0,
    "save-every": 2,
    "eval-problems": 2,
    "learning-rate": 1e-3,
    "warmup-steps": 0,
    "reward-mode": "random",  # a random model is never right
    "device": "cpu",
}
METHODS = methods()
OWN = {name: getattr(method, "SCRIPT_FLAGS", {}) for name, method in METHODS.items()}
# One file for each thing that a script can have; they are resumed and run on two ranks, the others once.
CHOSEN = {
    "grpo": {"beta": 0.1},  # a reference policy
    "dapo": {},  # further rounds of sampling
    "clip_cov": {},  # random draws in the loss
    "entropic": {},  # a state
    "steer": {},  # a further statistic of each token's distribution
    "vapo": {},  # a second model that learns
    "aepo": {},  # responses that go on from a beginning
    "prorl": {"reset-every": 3},  # a reference that becomes the policy, after the restart
    "t1": {"reference-share": 0.3},  # a reference that moves by shares
    "rlrt": {},  # a second scoring pass, over other prompts
    "gxpo": {},  # parameters computed with and written back
    "sent": {},  # an order of problems that is found before the first step, and an optimiser that is cleared
}
CHOSEN = {name: flags for name, flags in CHOSEN.items() if name in METHODS}
OTHERS = [name for name in METHODS if name not in CHOSEN]
load_problems = cache(common.tasks.load_problems)  # the countdown task anew would be most of a short run's time


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict]]:
    """Run a script with some flags changed; the records of its metrics."""
    monkeypatch.setattr(common.records, "draw_curves", lambda *_: None)
    monkeypatch.setattr(common.tasks, "load_problems", load_problems)

    def start(name: str, directory: str = "run", **changes) -> list[dict]:
        flags = RECIPE | OWN.get(name, {}) | {"model": tiny_checkpoint, "output-dir": tmp_path / directory}
        flags |= {key.replace("_", "-"): value for key, value in changes.items()}
        if "resume" in flags:
            flags = {key: flags[key] for key in ("resume", *(key.replace("_", "-") for key in changes))}
        before = sys.argv, sys.path[:], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        script = sync.ALGOS / f"{name}.py"
        words = ([f"--{key}"] if value is True else [f"--{key}", str(value)] for key, value in flags.items())
        sys.argv = [str(script), *(word for pair in words for word in pair)]
        try:
            runpy.run_path(str(script), run_name="__main__")
        finally:
            sys.argv, sys.path[:], handlers = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
        lines = (tmp_path / directory / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return start


def weights(run_directory: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run_directory / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def assert_metrics(name: str, records: list[dict]) -> None:
    """The keys that every file logs, this one's own, and numbers where there must be numbers."""
    own = METHODS[name].METRICS | getattr(METHODS[name], "SCRIPT_METRICS", set())
    for record in records:
        assert record.keys() == STEP_KEYS | {f"algo/{key}" for key in own}
        assert all(value is None or math.isfinite(value) for value in record.values())
        assert all(record[key] is not None for key in STEP_KEYS - {"policy/entropy_right", "policy/entropy_wrong"})


def has_moved(before: Path, after: dict[str, torch.Tensor]) -> bool:
    start = load_file(before / "model.safetensors")
    return any(not torch.equal(start[key], after[key]) for key in start)


@pytest.mark.parametrize("name", CHOSEN)
def test_script_trains_and_resumes_to_the_bit(name: str, run: Callable, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """I8: controllers, references, further models, random draws and the stream of problems go on where they stopped."""
    records = run(name, "whole", **CHOSEN[name])
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert_metrics(name, records)
    end = weights(tmp_path / "whole", 4)
    assert has_moved(tiny_checkpoint, end)
    shutil.copytree(tmp_path / "whole", tmp_path / "halves")
    shutil.rmtree(tmp_path / "halves" / "checkpoints" / "step-000004")  # as if it had been stopped after the second
    resumed = run(name, "halves", resume=tmp_path / "halves")
    again = weights(tmp_path / "halves", 4)
    assert all(torch.equal(end[key], again[key]) for key in end)
    for one, other in zip(records, resumed, strict=True):
        assert {k: v for k, v in one.items() if "time/" not in k} == {
            k: v for k, v in other.items() if "time/" not in k
        }


def test_empg_says_that_no_response_has_a_second_step(run: Callable, capsys) -> None:
    """Only a rollout tells whether the separator is ever written; without a bonus it does not matter."""
    words = "no response has a second step: --future-bonus pays nothing"
    for number, (flags, said) in enumerate(
        [
            ({"step_separator": ""}, 0),  # each token is a step
            ({"step_separator": "never written"}, 1),
            ({"step_separator": "never written", "future_bonus": 0}, 0),
        ]
    ):
        warn_once.cache_clear()
        run("empg", str(number), num_steps=2, save_every=0, **flags)
        assert capsys.readouterr().err.count(words) == said


def test_heal_goes_on_with_its_own_general_problems(run: Callable, tmp_path: Path, capsys) -> None:
    """The content of --general-task is part of the run as that of --task is; where it lies is not."""
    task = tmp_path / "general.jsonl"
    rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(20)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("heal", num_steps=1, general_task=task)
    load_problems.cache_clear()
    moved = task.rename(tmp_path / "moved.jsonl")
    run("heal", resume=tmp_path / "run", num_steps=2, general_task=moved)
    load_problems.cache_clear()
    moved.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))  # a problem beyond those that it takes
    with pytest.raises(SystemExit) as end:
        run("heal", resume=tmp_path / "run", num_steps=3)
    load_problems.cache_clear()
    err = capsys.readouterr().err
    assert end.value.code == 2 and "the content of --general-task has changed" in err, err


@pytest.mark.parametrize("name", OTHERS)
def test_script_trains(name: str, run: Callable, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """What is not in the skeleton of another file is in tests/algorithms; here two steps, so that all of it runs."""
    records = run(name, num_steps=2, save_every=0, max_response_length=4)
    assert [record["step"] for record in records] == [1, 2]
    assert_metrics(name, records)
    assert has_moved(tiny_checkpoint, weights(tmp_path / "run", 2))
    for record in records:  # those that replace groups without spread have done so
        again = METHODS[name].FLAGS.get("max_resample", 0) > 0 and record["rollout/zero_std_ratio"] > 0
        assert (record["rollout/sampling_rounds"] > 1) == again and record["rollout/trained_group_ratio"] == 1


@pytest.mark.parametrize("name", ["num_minibatches", "update_epochs"])
def test_opo_refuses_to_go_off_policy(name: str, run: Callable, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        run("opo", **{name: 2})
    assert stop.value.code == 2 and not (tmp_path / "run").exists()


def test_nsr_at_weight_zero_does_not_run_right_rows_backward(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of even index are right; no pass with a gradient may hold one."""
    seen, passes = [], Policy._passes

    def watch(self: Policy, batch: dict, needed: torch.Tensor):
        if torch.is_grad_enabled():
            seen.append(batch["rewards"][needed.any(1)])
        return passes(self, batch, needed)

    monkeypatch.setattr(Policy, "_passes", watch)
    run("nsr", num_steps=1, positive_weight=0)
    seen = [rewards for rewards in seen if len(rewards)]  # without those whose graph the scoring pass has kept
    assert len(seen) == 2 and not any(rewards.any() for rewards in seen)


# --- Dynamic sampling -------------------------------------------------------------------------------------------


@pytest.fixture
def script_rewards(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[int]]:
    """Rewards by group and round: m(ixed), (all) r(ight) or w(rong); how many problems each round asked for."""

    def set_up(rounds: list[str]) -> list[int]:
        asked, left = [], iter(rounds)

        def verify(self: Verifier, problems: list, responses: list[str], first: int = 0) -> list[Verdict]:
            groups = next(left)
            asked.append(len(problems) // 3)
            rewards = itertools.chain(*({"m": (1, 0, 0), "r": (1, 1, 1), "w": (0, 0, 0)}[kind] for kind in groups))
            return [Verdict(float(reward), "match", "1") for reward in rewards]

        monkeypatch.setattr(Verifier, "__call__", verify)
        return asked

    return set_up


@pytest.mark.parametrize(
    ("rounds", "asked"),
    [
        (["mmmm"], [4]),
        (["mrwm", "wmwm"], [4, 4]),  # half of them are mixed: four for the two that are missing
        (["mrww", "wwwwmwwwwwrw", "mmmwwwwwwwwwwwww"], [4, 12, 16]),  # a quarter, then 2 of 16
        (["wwww", "m" * 36], [4, 36]),  # none: as if it were a tenth, and no more than ten times what is wanted
    ],
)
def test_groups_without_spread_are_replaced(
    rounds: list[str], asked: list[int], run: Callable, script_rewards: Callable
) -> None:
    """A round asks for what is missing by the share of mixed groups so far; all that was sampled is counted."""
    seen, groups = script_rewards(rounds), "".join(rounds)
    [record] = run("dapo", num_steps=1)
    assert seen == asked
    assert record["rollout/num_samples"] == len(groups) * 3
    assert record["rollout/zero_std_ratio"] == pytest.approx(1 - groups.count("m") / len(groups))
    assert record["rollout/all_right_ratio"] == pytest.approx(groups.count("r") / len(groups))
    assert record["rollout/reward"] == pytest.approx((groups.count("m") + 3 * groups.count("r")) / len(groups) / 3)
    assert record["rollout/sampling_rounds"] == len(asked) and record["rollout/trained_group_ratio"] == 1


def test_groups_beyond_what_is_wanted_are_dropped(
    run: Callable, script_rewards: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six mixed groups for four: a step over four."""
    batches, score = [], TransformersSampler.score
    monkeypatch.setattr(TransformersSampler, "score", lambda self, b, *a: batches.append(b) or score(self, b, *a))
    script_rewards(["mmwr", "mmmm"])
    [record] = run("dapo", num_steps=1)
    assert batches[0]["rewards"].tolist() == [1, 0, 0] * 4 and record["rollout/trained_group_ratio"] == 1


def test_cap_on_sampling_trains_on_what_there_is(run: Callable, script_rewards: Callable) -> None:
    """One group for two minibatches: one update is made."""
    asked = script_rewards(["wwww", "wwmw"])
    [record] = run("dapo", num_steps=1, max_resample=1)
    assert asked == [4, 4]
    assert record["rollout/sampling_rounds"] == 2 and record["rollout/trained_group_ratio"] == 0.25
    assert record["policy/skipped_updates"] == 0 and record["tokens/trained"] > 0


def test_step_without_mixed_group_changes_nothing(
    run: Callable, script_rewards: Callable, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    asked = script_rewards(["wwww", "rrrrwrwr"])
    [record] = run("dapo", num_steps=1, max_resample=2)  # its charge for length does not teach a right group either
    assert asked == [4, 8]
    assert record["rollout/sampling_rounds"] == 2 and record["rollout/trained_group_ratio"] == 0
    assert record["tokens/trained"] == 0 and not has_moved(tiny_checkpoint, weights(tmp_path / "run", 1))


def test_no_dynamic_sampling(run: Callable, script_rewards: Callable) -> None:
    asked = script_rewards(["mwrw"])
    [record] = run("dapo", num_steps=1, max_resample=0)
    assert asked == [4] and record["rollout/num_samples"] == 12
    assert record["rollout/sampling_rounds"] == record["rollout/trained_group_ratio"] == 1


# --- A sampler with arithmetic of its own -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cases"),
    [("grpo", [(0.4, 2.0, 1.4918), (-0.4, 2.0, 0.6703), (1.5, 2.0, 2.0), (1.5, 0.0, 1.0)]), ("opo", [(1.5, 2.0, 2.0)])],
)
def test_importance_weights_scale_the_gradient(
    name: str, cases: list[tuple], run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token drawn with a probability that is off by the same factor: so is the gradient, up to the cap."""
    settings = {"num_steps": 1, "num_minibatches": 1}
    [plain] = run(name, "plain", **settings)
    generate = TransformersSampler.generate

    def shifted(self, *args, **options):
        responses = generate(self, *args, **options)
        return [Response(r.token_ids, [x - shift for x in r.logprobs], r.truncated) for r in responses]

    monkeypatch.setattr(TransformersSampler, "generate", shifted)
    shift = cases[0][0]
    [same] = run(name, "same", **settings)
    assert same["policy/grad_norm"] == plain["policy/grad_norm"] and same["rollout/importance_mean"] == 1
    monkeypatch.setattr(TransformersSampler, "same_arithmetic", False)
    for i, (shift, cap, factor) in enumerate(cases):
        [weighed] = run(name, f"weighed-{i}", importance_cap=cap, **settings)
        assert weighed["policy/grad_norm"] == pytest.approx(factor * plain["policy/grad_norm"], rel=1e-4)
        assert weighed["rollout/importance_mean"] == pytest.approx(factor, rel=1e-4)
        assert weighed["rollout/sampler_gap_mean"] == pytest.approx(abs(shift), abs=1e-4)


@pytest.mark.parametrize("name", ["grpo", "dapo"])
def test_an_engine_rests_once_between_sampling_and_training(
    name: str, run: Callable, script_rewards: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rounds a step samples, and after an evaluation; it is trusted before anything is learned."""
    calls = []
    for method in ("generate", "rest", "trust", "sync"):
        original = getattr(TransformersSampler, method)

        def watched(self, *args, method=method, original=original, **options):
            if self.policy.optimizer:
                calls.append(method)
            return original(self, *args, **options)

        monkeypatch.setattr(TransformersSampler, method, watched)
    step = Policy.step
    monkeypatch.setattr(Policy, "step", lambda self, *args: (calls.append("step"), step(self, *args))[1])
    if name == "dapo":
        script_rewards(["wwww", "m" * 36])  # and no evaluation
    run(name, num_steps=1, num_minibatches=2, eval_every=int(name != "dapo"))
    rounds = ["generate"] * (2 if name == "dapo" else 1)
    evaluation = ["generate", "rest"] if name != "dapo" else []
    assert calls == ["sync", *evaluation, *rounds, "rest", "trust", "step", "step", "sync", *evaluation]


# --- What one file alone has ------------------------------------------------------------------------------------------


@pytest.mark.skipif("vapo" not in METHODS, reason="no such file yet")
def test_vapo_warms_its_critic_up_alone(run: Callable, tmp_path: Path, tiny_checkpoint: Path) -> None:
    """In the first value_warmup steps the policy stands still while the critic learns; its head starts at 0."""
    learned = run("vapo", "learned", num_steps=2, value_warmup=2, critic_learning_rate=1e-2)
    stayed = run("vapo", "stayed", num_steps=2, value_warmup=2, critic_learning_rate=1e-12)
    assert not has_moved(tiny_checkpoint, weights(tmp_path / "learned", 2))
    assert [record["algo/value_loss"] for record in stayed] == pytest.approx([0.5, 0.5], abs=1e-9)
    assert abs(learned[1]["algo/value_loss"] - 0.5) > 1e-6


@pytest.mark.skipif("vapo" not in METHODS, reason="no such file yet")
def test_vapo_promises_no_entropy_while_its_critic_learns_alone(run: Callable) -> None:
    """What it calls gradients then is the critic's error."""
    records = run("vapo", num_steps=2, value_warmup=1, polarity=True)
    for key in ("policy/polarity", "policy/raising_ratio"):
        assert [record[key] is None for record in records] == [True, False]
    assert abs(records[0]["policy/entropy_change"]) < 1e-6 < abs(records[1]["policy/entropy_change"])


@pytest.mark.skipif("aepo" not in METHODS, reason="no such file yet")
@pytest.mark.parametrize(("ratio", "branches"), [(0.5, 2), (0.26, 1), (0.2, 0)])
def test_aepo_branches_where_a_sibling_was_least_sure(
    ratio: float, branches: int, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last floor(ratio G) rows go on from the first ones, cut before their least likely token but the first."""
    batches, score = [], TransformersSampler.score

    def watch(self: TransformersSampler, batch: dict, *args) -> tuple:
        batches.append(batch)
        return score(self, batch, *args)

    monkeypatch.setattr(TransformersSampler, "score", watch)
    run("aepo", num_steps=1, num_generations=4, branch_ratio=ratio)
    batch, same = batches[0], []
    for first in range(0, len(batch["mask"]), 4):
        for j in range(max(1, branches)):
            row, branch = first + j, first + 4 - max(1, branches) + j
            logprobs = batch["rollout_logprobs"][:, : batch["mask"][row].sum()]
            if logprobs.shape[1] == 1:
                continue  # no token but the first
            cut = 1 + logprobs[row, 1:].argmin().item()
            ids = batch["response_ids"][:, :cut]
            # The beginning's log-probabilities come with it.
            same.append(
                torch.equal(ids[branch], ids[row]) and torch.allclose(*logprobs[[branch, row], :cut], atol=1e-5)
            )
    assert same and all(same) if branches else not any(same)


# --- What one file alone does in its script ---------------------------------------------------------------------------


@pytest.mark.parametrize("every", [2, 0])
def test_the_reference_becomes_the_policy(run, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    """After every other step, and the optimiser forgets with it."""
    forgets, plain = [], Policy.reset_optimizer
    monkeypatch.setattr(Policy, "reset_optimizer", lambda policy: (forgets.append(1), plain(policy)))
    steps = run("prorl", num_steps=4, reset_every=every, learning_rate=1e-3, max_resample=0)
    steps = [row for row in steps if row.get("algo/resets") is not None]
    assert [row["algo/resets"] for row in steps] == ([0, 1, 1, 2] if every else [0] * 4)
    kl = [row["algo/reference_kl"] for row in steps]
    assert kl[1] > kl[0] > 0 and (kl[2] < kl[1] if every else kl[2] > kl[1])
    assert len(forgets) == (2 if every else 0)


def test_each_token_knows_its_step(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a script: tokens up to a comma are of one step, with the verdict on it; nothing is right on padding."""
    seen = {}
    monkeypatch.setattr(Run, "log_samples", lambda self, step, samples, batch: seen.update(batch))
    run("bcpg_nsa", num_steps=1)
    for row, (text, mask) in enumerate(zip(seen["responses"], seen["mask"], strict=True)):
        index = seen["step_index"][row]
        assert index[mask].max().item() <= text.count(",") and not index[~mask].any()
        assert not seen["step_right"][row][~mask].any()


def test_both_domains_are_trained_on(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step draws from both, in shares that are those of the problems."""
    seen = []
    monkeypatch.setattr(Run, "log_samples", lambda self, step, samples, batch: seen.append(batch))
    run("heal", num_steps=3, num_prompts=12, num_target=8, num_general=16)
    general = torch.cat([batch["general"] for batch in seen])
    assert general.double().mean().item() == pytest.approx(2 / 3, abs=0.35) and not general.all()
    for batch in seen:
        short = [problem.prompt.count(" ") == 1 for problem in batch["problems"]]
        assert batch["general"].tolist() == short


def test_heal_refuses_prompts_that_outgrow_an_engine(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Whatever --backend has chosen it, it was started before general problems are read; the trained model has room."""
    for name, length in (("target", 3), ("general", 30)):
        rows = [{"prompt": f"{a:0{length}}+1=", "answer": str(a + 1)} for a in range(40)]
        (tmp_path / name).with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"task": tmp_path / "target.jsonl", "general_task": tmp_path / "general.jsonl", "num_steps": 1}
    run("heal", "fits", **flags)
    monkeypatch.setattr(TransformersSampler, "same_arithmetic", False)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run("heal", "refused", **flags)
    err = capsys.readouterr().err
    assert end.value.code == 2 and "--general-task has too long prompts for vLLM" in err
    assert "use --max-prompt-length 6\n" in err and not (tmp_path / "refused").exists()
    rows.append({"prompt": "1+1=", "answer": "2"})
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load_problems.cache_clear()
    run("heal", "advised", max_prompt_length=6, **flags)


def test_luffy_gives_each_group_its_solution(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rows are the trace and an end token, to the letter; what the metrics say of sampling leaves them out."""
    batches, score = [], TransformersSampler.score

    def watch(self: TransformersSampler, batch: dict, *args) -> tuple:
        batches.append((batch, self.policy))
        return score(self, batch, *args)

    monkeypatch.setattr(TransformersSampler, "score", watch)
    flags = {"num_steps": 1, "num_generations": 4, "reward_mode": "verifier", "max_response_length": 32}
    [record] = run("luffy", num_expert=2, **flags)
    batch, policy = batches[0]
    given = torch.arange(16) % 4 >= 2
    for row in given.nonzero()[:, 0].tolist():
        ids = batch["response_ids"][row][batch["mask"][row]].tolist()
        assert policy.decode([ids]) == [batch["problems"][row].trace] and ids.index(256) == len(ids) - 1
    assert torch.equal(batch["expert"], given) and torch.equal(batch["rewards"], given.float())
    assert not batch["truncated"][given].any() and bool((batch["importance"] == 1).all())
    assert torch.allclose(batch["old_logprobs"][given], batch["rollout_logprobs"][given], atol=1e-5)
    own = batch["mask"] & ~given[:, None]
    assert record["algo/expert_reward"] == 1 and record["algo/own_reward"] == record["rollout/reward"] == 0
    assert record["rollout/num_samples"] == 8 and record["rollout/all_wrong_ratio"] == 1
    assert record["tokens/rollout"] == own.sum() and record["tokens/trained"] == batch["mask"].sum()
    assert record["rollout/entropy"] == pytest.approx(-batch["rollout_logprobs"][own].mean().item(), rel=1e-5)
    assert record["policy/entropy"] == pytest.approx(batch["entropy"][own].mean().item(), rel=1e-5)
    assert record["policy/entropy_right"] is None  # of drawn ones none is right
    batches.clear()
    [alone] = run("luffy", "alone", num_expert=0, **flags)
    [parent] = run("dr_grpo", "parent", **flags)
    assert alone["algo/expert_reward"] is None and alone["rollout/entropy"] == parent["rollout/entropy"]


def test_luffy_gives_its_solution_the_weight_1(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an engine that is off by 0.4 nats, and where two passes over given tokens differ by 0.1."""
    batches, generate, given = [], TransformersSampler.generate, common.rollout.score_beginnings

    def shifted(responses: list[Response], shift: float) -> list[Response]:
        return [Response(r.token_ids, r.logprobs - shift, r.truncated) for r in responses]

    monkeypatch.setattr(
        TransformersSampler, "generate", lambda *args, **options: shifted(generate(*args, **options), 0.4)
    )
    monkeypatch.setattr(common.rollout, "score_beginnings", lambda *args: shifted(given(*args), 0.1))
    monkeypatch.setattr(TransformersSampler, "same_arithmetic", False)
    monkeypatch.setattr(Run, "log_samples", lambda self, step, samples, batch: batches.append(batch))
    [record] = run("luffy", num_steps=1, num_generations=4, num_expert=2)
    [batch] = batches
    expert, own = (batch["importance"][batch["mask"] & rows[:, None]] for rows in (batch["expert"], ~batch["expert"]))
    assert (expert == 1).all() and len(expert) > 8
    torch.testing.assert_close(own, torch.full_like(own, math.exp(0.4)))
    assert record["rollout/importance_mean"] == pytest.approx(math.exp(0.4), rel=1e-4)


def test_luffy_refuses_a_problem_without_a_solution(run: Callable, tmp_path: Path, capfd) -> None:
    rows = [{"prompt": f"{a}+{a}=", "answer": str(2 * a)} for a in range(20)]
    task = tmp_path / "task.jsonl"
    task.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit) as stop:
        run("luffy", task=task)
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: --num-expert 1") and "--trace-column" in error
    assert not (tmp_path / "run").exists()


def test_cuts_draws_the_last_rows_evenly(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one word in S they are greedy after the warm-up; the loss sees the policy's own log-probabilities."""
    batches, score = [], TransformersSampler.score

    def better(logprobs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (logprobs > logprobs.gather(1, targets)).sum(1).to(logprobs.dtype)

    def watch(self: TransformersSampler, batch: dict, *args) -> tuple:
        batches.append((batch, self.policy.score(batch, also=(better,))[2]))
        return score(self, batch, *args)

    monkeypatch.setattr(TransformersSampler, "score", watch)
    [record] = run("cuts", num_steps=1, num_generations=5, cuts_top_k=1, cuts_warmup=1)
    [(batch, ranks)] = batches
    even, mask = (torch.arange(20) % 5 >= 3)[:, None], batch["mask"].clone()
    assert (ranks * (mask & even))[:, 0].any()  # the first token
    mask[:, 0] = False
    assert (mask & even).any() and not ranks[mask & even].any() and ranks[mask & ~even].any()
    assert torch.allclose(batch["old_logprobs"], batch["rollout_logprobs"], atol=1e-5)
    assert record["rollout/importance_mean"] == 1 and record["rollout/num_samples"] == 20
    rewards = batch["rewards"].view(4, 5)
    assert record["algo/cuts_reward"] == pytest.approx(rewards[:, 3:].mean().item())
    assert record["algo/plain_reward"] == pytest.approx(rewards[:, :3].mean().item())
    plain = batch["mask"] & ~even
    assert record["rollout/entropy"] == pytest.approx(-batch["rollout_logprobs"][plain].mean().item(), rel=1e-5)
    [none] = run("cuts", "none", num_steps=1, cuts_ratio=0.3)  # of three
    [parent] = run("grpo", "parent", num_steps=1)
    assert none["algo/cuts_reward"] is None and none["policy/loss"] == parent["policy/loss"]
    [every] = run("cuts", "every", num_steps=1, cuts_ratio=1)
    assert every["algo/plain_reward"] is None and every["rollout/entropy"] > 0


def test_cuts_is_refused_where_the_policy_alone_is_drawn_from(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(TransformersSampler, "takes_transforms", False)  # as vLLM's
    with pytest.raises(SystemExit) as stop:
        run("cuts")
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: --cuts-ratio") and error.endswith("use --backend hf")
    assert not (tmp_path / "run").exists()
    run("cuts", num_steps=1, cuts_ratio=0)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Batch, rows and values of all that is scored, or known; of groups of four two are right, one, all and none."""
    seen = []
    for place in (Policy, TransformersSampler):

        def watch(self, batch: dict, rows: torch.Tensor | None = None, *also: tuple, score=place.score) -> tuple:
            found = score(self, batch, rows, *also)
            seen.append((batch, rows, *found))
            return found

        monkeypatch.setattr(place, "score", watch)

    def verify(self: Verifier, problems: list, responses: list[str], first: int = 0) -> list[Verdict]:
        return [Verdict(float(right), "match", "1") for right in (0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0)]

    monkeypatch.setattr(Verifier, "__call__", verify)
    return seen


def test_rlrt_asks_its_teacher_first(run: Callable, passes: list) -> None:
    """Over the taught rows alone, and before the pass that keeps its graph; its weights are of what it finds."""
    [record] = run("rlrt", num_steps=1, num_minibatches=1)
    (lesson, rows, teacher, _), (batch, kept, old, _) = passes
    assert rows is None and kept is not None and "rewards" in batch and record["algo/taught_ratio"] == 2 / 16
    prompts, responses = (
        [batch[f"{part}_ids"][i][batch[mask][i]].tolist() for i in (1, 3)]
        for part, mask in (("prompt", "prompt_mask"), ("response", "mask"))
    )
    for row in (0, 1):
        read = lesson["prompt_ids"][row][lesson["prompt_mask"][row]].tolist()
        assert read == prompts[row] + responses[1 - row] + prompts[row]
        assert lesson["response_ids"][row][lesson["mask"][row]].tolist() == responses[row]
    found = batch["teacher_logprobs"][:, : teacher.shape[1]]
    assert torch.equal(found[[1, 3]], teacher) and not torch.equal(teacher, old[[1, 3], : teacher.shape[1]])
    others = [0, 2, *range(4, 16)]
    assert torch.equal(batch["teacher_logprobs"][others], old[others])
    weight = (old[[1, 3], : teacher.shape[1]] - teacher).exp().clamp(0, 2)[lesson["mask"]]
    assert record["algo/weight_mean"] == pytest.approx(weight.mean().item(), rel=1e-5)


def test_rlrt_without_weight_asks_nobody(run: Callable, passes: list, capsys: pytest.CaptureFixture) -> None:
    """Then no context has to hold two prompts and two responses; else a refusal names the length that two may have."""
    run("rlrt", num_steps=1, num_minibatches=1, max_response_length=65, teacher_weight=0)
    assert len(passes) == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("rlrt", "refused", num_steps=1, max_response_length=65)
    said = capsys.readouterr().err
    room = int(re.search("further tokens exceeds the model's context of 128; use at most ([0-9]+)", said)[1])
    assert 2 * room > 128 - 2 * int(re.search(r"longest prompt \(([0-9]+) tokens\)", said)[1]) - 2
    run("rlrt", "advised", num_steps=1, max_response_length=room)


def test_gxpo_leaps_between_its_second_and_third_step(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it was, the share of k times two steps; each pass is scored where the parameters then are."""
    calls = []
    for name in ("snapshot", "write", "step", "score"):
        original = getattr(Policy, name)

        def watched(self, *args, name=name, original=original, **options):
            result = original(self, *args, **options)
            calls.append((name, [x.clone() for x in args[0]] if name == "write" else result))
            return result

        monkeypatch.setattr(Policy, name, watched)
    records = run("gxpo", num_steps=1, num_minibatches=1, extrapolation=0.25, horizon=3)
    order = ["snapshot", "step", "snapshot", "score", "step", "snapshot", "write", "score", "step"]
    assert [name for name, _ in calls] == order
    (x, y, z), [moved] = ([value for name, value in calls if name == kind] for kind in ("snapshot", "write"))
    moves, scales = False, []
    for before, between, after, there in zip(x, y, z, moved, strict=True):
        one, two = between - before, after - before
        q = ((two - one) / one).clamp(-2, 3)
        k = ((1 + q + q * q) / (1 + q)).clamp(1, 2.5).where(one != 0, 1.0)
        torch.testing.assert_close(there, before + 0.25 * k * two)
        moves, scales = moves or not torch.equal(there, before), [*scales, k.flatten()]
    assert moves and records[0]["algo/scale_mean"] == pytest.approx(torch.cat(scales).mean().item(), rel=1e-5)
    assert records[0]["policy/grad_norm"] == calls[-1][1]  # of the third step


def test_gxpo_leaps_no_more_once_a_norm_is_too_large(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third norm is watched, from the third of those on; what follows is GRPO's single step."""
    norms, step = iter([9.0, 9.0, 1.0] * 2 + [9.0, 9.0, 5.0] + [1.0] * 5), Policy.step
    monkeypatch.setattr(Policy, "step", lambda self, *args: (step(self, *args), next(norms))[1])
    records = run("gxpo", num_steps=4)
    assert next(norms, None) is None  # 3 + 3, 3 + 1, 2, 2
    assert [record["algo/gate_z"] is None for record in records] == [True, False, True, True]
    assert [record["algo/scale_mean"] is None for record in records] == [False, False, True, True]


def test_gxpo_without_leaps_is_grpo(run: Callable, tmp_path: Path) -> None:
    [none], [parent] = run("gxpo", "none", num_steps=1, extrapolation=0), run("grpo", "parent", num_steps=1)
    assert none["algo/scale_mean"] is None and none["policy/grad_norm"] == parent["policy/grad_norm"]
    ours, theirs = weights(tmp_path / "none", 1), weights(tmp_path / "parent", 1)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", [name for name in ("sent", "advanced") if name in METHODS])
def test_a_curriculum_comes_before_the_first_step(
    name: str, run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The stream's first problems in an order that is measured once; the optimiser is cleared between stages."""
    asked, cleared = [], []
    sample, reset = common.rollout.sample_groups, Policy.reset_optimizer

    def watch(problems: list, sampler, verifier, timer, n: int, **options) -> list:
        asked.append([problem.id for problem in problems])
        return sample(problems, sampler, verifier, timer, n, **options)

    monkeypatch.setattr(common.rollout, "sample_groups", watch)
    monkeypatch.setattr(Policy, "reset_optimizer", lambda self: cleared.append(self.updates) or reset(self))
    run(name, "plain", curriculum_samples=0, max_resample=0)
    plain = [problem for problems in asked for problem in problems]
    assert len(asked) == 4 and not cleared
    asked.clear()
    records = run(name, max_resample=0, stages=3)  # of four steps: after the first and the second
    order = torch.load(tmp_path / "run" / "checkpoints" / "step-000004" / "training_state.pt")["state"]["order"]
    assert asked[0] == plain and order != sorted(order) == list(range(16))
    assert [problem for problems in asked[1:] for problem in problems] == [plain[i] for i in order]
    assert cleared == [2, 4]
    if name == "sent":
        tokens = [record["algo/curriculum_tokens"] for record in records]
        assert tokens[0] > 32 and tokens[1:] == [None] * 3
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    del asked[:]
    run(name, resume=tmp_path / "run", num_steps=5)
    taken = [problem for problems in asked for problem in problems]
    assert len(asked) == 3 and taken[:8] == [plain[i] for i in order[8:]] and not set(taken[8:]) & set(plain)
