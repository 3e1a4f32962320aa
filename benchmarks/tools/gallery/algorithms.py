"""What the algorithm files say of themselves: heads, flags, regions, warnings.

What is a judgement, as the lever that a method pulls, is no part of a file and stands in benchmarks/methods.py.
"""

import ast
import re
from dataclasses import dataclass, field

from tests import sync

PAPER = re.compile(r"^Paper: (?P<title>.+?) \((?:(?P<authors>[^()]*?), )?arXiv (?P<arxiv>\d{4}\.\d{5})(?: v\d+)?\)")
DIFFERS = re.compile(r"^(?:Differs from (?P<where>.+?)|(?P<chosen>[^.:]*chosen here)):(?: (?P<what>.+))?$", re.DOTALL)
PEER = re.compile(r"^(?P<where>As in the code|TRL(?: [\d.]+)?|verl(?: [\d.]+)?)\b")
MONTHS = "January February March April May June July August September October November December".split()


@dataclass
class Block:
    """Part of a head docstring: "prose", "list", "equations" or "commands"."""

    kind: str
    lines: list[str]
    line: int  # of the file, from 1

    @property
    def text(self) -> str:
        return " ".join(line.strip() for line in self.lines)

    @property
    def without_parent(self) -> str:
        """Its text without the line that names the parent."""
        return " ".join(line.strip() for line in self.lines if not line.startswith("Parent: "))


@dataclass
class Difference:
    """What a head says of how its file differs from a paper or from other code."""

    where: str
    what: str
    line: int


@dataclass
class Knob:
    """A flag of the args region, or a constant that stands in a flag's place."""

    name: str
    type: str
    default: str
    about: str
    line: int
    fixed: bool = False  # a constant: no flag
    parent: str | None = None  # the parent's default; None where the parent has no such flag

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


@dataclass
class Algorithm:
    name: str
    text: str
    parent: str | None
    title: str  # "KL-Cov"
    idea: str  # the first line of the head, without the title
    paper: str
    authors: str
    arxiv: str
    method: list[Block] = field(default_factory=list)  # prose and equations up to the first difference
    differences: list[Difference] = field(default_factory=list)
    pitfalls: list[Block] = field(default_factory=list)  # prose after the last difference
    commands: list[str] = field(default_factory=list)
    knobs: list[Knob] = field(default_factory=list)
    regions: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # first and last line, fences included; none empty
    warnings: list[tuple[int, str]] = field(default_factory=list)  # line and text of what the regions warn of
    dropped: list[str] = field(default_factory=list)  # flags of the parent's region that this file lacks

    @property
    def date(self) -> str:
        """Year and month of the paper, from its arXiv number: "2505.22617" is May 2025."""
        return f"{MONTHS[int(self.arxiv[2:4]) - 1]} 20{self.arxiv[:2]}"

    @property
    def month(self) -> int:
        """Months since January 2000."""
        return 12 * int(self.arxiv[:2]) + int(self.arxiv[2:4]) - 1


# --- Heads ------------------------------------------------------------------------------------------------------


def blocks(head: str) -> list[Block]:
    """The paragraphs of a head docstring, each indented block and each list apart."""
    found: list[Block] = []
    fresh = True
    for number, line in enumerate(head.splitlines(), 1):
        if not line.strip():
            fresh = True
            continue
        if line.startswith("- "):
            kind = "item"
        elif line.startswith("    "):
            kind = "commands" if line.lstrip().startswith("python ") else "equations"
        else:
            kind = "prose"
        last = None if fresh or not found else found[-1]
        if last and (
            (last.kind == "item" and line.startswith("  "))
            or (last.kind in ("commands", "equations") and line.startswith("    "))
            or (last.kind == kind == "prose")
        ):
            last.lines.append(line)
        else:
            found.append(Block(kind, [line.removeprefix("- ")], number))
        fresh = False
    return found


def commands(block: Block) -> list[str]:
    """The commands of a block, each with its continued lines, without the margin."""
    margin = min(len(line) - len(line.lstrip()) for line in block.lines)
    lines = "\n".join(line[margin:] for line in block.lines)
    return re.findall(r"python (?:.*\\\n)*.*", lines)


def read_head(algorithm: Algorithm, head: str) -> None:
    """Sort the paragraphs of a head into method, differences, pitfalls and commands."""
    where, seen = None, False
    for block in blocks(head)[1:]:
        if block.kind == "prose":
            if block.lines[0].startswith("Parent: "):
                block.lines = block.lines[1:]
            where = None
            if match := DIFFERS.match(block.text):
                where, seen = match["where"] or match["chosen"], True
                if match["what"]:
                    algorithm.differences.append(Difference(where, match["what"], block.line))
                continue
            if seen and (match := PEER.match(block.text)):
                algorithm.differences.append(Difference(match["where"], block.text, block.line))
                continue
        if block.kind == "commands":
            algorithm.commands += commands(block)
        elif block.kind == "item" and where:
            algorithm.differences.append(Difference(where, block.text, block.line))
        elif seen:
            algorithm.pitfalls.append(block)
        else:
            algorithm.method.append(block)


# --- Code -------------------------------------------------------------------------------------------------------


def regions(text: str) -> dict[str, tuple[int, int]]:
    """First and last line of the head and of each fenced region, in the order of the file."""
    parts = {"head": sync.HEAD.match(text)} | {match[1]: match for match in sync.REGION.finditer(text)}
    return {
        name: (text.count("\n", 0, match.start()) + 1, text.count("\n", 0, match.end()))
        for name, match in parts.items()
    }


def is_empty(text: str, lines: tuple[int, int]) -> bool:
    """Whether nothing but white space stands between the fences at these lines."""
    first, last = lines
    return not "".join(text.splitlines()[first : last - 1]).strip()


def flags(text: str) -> dict[str, Knob]:
    """All fields and constants of a file's Args. Where one is written twice, the later one holds."""
    tree = ast.parse(text)
    args = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Args")
    lines, found = text.splitlines(), {}
    for node, after in zip(args.body, [*args.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            about = after.value.value if said else ""
            kind, default = (
                ast.unparse(node.annotation),
                lines[node.value.lineno - 1][node.value.col_offset : node.value.end_col_offset],
            )
            found[node.target.id] = Knob(node.target.id, kind, default, about, node.lineno)
        elif isinstance(node, ast.Assign):
            about = lines[node.lineno - 1].partition("  # ")[2]
            default = lines[node.value.lineno - 1][node.value.col_offset : node.value.end_col_offset]
            name = node.targets[0].id
            found[name] = Knob(name, "constant", default, about, node.lineno, fixed=True)
    return found


def own_knobs(text: str, parent: str | None) -> tuple[list[Knob], list[str]]:
    """The knobs of the args region, with the parent's defaults; and the flags of the parent's that this file lacks."""
    first, last = regions(text)["args"]
    everything = flags(text)
    mine = sorted((k for k in everything.values() if first <= k.line <= last), key=lambda knob: knob.line)
    if not parent:
        return mine, []
    theirs, (start, end) = flags(parent), regions(parent)["args"]
    for knob in mine:
        other = theirs.get(knob.name)
        knob.parent = other.default if other else None
    dropped = [k.flag for k in theirs.values() if start <= k.line <= end and not k.fixed]
    kept = {knob.flag for knob in everything.values() if not knob.fixed}
    return mine, [flag for flag in dropped if flag not in kept]


def warnings(text: str) -> list[tuple[int, str]]:
    """Line and text of each `warn_once` in the fenced regions."""
    inside = [range(first, last + 1) for first, last in regions(text).values()]
    found = []
    for node in ast.walk(ast.parse(text)):
        called = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "warn_once"
        if called and isinstance(node.args[0], ast.Constant) and any(node.lineno in lines for lines in inside):
            found.append((node.lineno, node.args[0].value))
    return sorted(found)


def load(name: str) -> Algorithm:
    """One algorithm file. A head without idea or paper is an error that names it."""
    text, parent = sync.read(name), sync.parent(name)
    head = sync.HEAD.match(text)[1]
    found = next((match for block in blocks(head) if (match := PAPER.search(block.without_parent))), None)
    title, _, idea = head.splitlines()[0].partition(": ")
    if not found or not idea:
        raise ValueError(f"algos/{name}.py: no `Title: idea` in the first line, or no `Paper: title (arXiv number)`")
    made = Algorithm(name, text, parent, title, idea, found["title"], found["authors"] or "", found["arxiv"])
    read_head(made, head)
    made.regions = {name: lines for name, lines in regions(text).items() if not is_empty(text, lines)}
    made.knobs, made.dropped = own_knobs(text, sync.read(parent) if parent else None)
    made.warnings = warnings(text)
    return made


def load_all() -> dict[str, Algorithm]:
    """All algorithms by the date of their papers."""
    loaded = [load(name) for name in sync.algorithms()]
    return {one.name: one for one in sorted(loaded, key=lambda one: (one.arxiv, one.name))}
