"""Problems: procedural tasks are fixed, right and disjoint; files are read whole or refused in one line."""

import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import permutations, product
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from common import InputError
from common.problems import Problem
from common.procedural import PROCEDURAL
from common.tasks import ProblemStream, load_problems, load_task
from common.templates import render
from common.verifier import Verifier

ROOT = Path(__file__).resolve().parents[1]
SPECS = [
    *PROCEDURAL,
    "countdown:numbers=4,high=20",
    "countdown:numbers=3,high=4",
    "arithmetic:terms=5,high=99",
    "sums:high=30",
    "products:terms=3,high=12",
    "comparison:numbers=3,high=9,decimals=2",
    "gcd:high=30",
    "gcd:high=5000",
    "sorting:length=9,high=3",
    "letter_counting:length=3,letters=26",
    "reversing:length=2",
]
EXTREME_SPECS = [
    "countdown:numbers=10,high=1000000",
    "countdown:numbers=2,high=1000000",
    "arithmetic:terms=100,high=1000000",
    "sums:terms=100,high=1000000",
    "products:terms=100,high=1000000",
    "comparison:numbers=10,high=1000000,decimals=9",
    "gcd:high=1000000",
    "sorting:length=100,high=1000000",
    "letter_counting:length=100,letters=26",
    "reversing:length=100",
]


@cache
def load(spec: str, split: str = "train", limit: int = 1000) -> list[Problem]:
    return load_task(spec, split, limit)


def numbers_and_target(prompt: str) -> tuple[list[int], int]:
    """Of a countdown prompt, "3 7 5=26:"."""
    left, right = prompt.removesuffix(":").split("=")
    return [int(number) for number in left.split()], int(right)


def canonical(spec: str, prompt: str) -> str:
    """The same for two prompts that ask the same, written without the code under test."""
    if spec.startswith("countdown"):
        numbers, target = numbers_and_target(prompt)
        return f"{sorted(numbers)} {target}"
    if spec.startswith(("gcd", "sums", "products", "comparison")):
        return str(sorted(map(float, re.findall(r"[0-9.]+", prompt))))
    return prompt


# --- Procedural tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("countdown", "6 8 3=144:", "3*6=18,18*8=144"),
        ("arithmetic", "11-7+12=", "16"),
        ("sums", "20+19=", "39"),
        ("products", "8*17=", "136"),
        ("comparison", "max(30,86)=", "86"),
        ("gcd", "gcd(80,104)=", "8"),
        ("sorting", "sort 17 18 13 20=", "13 17 18 20"),
        ("letter_counting", "count b in ccaaaacb=", "1"),
        ("reversing", "reverse slnfvl=", "lvfnls"),
    ],
)
def test_first_problem_is_pinned(name, prompt, answer):
    """Locks the problems themselves: results before and after a change of them do not compare."""
    assert load_task(name, limit=1) == [
        Problem(prompt, answer, f"{name}-train-0", PROCEDURAL[name][1], trace=answer, source=name)
    ]


def test_same_problems_in_another_process():
    program = (
        "import sys, zlib; from common.tasks import load_task\n"
        "for spec in sys.argv[1:]: print(zlib.crc32(repr(load_task(spec, 'train', 200)).encode()))\n"
        "assert not {'datasets', 'pyarrow', 'pandas'} & sys.modules.keys()"  # seconds that no such task needs
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, *SPECS],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == len(SPECS)


@pytest.mark.parametrize("spec", SPECS)
def test_problems_ignore_and_leave_the_global_random_state(spec):
    random.seed(1)
    state = random.getstate()
    first = load_task(spec, limit=50)
    assert random.getstate() == state
    random.seed(2)
    assert load_task(spec, limit=50) == first


@pytest.mark.parametrize("spec", SPECS)
def test_train_and_eval_share_no_problem(spec):
    train = [canonical(spec, p.prompt) for p in load(spec, limit=8192 if spec == "countdown" else 1500)]
    held = [canonical(spec, p.prompt) for p in load(spec, "eval", 150)]
    assert train and held and not set(train) & set(held)
    assert len(set(train)) == len(train) and len(set(held)) == len(held), "a problem comes twice"


def test_reordered_numbers_are_the_same_countdown_problem():
    """Else the split would hold out one order and train on another."""
    prompts = {tuple(numbers_and_target(p.prompt)[0]) for p in load("countdown", limit=8192)}
    assert any(numbers != tuple(sorted(numbers)) for numbers in prompts)
    train = {(tuple(sorted(n)), t) for n, t in (numbers_and_target(p.prompt) for p in load("countdown", limit=8192))}
    for problem in load("countdown", "eval", 150):
        numbers, target = numbers_and_target(problem.prompt)
        assert all((tuple(sorted(order)), target) not in train for order in permutations(numbers))


@pytest.mark.parametrize(
    ("spec", "eval_spec"),
    [
        ("countdown:numbers=2,high=20", "countdown:numbers=2,high=18"),
        ("countdown:numbers=2,high=18", "countdown:numbers=2,high=20"),
        ("countdown:numbers=2,high=20", "countdown:numbers=2,high=20,instruct=1"),
        ("sorting:length=3,high=9", "sorting:length=3,high=8"),
    ],
)
def test_other_knobs_for_evaluation_do_not_leak(spec, eval_spec):
    train, held = load_problems(spec, eval_spec, 100)
    seen = {canonical(spec, p.prompt) for p in train}
    assert len(held) > 40
    assert not seen & {canonical(spec, p.prompt.splitlines()[-1]) for p in held}


def test_a_tenth_of_the_problems_is_held_out():
    train, held = (load("countdown:numbers=2,high=20", split, 8192) for split in ("train", "eval"))
    assert 0.08 < len(held) / (len(train) + len(held)) < 0.12


@pytest.mark.parametrize("spec", SPECS + EXTREME_SPECS)
def test_gold_answers_are_right(spec):
    """Recomputed here from the prompt."""
    for problem in load(spec, limit=200 if spec in SPECS else 20):
        prompt, answer = problem.prompt, problem.answer
        if spec.startswith("countdown"):
            pool, target = numbers_and_target(prompt)
            for step in answer.split(","):
                term, _, result = step.partition("=")
                op = next(op for op in "+-*/" if op in term)
                x, y = map(int, term.split(op))
                pool.remove(x)
                pool.remove(y)
                exact = {"+": x + y, "-": x - y, "*": x * y, "/": Fraction(x, y)}[op]
                assert exact == int(result) > 0
                pool.append(int(result))
            assert pool == [target]
        elif spec.startswith("arithmetic"):
            assert answer == str(sum(map(int, prompt.removesuffix("=").replace("-", "+-").split("+"))))
        elif spec.startswith("sums"):
            assert answer == str(sum(map(int, prompt.removesuffix("=").split("+"))))
        elif spec.startswith("products"):
            assert int(answer) == math.prod(map(int, prompt.removesuffix("=").split("*")))
        elif spec.startswith("comparison"):
            given = prompt.removeprefix("max(").removesuffix(")=").split(",")
            assert answer in given and all(float(answer) >= float(number) for number in given)
            decimals = {len(number.partition(".")[2]) for number in given}
            assert decimals <= ({0} if "decimals" not in spec else set(range(1, 10)))
        elif spec.startswith("gcd"):
            a, b = map(int, prompt.removeprefix("gcd(").removesuffix(")=").split(","))
            assert answer == str(math.gcd(a, b))
        elif spec.startswith("sorting"):
            values = [int(value) for value in prompt.removeprefix("sort ").removesuffix("=").split()]
            assert [int(value) for value in answer.split()] == sorted(values)
        elif spec.startswith("letter_counting"):
            _, letter, _, word = prompt.removesuffix("=").split()
            assert answer == str(word.count(letter)) != "0"
        else:
            assert list(answer) == list(reversed(prompt.removeprefix("reverse ").removesuffix("=")))


@pytest.mark.parametrize("spec", SPECS + EXTREME_SPECS)
def test_gold_passes_its_own_checker_and_no_other_does(spec):
    problems = load(spec, limit=200 if spec in SPECS else 20)
    verdicts = Verifier()(problems, [p.answer for p in problems])
    assert {(v.reward, v.reason) for v in verdicts} == {(1.0, "match")}
    wrong = [
        (problem, other.answer)
        for shift in (1, 7)
        for problem, other in zip(problems, problems[shift:] + problems[:shift], strict=True)
        if problem.answer != other.answer
    ]
    assert wrong
    assert {v.reward for v in Verifier()(*zip(*wrong, strict=True))} == {0.0}


@pytest.mark.parametrize(
    ("spec", "words", "largest"),
    [
        ("countdown", 3, 10),
        ("countdown:numbers=5,high=40", 5, 40),
        ("arithmetic", 3, 20),
        ("arithmetic:terms=7,high=50", 7, 50),
        ("sums", 2, 20),
        ("sums:terms=4,high=90", 4, 90),
        ("products", 2, 20),
        ("comparison", 2, 100),
        ("comparison:numbers=5,high=30", 5, 30),
        ("gcd", 2, 200),
        ("gcd:high=1000", 2, 1000),
        ("sorting", 4, 20),
        ("sorting:length=6,high=90", 6, 90),
    ],
)
def test_knobs_set_how_many_numbers_and_how_large(spec, words, largest):
    asked = [p.prompt.partition("=")[0] if "countdown" in spec else p.prompt for p in load(spec, limit=300)]
    numbers = [list(map(int, "".join(c if c.isdigit() else " " for c in text).split())) for text in asked]
    assert {len(row) for row in numbers} == {words}
    assert 0.9 * largest < max(map(max, numbers)) <= largest and min(map(min, numbers)) >= 1


@pytest.mark.parametrize(
    ("spec", "length", "letters"),
    [("letter_counting", 8, 4), ("letter_counting:length=12,letters=7", 12, 7), ("reversing:length=9", 9, 26)],
)
def test_knobs_set_the_word_and_its_alphabet(spec, length, letters):
    words = [p.prompt.removesuffix("=").split()[-1] for p in load(spec, limit=300)]
    assert {len(word) for word in words} == {length}
    assert set("".join(words)) == set("abcdefghijklmnopqrstuvwxyz"[:letters])


@pytest.mark.parametrize("spec", [s for s in SPECS if s not in ("letter_counting:length=3,letters=26", "gcd:high=30")])
def test_no_single_answer_pays(spec):
    """A policy that always says the same thing is right on few problems."""
    answers = Counter(p.answer for p in load(spec, limit=200))
    assert answers.most_common(1)[0][1] / answers.total() < 0.4


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "countdown:" + knob
            for knob in ("numbers", "numbers=", "=3", "numbers=1", "numbers=11", "numbers=-3", "x=1")
        ),
        *("countdown:numbers=" + value for value in ("3.0", "1e1", "²", " 3", "3;high=4", "9" * 5000, "x" * 100)),
        *("reversing:length=1", "reversing:length=101", "reversing:high=3"),
        *("letter_counting:letters=0", "letter_counting:letters=27", "gcd:high=1", "sorting:high=1000001"),
        *("countdown:shots=21", "sums:numbers=2", "comparison:decimals=10", "arithmetic:decimals=1"),
        *("arithmetic:terms=1", "arithmetic:terms=101", "countdown:instruct=2", "countdown:rng=3", "gcd:high=3 "),
    ],
)
def test_bad_knob_names_the_good_ones(spec):
    with pytest.raises(InputError, match=r"cannot use .*; the knobs of .* with their defaults are .*at least") as error:
        load_task(spec, limit=1)
    assert "\n" not in str(error.value)


def named(source: str, problems: list[Problem]) -> list[Problem]:
    """The problems as if they had been asked for under another name."""
    return [replace(problem, source=source) for problem in problems]


@pytest.mark.parametrize(
    ("spec", "same"),
    [("countdown:", "countdown"), ("countdown:high=10,numbers=3", "countdown"), ("gcd:high=0030", "gcd:high=30")],
)
def test_one_task_spelled_in_two_ways(spec, same):
    assert load_task(spec, limit=30) == named(spec, load_task(same, limit=30))


@pytest.mark.parametrize("name", PROCEDURAL)
def test_instruct_puts_a_sentence_in_front(name):
    bare, told = load_task(name, limit=20), load_task(f"{name}:instruct=1", limit=20)
    for problem, other in zip(bare, told, strict=True):
        sentence, _, prompt = other.prompt.partition("\n")
        assert (prompt, other.answer) == (problem.prompt, problem.answer)
        assert sentence.endswith(".") and len(sentence) > 20
        mark = re.search('"(.*)"', sentence)[1]  # the form that it asks for is one that is paid
        [verdict] = Verifier()([other], [f"First I look at it: 1, 2, 3.\n\n{mark} {other.answer}"])
        assert verdict.reward == 1
    assert load_task(f"{name}:instruct=0", limit=20) == named(f"{name}:instruct=0", bare)


@pytest.mark.parametrize("instruct", [False, True])
@pytest.mark.parametrize("name", PROCEDURAL)
def test_shots_are_worked_turns_before_the_question(name, instruct):
    """The same for every question of either split, right, asked no more, and in the form that an answer should have."""
    bare, spec = name + ":instruct=1" * instruct, name + ":shots=3" + ",instruct=1" * instruct
    alone = [load(bare, split, 60) for split in ("train", "eval")]
    shown = [load_task(spec, split, 50) for split in ("train", "eval")]
    worked, asked = alone[0][:3], [alone[0][3:53], alone[1][:50]]  # training problems, taken out of them
    turns = [message for problem in shown[0] + shown[1] for message in problem.prompt[:-1]]
    assert turns == turns[:6] * (len(turns) // 6)
    assert [m["role"] for m in shown[0][0].prompt] == ["user", "assistant"] * 3 + ["user"]
    assert [m["content"] for m in turns[:6:2]] == [problem.prompt for problem in worked]
    verdicts = Verifier()(worked, [m["content"] for m in turns[1:6:2]])
    assert {verdict.reward for verdict in verdicts} == {1.0}
    assert {m["content"].startswith("Answer: ") for m in turns[1:6:2]} == {instruct}
    for problems, questions in zip(shown, asked, strict=True):
        assert [(p.prompt[-1]["content"], p.answer) for p in problems] == [(p.prompt, p.answer) for p in questions]
    assert load_task(f"{name}:shots=0", limit=5) == named(f"{name}:shots=0", load_task(name, limit=5))


def test_shots_and_the_chat_template_are_one_form():
    task = "sums:high=12,shots=3"
    assert load_problems(task, None, 8, template="chat") == load_problems(task, None, 8)
    with pytest.raises(InputError, match="chat messages already"):
        load_problems(task, None, 8, template="qwen_boxed")


def test_a_sum_is_no_answer_to_itself():
    """As mathematics the question equals its answer; what is asked for is the number."""
    for name in ("sums", "products"):
        problem = load(name)[0]
        formula = problem.prompt.removesuffix("=")
        responses = [formula, f"Answer: {formula}", f"\\boxed{{{formula}}}", f"{problem.prompt}{problem.answer}"]
        assert [v.reward for v in Verifier()([problem] * 4, responses)] == [0, 0, 0, 1]


def test_signs_make_other_problems(capsys):
    """1-23 and 12-3 differ in punctuation alone, and are no hint to each other."""
    load_problems("arithmetic:terms=2,high=30,instruct=1", None, 64)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("spec", ["countdown", "reversing:length=2"])
def test_a_smaller_limit_gives_the_first_of_a_larger(spec):
    assert load_task(spec, limit=0) == []
    assert load_task(spec, limit=7) == load_task(spec, limit=50)[:7]
    assert len(load_task(spec, limit=50)) == 50


def test_without_a_limit():
    assert len(load_task("reversing")) == 8192


def all_countdown(numbers: int, high: int) -> set[str]:
    """Every problem with two numbers, by brute force."""
    assert numbers == 2
    found = set()
    for x, y in product(range(1, high + 1), repeat=2):
        targets = {x + y, x * y} | ({x - y} if x > y else set()) | ({x // y} if x % y == 0 else set())
        found |= {f"{sorted((x, y))} {target}" for target in targets}
    return found


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("countdown:numbers=2,high=2", len(all_countdown(2, 2))),
        ("countdown:numbers=2,high=9", len(all_countdown(2, 9))),
        ("arithmetic:terms=2,high=2", 8),
        ("sums:high=12", 78),
        ("products:terms=3,high=2", 4),
        ("comparison:high=2,decimals=1", 18 * 19 // 2),
        ("gcd:high=2", 3),
        ("sorting:length=2,high=2", 4),
        ("letter_counting:letters=1", 1),
        ("reversing:length=2", 26 * 26),
    ],
)
def test_a_small_task_gives_all_it_has(spec, size):
    assert len(load_task(spec, "all")) == size
    parts = [{canonical(spec, p.prompt) for p in load_task(spec, split)} for split in ("train", "eval")]
    assert len(parts[0]) + len(parts[1]) == len(parts[0] | parts[1]) == size


def test_a_task_too_small_to_hold_anything_out():
    with pytest.raises(InputError, match=r"gcd:high=2 is too small to hold problems out .*; use one with more"):
        load_problems("gcd:high=2", None, 8)


def test_few_problems_to_evaluate_on_are_said(capsys):
    load_problems("sums:high=12", None, 64)
    assert capsys.readouterr().err == "sums:high=12 has 8 problems to evaluate on, and no more\n"
    load_problems("sums:high=12", None, 8)
    assert capsys.readouterr().err == ""


def test_loading_a_task_that_runs_out_takes_seconds():
    """It draws for long before it gives up. The bound is generous for a busy machine."""
    started = time.process_time()
    load_problems("gcd:high=60", None, 64)
    assert time.process_time() - started < 8


@pytest.mark.parametrize("split", ["test", "", "Train"])
def test_unknown_split(split):
    with pytest.raises(InputError, match="use train, eval or all"):
        load_task("countdown", split)


# --- Local files ------------------------------------------------------------------------------------------------


ROWS = [{"prompt": f"{a} plus {b}?", "answer": str(a + b)} for a in range(5) for b in range(6)]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: list[dict]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def pairs(path: Path, **columns: str) -> list[tuple]:
    return [(p.prompt, p.answer) for p in load_task(str(path), "all", **columns)]


def refusal(path: Path, **columns: str) -> str:
    """The message, one line that names the file."""
    with pytest.raises(InputError) as error:
        load_problems(str(path), None, 8, **columns)
    message = str(error.value)
    assert "\n" not in message and len(message) < 600 and str(path) in message
    return message


@pytest.mark.parametrize("write", [jsonl, parquet])
@pytest.mark.parametrize("prompt", ["prompt", "question", "problem"])
@pytest.mark.parametrize("answer", ["answer", "solution", "final_answer", "ground_truth"])
def test_usual_columns_are_found(write, prompt, answer, tmp_path):
    path = write(tmp_path / f"t.{write.__name__}", [{"id": 1, answer: "2", "level": None, prompt: "1+1?"}])
    assert load_task(str(path), "all") == [Problem("1+1?", "2", f"{path.name} row 1", "math", None, str(path))]


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_named_columns_come_first(write, tmp_path):
    row = {"prompt": "p", "answer": "a", "text": "t", "gold": "g"}
    path = write(tmp_path / f"t.{write.__name__}", [row])
    assert pairs(path) == [("p", "a")]
    assert pairs(path, prompt_column="text", answer_column="gold") == [("t", "g")]
    assert pairs(path, prompt_column="gold") == [("g", "a")]


@pytest.mark.parametrize("write", [jsonl, parquet])
def test_chat_messages_keep_role_and_content(write, tmp_path):
    chat = [{"role": "system", "content": ""}, {"role": "user", "content": "1+1?", "name": None, "at": [3]}]
    path = write(tmp_path / f"t.{write.__name__}", [{"prompt": chat, "answer": "2"}])
    assert pairs(path) == [([{"role": "system", "content": ""}, {"role": "user", "content": "1+1?"}], "2")]


@pytest.mark.parametrize(
    ("prompts", "kept"),
    [
        (["a", "b", "a"], [0, 1]),
        (["a", " a\n", "A"], [0, 2]),
        (["a", [{"role": "user", "content": "a "}]], [0]),
        ([[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]], [0, 1]),
        (["a  b", "a b"], [0, 1]),
    ],
)
def test_a_prompt_that_comes_again_is_dropped(prompts, kept, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"prompt": p, "answer": str(i)} for i, p in enumerate(prompts)])
    assert [int(p.answer) for p in load_task(str(path), "all")] == kept


LINES = [b'{"prompt": "a", "answer": "1"}', '{"prompt": "\u00e9\u2028\u0085 \U0001f600", "answer": "\u4e8c"}'.encode()]


@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(LINES),
        b"\n".join(LINES) + b"\n",
        b"\xef\xbb\xbf" + b"\n".join(LINES),
        b"\r\n".join(LINES) + b"\r\n",
        b"\n \n" + b"\n\t\r\n\n".join(LINES) + b"\n\n\n",
        b"  " + b" \n ".join(LINES) + b" ",
    ],
)
def test_bom_blank_lines_and_line_ends(content, tmp_path):
    """U+2028 and U+0085 end a line for str.splitlines, and stand unescaped inside JSON strings."""
    (tmp_path / "t.jsonl").write_bytes(content)
    assert pairs(tmp_path / "t.jsonl") == [("a", "1"), ("\u00e9\u2028\u0085 \U0001f600", "\u4e8c")]


@pytest.mark.parametrize(
    "text", ["\x00", "\u202e", "\U0001f600", "\\ud800", "a" * 100_000, "{}%s{0}", "<|im_end|>", "\\"]
)
def test_odd_text_comes_back_as_it_was(text, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"prompt": f"x{text}", "answer": f"y{text}"}])
    assert pairs(path) == [(f"x{text}", f"y{text}")]
    json.dumps(pairs(path), ensure_ascii=False).encode()


@pytest.mark.parametrize("where", ["prompt", "answer", "chat"])
@pytest.mark.parametrize("half", ["\ud800", "x\udc00y", "\ude00\ud83d"])
def test_half_a_character_is_refused(half, where, tmp_path):
    row = {"prompt": "1+1?", "answer": "2"} | ({where: half} if where != "chat" else {})
    if where == "chat":
        row["prompt"] = [{"role": "user", "content": half}]
    message = refusal(jsonl(tmp_path / "t.jsonl", [*ROWS, row]))
    assert "row 31: column" in message and "surrogate" in message and "mend or remove" in message
    message.encode()


def test_half_a_character_elsewhere_does_no_harm(tmp_path):
    row = {"prompt": [{"role": "user", "content": "a", "name": "\ud800"}], "answer": "2", "note": "\ud800"}
    assert pairs(jsonl(tmp_path / "t.jsonl", [row])) == [([{"role": "user", "content": "a"}], "2")]


DEEP = "[" * 500 + "]" * 500


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", ["line 4 is not JSON", "column 2", "mend or remove"]),
        (b'{"prompt": "a" "answer": "b"}', ["line 4 is not JSON", "column 16"]),
        (b"{'prompt': 'a', 'answer': 'b'}", ["line 4 is not JSON"]),
        (b'{"prompt": "a\tb", "answer": "b"}', ["line 4 is not JSON"]),
        (b'{"prompt": "a", "answer": "b"} {}', ["line 4 is not JSON", "column 32"]),
        (b'{"prompt": "a", "answer": ' + b"1" * 5000 + b"}", ["line 4 is not JSON", "too long"]),
        (b"[" * 100_000, ["line 4 is not JSON", "too deep"]),
        (b'["prompt", "answer"]', ["line 4 is not a JSON object", "{...}"]),
        (b"null", ["line 4 is not a JSON object"]),
        (b"\xff\xfe", ["line 4 is not UTF-8", "convert"]),
        (b'{"prompt": "a", "answer": "\xed\xa0\x80"}', ["line 4 is not UTF-8"]),
        (b'\xef\xbb\xbf{"prompt": "a", "answer": "b"}', ["line 4 is not JSON"]),
        (b"{}", ["row 4 has no column any of prompt, question", "it has none", "--prompt-column"]),
        (b'{"prompt": "a", "x": 1}', ["row 4 has no column any of answer,", "it has prompt, x:", "--answer-column"]),
        (b'{"prompt": 7, "answer": "b"}', ["row 4", "column 'prompt'", "text or a list of chat messages, not 7"]),
        (b'{"prompt": {"role": "user", "content": "a"}, "answer": "b"}', ["row 4", "column 'prompt'"]),
        (b'{"prompt": ["a"], "answer": "b"}', ["row 4", "not ['a']"]),
        (b'{"prompt": [{"role": "user"}], "answer": "b"}', ["row 4", "column 'prompt'"]),
        (b'{"prompt": [{"role": "user", "content": ["a"]}], "answer": "b"}', ["row 4", "column 'prompt'"]),
        (b'{"prompt": ' + DEEP.encode() + b', "answer": "b"}', ["row 4", "column 'prompt'"]),
        (b'{"prompt": "a", "answer": ' + DEEP.encode() + b"}", ["row 4", "column 'answer'"]),
        (b'{"prompt": "a", "answer": true}', ["row 4", "column 'answer'", "not True"]),
        (b'{"prompt": "a", "answer": {"value": "4"}}', ["row 4", "column 'answer'"]),
        (b'{"prompt": "a", "answer": ["4", "' + b"x" * 100_000 + b'"]}', ["row 4", "column 'answer'", "..."]),
    ],
)
def test_a_bad_line_is_named(line, words, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"\n".join([LINES[0], b"", LINES[1], line, *LINES]))
    message = refusal(path)
    assert all(word in message for word in words), message


def test_a_missing_named_column(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", ROWS)
    assert "row 1 has no column 'text'; it has prompt, answer" in refusal(path, prompt_column="text")
    assert "choose one with --answer-column" in refusal(path, answer_column="gold")


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file(content, tmp_path):
    (tmp_path / "t.jsonl").write_bytes(content)
    assert "is empty" in refusal(tmp_path / "t.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x" * 300 + ".jsonl", "a\0b.jsonl", "x.jsonl/y.jsonl"])
def test_a_file_that_is_not_there(name, tmp_path):
    assert "does not exist or is not a file" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["", "countdwon", "countdown=3", "COUNTDOWN", "a" * 5000])
def test_an_unknown_task_names_the_known_ones(name):
    with pytest.raises(InputError, match=f"use one of {', '.join(PROCEDURAL)}, gsm8k, .*or a .jsonl or .parquet file"):
        load_task(name)


def test_parquet_gives_the_problems_of_jsonl(tmp_path):
    rows = [row | {"extra": {"deep": [1, None]}} for row in ROWS]
    (tmp_path / "split=odd").mkdir()
    path = parquet(tmp_path / "split=odd" / "t.parquet", rows)
    for split in ("train", "eval", "all"):
        expected = load_task(str(jsonl(tmp_path / "t.jsonl", rows)), split)
        assert [(p.prompt, p.answer, p.kind) for p in load_task(str(path), split)] == [
            (p.prompt, p.answer, p.kind) for p in expected
        ]


def test_parquet_with_odd_values_is_refused(tmp_path):
    message = refusal(parquet(tmp_path / "a.parquet", [{"prompt": 7, "answer": "1"}]))
    assert "row 1: the prompt (column 'prompt') must be text or a list of chat messages, not 7" in message
    message = refusal(parquet(tmp_path / "b.parquet", [{"prompt": "a", "answer": True}]))
    assert "row 1: the answer (column 'answer') must be non-empty text or a number, not True" in message


def not_utf8(path: Path) -> None:
    binary = pyarrow.array([b"\xff\xfe"], pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 1, binary.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": text, "answer": ["1"]}), path)


def truncated(path: Path) -> None:
    parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:-30])


def damaged_inside(path: Path) -> None:
    parquet(path, ROWS * 50)
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(400) + content[408:])


@pytest.mark.parametrize(
    "damage",
    [not_utf8, truncated, damaged_inside, lambda p: p.write_text("x"), lambda p: p.write_bytes(b"")],
)
def test_damaged_parquet(damage, tmp_path):
    damage(tmp_path / "t.parquet")
    assert "is not a readable parquet file" in refusal(tmp_path / "t.parquet")


def test_empty_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "t.parquet")
    assert "is empty" in refusal(tmp_path / "t.parquet")


# --- Worked solutions and where a problem comes from ------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS + EXTREME_SPECS)
def test_trace_is_paid_in_full(spec):
    problems = load(spec, limit=200 if spec in SPECS else 20)
    assert {v.reward for v in Verifier()(problems, [p.trace for p in problems])} == {1.0}


@pytest.mark.parametrize("write", [jsonl, parquet])
@pytest.mark.parametrize("column", ["work", "extra.work", "extra.deep.work"])
def test_trace_column(write, column, tmp_path):
    """Text as it is; a row without any has none, and is no worse for it."""
    works = ["First 1,\n then 2.", None, "", " \n", "  x"]
    rows = []
    for i, work in enumerate(works):
        value = work
        for name in reversed(column.split(".")):
            value = {name: value}
        rows.append({"prompt": f"p{i}", "answer": "1"} | value)
    path = write(tmp_path / f"t.{write.__name__}", rows)
    traces = [p.trace for p in load_task(str(path), "all", trace_column=column)]
    assert traces == ["First 1,\n then 2.", None, None, None, "  x"]
    assert {p.trace for p in load_task(str(path), "all")} == {None}


def test_a_row_may_lack_the_trace_column(tmp_path):
    for work in ("w", None):
        rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2", "work": work}]
        path = jsonl(tmp_path / "t.jsonl", rows)
        assert [p.trace for p in load_task(str(path), "all", trace_column="work")] == [None, work]


@pytest.mark.parametrize(
    ("value", "column", "words"),
    [
        ("w", "solution", ["row 1 has no column 'solution'; it has prompt, answer, work: choose one with --trace"]),
        ("w", "work.inner", ["row 1 has no column 'work.inner'", "--trace-column"]),
        ({"a": "w", "b": "v"}, "work", ["column 'work' has columns inside it", "--trace-column: work.a, work.b"]),
        (7, "work", ["row 1: the worked solution (column 'work') must be text, not 7"]),
        ([7], "work", ["row 1: the worked solution (column 'work') must be text, not [7]"]),
        ("\ud800", "work", ["row 1: column 'work'", "surrogate"]),
    ],
)
def test_a_bad_trace_column(value, column, words, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "answer": "1", "work": value}, *ROWS])
    message = refusal(path, trace_column=column)
    assert all(word in message for word in words), message


def test_an_evaluation_needs_no_traces(tmp_path):
    task = jsonl(tmp_path / "t.jsonl", [row | {"work": "w"} for row in ROWS])
    other = jsonl(tmp_path / "e.jsonl", [{"prompt": "new?", "answer": "0"}])
    train, evaluation = load_problems(str(task), str(other), 8, trace_column="work")
    assert {p.trace for p in train} == {"w"} and {p.trace for p in evaluation} == {None}
    assert {p.source for p in train} == {str(task)} and {p.source for p in evaluation} == {str(other)}


@pytest.mark.parametrize("template", ["raw", "chat", "r1"])
def test_trace_and_source_outlive_a_template(template):
    train, evaluation = load_problems("countdown:numbers=4", "gcd", 8, template=template)
    assert {p.source for p in train} == {"countdown:numbers=4"} and {p.source for p in evaluation} == {"gcd"}
    assert all(p.trace == p.answer for p in train + evaluation)


# --- The split of a file ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "held"), [(2, 1), (9, 1), (20, 2), (30, 3)])
def test_a_fixed_tenth_of_a_file_is_held_out(size, held, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", ROWS[:size])
    train, evaluation = load_problems(str(path), None, 64)
    assert len(evaluation) == held and len(train) == size - held
    assert {p.prompt for p in train}.isdisjoint(p.prompt for p in evaluation)
    assert (train, evaluation) == load_problems(str(path), None, 64)
    assert [p.prompt for p in train] == [r["prompt"] for r in ROWS if r["prompt"] in {p.prompt for p in train}]


def test_the_split_does_not_depend_on_the_order_of_rows(tmp_path):
    """And a part of the held-out problems is no run of neighbours, which may all be easy."""
    rows = [{"prompt": f"{i}?", "answer": str(i)} for i in range(200)]
    first = load_problems(str(jsonl(tmp_path / "a.jsonl", rows)), None, 64)[1]
    second = load_problems(str(jsonl(tmp_path / "b.jsonl", rows[::-1])), None, 64)[1]
    assert [p.prompt for p in first] == [p.prompt for p in second] and len(first) == 20
    values = [int(p.answer) for p in first]
    assert values != sorted(values) and min(values[:10]) < 100 < max(values[:10])


def test_fewer_evaluation_problems_do_not_change_the_training_list(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", ROWS)
    train, evaluation = load_problems(str(path), None, 3)
    assert load_problems(str(path), None, 1) == (train, evaluation[:1])


def test_a_file_of_one_row(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", ROWS[:1])
    assert "leaves nothing to train on" in refusal(path)
    assert [len(load_task(str(path), split)) for split in ("train", "eval", "all")] == [0, 1, 1]


@pytest.mark.parametrize("num_eval", [1, 64])
def test_an_eval_file_is_used_whole_and_not_trained_on(num_eval, tmp_path):
    """Its prompts leave the training list even where evaluation stops earlier, and where they are chat messages."""
    task = jsonl(tmp_path / "t.jsonl", ROWS)
    chat = [[{"role": "user", "content": row["prompt"] + "\n"}] for row in ROWS[:3]]
    other = jsonl(tmp_path / "e.jsonl", [{"prompt": p, "answer": "0"} for p in ["new?", *chat, ROWS[3]["prompt"]]])
    train, evaluation = load_problems(str(task), str(other), num_eval)
    assert [p.prompt for p in evaluation] == ["new?", *chat, ROWS[3]["prompt"]][:num_eval]
    assert [p.prompt for p in train] == [row["prompt"] for row in ROWS[4:]]


def test_an_eval_file_beside_a_procedural_task(tmp_path):
    own = load("gcd:high=30", limit=5)
    other = jsonl(tmp_path / "e.jsonl", [{"prompt": p.prompt, "answer": p.answer} for p in own])
    train, evaluation = load_problems("gcd:high=30", str(other), 64)
    assert len(evaluation) == 5 and train == load_task("gcd:high=30")[5:]


def test_a_procedural_eval_task_leaves_the_whole_file_for_training(tmp_path):
    train, evaluation = load_problems(str(jsonl(tmp_path / "t.jsonl", ROWS)), "countdown", 64)
    assert len(train) == len(ROWS) and evaluation == load_task("countdown", "eval", 64)


def test_the_same_file_as_eval_task_is_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "t.jsonl", ROWS)
    train, evaluation = load_problems("t.jsonl", None, 64)
    assert load_problems("t.jsonl", "./t.jsonl", 64) == (train, named("./t.jsonl", evaluation))


# --- The stream -------------------------------------------------------------------------------------------------


def numbered(count: int) -> list[Problem]:
    return [Problem(f"{i}?", str(i), f"t-{i}", "exact") for i in range(count)]


@pytest.mark.parametrize("take", [1, 3, 10, 25])
def test_every_epoch_is_a_new_order_of_all_problems(take):
    stream, taken = ProblemStream(numbered(10), 0), []
    while len(taken) < 50:
        taken += stream.take(take)
        assert stream.cursor == len(taken)
    epochs = [[p.id for p in taken[start : start + 10]] for start in range(0, 50, 10)]
    assert all(sorted(epoch) == sorted(p.id for p in numbered(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_the_order_is_a_function_of_seed_and_epoch():
    taken = [p.id for p in ProblemStream(numbered(50), 0).take(200)]
    random.seed(5)
    stream = ProblemStream(numbered(50), 0)
    assert [p.id for n in (1, 60, 9, 130) for p in stream.take(n)] == taken
    assert [p.id for p in ProblemStream(numbered(50), 1).take(200)] != taken


@pytest.mark.parametrize("cursor", [0, 1, 6, 7, 8, 70, 71])
def test_a_stream_goes_on_from_its_cursor(cursor):
    whole = ProblemStream(numbered(7), 3).take(100)
    stream = ProblemStream(numbered(7), 3)
    stream.cursor = cursor
    assert stream.take(20) == whole[cursor : cursor + 20]
    assert stream.take(0) == []


def test_an_order_is_drawn_once_an_epoch(monkeypatch):
    """And again after a jump, as a resumed run makes one."""
    drawn, sample = [], random.Random.sample

    def counted(self, population, k):
        drawn.append(k)
        return sample(self, population, k)

    monkeypatch.setattr(random.Random, "sample", counted)
    stream = ProblemStream(numbered(100), 0)
    first = [problem for _ in range(20) for problem in stream.take(7)]
    assert drawn == [100, 100]  # 140 problems
    stream.cursor = 0
    assert [problem for _ in range(20) for problem in stream.take(7)] == first and len(drawn) == 4


@pytest.mark.parametrize("cursor", [0, 3, 5, 10])
def test_the_beginning_of_a_stream_in_another_order(cursor):
    """It may reach into a second epoch; what follows is as it was."""
    usual, order = ProblemStream(numbered(7), 1).take(30), [9, 0, 3, 1, 8, 2, 7, 5, 4, 6]
    stream = ProblemStream(numbered(7), 1)
    stream.take(3)  # what was taken before does not matter
    stream.reorder(order)
    stream.cursor = cursor
    expected = [usual[i] for i in order] + usual[10:]
    assert [p for n in (2, 7, 0, 1, 8) for p in stream.take(n)] == expected[cursor : cursor + 18]
    assert stream.cursor == cursor + 18


# --- Prompt templates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "roles", "start", "end"),
    [
        ("raw", None, "What is {x}?", "What is {x}?"),
        ("chat", ["user"], "What is {x}?", "What is {x}?"),
        ("qwen_boxed", ["system", "user"], "Please reason step by step, and put", "What is {x}?"),
        ("dapo", ["user"], "Solve the following math problem", 'on its own line after "Answer:".'),
        ("r1", None, "A conversation between User and Assistant.", "User: What is {x}?\nAssistant: <think>"),
    ],
)
def test_prompt_template(template, roles, start, end):
    """The question as it is, braces and all, in the words around it."""
    prompt = render(template, "What is {x}?")
    contents = [prompt] if roles is None else [message["content"] for message in prompt]
    assert roles is None or [message["role"] for message in prompt] == roles
    assert contents[0].startswith(start) and contents[-1].endswith(end)
    assert sum(content.count("What is {x}?") for content in contents) == 1
    if template == "qwen_boxed":
        assert contents[0].endswith("within \\boxed{}.")


def test_templates_change_prompts_alone(tmp_path):
    plain = load_problems("countdown", None, 5)
    boxed = load_problems("countdown", None, 5, template="qwen_boxed")
    for before, after in zip(plain, boxed, strict=True):
        assert [(p.answer, p.id, p.kind) for p in before] == [(p.answer, p.id, p.kind) for p in after]
        assert [p.prompt for p in before] == [p.prompt[1]["content"] for p in after]
    path = tmp_path / "chats.jsonl"
    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}], "answer": "1"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="chat messages already"):
        load_problems(str(path), None, 5, template="dapo")
    with pytest.raises(InputError, match="unknown prompt template"):
        render("boxed", "q")


def test_overlap_of_training_and_evaluation_is_said(tmp_path, capsys):
    """Word for word: left out. But for case and punctuation: said. Short sums, whose signs are all they have: not."""
    same, near = "How many apples does Ann have in all?", "How many pears does Bob have in all?"
    files = {
        "train": [same, near, "What is the sum of nine and ten, please?", "1+12="],
        "eval": [same, near.upper().replace(" ", "  ") + "!", "11+2="],
    }
    for name, prompts in files.items():
        rows = [json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    train, _ = load_problems(str(tmp_path / "train.jsonl"), str(tmp_path / "eval.jsonl"), 10)
    assert [p.prompt for p in train] == files["train"][1:]
    left_out, warning = capsys.readouterr().err.splitlines()
    assert left_out.startswith("1 problems") and warning.startswith("warning: 1 problems") and "by heart" in warning


def test_gold_that_cannot_be_verified_is_left_out(tmp_path, capsys):
    """Numbers, words and formulas stay; what neither arithmetic nor algebra can read goes, and is counted."""
    golds = ["4", "New York", "\\frac{\\sqrt{3}}{2}", "^_^", "}{"]
    for name in ("train", "eval"):
        rows = [json.dumps({"prompt": f"{name} {i}", "answer": gold}) + "\n" for i, gold in enumerate(golds)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    train, evaluation = load_problems(str(tmp_path / "train.jsonl"), str(tmp_path / "eval.jsonl"), 10)
    assert [p.answer for p in train] == [p.answer for p in evaluation] == golds[:3]
    assert capsys.readouterr().err.count("2 problems left out, whose gold answer cannot be verified") == 2
