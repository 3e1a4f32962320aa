"""A lesson as a Jupyter notebook: its text in Markdown cells, its code in cells that run."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks import ROOT
from benchmarks.lessons.source import Block, Lesson, lines
from common import InputError

START = """\
import sys
from pathlib import Path

ROOT = (Path.cwd() / {root!r}).resolve()  # of the repository, as seen from this notebook
sys.path.insert(0, str(ROOT))
"""


def text_of(block: Block, lesson: Lesson, lessons: Sequence[Lesson]) -> str:
    """A block that is no code cell, as Markdown; "" for what only the page shows."""
    if block.kind == "figure":
        return ""
    if block.kind == "source":
        path = block.what if "/" in block.what else f"algos/{block.what}.py"
        found = "\n".join(f"# {text}" if not n else text for n, text in lines(block.what, block.text))
        return f"`{path}`:\n\n```python\n{found}\n```\n"
    if block.kind == "shell":
        return f"```shell\n{block.text}```\n"
    text = re.sub(r"\[([^]]+)\]\(algo:(\w+)\)", r"\1", lesson.filled(block.text))
    names = {one.number: one.name for one in lessons}
    return re.sub(r"\(lesson:(\d\d)\)", lambda match: f"({names[match[1]]}.ipynb)", text)


def cells(lesson: Lesson, lessons: Sequence[Lesson], root: str) -> list[tuple[str, str]]:
    """("markdown" or "code", text) of each cell; `root` is the repository's, as seen from the notebook."""
    found = [("markdown", f"# {int(lesson.number)}. {lesson.title}\n\n{lesson.summary}")]
    found.append(("code", START.format(root=root)))
    for name, blocks in lesson.sections.items():
        pending = "" if name == "Answer" else f"## {name}\n\n"
        for block in blocks:
            if block.kind != "python":
                pending += text_of(block, lesson, lessons) + "\n"
                continue
            found += [("markdown", pending)] * bool(pending.strip()) + [("code", block.text)]
            pending = ""
        if name == "Answer":
            pending = f"<details><summary>Answer</summary>\n\n{pending}\n</details>"
        found += [("markdown", pending)] * bool(pending.strip())
    return [(kind, text.strip()) for kind, text in found]


def write(lessons: Sequence[Lesson], out: Path) -> list[Path]:
    """A notebook for each lesson in the folder `out`, valid by nbformat. Raises InputError where that is missing."""
    try:
        import nbformat
        from nbformat import v4
    except ImportError:
        raise InputError("--notebooks needs nbformat; pip install nbformat") from None
    try:
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for lesson in lessons:
            made = v4.new_notebook(metadata={"language_info": {"name": "python"}})
            for number, (kind, text) in enumerate(cells(lesson, lessons, os.path.relpath(ROOT, out.resolve()))):
                new = v4.new_code_cell if kind == "code" else v4.new_markdown_cell
                made.cells.append(new(text, id=f"{lesson.name}-{number}"))  # the same text, the same file
            nbformat.validate(made)
            written.append(out / f"{lesson.name}.ipynb")
            nbformat.write(made, written[-1])
    except OSError as error:
        raise InputError(f"--notebooks {out} cannot be written ({error.strerror}); name another folder") from None
    return written
