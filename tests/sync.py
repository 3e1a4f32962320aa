"""Keep the skeleton of all algorithm files the same text.

    python tests/sync.py            # which files differ from grpo.py outside their own parts, and the ledger
    python tests/sync.py --write    # give every file the skeleton of grpo.py, and write the ledger anew

A file's own parts are its head docstring and its fenced regions (`# [algo: name]` to `# [/algo]`); all else is the
skeleton. The ledger, tests/ledger.csv, holds how many lines and hunks of code separate each file from its parent (named
in its head, `Parent: dapo.py`; else grpo.py), so that growth is a decision that shows in a review. A line of code that
is replaced counts once; comments, docstrings and blank lines do not count. The head's lines are counted apart: what it
says of paper and code should not be cut short to save lines.
"""

import ast
import csv
import difflib
import functools
import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALGOS, LEDGER = ROOT / "algos", ROOT / "tests" / "ledger.csv"
REGIONS = ("args", "credit", "loss", "setup", "sample", "score", "update", "end")  # in their order in a file
HEAD = re.compile(r'\A"""(.*?)"""\n', re.DOTALL)
REGION = re.compile(r"^ *# \[algo: (\w+)\]\n.*?^ *# \[/algo\]\n", re.DOTALL | re.MULTILINE)


def algorithms() -> list[str]:
    """Names of all algorithms, grpo first."""
    names = sorted(path.stem for path in ALGOS.glob("*.py"))
    return ["grpo", *(name for name in names if name != "grpo")]


def read(name: str) -> str:
    return (ALGOS / f"{name}.py").read_text()


def own_parts(text: str) -> dict[str, str]:
    """The head docstring ("head") and the regions of a file, fences included."""
    return {"head": HEAD.match(text)[0]} | {match[1]: match[0] for match in REGION.finditer(text)}


def skeleton(text: str) -> str:
    """What is left of a file without its own parts; every one of them leaves a line with its name."""
    return REGION.sub(lambda match: f"<{match[1]}>\n", HEAD.sub("<head>\n", text))


def with_skeleton(text: str, source: str) -> str:
    """`text` with the skeleton of `source` around its own parts."""
    parts = own_parts(text)
    return re.sub(r"^<(\w+)>\n", lambda match: parts[match[1]], skeleton(source), flags=re.MULTILINE)


def parent(name: str) -> str | None:
    """The algorithm that a file says it starts from; grpo starts from none."""
    found = re.search(r"^Parent: (\w+)\.py", HEAD.match(read(name))[1], re.MULTILINE)
    return found[1] if found else (None if name == "grpo" else "grpo")


@functools.cache
def code(text: str) -> str:
    """A file's lines of code: no docstrings, comments and blank lines."""
    strings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    lines = [line for number, line in enumerate(text.splitlines(), 1) if number not in strings]
    return "\n".join(line for line in lines if line.strip() and not line.strip().startswith("#"))


def changes(old: str, new: str) -> tuple[int, int]:
    """Lines that are other, gone or new from one text to another, and in how many places."""
    codes = difflib.SequenceMatcher(None, old.splitlines(), new.splitlines(), autojunk=False).get_opcodes()
    changed = [(code[2] - code[1], code[4] - code[3]) for code in codes if code[0] != "equal"]
    return sum(map(max, changed)), len(changed)


def distance(base: str, name: str) -> tuple[int, int]:
    """Lines of code that a file changes in another, and in how many places."""
    return changes(code(read(base)), code(read(name)))


def ledger() -> str:
    """One line per algorithm: its parent, its length, and how far its code and its head are from the parent's."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["algorithm", "parent", "lines", "changed_lines", "hunks", "head_changed_lines"])
    for name in algorithms():
        text, base = read(name), parent(name)
        row = [name, base or "", len(text.splitlines())]
        if base:
            row += [*distance(base, name), changes(own_parts(read(base))["head"], own_parts(text)["head"])[0]]
        else:
            row += [0, 0, 0]
        writer.writerow(row)
    return table.getvalue()


def out_of_step() -> list[str]:
    """For each file whose skeleton is not that of grpo.py: its name and the first line that differs."""
    found, expected = [], skeleton(read("grpo"))
    for name in algorithms():
        lines = difflib.ndiff(expected.splitlines(), skeleton(read(name)).splitlines())
        if differing := [line for line in lines if line.startswith(("- ", "+ "))]:
            found.append(f"algos/{name}.py: {differing[0]}")
    return found


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        for name in algorithms():
            (ALGOS / f"{name}.py").write_text(with_skeleton(read(name), read("grpo")))
        LEDGER.write_text(ledger())
    print(ledger(), end="")
    if found := out_of_step():
        raise SystemExit("\n".join(["", *found, "edit algos/grpo.py, then run: python tests/sync.py --write"]))
