"""What the heads of algos/ and the READMEs say: commands, results, names of metrics, lists of files."""

import fnmatch
import json
import re
import shlex
from importlib import import_module
from typing import Any

import pytest
import torch
import tyro

from benchmarks import collapse
from benchmarks.exercise import EXERCISES
from common.arguments import check_args
from common.health import doubtful_settings
from common.rows import ANSWER_COLUMNS, PROMPT_COLUMNS
from tests import sync
from tests.algorithms.oracle import methods
from tests.test_plan import RECIPES, command_of
from tests.test_run import STEP_KEYS

NAMES = sync.algorithms()
HEADS = {f"algos/{name}.py": sync.own_parts(sync.read(name))["head"] for name in NAMES}
READMES = ("README.md", "algos/README.md", "benchmarks/README.md", "common/README.md")
RECIPE_COMMANDS = [command_of(path) for path in RECIPES]
TEXTS = HEADS | {path: (sync.ROOT / path).read_text() for path in READMES}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(algorithm, flags) of every command in a text that trains a model of one's own."""
    found = re.findall(r"algos/(\w+)\.py (.*--model .*)", text.replace("\\\n", " "))
    return [(name, shlex.split(flags, comments=True)) for name, flags in found]


def parsed(name: str, flags: list[str]) -> Any:
    return tyro.cli(import_module(f"algos.{name}").Args, args=flags)


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_every_head_has_a_command_for_a_real_model() -> None:
    for name in NAMES:
        assert [one for one, _ in commands(HEADS[f"algos/{name}.py"])] == [name]
    assert [[one for one, _ in commands(TEXTS[path])] for path in READMES] == [
        ["grpo", "grpo", "kl_cov"],
        [],
        [],
        ["grpo", "kl_cov"],
    ]


@pytest.mark.parametrize("path", TEXTS)
def test_commands_fit_the_model_that_they_name(path: str) -> None:
    """Length and learning rate are said, the embedded model's being no use, and a run has nothing to doubt."""
    for name, flags in commands(TEXTS[path]):
        assert {"--max-response-length", "--learning-rate"} <= {*flags}
        args = parsed(name, flags)
        check_args(args)
        assert not doubtful_settings(vars(args), vars(import_module(f"algos.{name}").Args()))


@pytest.mark.parametrize("name", sorted({name for name, _ in RECIPE_COMMANDS}))
def test_the_method_is_set_as_in_a_recipe(name: str) -> None:
    """The head's command leaves no flag of the method at the toy's value where a recipe has the paper's."""
    own = re.findall(r"^    (\w+): ", sync.own_parts(sync.read(name))["args"], re.MULTILINE)
    head = parsed(name, commands(HEADS[f"algos/{name}.py"])[0][1])
    recipes = [parsed(*command) for command in RECIPE_COMMANDS if command[0] == name]
    others = [{flag: getattr(recipe, flag) for flag in own} for recipe in recipes]
    assert {flag: getattr(head, flag) for flag in own} in others


# --- Results and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_results_name_the_knob_that_they_were_made_with(name: str) -> None:
    """A head that reports the comparison says where its method's tuned flag is not the file's default."""
    head = HEADS[f"algos/{name}.py"]
    if "CLAIMS.md" in head or "hrough the collapse" in head:
        defaults = import_module(f"algos.{name}").Args()
        for flag, value in collapse.tuned(collapse.Args(), name).items():
            said = f"--{flag.replace('_', '-')} {value:g}"
            assert value == getattr(defaults, flag) or re.search(rf"{re.escape(said)}(?![.\d])", " ".join(head.split()))


@pytest.mark.parametrize("path", TEXTS)
def test_metrics_are_named_as_they_are_logged(path: str) -> None:
    """A star stands for any ending."""
    known = STEP_KEYS | {"policy/polarity", "policy/raising_ratio", "policy/entropy_change"}
    for name, method in methods().items():
        if path in (f"algos/{name}.py", *READMES):
            known |= {f"algo/{key}" for key in method.METRICS | getattr(method, "SCRIPT_METRICS", set())}
    for name in re.findall(r"\b(?:algo|rollout|policy)/[\w*]+", TEXTS[path]):
        assert fnmatch.filter(known, name), name


def test_sizes_of_advantages_in_the_head_of_dr_grpo() -> None:
    for name, said in {"dr_grpo": "0.125 to 0.875 here", "grpo": "0.354 to 2.475 there"}.items():
        module, sizes = import_module(f"algos.{name}"), []
        for right in range(1, 8):
            batch = {"rewards": (torch.arange(8) < right).float(), "mask": torch.ones(8, 1, dtype=torch.bool)}
            module.assign_credit(batch, module.Args(), {})
            sizes += batch["advantages"].abs().flatten().tolist()
        assert f"{min(sizes):.3f} to {max(sizes):.3f}" in said
        assert said in " ".join(HEADS["algos/dr_grpo.py"].split())


# --- What the READMEs count and list ----------------------------------------------------------------------------------


def stems(folder: str) -> list[str]:
    return sorted(path.stem for path in (sync.ROOT / folder).glob("*.py") if path.stem != "__init__")


def test_every_module_is_listed_once() -> None:
    """In common/README.md in groups, "a, b: what they are for", and in benchmarks/README.md by folder."""
    listed = re.search(r"The modules, from the ground up: (.*?)\n\n", TEXTS["common/README.md"], re.DOTALL)
    groups = [group.partition(":")[0].split(",") for group in listed[1].split("·")]
    assert sorted({name.strip() for group in groups for name in group} - {"tiny/"}) == stems("common")
    assert sum(map(len, groups)) == len(stems("common")) + 1
    folders = dict(re.findall(r"^(\w+)/ +\S.*?: ((?:.*,\n +)*.*)$", TEXTS["benchmarks/README.md"], re.MULTILINE))
    assert sorted(re.split(r",\s+", folders["measurements"])) == stems("benchmarks/measurements")
    tools = [*stems("benchmarks/tools"), "gallery", "lessons"]
    assert sorted(re.split(r",\s+", folders["tools"])) == sorted(tools)


def test_counts_costs_and_columns() -> None:
    parts = sum(map(len, EXERCISES.values()))
    assert f"which exercises there are: {parts} in {len(EXERCISES)} files" in TEXTS["README.md"]
    usual = [f"`{name}`" for name in (*PROMPT_COLUMNS, *ANSWER_COLUMNS)]
    named = re.search(r"the first that it has of(.*?), or the ones named", TEXTS["common/README.md"], re.DOTALL)[1]
    assert re.findall(r"`\w+`", named) == usual
    torch_version = re.search(r"^torch==\S+$", (sync.ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    assert f"pip install {torch_version} --index-url" in TEXTS["README.md"]
    minutes = {100: [], 400: []}
    for run in (json.loads(path.read_text()) for path in collapse.ROWS.glob("*/*.json")):
        if run["steps"] in minutes and not run["ended"] and not run["resumed_at"]:
            minutes[run["steps"]].append(run["cpu_seconds"] / 60)
    long, short = (f"{min(minutes[steps]):.0f} to {max(minutes[steps]):.0f}" for steps in (400, 100))
    said = f"A run of 400 steps took {long} minutes of one thread, one of tuning, 100 steps, {short} "
    assert said in TEXTS["benchmarks/README.md"].replace("\n", " ")
