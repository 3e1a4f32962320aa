"""Problems of reasoning-gym (optional: pip install reasoning-gym), judged by its own scorers.

    problems = gym_problems("rg:chain_sum:min_terms=2,max_terms=3,size=500", "train")

A scorer gives partial credit to wrong answers, so that naming every candidate pays; here only its full mark counts.
Scorers see what a model wrote. Those that evaluate it as code are refused by name, and all others run in the verifier's
worker processes, which are killed when their time is up.
"""

import json
from dataclasses import fields
from functools import lru_cache

from common import InputError, ranks
from common.maths import MAX_LENGTH, as_number
from common.problems import Problem, prompt_key, split_problems
from common.spelling import plain

SIZE = 2000  # problems that are made without size=
SEED = 0  # of the generators: what a task is does not depend on --seed
MAX_ANSWER = 10_000  # characters that a scorer is given

# Their scorers call eval or sympy's parse_expr, which evaluates, on the answer.
UNSAFE = frozenset(
    "binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24 simple_integration "
    "spiral_matrix string_insertion".split()
)
NOT_ALONE = frozenset({"codeio", "composite"})  # one runs programs to make its problems, the other is made of others


def parse_spec(spec: str) -> tuple[str, dict]:
    """Split "rg:chain_sum:min_terms=2" into the set's name and its settings, numbers and booleans as such."""
    _, name, *rest = spec.split(":", 2)
    settings = {}
    for item in filter(None, "".join(rest).split(",")):
        key, _, value = item.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return name, settings


@lru_cache(maxsize=8)
def gym_dataset(spec: str):
    """reasoning-gym's data set for a task name; raises InputError in one line for what cannot be used."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError:
        raise InputError(f"task {spec} needs reasoning-gym; pip install reasoning-gym") from None
    name, settings = parse_spec(spec)
    if name in UNSAFE:
        raise InputError(f"task {spec}: its scorer evaluates the answer as code, so it is refused; use another set")
    if name not in DATASETS or name in NOT_ALONE:
        known = ", ".join(sorted(DATASETS.keys() - UNSAFE - NOT_ALONE))
        raise InputError(f"unknown task {spec}; reasoning-gym has {known}")
    try:
        return create_dataset(name, **({"size": SIZE, "seed": SEED} | settings))
    except Exception as error:  # each set checks its settings in its own way
        known = ", ".join(f"{f.name}={f.default}" for f in fields(DATASETS[name][1]) if f.name not in ("size", "seed"))
        reason = " ".join(str(error).split())[:200] or "settings out of range"
        raise InputError(f"task {spec}: {reason}; its settings with their defaults are size={SIZE}, {known}") from None


def gym_problems(spec: str, split: str) -> list[Problem]:
    """The problems of "train", "eval" (a fixed tenth) or "all"; prints what was left out."""
    dataset, problems = gym_dataset(spec), {}
    for index in range(len(dataset)):
        try:
            entry = dataset[index]
        except Exception as error:  # a generator that finds no problem for these settings
            raise InputError(f"task {spec} cannot make problem {index} ({error}); use other settings") from None
        if all(isinstance(entry[key], str) and entry[key].strip() for key in ("question", "answer")):
            problems.setdefault(prompt_key(entry["question"]), (entry, f"{spec}#{index}"))
    if lost := len(dataset) - len(problems):
        ranks.say(f"{spec}: {lost:,} problems left out, duplicates or without an answer")
    if not problems:
        raise InputError(f"task {spec} has no problem with a question and an answer in words; use another set")
    return split_problems([Problem(e["question"], e["answer"], i, "rg") for e, i in problems.values()], split)


def needs_scorer(problem: Problem) -> bool:
    """Whether another answer than the gold one can be right: the plain scorer gives its full mark to no other."""
    from reasoning_gym.dataset import ProceduralDataset

    dataset = gym_dataset(problem.id.rpartition("#")[0])
    return type(dataset).score_answer is not ProceduralDataset.score_answer


def alike(answer: str, gold: str) -> bool:
    """Whether no more than decoration, case or the spelling of a number differs: "62." and 62, "yes" and "Yes"."""
    lines = [[plain(line).casefold() for line in text.splitlines() if line.strip()] for text in (answer, gold)]
    if lines[0] == lines[1]:
        return True
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return False
    values = as_number(answer), as_number(gold)
    return None not in values and values[0] == values[1]


def score(answer: str, gold: str, problem_id: str) -> bool:
    """Whether the set's own scorer gives its full mark, to the answer as it stands or to it without decoration.

    Runs in a worker process, which makes the problem again.
    """
    spec, _, index = problem_id.rpartition("#")
    dataset = gym_dataset(spec)
    entry = dataset[int(index)]
    if entry["answer"] != gold:
        raise RuntimeError(f"{problem_id} is another problem in another process")
    spellings = dict.fromkeys([answer, plain(answer)])
    return any(float(dataset.score_answer(answer=text, entry=entry)) == 1.0 for text in spellings)
