"""The lessons as pages: Markdown by markdown-it, formulas as MathML, code from the files, and the figures.

A figure block of a lesson is an expression of the functions at the end of this file and of the lesson's own numbers.
"""

import functools
import re
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.exercise import EXERCISES
from benchmarks.gallery import equations, weights
from benchmarks.gallery.explorer import shown_text
from benchmarks.gallery.site import Page, highlighted, source_line
from benchmarks.gallery.svg import INK, LOOK, MUTED, ONE, TWO, to_page
from benchmarks.lessons.source import Block, Lesson, lines, load_all
from common.curves import STYLE
from tests import sync

MATH = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
FUNCTION = re.compile(r"(\\(?:log|ln|operatorname\{\w+\})) (?=[\w\\])(?!\\left)")
FOLLOWED = re.compile(r"(<math(?:(?!</math>).)*</math>[,.;:])")  # a formula and what must not be parted from it
COMMAND = re.compile(r"-m benchmarks\.exercise (\w+) --region (\w+)")
TABLE = '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>\n'


# --- Markdown ---------------------------------------------------------------------------------------------------------


def formula(state: StateInline, silent: bool) -> bool:
    """A rule of markdown-it: LaTeX between dollar signs."""
    if not (found := MATH.match(state.src, state.pos)):
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content = found["block"] or found["inline"]
        token.meta = {"display": "block" if found["block"] else "inline"}
    state.pos = found.end()
    return True


@functools.cache
def reader() -> MarkdownIt:
    """CommonMark without HTML, with tables and formulas."""
    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.inline.ruler.before("escape", "formula", formula)
    made.add_render_rule("formula", lambda self, tokens, i, *_: as_math(tokens[i].content, tokens[i].meta["display"]))
    made.add_render_rule("table_open", lambda *_: TABLE)
    made.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return made


def as_math(latex: str, display: str) -> str:
    """MathML, with a space behind the name of a function and bars of one height, which browsers do not see to."""
    latex = latex.replace(r"\lvert", r"\left|").replace(r"\rvert", r"\right|")
    mathml = equations.to_mathml(FUNCTION.sub(r"\1\\, ", latex), display)
    scrolls = '<span class="formula" tabindex="0" role="group" aria-label="Equation">{}</span>'
    return scrolls.format(mathml) if display == "block" else mathml


def to_html(text: str, names: dict[str, str]) -> Markup:
    """Markdown as HTML, seen from lessons/: `names` are those of the lessons by their numbers."""
    text = re.sub(r"\(algo:(\w+)\)", r"(../algorithms/\1.html)", text)
    html = reader().render(re.sub(r"\(lesson:(\d\d)\)", lambda found: f"({names[found[1]]}.html)", text))
    return Markup(FOLLOWED.sub(r'<span class="kept">\1</span>', html))


# --- Pages ------------------------------------------------------------------------------------------------------------


def listing(block: Block) -> dict:
    """The lines of a source block: number, HTML and link, which only algorithm files have."""
    is_algorithm = "/" not in block.what
    path = f"algos/{block.what}.py" if is_algorithm else block.what
    html = highlighted((sync.ROOT / path).read_text())
    rows = [
        (n, html[n - 1] if n else text, f"../{source_line(block.what, n)}" if is_algorithm and n else "")
        for n, text in lines(block.what, block.text)
    ]
    return {"path": path, "rows": rows}


def part(block: Block, lesson: Lesson, names: dict[str, str]) -> dict:
    """What the template shows of a block."""
    if block.kind == "text":
        return {"kind": "text", "html": to_html(lesson.filled(block.text), names)}
    if block.kind == "python":
        html = Markup("\n").join(highlighted(block.text.strip()))
        return {"kind": "python", "html": html, "is_run": block.is_run}
    if block.kind == "source":
        return {"kind": "source"} | listing(block)
    if block.kind == "figure":
        return {"kind": "figure", "html": eval(block.text.strip(), lesson.numbers | FIGURES)}
    return {"kind": "shell", "text": block.text.strip()}


def exercises(lesson: Lesson) -> list[tuple[str, str]]:
    """Algorithm and difficulty of a lesson's exercises."""
    text = "".join(block.text for block in lesson.sections["Exercise"] if block.kind == "shell")
    return [(name, EXERCISES[name][region].difficulty) for name, region in COMMAND.findall(text)]


def pages() -> dict[str, Page]:
    """The way in, and a page for each lesson."""
    lessons = load_all()
    names = {lesson.number: lesson.name for lesson in lessons}
    ordered = [(lesson, exercises(lesson)) for lesson in lessons]
    made = {"lessons/index.html": Page("lessons.html", "lessons", {"lessons": ordered})}
    for before, lesson, after in zip([None, *lessons], lessons, [*lessons[1:], None], strict=False):
        sections = {
            title: [part(block, lesson, names) for block in blocks] for title, blocks in lesson.sections.items()
        }
        context = {"lesson": lesson, "sections": sections, "before": before, "after": after, "count": len(lessons)}
        made[f"lessons/{lesson.name}.html"] = Page("lesson.html", "lessons", context)
    return made


# --- Figures ----------------------------------------------------------------------------------------------------------


def strip(batch: dict, rows: Iterable[int], values: Tensor, chosen: Tensor) -> Markup:
    """Responses whose tokens are as dark as `values` (B, T) are large; those of `chosen` (B, T) have a frame."""
    top, parts = values[batch["mask"]].max().item(), []
    for row in rows:
        parts.append(Markup('<li class="{}">').format("right" if batch["rewards"][row] > 0 else "wrong"))
        for t, token in enumerate(batch["tokens"][row]):
            value = values[row, t].item()
            parts.append(
                Markup('<span class="{}" style="--share: {:.2f}" title="{:.3f} nats">{}</span>').format(
                    "chosen" if chosen[row, t] else "", value / top, value, shown_text(token)
                )
            )
        parts.append(Markup("</li>\n"))
    return Markup('<ol class="strip">{}</ol>').format(Markup("").join(parts))


def entropies(name: str, runs: dict[str, dict], target: float | None = None) -> Markup:
    """Entropy over the steps of some kept runs, with a line at the target."""
    with matplotlib.rc_context(STYLE | LOOK | {"axes.titleweight": "normal", "font.size": 12}):
        figure = Figure(figsize=(6.4, 2.6))
        axis = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.985, top=0.88, bottom=0.19)
        for (label, run), color, dash in zip(runs.items(), (ONE, TWO, MUTED), ("-", "--", ":"), strict=False):
            steps, values = run["training"]["step"], np.array(run["training"]["entropy"], dtype=float)
            axis.plot(steps, values, color=color, linestyle=dash, linewidth=2, label=label)
        if target is not None:
            axis.axhline(target, color=INK, linewidth=1)
            axis.annotate("target", (steps[-1], target), (0, 5), textcoords="offset points", ha="right", color=INK)
        axis.set(xlabel="step", title="Entropy, nats per token", ylim=(0, None))
        axis.legend()
        ends = ", ".join(f"{label} {run['training']['entropy'][-1]:.3f}" for label, run in runs.items())
        return to_page(figure, f"lesson-{name}", f"Entropy of {' and '.join(runs)}", f"At the end: {ends}.")


def box(x: int, text: Sequence[str], width: int = 104) -> Markup:
    """A box of the loop with some lines of text."""
    found = Markup('<rect x="{}" y="20" width="{}" height="52" rx="5"/>').format(x, width)
    for i, line in enumerate(text):
        y = 46 + 18 * i - 9 * (len(text) - 1) + 4
        found += Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(x + width / 2, y, escape(line))
    return found


def loop() -> Markup:
    """The control loop as boxes and arrows."""
    boxes = (("e = H \u2212 target",), ("k_p e + k_i I", "memory I"), ("clip", "\u22121 to 1"), ("eight", "updates"))
    boxes = (*boxes, ("rollout:", "H measured"))
    step, parts = 136, []
    for i, text in enumerate(boxes):
        parts.append(box(6 + step * i, text))
        if i + 1 < len(boxes):
            x = 110 + step * i
            parts.append(Markup('<path d="M{} 46H{}" marker-end="url(#loop-tip)"/>').format(x, x + 29))
    parts.append(Markup('<text x="398" y="38">\u03b1</text>'))
    parts.append(Markup('<path d="M602 72V104H58V75" marker-end="url(#loop-tip)"/>'))
    title = "Error, PI controller, clip, updates, rollout, and back to the error"
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Control loop">'
        '<svg class="loop" viewBox="0 0 662 112" role="img" aria-labelledby="loop-title">'
        '<title id="loop-title">{}</title><defs>'
        '<marker id="loop-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>{}</svg></div>'
    ).format(title, Markup("").join(parts))


FIGURES = {"strip": strip, "entropies": entropies, "loop": loop, "weights": weights}
