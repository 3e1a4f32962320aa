"""Rows of a table become problems, by the same rules wherever they come from: common/files.py or hub.py.

A row is a dict by column. What a gap leaves open (null, NaN, blank text, an empty list) is left out and counted, and so
is a prompt that came before. What cannot mean a problem is an InputError that names the row: an answer that is several,
or neither text nor a number; a prompt that holds more than text.
"""

import ast
import json
import math
import re
import reprlib
import warnings
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from common import InputError, ranks
from common.maths import compare, final_answer
from common.problems import Problem, prompt_key

if TYPE_CHECKING:  # no procedural task needs it, and it takes a while to import
    import pyarrow

PROMPT_COLUMNS = ("prompt", "question", "problem")
ANSWER_COLUMNS = ("answer", "solution", "final_answer", "ground_truth")
# Columns that belong to a prompt in many data sets, and are not read.
BESIDE_PROMPTS = ("system", "system_prompt", "image", "images", "video", "videos", "audio", "audios", "tools")
# Keys of a message that say something beside its text.
BESIDE_TEXT = ("tool_calls", "tool_call_id", "function_call", "image", "images", "video", "videos", "audio")
WANTED = "must be text or a list of chat messages"
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
LARGEST_EXPONENT = 400  # of a number that is written out: JSON can ask for a billion zeros
begins_as_messages = re.compile(r"\s*(?:array\()?\[?\s*\{\s*['\"](?:role|content|from|value|messages)['\"]\s*:").match
inner_messages = re.compile(r"\[\s*\{\s*['\"](role|content|from)['\"]\s*:").search
OTHER_KEY = {"role": "content", "content": "role", "from": "value"}
NAMED = 3  # of several places, how many are named


# --- Columns ----------------------------------------------------------------------------------------------------------


def cell(row: dict, column: str) -> object:
    """The value of a column, or of one inside it ("reward_model.ground_truth"); raises KeyError if there is none."""
    if column in row or "." not in column:
        return row[column]
    outer, _, inner = column.partition(".")
    if not isinstance(row[outer], dict):
        raise KeyError(column)
    return cell(row[outer], inner)


def pick_column(place: str, row: dict, wanted: str | None, usual: tuple[str, ...], flag: str) -> str:
    """The column to read: the wanted one, or the first of the usual ones that the row has."""
    column = wanted or next((name for name in usual if name in row), None)
    try:
        value = None if column is None else cell(row, column)
    except KeyError:
        column = None
    if column is not None and isinstance(value, dict) and value:
        inner = ", ".join(f"{column}.{key}" for key in value)
        raise InputError(f"{place}: column {column!r} has columns inside it; choose one with {flag}: {inner}")
    if column is None:
        missing = repr(wanted) if wanted else f"any of {', '.join(usual)}"
        raise InputError(f"{place} has no column {missing}; it has {', '.join(row) or 'none'}: choose one with {flag}")
    return column


def has_column(row: dict, column: str) -> bool:
    try:
        cell(row, column)
    except KeyError:
        return False
    return True


def check_trace_column(rows: list[tuple[str, dict]], column: str | None) -> None:
    """Raise InputError for a column of worked solutions that no (place, row) has, or that has columns inside it."""
    if column is None:
        return
    having = [(place, row) for place, row in rows if has_column(row, column)]
    for place, row in having or rows[:1]:  # the first one says which columns there are
        pick_column(place, row, column, (), "--trace-column")


def as_written(rows: list[dict], schema: "pyarrow.Schema") -> list[dict]:
    """The rows with numbers of less than double precision as they were before: 0.1 and not 0.10000000149011612."""
    short = [field for field in schema if "float" in str(field.type)]  # "float", "halffloat"; 64 bits are "double"
    return [row | {f.name: shortest(row[f.name], f.type) for f in short} for row in rows] if short else rows


def shortest(value: object, kind: "pyarrow.DataType") -> object:
    """A cell of an Arrow type, each number of it the shortest decimal that the type rounds to the same."""
    from pyarrow import types

    if types.is_float16(kind) or types.is_float32(kind):
        return None if value is None else float(str(kind.to_pandas_dtype()(value)))
    if isinstance(value, list) and kind.num_fields == 1:
        return [shortest(each, kind.field(0).type) for each in value]
    if isinstance(value, dict) and types.is_struct(kind):
        return value | {field.name: shortest(value[field.name], field.type) for field in kind}
    return value


# --- Cells: each reader raises ValueError with what it wants instead --------------------------------------------------


def is_gap(value: object) -> bool:
    """Null, NaN (pandas' null), blank text or an empty list."""
    if isinstance(value, float | np.floating | Decimal):
        return math.isnan(value)
    return value is None or (isinstance(value, list) and not value) or (isinstance(value, str) and not value.strip())


def sole(value: object) -> object:
    """What a list of one holds."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def number_text(value: int | float | Decimal | np.number) -> str:
    """A number in plain decimals: "0.0000001", and "5" for 5.0, since an integer column with a gap becomes floats."""
    number = Decimal(str(value))
    if not number.is_finite() or abs(number.adjusted()) > LARGEST_EXPONENT:
        raise ValueError("must be non-empty text or a number that can be written out")
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if number else "0"


def read_answer(value: object) -> str | None:
    """A gold answer as text: text as it is, or a number, or a list that holds one of them; None for a gap."""
    value = sole(value)
    if is_gap(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | Decimal | np.integer | np.floating) and not isinstance(value, bool):
        return number_text(value)
    if isinstance(value, list):
        raise ValueError(f"must be non-empty text or a number, one and no list of {len(value)}")
    raise ValueError("must be non-empty text or a number")


def read_trace(value: object) -> str | None:
    """A worked solution: text or an assistant's message, or a list that holds one; None for a gap, and for several, of
    which none is the one."""
    value = sole(value)
    if isinstance(value, dict) and value.get("role") == "assistant":
        value = value.get("content")
    if is_gap(value) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return None
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def read_prompt(value: object) -> tuple[str | list[dict] | None, str | None]:
    """A prompt as text or as chat messages of role and content, None for a gap; and what to say of its form, if any."""
    form = None
    if isinstance(value, str) and (held := messages_in(value)):
        value, form = held, "are chat messages written as text, and are read as messages"
    if is_gap(value):
        return None, form
    if isinstance(value, str):
        doubtful = looks_like_messages(value)
        return value, "look like chat messages but cannot be read as such, and stay text" if doubtful else None
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise ValueError(WANTED)
    if any("from" in message and message.get("role") is None for message in value):
        form = form or "are messages with from and value, which are read as role and content"
    messages = [read_message(message, number) for number, message in enumerate(value, 1)]
    return (messages if any(message["content"].strip() for message in messages) else None), form


def read_message(message: dict, number: int) -> dict:
    """A chat message with role and content alone, its text parts joined; raises ValueError if it holds more."""
    if beside := [key for key in BESIDE_TEXT if not is_gap(message.get(key))]:
        raise ValueError(f"{WANTED}, without {beside[0]!r} as in message {number}")
    role, content = message.get("role"), message.get("content")
    if role is None and "from" in message:
        role, content = SHAREGPT_ROLES.get(str(message["from"])), message.get("value")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
                raise ValueError(f"{WANTED}, without a part {kind!r} as in message {number}")
        content = "".join(part["text"] for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"{WANTED}, each with role and content, which message {number} lacks")
    return {"role": role, "content": content}


def looks_like_messages(text: str) -> bool:
    """Whether a text begins as a message or a list of them, or as something that holds such a list."""
    if begins_as_messages(text):
        return True
    inner = inner_messages(text) if text.lstrip().startswith(("{", "[", "array(")) else None
    return inner is not None and re.search(rf"['\"]{OTHER_KEY[inner[1]]}['\"]\s*:", text) is not None


def messages_in(text: str) -> list[dict] | None:
    """The chat messages that a text is, as JSON or as Python prints them (which is what pandas writes into a .csv).

    An object may hold them, under any name ("messages" if under several). Raises ValueError for what belongs to a
    prompt and stands beside them there.
    """
    text = text.strip()
    if text[:1] not in ("[", "{") or text[-1:] not in ("]", "}") or not any(key in text for key in ("role", "from")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            with warnings.catch_warnings(action="ignore"):  # of backslashes in what is no message at all
                value = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            continue
        if is_message(value):
            return [value]
        if not isinstance(value, dict):
            return value if are_messages(value) else None
        lists = {key: held for key, held in value.items() if are_messages(held)}
        found = lists.get("messages") or (next(iter(lists.values())) if len(lists) == 1 else None)
        if found and (beside := [key for key in BESIDE_PROMPTS if not is_gap(value.get(key))]):
            raise ValueError(f"{WANTED}, without {beside[0]!r} beside them")
        return found
    return None


def are_messages(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_message, value))


def is_message(value: object) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


# --- Rows -------------------------------------------------------------------------------------------------------------


def read_cell(place: str, row: dict, column: str, what: str, read: Callable[[object], object]) -> object:
    """`read` applied to a cell; what it refuses, and half a character, is an InputError that names row and column."""
    value = cell(row, column)
    try:
        result = read(value)
    except ValueError as error:
        raise InputError(f"{place}: the {what} (column {column!r}) {error}, not {shown(value)}") from None
    try:
        json.dumps(result, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can say "\ud800", which no tokenizer and no file takes
        wrong = f"column {column!r} holds half a character (an unpaired surrogate)"
        raise InputError(f"{place}: {wrong}; mend or remove that row") from None
    return result


def shown(value: object) -> str:
    return str(value) if isinstance(value, Decimal) else reprlib.repr(value)


def same_answer(one: str, other: str) -> bool:
    """Whether two gold answers are the same text, number or words."""
    stated = [final_answer(text) for text in (one, other)]
    return stated[0] == stated[1] or (None not in stated and compare(*stated) is True)


def to_problems(
    rows: list[tuple[str, dict]],
    name: str,
    columns: tuple[str | None, str | None, str | None],
    identify: Callable[[str], str],
    read_gold: Callable[[object], str | None] = read_answer,
    say_size: bool = False,
) -> list[Problem]:
    """One problem per distinct prompt of the (place, row) pairs; says what was left out, and what was read otherwise.

    `columns` are those of prompts, answers and worked solutions; None is the usual name, and no solutions. `identify`
    makes a problem's id of its row's place. Raises InputError for a row that is refused, and if no problem is left.
    """
    prompt_column, answer_column, trace_column = columns
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    dropped, forms, conflicts = Counter(), Counter(), []
    check_trace_column(rows, trace_column)
    for place, row in rows:
        column = pick_column(place, row, prompt_column, PROMPT_COLUMNS, "--prompt-column")
        prompt, form = read_cell(place, row, column, "prompt", read_prompt)
        column = pick_column(place, row, answer_column, ANSWER_COLUMNS, "--answer-column")
        answer = read_cell(place, row, column, "answer", read_gold)
        trace = None
        if trace_column is not None and has_column(row, trace_column):
            trace = read_cell(place, row, trace_column, "worked solution", read_trace)
        forms[form] += 1
        if prompt is None:
            dropped["empty or unreadable prompts"] += 1
        elif answer is None:
            dropped["without one gold answer"] += 1
        elif (key := prompt_key(prompt)) in problems:
            dropped["duplicates"] += 1
            if not same_answer(problems[key].answer, answer):
                first = f"{places[key]} has {shown(problems[key].answer)}"
                conflicts.append(f"{first} and {place.removeprefix(name).strip()} {shown(answer)}")
        else:
            problems[key] = Problem(prompt, answer, identify(place), "math", trace)
            places[key] = place.removeprefix(name).strip()
    left_out = "".join(f", {count:,} {what} left out" for what, count in dropped.items())
    if not problems:
        raise InputError(
            f"{name} has no usable problem{left_out}; choose columns with --prompt-column, --answer-column"
        )
    if dropped or say_size:
        ranks.say(f"{name}: {len(problems):,} problems{left_out}")
    for form, count in forms.items():
        if form:
            ranks.say(f"{name}: {count:,} prompts {form}")
    if conflicts:
        some = "; ".join(conflicts[:NAMED]) + ("; ..." if len(conflicts) > NAMED else "")
        ranks.say(f"warning: {name}: {len(conflicts):,} duplicates have other answers, and the first counts: {some}")
    unread = [c for c in BESIDE_PROMPTS if c not in columns and any(not is_gap(row.get(c)) for _, row in rows)]
    if unread:
        ranks.say(f"warning: {name}: column {unread[0]!r} is not read; a prompt is what its own column holds")
    return list(problems.values())
