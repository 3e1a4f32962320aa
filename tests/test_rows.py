"""Rows become problems by one set of rules, whatever they come from; files are read as they are written."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from common import InputError, hub, rows
from common.files import is_file
from common.problems import Problem
from common.tasks import load_problems, load_task

datasets = pytest.importorskip("datasets")


def as_jsonl(path: Path, table: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))


def as_json(path: Path, table: list[dict]) -> None:
    path.write_text(json.dumps(table, indent=1))


def as_parquet(path: Path, table: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)


WRITERS = {"jsonl": as_jsonl, "json": as_json, "parquet": as_parquet, "ndjson": as_jsonl}


@pytest.fixture(params=["jsonl", "json", "parquet", "hub"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Put rows into a file of one kind, or on the hub; returns the task's name."""

    def put(table: list[dict]) -> str:
        if request.param == "hub":
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list(table))
            monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train"])
            return "someone/sums"
        path = tmp_path / f"t.{request.param}"
        WRITERS[request.param](path, table)
        return str(path)

    return put


def answers(name: str, **columns: str) -> list[str]:
    return [problem.answer for problem in load_task(name, "all", **columns)]


def refusal(name: str, **columns: str) -> str:
    with pytest.raises(InputError) as error:
        load_task(name, "all", **columns)
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    return str(error.value)


def asked(values: list) -> list[dict]:
    """A row for each answer."""
    return [{"prompt": f"p{i}", "answer": value} for i, value in enumerate(values)]


# --- Answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, -3, 0], ["5", "-3", "0"]),
        ([5.0, 2.0], ["5", "2"]),
        ([5.0, 2.5, None], ["5", "2.5"]),  # an integer column with a gap
        ([1e-07, -2.5e-10, 1e22], ["0.0000001", "-0.00000000025", "10000000000000000000000"]),
        ([4.5e33, 1234567.125, -0.0], ["45" + "0" * 32, "1234567.125", "0"]),
        ([2**53 + 1, 2**63 - 1], ["9007199254740993", "9223372036854775807"]),
        (["007", "1,004", "5.00", "1e-07", "2024-01-01", "NA", "null", " 4 "], None),  # text stays as it is
        (["4", None, "", " \n", "5"], ["4", "5"]),
        ([["4"], ["5"]], ["4", "5"]),
        ([[4], [], None, [2.50], [None]], ["4", "2.5"]),
        ([0.1 + 0.2, 1 / 3], ["0.30000000000000004", "0.3333333333333333"]),
    ],
)
def test_numbers_become_text_and_gaps_are_left_out(
    values: list, expected: list[str] | None, source: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert answers(source(asked(values))) == (expected or values)
    lost = len(values) - len(expected or values)
    assert (f", {lost} without one gold answer left out" in capsys.readouterr().err) == bool(lost)


@pytest.mark.parametrize("gap", [None, "", " ", float("nan"), []])
def test_gaps_of_prompts_and_answers_count_alike(gap: object, source: Callable, capsys: pytest.CaptureFixture) -> None:
    if isinstance(gap, float):  # a column of numbers
        name = source([{"prompt": "a", "answer": 1.5}, {"prompt": "b", "answer": gap}])
        assert answers(name) == ["1.5"]
    else:
        good = [{"role": "user", "content": "a"}] if gap == [] else "a"
        held = ["1"] if gap == [] else "1"
        table = [{"prompt": good, "answer": held}, {"prompt": gap, "answer": held}]
        assert answers(source(table)) == ["1"]
        assert ": 1 problems, 1 empty or unreadable prompts left out" in capsys.readouterr().err
        assert answers(source([{"prompt": "a", "answer": held}, {"prompt": "b", "answer": gap}])) == ["1"]
    assert ": 1 problems, 1 without one gold answer left out" in capsys.readouterr().err
    name = source([{"prompt": "a", "answer": None}])
    capsys.readouterr()
    assert "no usable problem, 1 without one gold answer" in refusal(name) and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["1", "2"], "no list of 2, not ['1', '2']"),
        ([1, 2, 3], "no list of 3"),
        ([["1"]], "not [['1']]"),
        (True, "not True"),
        ([False], "not [False]"),
        (float("inf"), "not inf"),
        ({"value": "4", "aliases": ["four"]}, "--answer-column: answer.value, answer.aliases"),
    ],
)
def test_an_answer_that_is_none_or_several_is_refused_by_name(value: object, words: str, source: Callable) -> None:
    name = source([{"prompt": "p", "answer": value}])
    message = refusal(name)
    assert "row 1" in message and "'answer'" in message and words in message and name in message


def test_an_answer_inside_a_column(source: Callable) -> None:
    table = [{"prompt": "p", "reward_model": {"ground_truth": 7.0, "style": "rule"}, "answer": {"value": ["4"]}}]
    assert answers(source(table), answer_column="reward_model.ground_truth") == ["7"]
    assert answers(source(table), answer_column="answer.value") == ["4"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("5.00"), "5"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("-120"), "-120"),
        (np.float32(0.1), "0.1"),
        (np.float64(1e-07), "0.0000001"),
        (np.int64(2**62 + 1), str(2**62 + 1)),
        (10**100, "1" + "0" * 100),
    ],
)
def test_number_text(value: object, text: str) -> None:
    assert rows.read_answer(value) == text


@pytest.mark.parametrize("value", [np.bool_(True), 1j, b"4", Decimal("1E+999999999"), Decimal("Infinity"), object()])
def test_what_is_no_answer(value: object) -> None:
    with pytest.raises(ValueError, match="must be non-empty text or a number"):
        rows.read_answer(value)


@pytest.mark.parametrize("kind", [pyarrow.float32(), pyarrow.float16()])
def test_short_numbers_are_written_as_they_were(
    kind: pyarrow.DataType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a column, a list and a struct."""
    numbers = pyarrow.array(np.array([0.1, 0.33, 2.0], kind.to_pandas_dtype()))
    numbers = pyarrow.array([*numbers.to_pylist()[:2], None], kind)
    lists = pyarrow.ListArray.from_arrays([0, 1, 2, 3], numbers)
    table = pyarrow.table(
        {"prompt": ["a", "b", "c"], "answer": numbers, "lists": lists}
        | {"inner": pyarrow.StructArray.from_arrays([numbers], ["gold"])}
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.Dataset(table))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["train"])
    for name in (str(tmp_path / "t.parquet"), "someone/sums"):
        for column in ("answer", "lists", "inner.gold"):
            assert answers(name, answer_column=column) == ["0.1", "0.33"]


def test_decimal_and_date_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "answer": [Decimal("12.50")]}), path)
    assert answers(str(path)) == ["12.5"]
    day = pyarrow.array([19000], pyarrow.int32()).cast(pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a"], "answer": day}), path)
    assert "not datetime.date" in refusal(str(path))


# --- Prompts ----------------------------------------------------------------------------------------------------------

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'What is "1+1"\\frac?'}]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (json.dumps(CHAT), CHAT),
        (json.dumps(CHAT, indent=2) + "\n", CHAT),
        (repr(CHAT), CHAT),  # as pandas writes a list into a .csv
        (json.dumps({"messages": CHAT}), CHAT),
        (json.dumps({"prompt": CHAT, "tools": []}), CHAT),  # an object may hold them under any name
        (repr({"id": 7, "x": [1, 2], "dialogue": CHAT}), CHAT),
        (json.dumps({"messages": CHAT, "rejected": CHAT[:1]}), CHAT),
        (json.dumps({"conversations": [{"from": "human", "value": "1+1?"}]}), [{"role": "user", "content": "1+1?"}]),
        (json.dumps(CHAT[1]), CHAT[1:]),
        (json.dumps([{"from": "human", "value": "1+1?"}]), [{"role": "user", "content": "1+1?"}]),
        (
            json.dumps([{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
            [{"role": "user", "content": "a"}],
        ),
    ],
)
def test_messages_written_as_text_are_recognised_and_said(
    prompt: str, expected: list[dict], source: Callable, capsys: pytest.CaptureFixture
) -> None:
    [problem] = load_task(source([{"prompt": prompt, "answer": "2"}]), "all")
    assert problem.prompt == expected
    assert "1 prompts are chat messages written as text, and are read as messages" in capsys.readouterr().err


@pytest.mark.parametrize(
    "prompt",
    [
        "[1, 2] from the left?",
        '{"role": 1}',
        "[role]",
        '[{"role": "user"}]',
        "[",
        '{"from": 3, "to": 5}',
        '{"edges": [{"from": "A", "to": "B"}, {"from": "B", "to": "C"}]}',
        '{"conversations": []}',
        '{"roles": [{"content": 3}]}',
        "[[from]]",
        "{}",
    ],
)
def test_text_that_holds_no_messages_stays_text(prompt: str, source: Callable) -> None:
    assert load_task(source([{"prompt": prompt, "answer": "2"}]), "all")[0].prompt == prompt


@pytest.mark.parametrize(
    "prompt",
    [
        json.dumps(CHAT)[:-3],
        json.dumps(CHAT)[:-1] + ",]x",
        "[{'role': 'system', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]",  # as numpy prints them
        "array([{'content': 'a', 'role': 'user'}], dtype=object)",
        "{'prompt': array([{'content': 'a', 'role': 'user'}], dtype=object)}",
        json.dumps({"id": {"n": 1}, "conversations": [{"from": "human", "value": "x^{2}"}]})[:-3],
        json.dumps({"chosen": CHAT, "rejected": CHAT}),  # which of them?
        json.dumps([{"prompt": CHAT}]),
    ],
)
def test_what_looks_like_messages_and_is_none_is_said(
    prompt: str, source: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert load_task(source([{"prompt": prompt, "answer": "2"}]), "all")[0].prompt == prompt
    assert "1 prompts look like chat messages but cannot be read as such" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}], ["a b"]),
        ([{"role": "user", "content": [{"type": "text", "text": "a", "image_url": None}]}], ["a"]),
        ([{"role": "user", "content": "a", "tool_calls": None, "name": "x"}], ["a"]),
        (
            [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
            ["s", "a", "b"],
        ),
    ],
)
def test_text_parts_and_other_keys(messages: list[dict], expected: list[str], source: Callable) -> None:
    [problem] = load_task(source([{"prompt": messages, "answer": "2"}]), "all")
    assert [message["content"] for message in problem.prompt] == expected
    assert all(message.keys() == {"role", "content"} for message in problem.prompt)
    if "from" in messages[0]:
        assert [message["role"] for message in problem.prompt] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ([{"role": "user", "content": [{"type": "image", "image": "x.png"}]}], "a part 'image' as in message 1"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part 'text' as in message 1"),
        ([{"role": "user", "content": "a", "tool_calls": [{"name": "f"}]}], "'tool_calls' as in message 1"),
        ([{"role": "user", "content": None}], "message 1 lacks"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], "message 2 lacks"),
        ([{"from": "observation", "value": "a"}], "message 1 lacks"),
        ([{"from": ["human"], "value": "a"}], "message 1 lacks"),
        ([{"text": "a"}], "message 1 lacks"),
    ],
)
def test_messages_that_are_more_than_text_are_refused_by_name(messages: list, word: str, source: Callable) -> None:
    name = source([{"prompt": messages, "answer": "2"}])
    message = refusal(name)
    assert f"{name}" in message and "row 1: the prompt (column 'prompt')" in message and word in message


@pytest.mark.parametrize("key", rows.BESIDE_PROMPTS)
def test_what_stands_beside_messages_in_a_text_is_refused_by_name(key: str, tmp_path: Path) -> None:
    as_jsonl(tmp_path / "t.jsonl", [{"prompt": json.dumps({"conversations": CHAT, key: "x"}), "answer": "2"}])
    message = refusal(str(tmp_path / "t.jsonl"))
    assert "row 1: the prompt (column 'prompt')" in message and f"without '{key}' beside them" in message


def test_a_column_beside_the_prompt_is_not_dropped_in_silence(source: Callable, capsys: pytest.CaptureFixture) -> None:
    load_task(source([{"prompt": "a", "answer": "2", "system": "Be brief.", "images": None}]), "all")
    assert "column 'system' is not read" in capsys.readouterr().err
    load_task(source([{"prompt": "a", "answer": "2", "system": None, "tools": []}]), "all")
    assert "is not read" not in capsys.readouterr().err


# --- Duplicates -------------------------------------------------------------------------------------------------------


def test_duplicates_are_counted_and_other_answers_named(source: Callable, capsys: pytest.CaptureFixture) -> None:
    pairs = [
        ("a", "4"),
        (" a\n", "4.0"),
        ("b", "5"),
        ("a", "\\boxed{4}"),
        ("b", "x is 6"),
        ("c", "New York"),
        ("c", "7"),
    ]
    name = source([{"prompt": prompt, "answer": answer} for prompt, answer in pairs])
    assert answers(name) == ["4", "5", "New York"]
    said = capsys.readouterr().err
    assert ": 3 problems, 4 duplicates left out\n" in said
    assert "2 duplicates have other answers" in said
    assert "row 3 has '5' and row 5 'x is 6'; row 6 has 'New York' and row 7 '7'" in said


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,234", "1234", True),
        (r"\frac12", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac12", True),
        ("1e3", "1000", True),
        ("$7$", "7", True),
        (r"\text{New York}", "new york", True),
        (" ".join(["long"] * 90), "  ".join(["long"] * 90), True),
        (" ".join(["long"] * 90), " ".join(["long"] * 91), False),
        ("1,234", "1.234", False),
        (r"\frac12", "12", False),
    ],
)
def test_duplicates_with_the_same_answer_in_another_form(
    one: str, other: str, same: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As the checker compares them, on either side."""
    for pair in ((one, other), (other, one)):
        as_jsonl(tmp_path / "t.jsonl", [{"prompt": "a", "answer": answer} for answer in pair])
        assert answers(str(tmp_path / "t.jsonl")) == [pair[0]]
        said = capsys.readouterr().err
        assert "1 duplicates left out" in said and ("other answers" not in said) == same, said


def test_prompts_of_other_roles_are_other_prompts(source: Callable, capsys: pytest.CaptureFixture) -> None:
    """Also where they say the same one after another; a single message is still its text."""
    chats = [
        [("user", "a\nb")],
        [("user", "a"), ("assistant", "b")],
        [("system", "a"), ("user", "b")],
        [("system", "a"), ("user", "b\n")],  # white space at the ends does not matter here either
        [("system", "a\nb")],  # nor the role of a message alone
    ]
    table = [[{"role": role, "content": text} for role, text in chat] for chat in chats]
    name = source([{"prompt": chat, "answer": str(i)} for i, chat in enumerate(table)])
    assert answers(name) == ["0", "1", "2"]
    said = capsys.readouterr().err
    assert ": 3 problems, 2 duplicates left out\n" in said and "row 3 has '2' and row 4 '3'" in said


def test_a_set_that_is_split_here_is_read_and_said_once(source: Callable, capsys: pytest.CaptureFixture) -> None:
    name = source([*asked([str(i) for i in range(20)]), {"prompt": "p3", "answer": "3"}])
    train, evaluation = load_problems(name, None, 8)
    assert len(train) == 18 and len(evaluation) == 2
    assert capsys.readouterr().err.count("1 duplicates left out") == 1


def test_without_duplicates_a_file_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    as_jsonl(tmp_path / "t.jsonl", asked(["1", "2"]))
    load_task(str(tmp_path / "t.jsonl"), "all")
    assert capsys.readouterr().err == ""


def test_many_conflicts_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    as_jsonl(tmp_path / "t.jsonl", [{"prompt": f"p{i % 50}", "answer": str(i)} for i in range(100)])
    load_task(str(tmp_path / "t.jsonl"), "all")
    [_, warning] = capsys.readouterr().err.splitlines()
    assert "50 duplicates have other answers" in warning and warning.count(" has ") == 3 and warning.endswith("...")


# --- Files ------------------------------------------------------------------------------------------------------------


COMPRESSORS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.compress(content, "zstd", asbytes=True),
}
PAIRS = [("1+1?", "2"), ('a, b\nand "c"?', "007"), ("é", "1,004")]


def content_of(kind: str) -> bytes:
    table = [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]
    if kind in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row) + "\n" for row in table).encode()
    if kind == ".json":
        return json.dumps(table).encode()
    if kind == ".parquet":
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), sink)
        return sink.getvalue()
    lines = [("prompt", "answer"), *PAIRS]
    between = "," if kind == ".csv" else "\t"
    return "\r\n".join(between.join('"' + c.replace('"', '""') + '"' for c in line) for line in lines).encode()


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_in_every_compression(kind: str, compression: str, tmp_path: Path) -> None:
    for ending in (kind + compression, (kind + compression).upper(), (kind + compression).title()):
        path = tmp_path / f"t{ending}"
        path.write_bytes(COMPRESSORS[compression](content_of(kind)))
        assert [(p.prompt, p.answer) for p in load_task(str(path), "all")] == PAIRS
        assert load_task(str(path), "all")[0].id == f"t{ending} row 1"


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "plain", "empty", "flipped"])
def test_a_damaged_archive_is_one_line(compression: str, damage: str, tmp_path: Path) -> None:
    if (compression, damage) == (".zst", "flipped"):
        pytest.skip("pyarrow writes zstd without a check sum")
    path = tmp_path / f"t.jsonl{compression}"
    whole = COMPRESSORS[compression](content_of(".jsonl") * 50)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:-9], "plain": content_of(".jsonl"), "empty": b"", "flipped": flipped}[damage])
    message = refusal(str(path))
    assert str(path) in message and any(word in message for word in ("not a whole", "is empty", "line 1 is not"))


def test_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves the ~ of --task=~/t.jsonl alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    as_jsonl(tmp_path / "t.jsonl", asked(["1"]))
    assert answers("~/t.jsonl") == ["1"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"prompt": "a", "answer": 1.50}, {"prompt": "b", "answer": 0.0000001}]',
        '{"version": 2, "name": "x", "data": [{"prompt": "a", "answer": 1.5}, {"prompt": "b", "answer": 1e-7}]}',
        '{"prompt": ["a", "b"], "answer": [1.5, "0.0000001"]}',
        '{"prompt": "a", "answer": 1.5}\n{"prompt": "b", "answer": 1e-07}\n',
        '\ufeff[{"prompt": "a", "answer": "1.5"},\r\n {"prompt": "b", "answer": "0.0000001"}]\r\n',
    ],
)
def test_shapes_of_a_json_document(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text, encoding="utf-8")
    assert answers(str(tmp_path / "t.json")) == ["1.5", "0.0000001"]


@pytest.mark.parametrize("prompt", ["a", [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]])
def test_a_json_document_of_one_problem(prompt: str | list, tmp_path: Path) -> None:
    text = json.dumps({"prompt": prompt, "answer": 0}, indent=1).replace(": 0", ": 12345678901234567890.123456789")
    (tmp_path / "t.json").write_text(text)
    [problem] = load_task(str(tmp_path / "t.json"), "all")
    assert (problem.prompt, problem.answer) == (prompt, "12345678901234567890.123456789")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is empty"),
        ("", "is empty"),
        ("3", "no list of problems"),
        ('["a"]', "no list of problems"),
        ('[{"prompt": "a", "answer": "1"},]', "is not JSON"),
        ('[\n{"prompt": "a" "answer": "1"}]', "line 2 column"),
        ('{"prompt": {"0": "a"}, "answer": {"0": "1"}}', "no list of problems"),  # pandas' own shape
        ('{"prompt": ["a", "b"], "answer": ["1"]}', "row 1"),
        (
            '{"train": [{"prompt": "a", "answer": "1"}], "test": [{"prompt": "b", "answer": "1"}]}',
            "no list of problems",
        ),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b" "answer": "1"}', "line 2 is not JSON"),
        ('[{"prompt": "a", "answer": 1e999999999999999999999}]', "not"),
        ('[{"prompt": "a", "answer": 1e999999999}]', "not"),
    ],
)
def test_a_json_document_that_is_no_table(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    assert words in refusal(str(tmp_path / "t.json"))


def test_cells_of_a_csv_are_text(tmp_path: Path) -> None:
    """What a table that guesses types makes other things of."""
    cells = ["007", "1e5", "NA", "null", "nan", "True", "2024-01-01", "1/2", "12345678901234567890123", "0.10", "inf"]
    path = tmp_path / "t.csv"
    path.write_text("\ufeffprompt, answer\r\n" + "".join(f"p{i},{cell}\r\n" for i, cell in enumerate(cells)) + "\r\n")
    assert answers(str(path)) == cells
    path.write_text("prompt,answer\na,\nb,2\n")
    assert answers(str(path)) == ["2"]
    path.write_text(f'prompt,answer\n"{"x" * 200_000}",2\n')
    assert answers(str(path)) == ["2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt,answer\nWhat is 1,000+1?,1001\n", "row 1 has 3 cells for 2 columns (prompt, answer)"),
        ("prompt,answer\na,1\nb\n", "row 2 has 1 cells for 2"),
        ("prompt,answer,answer\na,1,2\n", "two columns 'answer'"),
        ("prompt;answer\na;1\n", "it has prompt;answer"),
        ('prompt,answer\n"a,1\n', "line 2 is no row of cells"),
        ("prompt,answer\n", "is empty"),
        ("", "is empty"),
        ("a,b\n1,2\n", "it has a, b"),
    ],
)
def test_a_csv_that_cannot_be_meant(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert words in refusal(str(tmp_path / "t.csv"))


def test_a_csv_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("prompt,answer\na,1\né,2\n".encode("latin-1"))
    assert "line 3 is not UTF-8" in refusal(str(tmp_path / "t.csv"))


# --- What is a file, and what an id of the hub ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    "data/x.jsonl data/x.JSON x.csv a/x.tsv.gz a/x.xlsx a/x.txt a/x.zip ./x ../x/y /data/x ~/x a/b/c here/folder "
    "here/file data/*.jsonl data/train-[0-9].parquet a\\b https://example.org/x.jsonl a/x.json.gz x.gz "
    "owner/name/file.parquet".split(),
)
def test_what_looks_like_a_file_is_never_looked_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "folder").mkdir(parents=True)
    (tmp_path / "here" / "file").write_text("x")
    monkeypatch.chdir(tmp_path)

    def looked_up(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "find_set", looked_up)
    assert is_file(name)
    message = refusal(name)
    assert f"task file {name} " in message
    if name == "here/folder":
        assert "a directory; name one of its files" in message
    elif name == "here/file":
        assert "save it as one of .jsonl" in message
    else:
        assert "does not exist" in message
    with pytest.raises(InputError, match="task file"):
        load_problems(name, None, 4)
    with pytest.raises(InputError, match="task file"):
        load_problems("countdown", name, 4)


@pytest.mark.parametrize(
    "name",
    ["AI-MO/NuminaMath-1.5", "a/b.v2", "owner/name:some-config_1.0", "owner/name::train", "owner/name:c:s", "a/b"],
)
def test_what_may_be_an_id_of_the_hub(name: str) -> None:
    assert not is_file(name) and hub.is_hub_name(name)


@pytest.mark.parametrize("name", ["countdown", "gsm8k", "math", "rg:chain_sum"])
def test_a_named_task_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even beside a folder of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert not is_file(name)


def test_problems_of_a_jsonl_are_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": " a ", "answer": " 2 ", "id": 1}\n\n{"prompt": "b", "answer": "3"}\n')
    assert load_task(str(path), "all") == [
        Problem(" a ", " 2 ", "t.jsonl row 1", "math", None, str(path)),
        Problem("b", "3", "t.jsonl row 3", "math", None, str(path)),
    ]
