"""Problems of a local file: JSON, CSV or parquet, in any of the usual compressions.

Text is read as it is written. A table that guesses types makes 7 of "007", a time of "2024-01-01" and a rounded float
of a long integer, and moves the columns of a .csv whose prompts hold a comma: so `datasets`, which reads all of these
files, reads only those of the hub.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from common import InputError
from common.problems import Problem
from common.rows import as_written, is_message, to_problems

Rows = list[tuple[str, dict]]  # ("<path> row 3", row)


def open_zstd(path: Path, mode: Literal["rb"]) -> BinaryIO:
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


COMPRESSIONS: dict[str, Callable[[Path, str], BinaryIO]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": open_zstd,
}
# Endings of files that hold data, or text, and cannot be read here. No data set of the hub ends like this.
OTHER_ENDINGS = frozenset(
    ".7z .arrow .avro .bin .db .doc .docx .feather .h5 .hdf5 .html .ini .log .md .npy .npz .ods .orc .pdf .pickle .pkl "
    ".py .rar .safetensors .sqlite .tar .tgz .toml .txt .xls .xlsx .xml .yaml .yml .zip".split()
)


def endings(name: str) -> tuple[str, str]:
    """What a file name ends with, in lower case: kind and compression, such as (".jsonl", ".gz")."""
    name = Path(name).name.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def is_file(name: str) -> bool:
    """Whether a task's name means a place on this machine, be it there or not: such a name is no id of the hub."""
    kind, compression = endings(name)
    if kind in READERS or kind in OTHER_ENDINGS or compression:
        return True
    if "://" in name:
        return False
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or name.partition(":")[0].count("/") > 1
        or ("/" in name and os.path.exists(name))
    )


def check_file(name: str) -> Path:
    """The path of a task file; raises InputError for one that is not there or of another kind."""
    path = Path(os.path.expanduser(name))  # a shell leaves the ~ of --task=~/x.jsonl alone
    if os.path.isdir(path):
        raise InputError(f"task file {name} does not exist or is not a file: it is a directory; name one of its files")
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long or out of reach
        hint = ", and name one file, not a pattern" if any(sign in name for sign in "*?[") else ""
        hint = ", and fetch it first" if "://" in name else hint
        raise InputError(f"task file {name} does not exist or is not a file; check the path{hint}")
    if endings(name)[0] not in READERS:
        known = ", ".join(READERS)
        raise InputError(f"task file {name} is of a kind that is not read; save it as one of {known}, and name it so")
    return path


def read_bytes(path: Path) -> bytes:
    """All of a file, decompressed."""
    compression = endings(path.name)[1]
    try:
        with (COMPRESSIONS[compression] if compression else open)(path, "rb") as file:
            return file.read()
    except (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:  # pyarrow's are OSError or ValueError
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            raise InputError(f"cannot read {path}: {error.strerror}; check the file") from None
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a whole {compression} file ({reason:.200}); save or fetch it again") from None


def read_text(path: Path, content: bytes) -> str:
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line} is not UTF-8; convert the file to UTF-8") from None


# --- JSON -------------------------------------------------------------------------------------------------------------


def parse_json(text: str) -> object:
    """JSON with its numbers as they are written; raises ValueError for one that is damaged, too long or too deep."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (RecursionError, ArithmeticError) as error:  # ArithmeticError: an exponent that no Decimal has
        raise ValueError(str(error)) from None


def json_fault(error: ValueError) -> str:
    """What is wrong with a JSON text, of one line or of many."""
    if not isinstance(error, json.JSONDecodeError):
        return "too long a number or too deep"
    return f"{error.msg} at {f'line {error.lineno} ' if error.lineno > 1 else ''}column {error.colno}"


def json_lines(path: Path, content: bytes) -> Rows:
    """Rows are numbered as lines, and a line ends at a newline alone: JSON text may hold other characters that Python
    counts as line ends."""
    rows = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8"))
        except UnicodeDecodeError:
            raise InputError(f"{path} line {number} is not UTF-8; convert the file to UTF-8") from None
        except ValueError as error:
            fault = json_fault(error)
            raise InputError(f"{path} line {number} is not JSON ({fault}); mend or remove that line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} is not a JSON object; each line must look like {{...}}")
        rows.append((f"{path} row {number}", row))
    return rows


def json_document(path: Path, content: bytes) -> Rows:
    """A list of objects, be it alone or under the one key that holds such a list; an object of columns; one problem;
    or the lines of a .jsonl."""
    text = read_text(path, content)
    if not text.strip():
        return []
    try:
        document = parse_json(text)
    except ValueError as error:
        if getattr(error, "msg", "") == "Extra data" and text.lstrip().startswith("{"):
            return json_lines(path, content)
        raise InputError(f"{path} is not JSON ({json_fault(error)}); mend it there, or save it as .jsonl") from None
    if isinstance(document, dict):
        # A list of chat messages is the prompt of one problem.
        tables = [value for value in document.values() if is_table(value) and not all(map(is_message, value))]
        lengths = {len(value) if isinstance(value, list) else None for value in document.values()}
        if len(tables) == 1:
            document = tables[0]
        elif len(lengths) == 1 and None not in lengths and not tables:
            document = [dict(zip(document, values, strict=True)) for values in zip(*document.values(), strict=True)]
        elif not tables and not all(isinstance(value, dict) for value in document.values()):
            document = [document]
    if document != [] and not is_table(document):
        raise InputError(f"{path} is no list of problems; save it as [{{...}}, ...], or as .jsonl with one on a line")
    return [(f"{path} row {number}", row) for number, row in enumerate(document, 1)]


def is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


# --- Tables -----------------------------------------------------------------------------------------------------------


def separated(path: Path, content: bytes, separator: str) -> Rows:
    """A .csv or .tsv with a line of column names: all cells are text."""
    text = read_text(path, content)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        table = [line for line in lines if line]
    except csv.Error as error:
        raise InputError(f"{path} line {lines.line_num} is no row of cells ({error}); mend its quotes") from None
    if not table:
        return []
    columns, *table = table
    columns = [column.strip() for column in columns]
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}; change the name of one in its first line")
    for number, line in enumerate(table, 1):
        if len(line) != len(columns):
            raise InputError(
                f"{path} row {number} has {len(line)} cells for {len(columns)} columns ({', '.join(columns)}); add the "
                "quotes that a cell with a separator or a line end needs"
            )
    return [(f"{path} row {number}", dict(zip(columns, line, strict=True))) for number, line in enumerate(table, 1)]


def parquet(path: Path, content: bytes) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)) as file:
            table = file.read()
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a readable parquet file ({reason:.200}); save it again") from None
    return [(f"{path} row {number}", row) for number, row in enumerate(as_written(rows, table.schema), 1)]


READERS: dict[str, Callable[[Path, bytes], Rows]] = {
    ".jsonl": json_lines,
    ".parquet": parquet,
    ".json": json_document,
    ".csv": partial(separated, separator=","),
    ".tsv": partial(separated, separator="\t"),
    ".ndjson": json_lines,
}


def file_problems(
    name: str, prompt_column: str | None = None, answer_column: str | None = None, trace_column: str | None = None
) -> list[Problem]:
    """All problems of a file, one per distinct prompt; raises InputError that says where a damaged file is damaged."""
    path = check_file(name)
    rows = READERS[endings(name)[0]](path, read_bytes(path))
    if not rows:
        raise InputError(f"{path} is empty; it needs one problem per line")
    return to_problems(rows, str(path), (prompt_column, answer_column, trace_column), lambda place: Path(place).name)
