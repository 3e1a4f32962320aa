"""--dry-run and the recipes: a plan from flags alone, wrong paths and names refused, no weights loaded."""

import dataclasses
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from common import hub, loading
from common.plan import LAST_SHARED_FLAG
from tests import sync
from tests.test_bad_input import ROWS, jsonl

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.sh") if path.stem != "common")


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Run a script with --dry-run, weights and network out of its reach; (status, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(loading, "load_model", lambda name: pytest.fail("weights were loaded"))
    monkeypatch.setattr(hub, "load_split", lambda *_: pytest.fail("a data set was loaded"))

    def start(name: str, *flags: str) -> tuple[int, str, str]:
        before = set(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags, "--dry-run"])
        monkeypatch.setattr(sys, "path", sys.path[:])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(sync.ALGOS / f"{name}.py"), run_name="__main__")
        assert set(tmp_path.rglob("*")) == before, "something was written"
        return (end.value.code or 0, *capfd.readouterr())

    return start


@pytest.mark.parametrize("name", sorted(path.stem for path in sync.ALGOS.glob("*.py")))
def test_every_script_prints_its_plan(name: str, dry_run: Callable) -> None:
    status, out, err = dry_run(name)
    assert (status, err) == (0, "")
    assert out.startswith(f"{name}, dry run\nmodel       the embedded model: 0.4 million parameters, 0.01 GiB")
    own = re.search(r"^method      (.*)$", out, re.MULTILINE)[1]
    Args = import_module(f"algos.{name}").Args
    shared = {field.name for field in dataclasses.fields(import_module("algos.opo").Args)}
    fields = [f for f in dataclasses.fields(Args) if f.name not in shared]
    for field in fields:
        assert f"{field.name} {field.default}" in own


def test_the_method_begins_where_the_shared_flags_end() -> None:
    """In every script: the skeleton's last flag is the one before its own."""
    shared, own = sync.read("grpo").split("    # [algo: args]\n")
    fields = [field.name for field in dataclasses.fields(import_module("algos.grpo").Args)]
    names = re.findall(r"^    (\w+): ", shared.split("class Args:\n")[1], re.MULTILINE)
    assert names[-1] == LAST_SHARED_FLAG and names == fields[: len(names)] and f"    {fields[len(names)]}: " in own


def test_arithmetic(dry_run: Callable, tiny_checkpoint: Path, tmp_path: Path) -> None:
    task = str(jsonl(tmp_path / "t.jsonl", ROWS))
    flags = "--num-prompts 6 --num-generations 4 --num-minibatches 3 --update-epochs 2 --num-steps 10 --eval-every 0"
    words = f"--max-response-length 20 --max-prompt-length 99 --model {tiny_checkpoint} --task {task}"
    status, out, _ = dry_run("grpo", *flags.split(), *words.split())
    assert status == 0
    assert "6 prompts x 4 responses = 24 rows of at most 20 tokens (480 in all); 6 updates of 8 rows" in out
    assert "10 steps: 240 responses, 60 updates" in out
    assert "at most 99 tokens" in out and "samples, never" in out
    model = loading.AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    assert f": {sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters" in out
    held = max(1, len(ROWS) // 10)
    assert f"{task}: {len(ROWS) - held} problems" in out and f"{task}: {held} problems" in out


def test_problems_that_a_small_task_holds_out(dry_run: Callable) -> None:
    _, out, _ = dry_run("grpo", "--task", "sums:high=12,shots=3")
    assert "sums:high=12,shots=3; 8 problems x 32 samples" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model no/such/place", "neither a directory nor a hub id"),
        ("--model {tmp}", "config.json"),
        ("--task nowhere.jsonl", "does not exist"),
        ("--task countdown:numbers=99", "knobs"),
        ("--eval-task nothing", "unknown task"),
        ("--task {tmp}/t.jsonl --answer-column gold", "no column 'gold'"),
        ("--task {tmp}/t.jsonl --trace-column work", "no column 'work'"),
        ("--num-prompts 5", "does not divide"),
        ("--output-dir {tmp}/t.jsonl", "is a file"),
        ("--device gpu", "device 'gpu'"),
        ("--backend foo", "backend 'foo'"),
        ("--temperature nan", "finite"),
    ],
)
def test_what_is_wrong_is_said(flags: str, words: str, dry_run: Callable, tmp_path: Path) -> None:
    jsonl(tmp_path / "t.jsonl", ROWS)
    status, out, err = dry_run("grpo", *flags.format(tmp=tmp_path).split())
    assert status == 2 and out == "" and words in err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_task_of_a_methods_own_is_looked_at(dry_run: Callable, tmp_path: Path) -> None:
    """--general-task of heal.py, and any other flag that ends so."""
    task = jsonl(tmp_path / "general.jsonl", ROWS)
    status, out, _ = dry_run("heal", "--general-task", "general.jsonl")
    assert status == 0 and f"general     general.jsonl: {len(ROWS)} problems\n" in out
    assert "general     countdown:numbers=2\n" in dry_run("heal")[1]
    for flags, words in (
        (("--general-task", "gone.jsonl"), "gone.jsonl does not exist"),
        (("--general-task", "countdown:numbers=99"), "knobs"),
        (("--general-task", "no such task"), "unknown task"),
        (("--general-task", str(task), "--answer-column", "gold"), "no column 'gold'"),
    ):
        status, out, err = dry_run("heal", *flags)
        assert (status, out) == (2, "") and words in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_model_without_tokenizer_is_said(dry_run: Callable, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    status, _, err = dry_run("grpo", "--model", str(tmp_path / "model"))
    assert status == 2 and "tokenizer" in err


# --- Recipes --------------------------------------------------------------------------------------------------------


def command_of(recipe: Path) -> tuple[str, list[str]]:
    """The script and its flags as the shell sees them."""
    shown = subprocess.run(
        ["bash", str(recipe)], env=os.environ | {"LAUNCH": "printf %q\\n"}, capture_output=True, text=True, check=True
    )
    script, *flags = [shlex.split(line)[0] for line in shown.stdout.splitlines()]
    return Path(script).stem, flags


def test_the_promised_recipes_are_there() -> None:
    promised = "kl_cov_7b kl_cov_32b clip_cov_7b clip_cov_32b dapo_32b forking_tokens_8b nsr_7b opo_7b entropic_8b"
    assert set(promised.split()) <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe: Path, dry_run: Callable) -> None:
    """It parses, every flag is set as written, and its plan can be made."""
    name, flags = command_of(recipe)
    args = tyro.cli(import_module(f"algos.{name}").Args, args=flags)
    for flag, text in zip(flags[::2], flags[1::2], strict=True):
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        assert value == type(value)(text) if not isinstance(value, bool) else str(value) == text
    status, out, err = dry_run(name, *flags)
    assert status == 0, err
    assert f"model       {args.model}, from the hub" in out


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_flag_of_a_recipe_names_its_source(recipe: Path) -> None:
    text = recipe.read_text()
    lines = re.findall(r"^flags=\(\n(.*?)\n\)\n", text, re.DOTALL | re.MULTILINE)[0].splitlines()
    assert lines and all(re.fullmatch(r"    --[a-z-]+ \S+ +# \S.*", line) for line in lines)
    assert "arXiv" in text and max(map(len, text.splitlines())) <= 120 and os.access(recipe, os.X_OK)


def test_every_shared_flag_names_its_source_and_is_written_once() -> None:
    """What recipes of one paper have in common stands in common.sh, and in no recipe."""
    text = (FOLDER / "common.sh").read_text()
    shared = dict(re.findall(r"^(\w+)=\(\n(.*?)\n\)\n", text, re.DOTALL | re.MULTILINE))
    assert shared and text.count("arXiv") == len(shared) and max(map(len, text.splitlines())) <= 120
    for name, block in shared.items():
        lines = block.splitlines()
        assert all(re.fullmatch(r"    --[a-z-]+ \S+ +# \S.*", line) for line in lines)
        users = [path.read_text() for path in RECIPES if f"${{{name}[@]}}" in path.read_text()]
        assert len(users) > 1 and not any(f"\n    {line.split()[0]} " in user for line in lines for user in users)


def test_percent_is_not_a_fraction() -> None:
    """The authors' k_percent 0.2 and 0.02 are percentages; verl's default is the smaller one."""
    ratios = {size: dict(zip(*[iter(command_of(ROOT / f"benchmarks/recipes/kl_cov_{size}.sh")[1])] * 2, strict=True))
              for size in ("7b", "32b")}  # fmt: skip
    assert float(ratios["7b"]["--kl-cov-ratio"]) == 2e-3 and float(ratios["32b"]["--kl-cov-ratio"]) == 2e-4
