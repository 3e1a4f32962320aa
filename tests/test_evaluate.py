"""benchmarks.evaluate: majority votes, paired intervals, top-p, and two checkpoints compared from the shell."""

import json
import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import evaluate
from benchmarks.evaluate import PRESETS, Args, Sampling, compare, majority_at_k, measure, sampling_of
from common import InputError
from common.batch import Response, Sample
from common.hf import TopP
from common.hub import KNOWN
from common.problems import Problem
from common.rollout import make_sampler
from common.verifier import Verdict
from tests.helpers import tiny_policy

ROOT = Path(__file__).resolve().parents[1]


def test_majority_of_all_samples() -> None:
    """The commonest answer decides; no answer has no vote; of equally common ones the first counts."""
    answers = [["7", "7", "8", None], ["1", "2", "2", None], ["1", "2", None, None], [None] * 4]
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert majority_at_k(answers, right, 4).tolist() == [1, 0, 1, 0]


def test_majority_of_a_part_is_its_expectation() -> None:
    """maj@1 is avg@n; maj@3 by all subsets of three."""
    answers, right = [["a", "a", "b", "c", "a"]], np.array([[1, 1, 0, 0, 1]], dtype=bool)
    assert majority_at_k(answers, right, 1)[0] == pytest.approx(0.6, abs=0.1)
    # Two or three "a" win outright; one "a", one "b" and one "c" tie, and the first drawn wins.
    exact = np.mean([1.0 if [answers[0][i] for i in s].count("a") > 1 else 1 / 3 for s in combinations(range(5), 3)])
    assert majority_at_k(answers, right, 3)[0] == pytest.approx(exact, abs=0.1)


def samples(rights: list[list[int]]) -> list[Sample]:
    return [
        Sample(
            Problem(f"q{p}", "1", f"p{p}", "math"),
            [1],
            Response([5, 6], [-1.0, -1.0], False),
            "x",
            Verdict(float(r), "match", str(r)),
        )
        for p, group in enumerate(rights)
        for r in group
    ]


def test_numbers_of_one_set() -> None:
    result = measure(samples([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]), 4)
    assert result["problems"] == 3 and result["right"] == {"p0": 2, "p1": 0, "p2": 1}
    assert result["metrics"]["avg@4"] == pytest.approx(0.25) and result["metrics"]["pass@4"] == pytest.approx(2 / 3)
    assert result["metrics"]["pass@2"] == pytest.approx((1 - 1 / 6 + 1 / 2) / 3)
    assert result["metrics"]["maj@4"] == pytest.approx(
        1 / 3
    )  # the first of two and two; the three zeros outvote the one
    assert result["response_length"] == 2 and result["reasons"] == {"match": 12}


def test_presets() -> None:
    """A paper's sets have the paper's sampling, others that of its first set; without a preset the flags count."""
    assert sampling_of("amc23", Args(preset="entropy", samples=4)) == Sampling(32, 0.6, 1.0)
    assert sampling_of("math500", Args(preset="entropy")) == Sampling(1, 0.0, 1.0)
    assert sampling_of("countdown", Args(preset="nsr")) == Sampling(256, 0.6, 0.95)
    assert sampling_of("math500", Args(samples=4, temperature=0.5, top_p=0.9)) == Sampling(4, 0.5, 0.9)
    assert {task for preset in PRESETS.values() for task in preset} <= KNOWN.keys()


def test_difference_is_paired_by_problem() -> None:
    """Problems differ widely, the models by exactly one sample of four in each: no spread is left."""
    first = measure(samples([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]), 4)
    second = measure(samples([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]), 4)
    assert compare(first, second, 4)["avg@4"] == pytest.approx((0.25, 0.25, 0.25))
    mean, low, high = compare(first, second, 4)["pass@4"]
    assert mean == pytest.approx(1 / 3) and low == 0 and high == 1


def test_nucleus_keeps_the_likeliest_that_reach_top_p() -> None:
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.97, 0.01, 0.01, 0.01]])
    kept = TopP(0.7)(probabilities, 0)
    assert kept.tolist() == torch.tensor([[0, 0.5, 0, 0.25], [0.97, 0, 0, 0]]).tolist()
    assert torch.equal(
        TopP(0.76)(probabilities, 0) > 0, torch.tensor([[False, True, True, True], [True, False, False, False]])
    )


def test_sampling_with_top_p_draws_from_the_nucleus_alone() -> None:
    policy = tiny_policy("llama", False)
    sampler = make_sampler("auto", policy)
    prompt = policy.encode("1+1=")
    with torch.no_grad():
        distribution = policy.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    allowed = TopP(0.5)(distribution[None], 0)[0].nonzero()[:, 0].tolist()
    assert 1 < len(allowed) < 100
    cut = {r.token_ids[0] for r in sampler.generate([prompt], 300, 1.0, 1, 0, transform=TopP(0.5))}
    free = {r.token_ids[0] for r in sampler.generate([prompt], 300, 1.0, 1, 0)}
    assert cut <= set(allowed) and not free <= set(allowed)
    [greedy] = sampler.generate([prompt], 1, 1e-6, 1, 0)
    assert greedy.token_ids == [distribution.argmax().item()]


def test_two_checkpoints_from_the_shell(tmp_path: Path, tiny_checkpoint: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.evaluate",
        str(tiny_checkpoint),
        "common/tiny",
        "--out",
        str(tmp_path / "e"),
    ]
    command += ["--tasks", "countdown", "reversing:length=2", "--samples", "4", "--limit", "8", "--device", "cpu"]
    wide = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=wide, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "countdown" in done.stdout and "second less first" in done.stdout
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["results"].keys() == {str(tiny_checkpoint), "common/tiny"}
    trained = record["results"]["common/tiny"]["countdown"]["metrics"]
    assert trained["pass@4"] >= trained["pass@1"] == trained["avg@4"] > 0
    difference, low, high = record["second_less_first"]["countdown"]["avg@4"]
    assert low <= difference <= high and difference > 0
    assert record["results"]["common/tiny"]["countdown"]["sampling"] == {
        "samples": 4,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    assert record["settings"]["temperature"] == 1.0 and record["environment"]["transformers"]
    assert (tmp_path / "e.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", [["--samples", "0"], ["--top-p", "0"], ["a", "b", "c"], ["no/such/model"]])
def test_bad_input(words: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.evaluate", *words, "--out", str(tmp_path / "e")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


NUMBERS = [
    ("samples", 0),
    ("temperature", float("nan")),
    ("temperature", -0.1),
    ("temperature", float("inf")),
    ("top_p", 0.0),
    ("top_p", float("nan")),
    ("top_p", 1.1),
    ("max_response_length", 0),
    ("max_response_length", -3),
    ("limit", -2),
    ("seed", -1),
]
PLACES = [
    ({"tasks": ("countdown", "countdwn")}, "unknown task 'countdwn'"),
    ({"models": ("{model}", "no/such/model")}, "neither a directory nor a hub id"),
    ({"models": ("{model}", "{model}")}, "two that differ"),
    ({"models": ("{model}", "{hollow}")}, "cannot be loaded"),
    ({"max_response_length": 10_000}, "exceeds the model's context"),
    ({"enable_thinking": True}, "no thinking switch"),
    ({"out": "{model}/config.json/e"}, "cannot be written"),
    ({"out": "{hollow}"}, r"hollow\.json cannot be written"),
    ({"out": ".."}, "names no file"),
]


@pytest.mark.parametrize(
    ("flags", "words"), [({n: v}, rf"--{n.replace('_', '-')} is {v}; it must be") for n, v in NUMBERS] + PLACES
)
def test_what_can_be_known_is_said_before_sampling(
    flags: dict, words: str, tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate_set", lambda *_: pytest.fail("it has sampled"))
    (tmp_path / "hollow.json").mkdir(parents=True)
    hollow = shutil.copytree(tiny_checkpoint, tmp_path / "hollow")
    (hollow / "model.safetensors").unlink()
    names = {"model": tiny_checkpoint, "hollow": hollow}
    flags = {k: tuple(x.format(**names) for x in v) if isinstance(v, tuple) else v for k, v in flags.items()}
    args = Args(**{"models": (str(tiny_checkpoint),), "limit": 4, "device": "cpu"} | flags)
    args.out = Path(str(flags.get("out", tmp_path / "new" / "e")).format(**names))
    with pytest.raises(InputError, match=words):
        evaluate.main(args)
    assert {path.name for path in tmp_path.iterdir()} == {"hollow", "hollow.json"}


def small(model: Path | str, out: Path, **flags: object) -> Args:
    return Args((str(model),), samples=2, limit=4, device="cpu", out=out, **{"tasks": ("gcd", "products")} | flags)


@pytest.mark.filterwarnings("error::UserWarning")  # of a picture that long names leave no room
def test_names_stand_as_they_are(tmp_path: Path, tiny_checkpoint: Path, capsys, monkeypatch) -> None:
    """Square brackets, colons and dollars are no markup, and what follows a full stop is no suffix."""
    monkeypatch.setenv("COLUMNS", "400")
    model = shutil.copytree(tiny_checkpoint, tmp_path / ("long" * 20) / "a [" / "old] [v2] :100: $x_{")
    for name in ("lr1.5", "lr1.6", "e.json"):
        evaluate.main(small(model, tmp_path / "out" / name, tasks=("gcd", "gcd")))
    files = {f"{name}.{suffix}" for name in ("lr1.5", "lr1.6", "e") for suffix in ("json", "png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    assert capsys.readouterr().out.count("a [/old] [v2] :100: $x_{") == 6  # as each set ends, and in the table


def test_a_set_is_kept_when_it_is_done(tmp_path: Path, tiny_checkpoint: Path, monkeypatch, capsys) -> None:
    whole = evaluate.evaluate_set

    def stopped(actor: object, problems: list, *rest: object) -> dict:
        if problems[0].source == "products":
            raise KeyboardInterrupt
        return whole(actor, problems, *rest)

    monkeypatch.setattr(evaluate, "evaluate_set", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(small(tiny_checkpoint, tmp_path / "e"))
    [sets] = json.loads((tmp_path / "e.json").read_text())["results"].values()
    assert sets.keys() == {"gcd"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(evaluate, "evaluate_set", whole)
    for writer in ("draw", "write_whole"):  # the table is on the terminal by then
        monkeypatch.setattr(evaluate, writer, full)
        with pytest.raises(InputError, match="No space left"):
            evaluate.main(small(tiny_checkpoint, tmp_path / "e"))
        assert "avg@n" in capsys.readouterr().out
