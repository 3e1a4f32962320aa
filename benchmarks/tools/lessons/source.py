r"""A lesson's Markdown file: sections, code that is run, and text whose numbers are filled in from it.

    # Title
    One sentence.
    ## Idea                    # then the other SECTIONS, in this order

A file is Markdown with formulas in LaTeX ($...$) and blocks between fences. "python" blocks are the cells of the
notebook: `load_all` runs them, one after the other in one namespace, and text writes no number of its own but asks for
those that are left there, by Jinja: {{ mean | d(3) }}. A "python run" block is a cell too, of which no text depends.
A "source NAME" block names lines of algos/NAME.py by how they begin, "..." standing for all lines between two; what is
shown are the file's own lines, and a line that is not there any more is an error. "shell" blocks are commands, and
"figure" blocks an expression of `gallery.lessons` that only the page shows. A link to (algo:NAME) is one to the
method's page, (lesson:NN) to a lesson.
"""

import functools
import re
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from benchmarks import ROOT
from common import InputError

HERE = Path(__file__).resolve().parent
SECTIONS = ("Idea", "On a real batch", "In the code", "Exercise", "Question", "Answer")
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)
MINUS, GAP = "\u2212", "\u22ef"


@dataclass
class Block:
    kind: str  # text, python, source, shell or figure
    text: str
    what: str = ""  # behind the kind, on the fence: "run", or the name of a file

    @property
    def is_run(self) -> bool:
        """Whether it is a cell that no text depends on."""
        return self.kind == "python" and self.what == "run"


@dataclass
class Lesson:
    name: str  # "01-reinforce"
    title: str
    summary: str
    sections: dict[str, list[Block]]
    numbers: dict = field(default_factory=dict)  # what the cells have left: their namespace

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def cells(self) -> list[Block]:
        return [block for blocks in self.sections.values() for block in blocks if block.kind == "python"]

    def filled(self, text: str) -> str:
        """A text with its numbers."""
        return environment().from_string(text).render(self.numbers)


# --- Numbers ----------------------------------------------------------------------------------------------------------


def decimals(value: object, places: int = 3, sign: bool = False) -> str:
    """A number or a tensor of one element with so many decimals and a true minus sign, which 0 never has."""
    text = f"{float(value):{'+' if sign else ''}.{places}f}"
    return (text if text.strip("+-0.") else text.lstrip("+-")).replace("-", MINUS)


def shown(token: str) -> str:
    """A token as code in a table: the end token by a short name."""
    return "`end`" if token.startswith("<|") else f"`{token}`"


@functools.cache
def environment() -> Environment:
    """Jinja for Markdown: nothing is escaped, and a name that the cells have not left is an error."""
    made = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters |= {"d": decimals, "token": shown}
    made.globals |= {"zip": zip}
    return made


# --- Reading ----------------------------------------------------------------------------------------------------------


def blocks(text: str) -> list[Block]:
    """The text of a section, cut at its fences."""
    found, at = [], 0
    for match in FENCE.finditer(text):
        found += [Block("text", text[at : match.start()]), Block(match[1], match[3], match[2] or "")]
        at = match.end()
    found.append(Block("text", text[at:]))
    return [block for block in found if block.kind != "text" or block.text.strip()]


def read(path: Path) -> Lesson:
    """A lesson as it is written. Raises ValueError where its sections are not SECTIONS."""
    head, *parts = HEADING.split(path.read_text(encoding="utf-8"))
    if (names := tuple(parts[::2])) != SECTIONS:
        raise ValueError(f"{path.name} has the sections {', '.join(names)} instead of {', '.join(SECTIONS)}")
    title, _, summary = head.strip().removeprefix("# ").partition("\n")
    sections = {name: blocks(text) for name, text in zip(names, parts[1::2], strict=True)}
    return Lesson(path.stem, title, " ".join(summary.split()), sections)


def run(lesson: Lesson) -> dict:
    """The namespace that a lesson's cells leave, but for those of which no text depends.

    Raises ValueError with the line of a cell that fails, as where an algorithm file no longer does what is taught.
    """
    names, path = {"__name__": lesson.name}, f"lessons/{lesson.name}.md"
    for cell in lesson.cells:
        if cell.is_run:
            continue
        try:
            exec(compile(cell.text, path, "exec"), names)
        except InputError:
            raise
        except Exception as error:
            frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
            line = cell.text.splitlines()[frames[-1] - 1].strip() if frames else ""
            raise ValueError(f"{path}: {type(error).__name__} in a cell at {line!r} {error}".rstrip()) from error
    return names


def lines(name: str, wanted: str) -> list[tuple[int, str]]:
    """Number and text of the lines of a file that begin as `wanted` says, each searched below the one before it.

    `name` is an algorithm's, or a path from the root of the repository. Lines that do not follow one another have
    (0, GAP) between them. Raises ValueError for a line that is not there.
    """
    path = f"algos/{name}.py" if "/" not in name else name
    text = (ROOT / path).read_text().splitlines()
    found, through = [], False
    for beginning in wanted.splitlines():
        if beginning.strip() == "...":
            through = True
            continue
        start = found[-1] if found else 0
        here = (n for n in range(start + 1, len(text) + 1) if text[n - 1].strip().startswith(beginning.strip()))
        if (at := next(here, 0)) == 0:
            raise ValueError(f"{path} has no line {beginning.strip()!r} below line {start}")
        found += range(start + 1, at + 1) if through else [at]
        through = False
    made = []
    for before, n in zip([found[0] - 1, *found], found, strict=False):
        made += [(0, GAP)] * (n != before + 1) + [(n, text[n - 1])]
    return made


def paths() -> list[Path]:
    return sorted(HERE.glob("[0-9][0-9]-*.md"))


@functools.cache
def load_all() -> tuple[Lesson, ...]:
    """All lessons in order, with their numbers."""
    lessons = tuple(map(read, paths()))
    for lesson in lessons:
        lesson.numbers = run(lesson)
    return lessons
