"""What a user's command names, refused in one line where it cannot be used: numbers, runs to read, files to write."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import InputError
from common.arguments import Range, declared_ranges
from common.records import is_record

NUMBER = int | float | None  # a logged null is a number that does not exist


def check_numbers(args: Any) -> None:
    """Refuse numbers out of the range that their class declares, or else below 0, infinite or NaN."""
    ranges = declared_ranges(type(args))
    for name, value in vars(args).items():
        allowed = ranges.get(name, Range(0))
        if isinstance(value, int | float) and not isinstance(value, bool) and not allowed.holds(value):
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {allowed}")


def read_run(directory: Path, needed: Mapping[str, type] = {}) -> tuple[dict, list[dict]]:
    """Arguments and records of a run, those of whole lines: a killed run may leave half of one behind.

    `needed`: flags that args.json must have, and of which type. Raises InputError with the reason alone.
    """
    found = []
    for name, parse in {"args.json": json.loads, "metrics.jsonl": str.splitlines}.items():
        try:
            found.append(parse((directory / name).read_text(errors="replace")))
        except (OSError, ValueError, RecursionError):
            raise InputError(f"{name} is missing or damaged") from None
    args, lines = found
    if not isinstance(args, dict):
        raise InputError("args.json is missing or damaged")
    if lacking := [name for name, kind in needed.items() if not isinstance(args.get(name), kind)]:
        raise InputError(f"args.json does not say its {' and '.join(lacking)}")
    records = [json.loads(line) for line in lines if is_record(line)]
    records = [r for r in records if isinstance(r["step"], int) and all(isinstance(v, NUMBER) for v in r.values())]
    if lines and not records:
        raise InputError("metrics.jsonl has no whole line")
    return args, records


def check_writable(*files: Path) -> None:
    """Make the folders of files that are written hours later; raises InputError where one could not be.

    No file is made or changed.
    """
    for path in files:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            path.open("ab").close()
            if new:
                path.unlink()
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); use another place") from None
