"""What the heads of algos/ and the READMEs say in so many words: commands, results, names of metrics, lists of files."""

import re
import shlex
from importlib import import_module
from typing import Any

import pytest
import tyro

from common.arguments import check_args
from common.health import doubtful_settings
from tests import sync
from tests.test_plan import RECIPES, command_of

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
