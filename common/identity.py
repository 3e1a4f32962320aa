"""What a run was made of, by content: a run goes on with the same problems and the same model, wherever they lie now.

digests(train_problems, eval_problems, "Qwen/Qwen2.5-0.5B")   # for args.json
refuse_other(recorded, found, args, ...)                      # InputError that says what is another
"""

import hashlib
import json
import os
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from common import InputError
from common.arguments import at_home, further_tasks
from common.files import is_file
from common.loading import TINY, is_gguf
from common.problems import Problem

WHOLE = 64 * 2**20  # bytes up to which a file is read whole; of a larger one as many pieces as are read of it
PIECE = 2**20
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of safetensors


def absolute_paths(arguments: dict) -> dict:
    """The same, with every path of this machine absolute: a run may be resumed from another working directory."""
    arguments = at_home(arguments)
    is_path = {"output_dir": bool, "resume": bool, "model": os.path.exists}
    is_path |= {name: is_file for name in arguments if name.endswith("task")}
    paths = {name for name, holds in is_path.items() if arguments.get(name) and holds(arguments[name])}
    return {name: os.path.abspath(value) if name in paths else value for name, value in arguments.items()}


def digest_problems(problems: Iterable[Problem]) -> dict:
    """How many there are, and a digest of what is asked and how it is checked, in this order; no names, no places."""
    digest, count = hashlib.sha256(), 0
    for problem in problems:
        digest.update(json.dumps([problem.prompt, problem.answer, problem.kind, problem.trace]).encode() + b"\n")
        count += 1
    return {"count": count, "sha256": digest.hexdigest()}


def digest_model(name: str | None) -> dict | None:
    """A digest of a model's configuration, tokenizer and weights, and the dtype of most of its weights.

    `name` is a directory, a GGUF file or the id of a model that has been downloaded. None if it cannot be found.
    """
    place = Path(name or TINY)
    if not place.is_dir() and not is_gguf(str(place)):
        try:
            place = Path(cached_file(name, "config.json", local_files_only=True)).parent
        except Exception:  # whatever the hub's library makes of a cache that it does not understand
            return None
    weights = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
    if is_gguf(str(place)):
        weights = [place]  # which holds the rest too
    # A download may lack files that the repository has, but none of these.
    vocabulary = next(filter(Path.is_file, map(place.joinpath, VOCABULARIES)), place / VOCABULARIES[0])
    others = [place / "config.json", vocabulary, place / "tokenizer_config.json", place / "chat_template.jinja"]
    digest = hashlib.sha256()
    try:
        for path in [*(path for path in others if path.is_file()), *weights]:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            for piece in pieces(path):
                digest.update(piece)
        return {"sha256": digest.hexdigest(), "dtype": dtype_of(weights)}
    except OSError:
        return None


def are_digests(record: object) -> bool:
    """Whether these are as they were written."""
    if not isinstance(record, dict):
        return False
    keys = {name: {"sha256", "count"} for name in ("train", "eval", *further_tasks(record))}
    keys["model"] = {"sha256", "dtype"}
    return all(
        part is None or (name in keys and isinstance(part, dict) and keys[name] <= part.keys())
        for name, part in record.items()
    )


def pieces(path: Path) -> Iterable[bytes]:
    """A file's bytes; of a large one 64 pieces that are spread over it, its ends among them."""
    size = path.stat().st_size
    count = WHOLE // PIECE
    starts = range(0, size, PIECE) if size <= WHOLE else [i * (size - PIECE) // (count - 1) for i in range(count)]
    with path.open("rb") as file:
        for start in starts:
            file.seek(start)
            yield file.read(PIECE)


def dtype_of(weights: list[Path]) -> str | None:
    """The dtype of most tensors of .safetensors files, by their heads; None for other files."""
    found: Counter = Counter()
    for path in weights:
        if path.suffix == ".safetensors":
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                head = json.loads(file.read(length))
            found.update(entry["dtype"] for name, entry in head.items() if name != "__metadata__")
    names = [DTYPES[name] for name, _ in found.most_common() if name in DTYPES]
    return names[0] if names else None


def refuse_other(run: Path, recorded: dict, found: dict, flags: dict[str, tuple[Any, Any]]) -> None:
    """Raises InputError for the first thing that is not what the run was made of; what was not recorded passes.

    `flags` are, for each of "train", "eval", "model" and the further tasks, the flag that names it and whether it was
    given anew.
    """
    words = {"train": "training problems", "eval": "evaluation problems"}
    for name, now in found.items():
        before = recorded.get(name)
        flag, is_other = flags[name]
        if not before or (now is None and not is_other) or (now and now["sha256"] == before["sha256"]):
            continue
        if name == "model":
            change = "its configuration, tokenizer or weights are not those that the run began with"
        elif before["count"] == now["count"]:
            change = f"its {now['count']:,} {words.get(name, 'problems')} are not the same as the run's"
        else:
            change = f"it has {now['count']:,} {words.get(name, 'problems')}, and the run has {before['count']:,}"
        if is_other:
            raise InputError(f"cannot resume {run} with another --{flag}: {change}; leave that flag out")
        raise InputError(
            f"cannot resume {run}: the content of --{flag} has changed: {change}; restore it, or name where it is now"
        )
