"""The two lists of problems that a run needs, whatever they come from, and the endless stream of the first.

`load_problems("countdown", ...)` gives a training list and an evaluation list that never share a problem. A task is
procedural (common/procedural.py), a local file (files.py), a data set of the hub (hub.py) or of reasoning-gym (gym.py).
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import InputError, gym, hub, ranks
from common.files import file_problems, is_file
from common.problems import Problem, loose_key, prompt_key, split_problems
from common.procedural import PROCEDURAL, is_procedural, procedural_problems
from common.templates import with_template
from common.verifier import Verifier


def is_named(name: str) -> bool:
    """Whether it is one of the data sets whose columns are known."""
    return name in hub.KNOWN


def with_verifiable_gold(problems: list[Problem], name: str) -> list[Problem]:
    """The problems whose gold answer the verifier can read: with another, a perfect response would count as wrong."""
    with Verifier() as verifier:
        kept = [p for p, good in zip(problems, verifier.verifiable(problems), strict=True) if good]
    if len(kept) < len(problems):
        lost = len(problems) - len(kept)
        ranks.say(f"{name}: {lost:,} problems left out, whose gold answer cannot be verified")
    return kept


def has_test_split(name: str) -> bool:
    """Whether "train" and "eval" of this task are apart by themselves, so that nothing need be held out."""
    if is_procedural(name) or is_file(name):
        return is_procedural(name)
    source = hub.find_set(name) if hub.is_hub_name(name) else None
    return source is not None and None not in (source.train, source.test)


def load_task(
    name: str,
    split: str = "train",
    limit: int | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    trace_column: str | None = None,
) -> list[Problem]:
    """The problems of one split ("train", "eval" or "all"); the `source` of each is `name`.

    `name` is a procedural task with optional knobs, rg:<set of reasoning-gym>, the path of a local file of a kind that
    common/files.py reads, one of the named data sets of common/hub.py, or an id of the hub. `limit` is the most that
    are returned; a procedural task makes 8,192 without it. The columns are those of a file or a hub set. Raises
    InputError for what cannot be used.
    """
    if split not in ("train", "eval", "all"):
        raise InputError(f"unknown split {split!r}; use train, eval or all")
    columns = prompt_column, answer_column, trace_column
    if is_procedural(name):
        problems = procedural_problems(name, split, 8192 if limit is None else limit)
    elif name.startswith("rg:"):
        problems = gym.gym_problems(name, split)
    elif is_file(name):
        problems = split_problems(file_problems(name, *columns), split)
    elif hub.is_hub_name(name):
        problems = hub.hub_problems(name, split, *columns)
    else:
        known = ", ".join([*PROCEDURAL, *hub.KNOWN])
        raise InputError(
            f"unknown task {name!r}; use one of {known}, rg:<set of reasoning-gym>, a hub id (owner/name), or a .jsonl "
            "or .parquet file (.json, .csv and .tsv too)"
        )
    return [replace(problem, source=name) for problem in problems[:limit]]


def load_problems(
    task: str,
    eval_task: str | None,
    num_eval: int,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    trace_column: str | None = None,
    template: str = "raw",
) -> tuple[list[Problem], list[Problem]]:
    """The training problems, and at most `num_eval` evaluation problems none of which is trained on.

    Without `eval_task` it is the test split of `task`, or a part of it that is held out. A file, or a data set of one
    split, that is named as `eval_task` is used whole. Its prompts are taken out of the training list. The columns are
    those of both, but for an `eval_task` that is a named data set, which has its own; `trace_column` is that of the
    training problems alone. Of several ranks the first alone reads and verifies: another may find another file, or run
    out of time with a gold answer, and then all would train on other problems.
    """
    return ranks.from_first(
        lambda: read_problems(task, eval_task, num_eval, prompt_column, answer_column, trace_column, template)
    )


def problems_from_args(args: Any, **instead: Any) -> tuple[list[Problem], list[Problem]]:
    """The training and evaluation problems of a run's command line, with other values `instead` for some flags."""
    args = SimpleNamespace(**vars(args) | instead)
    columns = args.prompt_column, args.answer_column, args.trace_column
    return load_problems(args.task, args.eval_task, args.eval_problems, *columns, args.prompt_template)


def read_problems(
    task: str,
    eval_task: str | None,
    num_eval: int,
    prompt_column: str | None,
    answer_column: str | None,
    trace_column: str | None,
    template: str,
) -> tuple[list[Problem], list[Problem]]:
    """`load_problems` on this rank alone."""
    columns = {"prompt_column": prompt_column, "answer_column": answer_column}
    source = eval_task or task
    separate = Path(source) != Path(task)
    if separate or has_test_split(task):
        split = "all" if separate and not has_test_split(source) else "eval"
        limit = num_eval if is_procedural(source) else None
        evaluation = load_task(source, split, limit, **({} if separate and is_named(source) else columns))
        split = "all" if separate and not has_test_split(task) else "train"
        train = load_task(task, split, **columns, trace_column=trace_column)
    else:  # read once, and split here
        both = load_task(task, "all", **columns, trace_column=trace_column)
        train, evaluation = (split_problems(both, split) for split in ("train", "eval"))
        evaluation = [replace(problem, source=source) for problem in evaluation]
    if not is_procedural(source):
        evaluation = with_verifiable_gold(evaluation, source)
    if not evaluation:
        raise InputError(f"task {source} is too small to hold problems out for evaluation; use one with more problems")
    if is_procedural(source) and len(evaluation) < num_eval:  # what is measured on few is known roughly
        ranks.say(f"{source} has {len(evaluation)} problems to evaluate on, and no more")
    if not is_procedural(task):
        train = with_verifiable_gold(train, task)
    seen = {prompt_key(p.prompt) for p in evaluation}  # all of the file's, also those beyond `num_eval`
    before = len(train)
    train = [p for p in train if prompt_key(p.prompt) not in seen]
    if len(train) < before:
        ranks.say(f"{before - len(train):,} problems of {task} are left out: {source} evaluates on them")
    exact = is_procedural(task) and is_procedural(source)  # held apart by what is asked; there signs make a difference
    alike = set() if exact else {loose_key(p.prompt) for p in evaluation} - {None}
    if near := sum(loose_key(p.prompt) in alike for p in train):
        ranks.say(
            f"warning: {near:,} problems of {task} differ from one of {source} in case, spaces or punctuation alone: "
            "what the evaluation shows may have been learned by heart"
        )
    if not train:
        raise InputError(f"task {task} leaves nothing to train on once evaluation problems are held out; add problems")
    return with_template(train, template), with_template(evaluation[:num_eval], template)


class ProblemStream:
    """Problems without end, each epoch in a new order. `cursor`, how many were taken, is all its state.

    A method may `reorder` the beginning, once, before anything is taken: it keeps that order itself.
    """

    def __init__(self, problems: list[Problem], seed: int):
        self.problems = problems
        self.seed = seed
        self.cursor = 0
        self._first: list[Problem] = []  # reordered ones
        self._epoch, self._order = -1, []  # drawn once an epoch: of a large set it takes a while

    def reorder(self, order: Sequence[int]) -> None:
        """Give the first len(order) problems another order, in which the i-th is the one that was at `order[i]`."""
        usual = ProblemStream(self.problems, self.seed).take(len(order))
        self._first = [usual[i] for i in order]

    def take(self, n: int) -> list[Problem]:
        """The next n problems; the order of epoch e is a function of (seed, e), but for what `reorder` has changed."""
        taken = self._first[self.cursor : self.cursor + n]
        self.cursor += len(taken)
        while len(taken) < n:
            epoch, start = divmod(self.cursor, len(self.problems))
            if epoch != self._epoch:
                order = random.Random(f"{self.seed} {epoch}").sample(range(len(self.problems)), len(self.problems))
                self._epoch, self._order = epoch, order
            part = self._order[start : start + n - len(taken)]
            taken += [self.problems[i] for i in part]
            self.cursor += len(part)
        return taken
