"""What a run says of itself when something is wrong: each finding where it should be, and silence elsewhere."""

import json
from pathlib import Path

import pytest

from benchmarks import doctor
from benchmarks.doctor import history, read
from common import InputError
from common.health import doubtful_settings, findings
from tests.test_run import make_run  # noqa: F401  (a fixture)

ARGS = {"max_response_length": 24}
HEALTHY = {
    "rollout/reward": 0.3,
    "rollout/truncated_ratio": 0.05,
    "rollout/zero_std_ratio": 0.4,
    "rollout/sampler_gap_mean": 1e-6,
    "verifier/no_answer_ratio": 0.1,
    "policy/entropy": 0.5,
    "policy/approx_kl": 1e-3,
    "policy/trained_token_ratio": 0.6,
    "policy/skipped_updates": 0,
    "algo/selected_ratio": 0.02,
}


def records(steps: int = 12, **changes: object) -> list[dict]:
    """A healthy run but for some metrics, from its second step on."""
    changes = {key.replace("__", "/"): value for key, value in changes.items()}
    return [{"step": step} | HEALTHY | (changes if step > 1 else {}) for step in range(1, steps + 1)]


def test_nothing_is_said_of_a_healthy_run() -> None:
    assert findings(records(), ARGS) == {} == findings([], ARGS) == findings([{"step": 0, "eval/pass@1": 0.1}], ARGS)


NOTHING_RIGHT = {"rollout__reward": 0.0, "rollout__zero_std_ratio": 1.0, "policy__trained_token_ratio": 0.0}
CASES = [
    ("zero reward", NOTHING_RIGHT, "too hard"),
    ("full reward", {"rollout__reward": 1.0}, "nothing is left"),
    ("truncated", {"rollout__truncated_ratio": 0.4}, "--max-response-length 24"),
    ("no spread", {"rollout__zero_std_ratio": 0.95, "policy__trained_token_ratio": 0.1}, "--num-generations"),
    ("entropy gone", {"policy__entropy": 0.04}, "0.500 to 0.040"),
    ("entropy exploding", {"policy__entropy": 1.2}, "0.500 to 1.200"),
    ("sampler gap", {"rollout__sampler_gap_mean": 0.1}, "0.100 nats"),
    ("moves too far", {"policy__approx_kl": 0.2}, "--num-minibatches"),
    ("nothing trained", {"policy__trained_token_ratio": 0.0}, "switch the loss off"),
    ("inert", {"algo__selected_ratio": 0.0}, "its parent"),
    ("skipped updates", {"policy__skipped_updates": 2}, "--learning-rate"),
]


@pytest.mark.parametrize(("name", "changes", "words"), CASES)
def test_finding(name: str, changes: dict, words: str) -> None:
    found = findings(records(**changes), ARGS)
    assert found.keys() == {name} and words in found[name]


@pytest.mark.parametrize(("name", "changes", "words"), CASES)
def test_a_few_bad_steps_are_no_finding(name: str, changes: dict, words: str) -> None:
    """Nor is a metric that is missing or null."""
    assert findings(records(4, **changes), ARGS) == {}
    key = next(iter(changes)).replace("__", "/")
    holes = records(**changes)
    holes[-2][key] = None
    assert name not in findings(holes, ARGS)
    assert name not in findings(
        [{k: v for k, v in r.items() if k != key or k == "rollout/reward"} for r in records()], ARGS
    )


def test_zero_reward_names_the_likely_cause() -> None:
    text = findings(records(**NOTHING_RIGHT, verifier__no_answer_ratio=0.98), ARGS)["zero reward"]
    assert "98%" in text and "5% are" in text


@pytest.mark.parametrize("reward", [0.0, 0.3])
@pytest.mark.parametrize("trained", [0.3, 1.0])
def test_groups_without_spread_are_no_fault_of_a_method_that_learns_from_them(reward: float, trained: float) -> None:
    """NSR pushes wrong responses down whatever stands beside them, LUFFY's groups hold a given solution."""
    shown = {"rollout__reward": reward, "rollout__zero_std_ratio": 0.95 if reward else 1.0}
    shown["policy__trained_token_ratio"] = trained
    assert findings(records(**shown), ARGS) == {}
    name = "no spread" if reward else "zero reward"
    for weight in ("beta", "entropy_coef"):  # with a term on every token the share says nothing
        assert findings(records(**shown), ARGS | {weight: 0.01}).keys() == {name}
        assert findings(records(**shown), ARGS | {weight: 0.0}) == {}
    assert findings(records(**shown, rollout__sampling_rounds=2), ARGS).keys() == {name}  # it keeps mixed groups alone
    if reward == 0:
        assert findings(records(**shown, verifier__no_answer_ratio=0.98), ARGS).keys() == {name}


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_nothing_to_compare_is_not_a_loss_switched_off(reward: float) -> None:
    """From the fifth step on no token is trained, and from the tenth the rewards are said to be the reason."""
    alike = NOTHING_RIGHT | {"rollout__reward": reward}
    assert findings(records(8, **alike), ARGS) == {}
    assert "nothing trained" not in findings(records(**alike), ARGS)


def test_small_rise_of_a_small_entropy_is_no_explosion() -> None:
    assert findings([r | {"policy/entropy": 0.02 if r["step"] == 1 else 0.1} for r in records()], ARGS) == {}


def test_run_says_each_thing_once(make_run, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    run = make_run(num_steps=40)
    for record in records(30, **NOTHING_RIGHT):
        run.log(record["step"], {k: v for k, v in record.items() if k != "step"})
    out = capsys.readouterr().out
    assert out.count("warning: ") == 1 and "no response has been right" in out
    before = out[: out.index("warning: ")]
    assert "step 11/40" in before and "step 12/40" not in before  # ten steps after the first


def test_doctor_says_when_it_began(tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text(json.dumps(ARGS))
    lines = records(30) + [r | {"step": r["step"] + 30, "rollout/truncated_ratio": 0.9} for r in records(10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    args, lines = read(tmp_path)
    [(step, name, text)] = history(lines, args)
    assert name == "truncated" and 30 < step < 35 and "90%" in text


@pytest.mark.parametrize("metrics", [None, "{broken"])
def test_doctor_refuses_what_is_no_run(tmp_path: Path, metrics: str | None) -> None:
    (tmp_path / "args.json").write_text("{}")
    if metrics:
        (tmp_path / "metrics.jsonl").write_text(metrics)
    with pytest.raises(InputError, match="not a run"):
        read(tmp_path)


RUN = {"algorithm": "grpo", "task": "data/[/old] [v2] :100:.jsonl", "seed": 1, "num_steps": 40} | ARGS


def write(directory: Path, args: object, text: str) -> Path:
    (directory / "args.json").write_text(json.dumps(args))
    (directory / "metrics.jsonl").write_text(text)
    return directory


def test_doctor_reads_what_a_killed_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Half a line, nulls and evaluations of other k; and the task's name is no markup."""
    lines = [{"step": 0, "eval/pass@1": None, "eval/pass@4": 0.2}, *records(30), {"step": 30, "eval/pass@1": 0.1}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    for torn in ('{"step": 31, "rollout/rew', '{"step": null}', '{"step": 31, "rollout/reward": "x"}', "[1]", "\0\0"):
        assert doctor.main(write(tmp_path, RUN, text + torn)) == 0
        shown = capsys.readouterr().out
        assert "grpo on data/[/old] [v2] :100:.jsonl, seed 1: 30 of" in shown and "nothing looks wrong" in shown
    assert doctor.main(write(tmp_path, RUN, "")) == 0


@pytest.mark.parametrize("args", [[], "grpo", None, {}, *({k: v for k, v in RUN.items() if k != name} for name in RUN)])
def test_doctor_refuses_damaged_arguments(tmp_path: Path, args: object) -> None:
    with pytest.raises(InputError, match="not a run that can be read"):
        doctor.main(write(tmp_path, args, ""))
    wrong = {"algorithm": "grpo"} | (args if isinstance(args, dict) else {}) | {"num_steps": "40"}
    with pytest.raises(InputError, match=r"args.json does not say its .*num_steps"):
        doctor.main(write(tmp_path, wrong, ""))


DEFAULTS = {
    "model": None,
    "task": "countdown",
    "learning_rate": 1e-4,
    "max_response_length": 24,
    "prompt_template": "raw",
}
REAL = {"model": "a/b", "learning_rate": 1e-6, "max_response_length": 4096}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        (REAL, []),
        ({"model": "a/b"}, ["--learning-rate 0.0001 and --max-response-length 24"]),
        (REAL | {"max_response_length": 24}, ["--max-response-length 24: defaults"]),
        (REAL | {"task": "gsm8k"}, ["gsm8k do not say", "--prompt-template qwen_boxed"]),
        (REAL | {"task": "gsm8k", "prompt_template": "dapo"}, []),
        (REAL | {"task": "own.jsonl"}, []),
        ({"overlong_buffer_length": 5, "overlong_penalty_factor": 1.0}, []),
        ({"overlong_buffer_length": 5, "max_response_length": 6, "overlong_penalty_factor": 0.0}, []),
        (
            {"overlong_buffer_length": 5, "max_response_length": 6, "overlong_penalty_factor": 1.0},
            ["--overlong-buffer-length 5 of --max-response-length 6", "after the first 1 costs", "0 is no charge"],
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict, words: list[str]) -> None:
    said = " ".join(doubtful_settings(DEFAULTS | changes, DEFAULTS).values())
    assert bool(said) == bool(words) and all(word in said for word in words)
