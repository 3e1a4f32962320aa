"""What all pages of the gallery share: templates, links, highlighted code, and writing a page to disk.

A page is a name relative to the site's root ("algorithms/dapo.html"), a template and its context. Every template gets
`root`, the way back to the site's root ("" or "../"), `page`, its own name, `current`, the part of the site that the
navigation marks, `navigation`, a list of (part, label, page), `algorithms`, the names of all algorithm files, `built`,
the names of all pages, and `record_of`, which gives a method's record.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape as escape_html
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from benchmarks.gallery import equations
from benchmarks.methods import method

HERE = Path(__file__).resolve().parent
STATIC = HERE / "static"
# Parts of the site in the order of the navigation: name, label, and the page it opens, if that is built.
PARTS = (
    ("index", "Overview", "index.html"),
    ("map", "Map", "map.html"),
    ("lessons", "Lessons", "lessons/index.html"),
    ("weights", "Weights", "weights.html"),
    ("explorer", "Explorer", "explorer/index.html"),
    ("details", "Details", "details.html"),
    ("claims", "Claims", "claims.html"),
    ("law", "Law & theorem", "law.html"),
    ("public_logs", "Public logs", "public_logs.html"),
    ("frameworks", "Frameworks", "frameworks.html"),
    ("left_out", "Left out", "left_out.html"),
)


@dataclass
class Page:
    template: str
    current: str = ""
    context: dict = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)  # place below the site's root -> file


@functools.cache
def environment() -> Environment:
    """Jinja with every value escaped that is not marked as HTML, and an error for a name that a page forgot."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["prose"] = prose
    made.filters["slug"] = slug
    made.filters["json"] = lambda data: Markup(json.dumps(data, separators=(",", ":")))
    made.globals |= {"source_line": source_line, "record_of": method}
    return made


def render(template: str, **context: object) -> str:
    """One page as text. What every page gets may be left out."""
    defaults = {"root": "", "page": "", "current": "", "navigation": [], "algorithms": [], "built": ()}
    return environment().get_template(template).render(defaults | context)


def way_back(page: str) -> str:
    """From a page to the site's root: "" at the top, "../" one folder down."""
    return "../" * page.count("/")


def navigation(pages: Iterable[str]) -> list[tuple[str, str, str]]:
    """The parts that have pages. A part without the page that it should open opens its first one."""
    pages, found = sorted(pages), []
    for part, label, target in PARTS:
        inside = [page for page in pages if page.startswith(f"{part}/")]
        if target in pages or inside:
            found.append((part, label, target if target in pages else inside[0]))
    return found


def write(out: Path, pages: dict[str, Page], algorithms: list[str]) -> list[Path]:
    """Write all pages and the static files into `out`, which is emptied of earlier pages first."""
    for folder in ("algorithms", "diffs", "source", "explorer", "lessons", "pictures", "static"):
        shutil.rmtree(out / folder, ignore_errors=True)
    for old in out.glob("*.html"):
        old.unlink()
    shutil.copytree(STATIC, out / "static")
    shared, written = {"navigation": navigation(pages), "algorithms": algorithms, "built": set(pages)}, []
    for name, page in pages.items():
        here = {"root": way_back(name), "page": name, "current": page.current}
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(page.template, **shared, **here, **page.context), encoding="utf-8", newline="\n")
        written.append(path)
        for place, file in page.pictures.items():
            (out / place).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, out / place)
    return written


# --- Links and text -----------------------------------------------------------------------------------------------


def source_line(algorithm: str, line: int | None = None) -> str:
    """Page and anchor of a line of an algorithm file, relative to the site's root."""
    return f"source/{algorithm}.html" + (f"#L{line}" if line else "")


def slug(text: str) -> str:
    """A text as a CSS class or an anchor: "not seen" is "not-seen"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# What a head docstring writes in plain text and a page shows as a link or as code.
SPECIAL = re.compile(
    r"(?P<arxiv>arXiv (?P<number>\d{4}\.\d{5}))"
    r"|(?P<file>\b(?P<algorithm>\w+)\.py\b)"
    r"|(?P<code>(?<![\w-])--[a-z][a-z-]*[a-z]|\b(?:algo|rollout|policy|tokens|eval)/[\w*]+|\b\w+=\"\w+\"|`[^`]+`)"
    rf"|(?P<symbol>\b(?:[A-Za-z]\w*_\w+(?:<t\b)?|eps|{'|'.join(equations.GREEK)})\b)"
)


@pass_context
def prose(context: Context, text: str) -> Markup:
    """Prose as HTML: arXiv numbers and algorithm files linked, flags and metrics as code, r_it and alpha as symbols."""
    made, at = Markup(""), 0
    for match in SPECIAL.finditer(text):
        made += escape(text[at : match.start()])
        if match["arxiv"]:
            made += Markup('<a href="https://arxiv.org/abs/{}">{}</a>').format(match["number"], match[0])
        elif match["file"] and match["algorithm"] in context["algorithms"]:
            page = f"{context['root']}algorithms/{match['algorithm']}.html"
            made += Markup('<a href="{}">{}</a>').format(page, match[0])
        elif match["code"]:
            made += Markup("<code>{}</code>").format(match[0].strip("`"))
        elif match["symbol"]:
            made += equations.inline(match[0])
        else:
            made += match[0]
        at = match.end()
    return made + escape(text[at:])


# What a style sheet colours in code, each under one letter: all else would be bytes without effect.
COLOURED = {
    Keyword: "k",
    Operator.Word: "k",
    String: "s",
    Name.Function: "f",
    Name.Class: "f",
    Name.Decorator: "f",
    Name.Builtin: "f",
    Number: "m",
    Comment: "c",
}


@functools.cache
def highlighted(text: str, language: str = "python") -> tuple[Markup, ...]:
    """The lines of a text as HTML with the classes of COLOURED, no span reaching over the end of a line."""
    lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    lines: list[list[list[str]]] = [[]]  # of [class, text]
    for kind, value in lexer.get_tokens(text.removesuffix("\n")):
        cls = next((letter for coloured, letter in COLOURED.items() if kind in coloured), "")
        for number, part in enumerate(value.split("\n")):
            if number:
                lines.append([])
            if part and lines[-1] and lines[-1][-1][0] == cls:
                lines[-1][-1][1] += part
            elif part:
                lines[-1].append([cls, part])

    def html_of(cls: str, part: str) -> str:
        part = escape_html(part, quote=False)  # of what stands between tags, a quote is itself
        return f'<span class="{cls}">{part}</span>' if cls else part

    return tuple(Markup("".join(html_of(*part) for part in line)) for line in lines)
