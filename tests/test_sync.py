"""The algorithm files: one skeleton, small differences, no dead flags (invariant I1 of the design)."""

import ast
import dataclasses
import importlib
import re

import pytest

from tests import sync

NAMES = sync.algorithms()
ROOT = sync.ROOT


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def depth(node: ast.AST) -> int:
    """How deep loops, conditions and try are nested in a node."""
    inner = max((depth(child) for child in ast.iter_child_nodes(node)), default=0)
    return inner + isinstance(node, ast.For | ast.While | ast.If | ast.Try)


def test_all_files_have_one_skeleton() -> None:
    """A difference outside head and regions: edit algos/grpo.py, then run python tests/sync.py --write."""
    assert not sync.out_of_step()


def test_ledger_is_current() -> None:
    """Growth is a decision: python tests/sync.py --write, and say in the commit why a file grew."""
    assert sync.LEDGER.read_text() == sync.ledger()


def test_sync_brings_a_stray_file_back() -> None:
    source, text = sync.read("grpo"), sync.read("nsr")
    stray = text.replace("sampler.sync()", "sampler.sync()  # twice").replace("import math\n", "")
    assert stray != text and sync.with_skeleton(stray, source) == text
    assert sync.skeleton(stray) != sync.skeleton(source)


def test_changes_count_a_replaced_line_once() -> None:
    assert sync.changes("a\nb\nc\nd\n", "a\nB\nc\nd\ne\nf\n") == (3, 2)
    assert sync.changes("a\nb\nc\n", "a\nB\n") == (2, 1)
    assert sync.changes("a\n", "a\n") == (0, 0)


def test_code_has_no_prose() -> None:
    text = 'x: int = 1\n"""what x\nis"""\n\n# why\ny = "a string"  # here\n\n\ndef f():\n    """Doc."""\n    return y\n'
    assert sync.code(text).splitlines() == ["x: int = 1", 'y = "a string"  # here', "def f():", "    return y"]


@pytest.mark.parametrize("name", NAMES)
def test_regions_are_the_eight(name: str) -> None:
    text = sync.read(name)
    assert tuple(sync.own_parts(text)) == ("head", *sync.REGIONS)
    assert text.count("# [algo:") == text.count("# [/algo]") == len(sync.REGIONS)


@pytest.mark.parametrize("name", NAMES)
def test_budgets(name: str) -> None:
    """A file is read in one sitting; a difference is seen at one look."""
    text = sync.read(name)
    tree = ast.parse(text)
    assert len(text.splitlines()) - tree.body[0].end_lineno <= 320  # below the head
    assert len(text.splitlines()) <= 350
    assert sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body) <= 18
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in functions(tree)}
    assert sizes["assign_credit"] <= 30 and sizes["policy_loss"] <= 35 and max(sizes.values()) <= 45
    guard = tree.body[-1]
    assert isinstance(guard, ast.If) and max(depth(node) for node in guard.body) <= 4
    if base := sync.parent(name):
        lines, hunks = sync.distance(base, name)
        assert lines <= 45 and hunks <= 12  # a critic beside the policy is the largest


def test_every_import_is_used_somewhere() -> None:
    """The imports are part of the skeleton: a file may do without one, not all of them."""
    trees = [ast.parse(sync.read(name)) for name in NAMES]
    imports = [node for node in trees[0].body if isinstance(node, ast.Import | ast.ImportFrom)]
    used = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {alias.asname or alias.name for node in imports for alias in node.names} <= used


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_is_read(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(importlib.import_module(f"algos.{name}").Args)}
    text = sync.read(name) + "".join(
        (ROOT / "common" / f"{part}.py").read_text()
        for part in ("arguments", "records", "run", "evaluate", "loading", "batch", "rollout", "tasks")
    )
    read = set(re.findall(r"\b(?:self\.)?args\.(\w+)", text)) | set(re.findall(r"\bself\.(\w+) \*", text))
    assert not fields - read


@pytest.mark.parametrize("name", NAMES)
def test_head_says_where_it_comes_from(name: str) -> None:
    """Paper, what differs from it or from its code, and how to run it."""
    head = sync.own_parts(sync.read(name))["head"]
    assert re.search(r"arXiv \d{4}\.\d{5}", head) and "Differs from" in head
    assert f"    python algos/{name}.py" in head
    if name != "grpo":
        assert re.search(r"^Parent: \w+\.py$", head, re.MULTILINE)
        assert sync.parent(name) in NAMES


def test_common_does_not_know_the_algorithms() -> None:
    """What is learned is decided in algos/ alone."""
    words = re.compile(r"\badvantages?\b|clip_ratio|\bkl_cov|top_entropy|\bnsr\b|entropic|max_resample", re.IGNORECASE)
    for path in sorted((ROOT / "common").glob("*.py")):
        assert not words.search(path.read_text()), path.name
