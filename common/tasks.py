"""Problems: procedural tasks that need no download, and local files.

`load_problems("countdown", ...)` gives a training list and an evaluation list that never share a problem. A
procedural task takes its difficulty after a colon, `countdown:numbers=4,high=20`, and is a function of its name and
knobs alone: the same on every machine and for every `--seed`, which only shuffles the order.

Prompts are terse because the embedded model reads one byte per token. `instruct=1` puts an English sentence in
front, for models that were not pretrained on these tasks.
"""

import inspect
import json
import random
import zlib
from dataclasses import dataclass
from pathlib import Path

from common import InputError

EVAL_SHARE = 10  # one problem in ten is held out, chosen by a hash of its content
PROMPT_COLUMNS = ("prompt", "question", "problem")
ANSWER_COLUMNS = ("answer", "solution", "final_answer", "ground_truth")


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer; `kind` names the checker in `common.verifier` that compares answers."""

    prompt: str | list[dict]
    answer: str
    id: str
    kind: str


# --- Procedural tasks -------------------------------------------------------------------------------------------
# Each generator takes a random.Random and its knobs and returns (prompt, answer, key). Problems with equal keys are
# the same problem (the order of the numbers does not make a new one), so they fall on the same side of the split.


def countdown_steps(rng: random.Random, numbers: list[int]) -> tuple[str, int]:
    """Combine all numbers by random exact operations: ("3*7=21,21+5=26", 26). Intermediate results stay positive."""
    pool, steps = list(numbers), []
    while len(pool) > 1:
        x, y = rng.sample(pool, 2)
        op = rng.choice([op for op in "+-*/" if not (op == "-" and x <= y) and not (op == "/" and x % y)])
        result = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[op]
        steps.append(f"{x}{op}{y}={result}")
        pool.remove(x)
        pool.remove(y)
        pool.append(result)
    return ",".join(steps), pool[0]


def countdown_prompt(numbers: list[int], target: int) -> str:
    return " ".join(map(str, numbers)) + f"={target}:"


def countdown_key(numbers: list[int], target: int) -> str:
    return countdown_prompt(sorted(numbers), target)


def countdown(rng: random.Random, numbers: int = 3, high: int = 10) -> tuple[str, str, str]:
    """Reach the number after '=' by + - * / using each number once. Write the steps, for example 3*7=21,21+5=26."""
    drawn = [rng.randint(1, high) for _ in range(numbers)]
    steps, target = countdown_steps(rng, drawn)
    return countdown_prompt(drawn, target), steps, countdown_key(drawn, target)


def arithmetic(rng: random.Random, terms: int = 3, high: int = 20) -> tuple[str, str, str]:
    """Give the value of the sum as one integer."""
    text, value = str(first := rng.randint(1, high)), first
    for _ in range(terms - 1):
        sign, term = rng.choice("+-"), rng.randint(1, high)
        text, value = f"{text}{sign}{term}", value + (term if sign == "+" else -term)
    return f"{text}=", str(value), text


def gcd(rng: random.Random, high: int = 60) -> tuple[str, str, str]:
    """Give the greatest common divisor as one integer."""
    factor = rng.randint(1, max(1, high // 4))  # a shared factor, or most answers would be 1
    a, b = (factor * rng.randint(1, max(1, high // factor)) for _ in range(2))
    value, rest = a, b
    while rest:
        value, rest = rest, value % rest
    return f"gcd({a},{b})=", str(value), f"gcd({min(a, b)},{max(a, b)})"


def sorting(rng: random.Random, length: int = 4, high: int = 20) -> tuple[str, str, str]:
    """Give the numbers in ascending order, separated by spaces."""
    values = [rng.randint(1, high) for _ in range(length)]
    return f"sort {' '.join(map(str, values))}=", " ".join(map(str, sorted(values))), f"sort {values}"


def letter_counting(rng: random.Random, length: int = 8, letters: int = 4) -> tuple[str, str, str]:
    """Say how often the letter occurs in the word, as one integer."""
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz"[:letters]) for _ in range(length))
    letter = rng.choice(sorted(set(word)))
    return f"count {letter} in {word}=", str(word.count(letter)), f"{letter} {word}"


def reversing(rng: random.Random, length: int = 6) -> tuple[str, str, str]:
    """Give the word backwards."""
    word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))
    return f"reverse {word}=", word[::-1], word


PROCEDURAL = {  # name: (generator, the checker that its answers need)
    "countdown": (countdown, "countdown"),
    "arithmetic": (arithmetic, "exact"),
    "gcd": (gcd, "exact"),
    "sorting": (sorting, "exact"),
    "letter_counting": (letter_counting, "exact"),
    "reversing": (reversing, "exact"),
}
SMALLEST_KNOB = {"numbers": 2, "terms": 2, "length": 2, "high": 2, "letters": 1, "instruct": 0}


def held_out(key: str) -> bool:
    """Whether the problem with this key belongs to evaluation: a property of its content, not of any seed."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % EVAL_SHARE == 0


def parse_knobs(spec: str) -> tuple[str, dict[str, int]]:
    """Split "countdown:numbers=4,high=20" into its name and checked knobs."""
    name, _, text = spec.partition(":")
    generator, _ = PROCEDURAL[name]
    allowed = {k: p.default for k, p in inspect.signature(generator).parameters.items() if k != "rng"} | {"instruct": 0}
    knobs = {}
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key not in allowed or not value.isdecimal() or int(value) < SMALLEST_KNOB[key]:
            known = ", ".join(f"{k}={v}" for k, v in allowed.items())
            raise InputError(f"task {spec!r}: cannot use {item!r}; the knobs of {name} with their defaults are {known}")
        knobs[key] = int(value)
    if knobs.get("letters", 1) > 26:
        raise InputError(f"task {spec!r}: letters is at most 26")
    return name, knobs


def procedural_problems(spec: str, split: str, limit: int) -> list[Problem]:
    """`limit` distinct problems of one split, or as many as the task has if that is fewer."""
    name, knobs = parse_knobs(spec)
    instruct = knobs.pop("instruct", 0)
    generator, kind = PROCEDURAL[name]
    rng = random.Random(f"{name} {sorted(knobs.items())} {split}")
    found: dict[str, Problem] = {}
    draws_without_news = 0
    while len(found) < limit and draws_without_news < 2000:  # a small task runs out of new problems
        draws_without_news += 1
        prompt, answer, key = generator(rng, **knobs)
        if key not in found and (split == "all" or held_out(key) == (split == "eval")):
            prompt = f"{inspect.getdoc(generator)}\n{prompt}" if instruct else prompt
            found[key] = Problem(prompt, answer, f"{name}-{split}-{len(found)}", kind)
            draws_without_news = 0
    return list(found.values())


# --- Local files ------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl or .parquet file as dicts; a damaged file is an InputError that says where."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None
    rows = []
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path} line {line} is not UTF-8; convert the file to UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path} line {number} is not JSON ({error}); mend or remove that line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} is not a JSON object; each line must look like {{...}}")
        rows.append(row)
    return rows


def pick_column(path: Path, row: dict, wanted: str | None, usual: tuple[str, ...], flag: str) -> str:
    column = wanted or next((name for name in usual if name in row), None)
    if column is None or column not in row:
        missing = repr(wanted) if wanted else f"any of {', '.join(usual)}"
        raise InputError(f"{path} has no column {missing}; it has {', '.join(row)}: choose one with {flag}")
    return column


def is_prompt(value: object) -> bool:
    """Text, or chat messages [{"role": ..., "content": ...}, ...]; never empty."""
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
        )
    )


def file_problems(path: Path, prompt_column: str | None, answer_column: str | None) -> list[Problem]:
    """All problems of a file, one per distinct prompt."""
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} is empty; it needs one problem per line")
    problems: dict[str, Problem] = {}
    for number, row in enumerate(rows, 1):
        prompt = row.get(pick_column(path, row, prompt_column, PROMPT_COLUMNS, "--prompt-column"))
        answer = row.get(pick_column(path, row, answer_column, ANSWER_COLUMNS, "--answer-column"))
        if not is_prompt(prompt):
            raise InputError(
                f"{path} row {number}: the prompt must be text or a list of chat messages, not {prompt!r:.60}"
            )
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{path} row {number}: the answer must be non-empty text, not {answer!r:.60}")
        problems.setdefault(json.dumps(prompt), Problem(prompt, answer, f"{path.name}-{number}", "math"))
    return list(problems.values())


def split_problems(problems: list[Problem], split: str) -> list[Problem]:
    """A fixed tenth of a file (at least one problem) for "eval", the others for "train", everything for "all"."""
    if split == "all":
        return problems
    ranked = sorted(problems, key=lambda p: zlib.crc32(json.dumps(p.prompt).encode()))
    held = {p.id for p in ranked[: max(1, len(ranked) // EVAL_SHARE)]}
    return [p for p in problems if (p.id in held) == (split == "eval")]


# --- The two ways in --------------------------------------------------------------------------------------------


def load_task(
    name: str,
    split: str = "train",
    limit: int | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
) -> list[Problem]:
    """The problems of one split ("train", "eval" or "all").

    `name` is a procedural task with optional knobs, or the path of a local .jsonl or .parquet file. `limit` is the
    most that are returned; a procedural task makes 8,192 without it. Raises InputError for what cannot be used.
    """
    path = Path(name)
    if name.partition(":")[0] in PROCEDURAL:
        return procedural_problems(name, split, limit or 8192)
    if path.suffix not in (".jsonl", ".parquet"):
        known = ", ".join(PROCEDURAL)
        raise InputError(f"unknown task {name!r}; use one of {known}, or the path of a .jsonl or .parquet file")
    if not path.is_file():
        raise InputError(f"task file {name} does not exist or is not a file")
    return split_problems(file_problems(path, prompt_column, answer_column), split)[:limit]


def load_problems(
    task: str,
    eval_task: str | None,
    num_eval: int,
    prompt_column: str | None = None,
    answer_column: str | None = None,
) -> tuple[list[Problem], list[Problem]]:
    """The training problems, and at most `num_eval` evaluation problems none of which is trained on.

    Without `eval_task` a part of `task` itself is held out. A file named as `eval_task` is used whole, and its
    prompts are taken out of the training list.
    """
    columns = {"prompt_column": prompt_column, "answer_column": answer_column}
    separate = eval_task is not None and eval_task != task and eval_task.partition(":")[0] not in PROCEDURAL
    evaluation = load_task(eval_task or task, "all" if separate else "eval", num_eval, **columns)
    train_split = "all" if separate and task.partition(":")[0] not in PROCEDURAL else "train"
    seen = {json.dumps(p.prompt) for p in evaluation}
    train = [p for p in load_task(task, train_split, **columns) if json.dumps(p.prompt) not in seen]
    if not train:
        raise InputError(f"task {task} leaves nothing to train on once evaluation problems are held out; add problems")
    return train, evaluation


class ProblemStream:
    """Problems without end, each epoch in a new order. `cursor`, how many were taken, is all its state."""

    def __init__(self, problems: list[Problem], seed: int):
        self.problems = problems
        self.seed = seed
        self.cursor = 0

    def take(self, n: int) -> list[Problem]:
        """The next n problems; the order of epoch e is a function of (seed, e)."""
        taken = []
        while len(taken) < n:
            epoch, start = divmod(self.cursor, len(self.problems))
            order = random.Random(f"{self.seed} {epoch}").sample(range(len(self.problems)), len(self.problems))
            part = order[start : start + n - len(taken)]
            taken += [self.problems[i] for i in part]
            self.cursor += len(part)
        return taken
