"""Maths data sets by name, and any data set of the Hugging Face hub.

    problems = hub_problems("gsm8k", "train")
    problems = hub_problems("owner/name", "train", "question", "final_answer")
    problems = hub_problems("owner/name:config:split", "all")

Each named set is one line of a table: where it lives, its splits, its columns and how its gold answer is written.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from common import InputError
from common.maths import find_answer
from common.problems import Problem, split_problems
from common.rows import as_written, read_answer, to_problems


def only(value: object) -> str | None:
    """A gold answer as text, None where there is not just one: what a named set holds beside those is known."""
    try:
        return read_answer(value)
    except ValueError:
        return None


def stated(value: object) -> str | None:
    """The answer that a worked solution states: in its last box (MATH) or after #### (GSM8K)."""
    answer, marked = find_answer(value) if isinstance(value, str) else (None, False)
    return answer if marked else None


@dataclass(frozen=True)
class HubSet:
    """Where a data set lives and how to read a row of it. A split that is None does not exist; a column that is None
    has one of the usual names."""

    repo: str
    config: str | None
    train: str | None
    test: str | None
    prompt: str | None
    answer: str | None
    gold: Callable[[object], str | None] = only
    trace: str | None = None  # the column of worked solutions, where there is one


KNOWN = {
    "gsm8k": HubSet("openai/gsm8k", "main", "train", "test", "question", "answer", stated, "answer"),
    "math": HubSet(
        "DigitalLearningGmbH/MATH-lighteval", None, "train", "test", "problem", "solution", stated, "solution"
    ),
    "math500": HubSet("HuggingFaceH4/MATH-500", None, None, "test", "problem", "answer", trace="solution"),
    # The first release repeats each of its 17,000 problems a hundred times; this is the one without.
    "dapo17k": HubSet("open-r1/DAPO-Math-17k-Processed", "all", "train", None, "prompt", "solution"),
    "deepscaler": HubSet("agentica-org/DeepScaleR-Preview-Dataset", None, "train", None, "problem", "answer"),
    "aime24": HubSet("HuggingFaceH4/aime_2024", None, None, "train", "problem", "answer"),
    "aime25": HubSet("math-ai/aime25", None, None, "test", "problem", "answer"),
    "amc23": HubSet("math-ai/amc23", None, None, "test", "question", "answer"),  # 40 problems; another "AMC" has 83
    "olympiad": HubSet("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", None, "train", "question", "final_answer"),
    "minerva": HubSet("math-ai/minervamath", None, None, "test", "question", "answer"),
}


def is_hub_name(name: str) -> bool:
    """A known name, or owner/name with an optional :config or :config:split. What is a file is asked before."""
    return name in KNOWN or (name.partition(":")[0].count("/") == 1 and not name.startswith((".", "/", "~")))


def load_split(repo: str, config: str | None, split: str) -> list[dict]:
    """The rows of one split, through the datasets library and its cache."""
    try:
        import datasets
    except ImportError:
        raise InputError("data sets of the hub need the datasets library; pip install datasets") from None
    datasets.disable_progress_bars()
    place = f"{repo}{f' ({config})' if config else ''}, split {split}"
    try:
        dataset = datasets.load_dataset(repo, config, split=split)
        return as_written(list(dataset), dataset.features.arrow_schema)
    except Exception as error:  # unreachable, unknown, gated, another split or config: each raises its own type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"data set {place} cannot be loaded ({reason}); check name, split and network, log in with `hf auth login` "
            "if it is gated, or save it as .jsonl and name that file"
        ) from None


def split_names(name: str, repo: str, config: str | None) -> list[str]:
    try:
        import datasets
    except ImportError:
        raise InputError("data sets of the hub need the datasets library; pip install datasets") from None
    try:
        return list(datasets.get_dataset_split_names(repo, config))
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"data set {name} is not to be had ({reason}); check its id, or name a .jsonl file") from None


def find_set(name: str) -> HubSet:
    """The table's line, or one made for an id of the hub: the split that it names, else "train" and the usual others.

    Raises InputError for a split that is not there, and where none is named and several could be meant.
    """
    if name in KNOWN:
        return KNOWN[name]
    repo, _, rest = name.partition(":")
    config, _, wanted = rest.partition(":")
    try:
        splits = split_names(name, repo, config or None)
    except InputError:
        with suppress(InputError):  # then the first one says more
            if config and not wanted and config in split_names(name, repo, None):
                return find_set(f"{repo}::{config}")  # owner/name:test, of a set without configs
        raise
    if wanted and wanted in splits:
        return HubSet(repo, config or None, wanted, None, None, None, read_answer)
    if wanted or ("train" not in splits and len(splits) != 1):
        raise InputError(
            f"data set {name} has no split {wanted or 'train'!r}; choose one of {', '.join(splits) or 'none'}, as in "
            f"{repo}:{config}:{splits[0] if splits else 'split'}"
        )
    train = "train" if "train" in splits else None
    others = ("test", "validation", "val") if train else splits
    test = next((split for split in others if split in splits), None)
    return HubSet(repo, config or None, train, test, None, None, read_answer)


def hub_problems(
    name: str,
    split: str,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    trace_column: str | None = None,
) -> list[Problem]:
    """The problems of "train", "eval" or "all". Of a set with one split a fixed tenth is "eval", as of a file."""
    source = find_set(name)
    both = source.train and source.test
    wanted = source.test if both and split == "eval" else source.train or source.test
    place = name if name.endswith(f":{wanted}") else f"{name} {wanted}"
    rows = [(f"{place} row {i}", row) for i, row in enumerate(load_split(source.repo, source.config, wanted), 1)]
    own_trace = source.trace if any(source.trace in row for _, row in rows) else None
    columns = prompt_column or source.prompt, answer_column or source.answer, trace_column or own_trace
    problems = to_problems(rows, place, columns, lambda at: at.replace(" ", "-"), source.gold, say_size=True)
    return problems if both else split_problems(problems, split)
