"""The benchmarks' own Markdown files as pages, with their figures, and the two tables of benchmarks/elsewhere.py."""

import functools
import re
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup

from benchmarks import elsewhere
from benchmarks.gallery.site import Page, slug
from tests import sync

# Page -> its Markdown files, below the results. A page of several has a heading of its own and one for each of them.
PAGES = {
    "claims.html": ("collapse/CLAIMS.md",),
    "readings.html": ("collapse/READINGS.md",),
    "plan.html": ("collapse/PLAN.md",),
    "law.html": ("collapse/law.md", "collapse/theorem.md"),
    "public_logs.html": ("public_logs/RESULTS.md",),
}
TITLES = {"law.html": "The law and the theorem"}
LEADS = {
    "claims.html": "Every promise of the papers with effect, interval and verdict on the toy; all methods by family.",
    "readings.html": "Effects at equal samples, tokens and reward; secondary outcomes; how knobs were tuned.",
    "plan.html": "How the comparison through the collapse is run and read, written down before the first run.",
    "law.html": "Does reward follow entropy as R = -a exp(H) + b, and does entropy change as theory promises?",
    "public_logs.html": "The same law on training logs that others have published.",
}
PART = {"readings.html": "claims", "plan.html": "claims"}  # of the navigation, where it is not the page's own name


class Renderer(RendererHTML):
    """Tables scroll in boxes of their own, named by the heading above; pictures lead to themselves, to be enlarged."""

    def image(self, tokens: list[Token], at: int, options: dict, env: dict) -> str:
        source = escapeHtml(tokens[at].attrs["src"])
        return f'<a class="picture" href="{source}">{super().image(tokens, at, options, env)}</a>'

    def table_open(self, tokens: list[Token], at: int, options: dict, env: dict) -> str:
        box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escapeHtml(env["heading"])}">'
        return box + self.renderToken(tokens, at, options, env)

    def table_close(self, tokens: list[Token], at: int, options: dict, env: dict) -> str:
        return self.renderToken(tokens, at, options, env) + "</div>\n"

    def th_open(self, tokens: list[Token], at: int, options: dict, env: dict) -> str:
        tokens[at].attrSet("scope", "col")
        return self.renderToken(tokens, at, options, env)

    def heading_open(self, tokens: list[Token], at: int, options: dict, env: dict) -> str:
        env["heading"] = tokens[at + 1].content
        anchor = slug(env["heading"])
        tokens[at].attrSet("id", anchor + "-" * env["anchors"].count(anchor))
        env["anchors"].append(anchor)
        return self.renderToken(tokens, at, options, env)


@functools.cache
def parser() -> MarkdownIt:
    """CommonMark with tables; HTML in a file is shown as text."""
    return MarkdownIt("commonmark", {"html": False}, renderer_cls=Renderer).enable("table")


def page_of(file: str) -> str:
    """Where a Markdown file below the results is a page; "" where it is none."""
    return next((page for page, files in PAGES.items() if file in files), "")


def picture_of(file: str) -> str:
    """The place of a picture below the site's root."""
    return f"pictures/{file.replace('/', '-')}"


def read(results: Path, file: str, anchors: list[str], demoted: int = 0) -> tuple[str, Markup, dict[str, Path]]:
    """Title, HTML without it and pictures (place on the site -> file) of a Markdown file; headings `demoted` by levels.

    Pictures and links are relative to the file. A link to another file that is a page leads there, one to anything else
    that is not on the site is its text, as is a picture that is gone; a method's name in a cell leads to its page.
    `anchors` of the page so far are added to.
    """
    text, folder, pictures = (results / file).read_text(), Path(file).parent, {}
    tokens = parser().parse(text)
    title = tokens[1].content
    assert tokens[0].tag == "h1", f"{file} begins with its title"
    tokens = tokens[3:]
    for before, token in pairwise(tokens):
        if before.type == "td_open" and token.content in sync.algorithms():
            opening = Token("link_open", "a", 1, attrs={"href": f"algorithms/{token.content}.html"})
            token.children = [opening, *token.children, Token("link_close", "a", -1)]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + demoted}"
        for child in token.children or []:
            source = f"{folder}/{child.attrs.get('src')}"
            if child.type == "image" and not (results / source).exists():
                child.type = "text"
            elif child.type == "image":
                pictures[picture_of(source)] = results / source
                child.attrSet("src", picture_of(source))
                child.attrSet("loading", "lazy")
        token.children = linked(token.children or [], folder) if token.type == "inline" else token.children
    html = parser().renderer.render(tokens, parser().options, {"heading": title, "anchors": anchors})
    return title, Markup(html), pictures


def linked(children: list[Token], folder: Path) -> list[Token]:
    """Inline tokens whose links lead to pages of the site or to the net; others lose the link and keep the text."""
    kept, dropped = [], False
    for child in children:
        if child.type == "link_open":
            target = child.attrs["href"]
            if not re.match("https://|#|algorithms/", target):
                target = page_of(f"{folder}/{target}")
                child.attrSet("href", target)
            dropped = not target
        if not (dropped and child.type in ("link_open", "link_close")):
            kept.append(child)
    return kept


def document(results: Path, page: str) -> Page | None:
    """A page of the Markdown files that are there; None where there is none."""
    there = [file for file in PAGES[page] if (results / file).exists()]
    if not there:
        return None
    anchors, sections, pictures, several = [], [], {}, page in TITLES
    for file in there:
        title, body, some = read(results, file, anchors, demoted=int(several))
        sections.append((title, slug(Path(file).stem), body))
        pictures |= some
    current = PART.get(page, page.removesuffix(".html"))
    title = TITLES[page] if several else sections[0][0]
    context = {"title": title, "lead": LEADS[page], "sections": sections, "several": several}
    context["files"] = [f"benchmarks/results/{file}" for file in there]
    headings = [] if several else re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', sections[0][2])
    context["contents"] = [(anchor, Markup(heading)) for anchor, heading in headings]
    return Page("document.html", current, context, pictures)


def elsewhere_pages() -> dict[str, Page]:
    """ "Left out, and why" and "Method x framework"."""
    named = {file for one in elsewhere.ELSEWHERE for file in one.files}
    nowhere = [name for name in sync.algorithms() if name not in named]
    frameworks = {"frameworks": elsewhere.FRAMEWORKS, "rows": elsewhere.ELSEWHERE, "marks": elsewhere.MARKS}
    return {
        "frameworks.html": Page(
            "frameworks.html", "frameworks", frameworks | {"read": elsewhere.READ, "nowhere": nowhere}
        ),
        "left_out.html": Page(
            "left_out.html", "left_out", {"by_flag": elsewhere.BY_FLAG, "left_out": elsewhere.LEFT_OUT}
        ),
    }


def pages(results: Path) -> dict[str, Page]:
    documents = {page: document(results, page) for page in PAGES}
    return {page: made for page, made in documents.items() if made} | elsewhere_pages()
