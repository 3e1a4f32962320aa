"""Data sets of the hub: rows of every named set become problems, what cannot be used is counted, errors are one line.

No network: `datasets.load_dataset` gives local data sets of the columns that the hub has.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common import InputError, hub
from common.tasks import load_problems, load_task

datasets = pytest.importorskip("datasets")

# One good row of each set as its card shows it, and the problem it should become.
ROWS = {
    "gsm8k": ({"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,004"}, "1,004"),
    "math": (
        {"problem": "Find x.", "solution": "So $\\boxed{1}$, or \\boxed{\\frac{1}{2}}.", "level": "5"},
        "\\frac{1}{2}",
    ),
    "math500": ({"problem": "Find x.", "answer": "\\left( 3, \\frac{\\pi}{2} \\right)", "solution": "s"}, None),
    "dapo17k": ({"prompt": "Find x.", "solution": "34"}, "34"),
    "deepscaler": ({"problem": "Find x.", "answer": "\\sqrt{2}", "solution": ""}, "\\sqrt{2}"),
    "aime24": ({"problem": "Find x.", "answer": "204"}, "204"),
    "aime25": ({"problem": "Find x.", "answer": "70"}, "70"),
    "amc23": ({"question": "Find x.", "answer": 27.0}, "27"),
    "olympiad": ({"question": "Find x.", "final_answer": ["2"]}, "2"),
    "minerva": ({"question": "Find x.", "answer": ["4.5e33"]}, "4.5e33"),
}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[dict]]], list[tuple]]:
    """Make the hub one data set with these splits; returns the calls that were made."""

    def set_up(splits: dict[str, list[dict]]) -> list[tuple]:
        calls = []

        def load_dataset(repo: str, config: str | None = None, split: str | None = None) -> datasets.Dataset:
            calls.append((repo, config, split))
            if split not in splits:
                raise ValueError(f"Unknown split {split!r}. Should be one of {list(splits)}.")
            return datasets.Dataset.from_list(splits[split])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        monkeypatch.setattr(datasets, "get_dataset_split_names", lambda repo, config: list(splits))
        return calls

    return set_up


def test_every_named_set_has_a_row_here() -> None:
    assert hub.KNOWN.keys() == ROWS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_named_set(name: str, serve: Callable) -> None:
    row, answer = ROWS[name]
    source = hub.KNOWN[name]
    calls = serve({split: [row] for split in (source.train, source.test) if split})
    for split in ("train", "eval") if source.train and source.test else ("all",):
        [problem] = load_task(name, split)
        assert problem.prompt in ("How many?", "Find x.") and problem.answer == (answer or row["answer"])
        assert problem.kind == "math" and problem.id == f"{name}-{calls[-1][2]}-row-1"
        assert calls[-1][:2] == (source.repo, source.config)


def test_traces_of_named_sets(serve: Callable) -> None:
    """The worked solution where the set has one, or what is asked for instead; the source is the name as typed."""
    traces = {"gsm8k": "answer", "math": "solution", "math500": "solution"}
    for name, (row, _) in ROWS.items():
        source = hub.KNOWN[name]
        serve({split: [row] for split in (source.train, source.test) if split})
        [problem] = load_task(name, "all")
        assert problem.trace == (row[traces[name]] if name in traces else None) and problem.source == name
    serve({"test": [ROWS["math500"][0] | {"other": {"work": "w"}}]})
    assert load_task("math500", "all", trace_column="other.work")[0].trace == "w"


SAID = {"role": "assistant", "content": "w"}
TRACES = [("w", "w"), ("", None), (None, None), (["w"], "w"), (["v", "w"], None), ([SAID], "w")]


@pytest.mark.parametrize(("value", "trace"), TRACES)
def test_trace_column_of_any_set(value: object, trace: str | None, serve: Callable) -> None:
    """Written as answers are: a list of one is that one; or as a chat message. A row without counts as well as any."""
    serve({"train": [{"prompt": "q", "answer": "1", "work": value}]})
    [problem] = load_task("someone/sums:hard", "all", trace_column="work")
    assert (problem.trace, problem.source) == (trace, "someone/sums:hard")
    with pytest.raises(InputError, match=r"row 1 has no column 'proof'; it has prompt, answer, work: .*--trace-column"):
        load_task("someone/sums:hard", "all", trace_column="proof")


def test_train_and_test_split_are_used_as_they_are(serve: Callable) -> None:
    rows = {part: [{"question": f"{part} {i}", "answer": f"#### {i}"} for i in range(20)] for part in ("train", "test")}
    serve(rows)
    train, evaluation = load_problems("gsm8k", None, 5)
    assert len(train) == 20 and all(p.prompt.startswith("train") for p in train)
    assert len(evaluation) == 5 and all(p.prompt.startswith("test") for p in evaluation)
    train, evaluation = load_problems("countdown", "gsm8k", 50)
    assert len(evaluation) == 20 and evaluation[0].prompt.startswith("test")


def test_one_split_is_held_out_from_or_used_whole(serve: Callable) -> None:
    serve({"train": [{"prompt": f"q{i}", "solution": str(i)} for i in range(30)], "test": []})
    train, evaluation = load_problems("dapo17k", None, 50)
    assert len(train) == 27 and len(evaluation) == 3 and not {p.prompt for p in train} & {p.prompt for p in evaluation}
    train, evaluation = load_problems("countdown", "dapo17k", 50)
    assert len(evaluation) == 30


def test_shared_problems_leave_the_training_list(serve: Callable) -> None:
    serve(
        {
            part: [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(n)]
            for part, n in (("train", 9), ("test", 4))
        }
    )
    train, evaluation = load_problems("gsm8k", None, 4)
    assert [p.prompt for p in train] == ["q4", "q5", "q6", "q7", "q8"] and len(evaluation) == 4


def test_what_cannot_be_used_is_left_out_and_counted(serve: Callable, capsys: pytest.CaptureFixture) -> None:
    rows = [("q1", ["1"]), ("q1", ["1"]), ("q2", ["1", "2"]), ("q3", []), (" ", ["1"]), ("q4", ["4"])]
    serve({"train": [{"question": q, "final_answer": a} for q, a in rows]})
    assert [p.prompt for p in load_task("olympiad", "all")] == ["q1", "q4"]
    assert capsys.readouterr().err == (
        "olympiad train: 2 problems, 1 duplicates left out, 2 without one gold answer left out, "
        "1 empty or unreadable prompts left out\n"
    )


def test_a_solution_that_states_no_answer_is_left_out(serve: Callable, capsys: pytest.CaptureFixture) -> None:
    rows = [{"question": "q1", "answer": "2 + 2 = 4"}, {"question": "q2", "answer": "#### 4"}]
    serve({"train": rows, "test": rows})
    assert [p.prompt for p in load_task("gsm8k", "train")] == ["q2"]
    assert "1 without one gold answer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "splits", "train", "held"),
    [
        ("someone/sums", ["train", "test", "extra"], "train", "test"),
        ("someone/sums", ["val", "train"], "train", "val"),
        ("someone/sums:hard-1.5", ["validation", "test", "train"], "train", "test"),
        ("someone/sums:hard-1.5:train_sft", ["train_sft", "test_sft"], "train_sft", "train_sft"),
        ("someone/sums::test", ["train", "test"], "test", "test"),  # what is named is all there is
        ("someone/sums::train", ["train", "test"], "train", "train"),
        ("someone/sums:", ["train"], "train", "train"),
        ("someone/sums", ["only"], "only", "only"),  # no other can be meant
    ],
)
def test_a_split_is_named_or_called_train(
    name: str, splits: list[str], train: str, held: str, serve: Callable, capsys: pytest.CaptureFixture
) -> None:
    calls = serve({split: [{"prompt": f"{split} {i}", "answer": str(i)} for i in range(30)] for split in splits})
    first, second = (load_task(name, part) for part in ("train", "eval"))
    assert {p.prompt.split()[0] for p in first} == {train} and {p.prompt.split()[0] for p in second} == {held}
    assert (len(first), len(second)) == ((30, 30) if train != held else (27, 3))
    assert {call[:2] for call in calls} == {("someone/sums", "hard-1.5" if "hard" in name else None)}
    assert train in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "splits", "words"),
    [
        ("someone/sums", ["test_sft", "train_sft"], ("no split 'train'", "test_sft, train_sft", "someone/sums::test")),
        ("someone/sums", ["test", "validation"], ("no split 'train'", "test, validation")),
        ("someone/sums", ["Train", "training"], ("no split 'train'", "Train, training")),
        ("someone/sums:hard", ["a", "b"], ("no split 'train'", "a, b", "someone/sums:hard:a")),
        ("someone/sums::dev", ["train", "test"], ("no split 'dev'", "train, test")),
        ("someone/sums:hard:dev", ["only"], ("no split 'dev'", "only", "someone/sums:hard:only")),
        ("someone/sums:hard:train:x", ["train"], ("no split 'train:x'",)),
    ],
)
@pytest.mark.parametrize("part", ["train", "eval", "all"])
def test_splits_are_listed_and_never_guessed(
    name: str, splits: list[str], words: tuple[str, ...], part: str, serve: Callable
) -> None:
    """Neither for training nor for an evaluation."""
    calls = serve({split: [{"prompt": split, "answer": "1"}] for split in splits})
    with pytest.raises(InputError) as error:
        load_task(name, part)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value) and not calls


def test_a_split_where_a_config_may_stand(serve: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = serve({part: [{"prompt": part, "answer": "1"}] for part in ("train", "test")})

    def names(repo: str, config: str | None) -> list[str]:
        if config:
            raise ValueError(f"BuilderConfig {config!r} not found. Available: ['default']")
        return ["train", "test"]

    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    assert [p.prompt for p in load_task("someone/sums:test", "all")] == ["test"]
    assert calls == [("someone/sums", None, "test")]
    with pytest.raises(InputError, match="'hard' not found"):
        load_task("someone/sums:hard", "all")

    def no_default(repo: str, config: str | None) -> list[str]:
        raise ValueError(f"BuilderConfig {config!r} not found" if config else "Config name is missing")

    monkeypatch.setattr(datasets, "get_dataset_split_names", no_default)
    with pytest.raises(InputError, match="'hard' not found"):
        load_task("someone/sums:hard", "all")


def test_a_set_with_a_test_split_alone_is_held_out_from(serve: Callable) -> None:
    serve({"test": [{"question": f"q{i}", "answer": str(i)} for i in range(30)]})
    assert hub.find_set("someone/sums").train is None
    train, evaluation = load_problems("someone/sums", None, 50)
    assert len(train) == 27 and len(evaluation) == 3


def test_any_id_of_the_hub(serve: Callable) -> None:
    """Columns by their usual names or by flags; a config after a colon; validation stands in for test."""
    calls = serve({part: [{"text": f"{part}?", "final_answer": 7}] for part in ("train", "validation")})
    [problem] = load_task("someone/sums:hard", "eval", prompt_column="text")
    assert (problem.prompt, problem.answer) == ("validation?", "7")
    assert calls == [("someone/sums", "hard", "validation")]


def test_columns_inside_columns(serve: Callable) -> None:
    """As verl writes its data sets."""
    serve({"train": [{"prompt": "q", "reward_model": {"ground_truth": "7"}, "a.b": "8"}]})
    assert load_task("someone/sums", "all", answer_column="reward_model.ground_truth")[0].answer == "7"
    assert load_task("someone/sums", "all", answer_column="a.b")[0].answer == "8"
    for column in ("reward_model.gold", "prompt.gold", "reward_model.ground_truth.x"):
        with pytest.raises(InputError, match="--answer-column"):
            load_task("someone/sums", "all", answer_column=column)


def test_a_named_eval_task_has_its_own_columns(serve: Callable, tmp_path: Path) -> None:
    serve({"train": [{"problem": "Find x.", "answer": "204"}]})
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps({"text": f"q{i}", "gold": str(i)}) + "\n" for i in range(9)))
    train, evaluation = load_problems(str(path), "aime24", 5, "text", "gold")
    assert len(train) == 9 and [p.answer for p in evaluation] == ["204"]


def test_chat_messages_are_kept(serve: Callable) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    serve({"train": [{"prompt": messages, "answer": "2"}]})
    [problem] = load_task("someone/chats", "all")
    assert problem.prompt == messages


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("someone/sums", {"train": [{"a": "q", "b": "1"}]}, ("no column", "--prompt-column")),
        (
            "someone/sums",
            {"train": [{"prompt": {"text": "nested"}, "answer": "1"}]},
            ("'prompt' has columns inside it", "--prompt-column", "prompt.text"),
        ),
        (
            "someone/verl",
            {"train": [{"prompt": "q", "reward_model": {"ground_truth": "1", "style": "rule"}}]},
            ("no column any of answer", "--answer-column", "reward_model"),
        ),
        (
            "someone/lists",
            {"train": [{"prompt": "q", "answer": ["1", "2"]}]},
            ("someone/lists train row 1", "column 'answer'", "no list of 2, not ['1', '2']"),
        ),
        (
            "olympiad",
            {"train": [{"question": "q", "final_answer": ["1", "2"]}]},
            ("no usable problem", "1 without one"),
        ),
        ("gsm8k", {"test": [{"question": "q", "answer": "#### 1"}]}, ("openai/gsm8k", "Unknown split")),
    ],
)
def test_refused_in_one_line(name: str, rows: dict, words: tuple, serve: Callable) -> None:
    serve(rows)
    with pytest.raises(InputError) as error:
        load_task(name, "train")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gsm8k", "someone/that-does-not-exist"])
def test_hub_out_of_reach(name: str) -> None:
    """The suite runs offline: this is the library's own error, in one line."""
    with pytest.raises(InputError) as error:
        load_task(name, "train")
    assert "\n" not in str(error.value) and ("network" in str(error.value) or "not to be had" in str(error.value))
