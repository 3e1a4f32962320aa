"""rg:<set>: reasoning-gym's problems as tasks, and its scorers but for partial credit and for those that evaluate.

Skipped without reasoning-gym, which is optional: pip install -r tests/requirements-gym.txt
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import InputError, gym
from common.problems import Problem
from common.tasks import load_problems, load_task
from common.verifier import CHECKERS, Verifier
from tests.test_verifier import BAIT

factory = pytest.importorskip("reasoning_gym.factory")

EVALUATES = re.compile(r"\b(eval|exec|literal_eval|parse_expr|sympify|loads?\(.*pickle)\(")


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as verifier:
        yield verifier


def test_problems_are_those_of_the_library_and_stay_the_same() -> None:
    problems = load_task("rg:chain_sum:size=60,min_terms=3,max_terms=3", "all")
    dataset = factory.create_dataset("chain_sum", size=60, seed=0, min_terms=3, max_terms=3)
    assert [(p.prompt, p.answer) for p in problems] == [(e["question"], e["answer"]) for e in dataset]
    assert problems[7].kind == "rg" and problems[7].id == "rg:chain_sum:size=60,min_terms=3,max_terms=3#7"


def test_a_tenth_is_held_out(capsys: pytest.CaptureFixture) -> None:
    train, evaluation = load_problems("rg:leg_counting:size=50", None, 64)
    assert len(train) == 45 and len(evaluation) == 5 and not {p.id for p in train} & {p.id for p in evaluation}
    assert "problems left out" not in capsys.readouterr().err


def test_duplicates_are_counted(capsys: pytest.CaptureFixture) -> None:
    assert len(load_task("rg:coin_flip:size=200,max_trials=3", "all")) < 200
    assert re.search(r"rg:coin_flip.*: \d+ problems left out, duplicates", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "gold", "reason"),
    [
        ("\\boxed{12}", "12", "match"),
        ("<answer> 12 </answer>", "12", "match"),
        ("12", "12", "match"),
        ("11 12 13", "12", "mismatch"),  # reasoning-gym gives part of a point for naming several
        ("120", "12", "mismatch"),
        ("", "12", "no_answer"),
        ("x" * 20_000, "12", "no_answer"),
    ],
)
def test_plain_sets_are_decided_here(text: str, gold: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Verifier, "_schedule", lambda self, questions: {} if not questions else pytest.fail("asked"))
    problem = load_task("rg:leg_counting:size=5", "all")[0]
    [verdict] = Verifier()([Problem(problem.prompt, gold, problem.id, "rg")], [text])
    assert verdict.reason == reason and verdict.reward == (reason == "match")


def test_other_sets_are_judged_by_their_scorer(verifier: Verifier) -> None:
    """Another right answer counts, a nearly right one does not, though the scorer gives it part of a point."""
    problems = load_task("rg:spell_backward:size=5", "all")
    first = problems[0]
    nearly = first.answer[:-1] + ("x" if first.answer[-1] != "x" else "y")
    entry = gym.gym_dataset("rg:spell_backward:size=5")[0]
    assert 0 < gym.gym_dataset("rg:spell_backward:size=5").score_answer(nearly, entry) < 1
    texts = [first.answer, first.answer.upper(), nearly, problems[1].answer]
    verdicts = verifier([first] * 4, [f"<answer>{text}</answer>" for text in texts])
    assert [v.reason for v in verdicts] == ["match", "match", "mismatch", "mismatch"]


def test_mathematics_and_gym_share_the_workers(verifier: Verifier) -> None:
    problem = load_task("rg:spell_backward:size=5", "all")[0]
    algebra = Problem("?", "\\sqrt{12}", "a", "math")
    right = [problem.answer.upper(), "\\boxed{2\\sqrt{3}}"]
    assert [v.reward for v in verifier([problem, algebra], right)] == [1.0, 1.0]
    with Verifier(workers=1) as late:  # workers that started without reasoning-gym give way to others
        assert late([algebra], right[1:])[0].reward == 1 and not late._with_gym
        assert late([problem], right[:1])[0].reward == 1 and late._with_gym


def test_a_problem_that_comes_out_otherwise_is_an_error(verifier: Verifier) -> None:
    """Random numbers that differ between processes must not decide what is right."""
    problem = load_task("rg:spell_backward:size=5", "all")[0]
    [verdict] = verifier([Problem(problem.prompt, "something else", problem.id, "rg")], ["guess"])
    assert (verdict.reason, verdict.reward) == ("error", 0.0)


# --- Safety ---------------------------------------------------------------------------------------------------------


def scorer_source(name: str) -> str:
    """The scorer, and those of its own methods and module's functions that it calls, as text."""
    cls, seen, queue = factory.DATASETS[name][0], {}, ["score_answer"]
    module = sys.modules[cls.__module__]
    while queue:
        word = queue.pop()
        found = getattr(cls, word, None) or getattr(module, word, None)
        if word in seen or not (inspect.isfunction(found) or inspect.ismethod(found)):
            continue
        if not found.__module__.startswith("reasoning_gym"):
            continue
        seen[word] = inspect.getsource(found)
        queue += re.findall(r"(\w+)\(", seen[word])
    return "\n".join(seen.values())


# They evaluate what the data set made, which no model wrote.
OWN_TEXT = {
    "bitwise_arithmetic": "eval(problem)",
    "number_sorting": 'eval(entry["answer"])',
    "propositional_logic": "parse_expr(expr)",  # the module's own parser of and, or, not
}


@pytest.mark.parametrize("name", sorted(factory.DATASETS))
def test_no_scorer_that_evaluates_is_let_through(name: str) -> None:
    evaluates = EVALUATES.search(scorer_source(name).replace(OWN_TEXT.get(name, "\0"), ""))
    assert (name in gym.UNSAFE) == bool(evaluates)


def test_refused_names_exist() -> None:
    assert factory.DATASETS.keys() >= gym.UNSAFE | gym.NOT_ALONE


CODE = [
    "__import__('pathlib').Path('{0}').touch()",
    "open('{0}', 'w')",
    "[open('{0}', 'w')]",
    '{{"a": open("{0}", "w")}}',
    "exec(\"open('{0}', 'w')\")",
    "(lambda: open('{0}', 'w'))()",
    "1 + open('{0}', 'w').write('')",
]
# Made in more than some seconds, or only with files of their own.
SLOW = {"arc_agi", "rearc", "sokoban", "knight_swap", "rush_hour", "rubiks_cube", "boxnet", "graph_color"}
SLOW |= {"quantum_lock", "futoshiki", "zebra_puzzles"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(factory.DATASETS.keys() - gym.UNSAFE - gym.NOT_ALONE - SLOW))
def test_code_in_an_answer_does_not_run(name: str, tmp_path: Path) -> None:
    """In this process, to see files that a killed worker would have had no time for."""
    dataset = gym.gym_dataset(f"rg:{name}:size=1")
    for code in CODE:
        text = code.format(tmp_path / "pwned")
        for answer in (text, f"{dataset[0]['answer']} {text}", f"[[{text}]]", f"{text}\n{text}"):
            try:
                gym.score(answer, dataset[0]["answer"], f"rg:{name}:size=1#0")
            except Exception:  # a scorer may choke on it
                continue
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["rg:leg_counting:size=5", "rg:spell_backward:size=5"])
def test_hostile_text_is_wrong(task: str, verifier: Verifier) -> None:
    problem = load_task(task, "all")[0]
    verdicts = verifier([problem] * len(BAIT), list(BAIT.values()))
    assert {v.reward for v in verdicts} == {0.0} and {v.reason for v in verdicts} <= {"mismatch", "no_answer", "error"}


def test_hostile_numbers_are_wrong(verifier: Verifier) -> None:
    problem = load_task("rg:power_function:size=5", "all")[0]
    texts = ["1e999999999" * 500, "9" * 9_999, "nan", "\x00", "\ud800"]
    assert [v.reward for v in verifier([problem] * len(texts), texts)] == [0.0] * len(texts)


# --- Bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("rg:countdown", ("evaluates", "refused")),
        ("rg:chain_summ", ("unknown task", "chain_sum", "leg_counting")),
        ("rg:", ("unknown task",)),
        ("rg:composite", ("unknown task",)),
        ("rg:chain_sum:terms=2", ("terms", "min_terms=2", "size=2000")),
        ("rg:chain_sum:min_terms=9,max_terms=2", ("settings",)),
        ("rg:chain_sum:size=none", ("task rg:chain_sum:size=none",)),
    ],
)
def test_refused_in_one_line(task: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        load_task(task, "train")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gym.gym_dataset.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(InputError, match="pip install reasoning-gym"):
        load_task("rg:chain_sum", "train")


def test_the_checker_is_known() -> None:
    assert "rg" in CHECKERS
