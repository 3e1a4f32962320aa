"""The gallery without a browser: what is read from the algorithm files, equations, differences, pages, links."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pytest

from benchmarks import methods
from benchmarks.gallery import algorithms, charts, diffs, equations, site
from benchmarks.gallery.__main__ import check_out
from benchmarks.gallery.equations import NotReadable, to_latex
from benchmarks.gallery.pages import (
    REGION_TITLES,
    algorithm_page,
    are_siblings,
    curves,
    diff_page_name,
    judged_by_method,
    ordered,
    pages,
)
from benchmarks.judging import Judged
from benchmarks.methods import Claim
from benchmarks.readings import Effect, load
from tests import sync
from tests.test_claims import keep

NAMES = sync.algorithms()
RESULTS = sync.ROOT / "benchmarks" / "results"
SIDES = ("old", "new")
VOID = {"meta", "link", "br", "img", "input", "hr", "col", "wbr"}


@dataclass
class Node:
    """An HTML element: enough of a tree to ask for classes, attributes and text."""

    tag: str
    attributes: dict[str, str]
    children: list["Node | str"] = field(default_factory=list)

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", cls: str = "") -> Iterator["Node"]:
        for child in self.children:
            if isinstance(child, Node):
                if tag in ("", child.tag) and (not cls or cls in child.classes):
                    yield child
                yield from child.all(tag, cls)


class Tree(HTMLParser):
    """Parses a page and insists that every element is closed where it should be."""

    def __init__(self, text: str):
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], f"never closed: {[node.tag for node in self.open[1:]]}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {key: value or "" for key, value in attributes})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {key: value or "" for key, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture(scope="module")
def trees(gallery: Path) -> dict[str, Node]:
    found = sorted(gallery.rglob("*.html"))
    return {str(path.relative_to(gallery)): Tree(path.read_text()).root for path in found}


# --- Equations --------------------------------------------------------------------------------------------------------

CLIPPED = (
    r"\operatorname{min}\left(r_{i,t} A_{i,t} , "
    r"\operatorname{clip}\left(r_{i,t} , 1 - \varepsilon_{\mathrm{low}} , 1 + \varepsilon_{\mathrm{high}}\right)"
    r" A_{i,t}\right)"
)
COVARIANCE = (
    r"\operatorname{Cov}_{j} = \left(l_{j} - \operatorname{mean} \, l\right) "
    r"\left(A_{j} - \operatorname{mean} \, A\right)"
)
RATIO = r"\pi\left(o_{i,t} \mid q , o_{i,<t}\right)"
TOKEN_MEAN = r"\mathbb{E} \frac{1}{\sum_{i} \left| o_{i} \right|} \sum_{i} \sum_{t}"
EXPECTED = {
    "grpo": [
        r"A_{i} = \frac{R_{i} - \operatorname{mean}\left(R\right)}{\operatorname{std}\left(R\right)}",
        rf"r_{{i,t}} = \frac{{{RATIO}}}{{\pi_{{\mathrm{{old}}}}{RATIO.removeprefix(chr(92) + 'pi')}}}",
        r"J = \mathbb{E} \frac{1}{G} \sum_{i} \frac{1}{\left| o_{i} \right|} \sum_{t} "
        r"\left[\operatorname{min}\left(r_{i,t} A_{i} , \operatorname{clip}\left(r_{i,t} , 1 - \varepsilon , "
        r"1 + \varepsilon\right) A_{i}\right) - \beta \, \mathrm{k3}_{i,t}\right]",
        r"\mathrm{k3}_{i,t} = \frac{\pi_{\mathrm{ref}}}{\pi} - \log\left(\frac{\pi_{\mathrm{ref}}}{\pi}\right) - 1",
    ],
    "dapo": [
        rf"J = {TOKEN_MEAN} {CLIPPED}",
        r"\text{ over groups with } 0 < \text{ number of right responses } < G",
        r"R = 1 \text{ if right, else } {- 1} , \text{ plus the charge } \begin{cases} 0 & \text{ if } "
        r"\left| o \right| \le L - c \\ \dfrac{L - c - \left| o \right|}{c} & "
        r"\text{beyond, down to -1 at the longest response L} \end{cases}",
    ],
    "clip_cov": [
        COVARIANCE,
        r"I = \lfloor \mathrm{ratio} \, N \rfloor \text{ tokens drawn at random from those with } "
        r"\mathrm{lb} < \operatorname{Cov}_{j} < \mathrm{ub}",
        rf"J = \frac{{1}}{{N}} \sum_{{j}} \mathbf{{1}}\left[j \notin I\right] {CLIPPED}".replace("i,t", "j"),
    ],
    "kl_cov": [
        COVARIANCE,
        r"I = \text{ the } \lfloor \mathrm{ratio} \, N \rfloor \text{ tokens of largest } \operatorname{Cov}_{j}",
        r"J = \frac{1}{N} \sum_{j} \left[r_{j} A_{j} - \mathbf{1}\left[j \in I\right] \, \mathrm{coef} \, "
        r"\left| l_{j} - l^{\mathrm{old}}_{j} \right|\right]",
    ],
    "forking_tokens": [
        r"S = \text{ the } \lceil \rho N \rceil \text{ tokens of largest } H_{i,t} \text{ among the } N "
        r"\text{ response tokens of a minibatch }",
        rf"J = \mathbb{{E}} \frac{{1}}{{\left| S \right|}} \sum_{{(i , t) \in S}} {CLIPPED}",
    ],
    "nsr": [
        r"J_{\mathrm{PSR}} = \mathbb{E} \sum_{i : r_{i} = 1} \pi\left(o_{i} \mid q\right) \qquad "
        r"J_{\mathrm{NSR}} = {- \mathbb{E} \sum_{i : r_{i} = {- 1}} \pi\left(o_{i} \mid q\right)} \qquad "
        r"J = \lambda J_{\mathrm{PSR}} + J_{\mathrm{NSR}}",
        r"A_{i} = \lambda \qquad \text{ if } o_{i} \text{ is right }",
        r"A_{i} = {- 1} \qquad \text{ if } o_{i} \text{ is wrong }",
    ],
    "entropic": [
        r"e = H - \mathrm{target}",
        r"\alpha = \operatorname{clip}\left(k_{p} e + k_{i} I , {- 1} , 1\right) , \qquad "
        r"\text{ then } I \leftarrow I + e",
        r"J = J_{\mathrm{PPO}} + \alpha \frac{1}{N_{h}} \sum_{i , t : p_{i,t} > 0.95} r_{i,t} \left| A_{i} \right| , "
        r"\qquad N_{h} \text{ the number of those tokens }",
        rf"J_{{\mathrm{{PPO}}}} = {TOKEN_MEAN} "
        + CLIPPED.replace("A_{i,t}", "A_{i}").replace(r"_{\mathrm{low}}", "").replace(r"_{\mathrm{high}}", ""),
    ],
    "steer": [
        r"\Omega_{j} = \frac{A_{j}}{p_{j}^{o}} p_{j} \left(1 - p_{j}\right) \left(l_{j} + H_{j}^{o}\right)",
        r"\Omega_{j} = r_{j} A_{j} \left[p_{j} \left(l_{j} + H_{j}^{o}\right) - S_{j}\right] , \qquad "
        r"S_{j} = \sum_{v} p_{v}^{2} \left(\log \, p_{v} + H\right)",
        r"w_{j} = \operatorname{clip}\left(\exp\left({- k \left| \Omega_{j} \right|}\right) , "
        r"w_{\mathrm{min}} , 1\right) , \qquad k = {- \frac{\ln\left(w_{\mathrm{min}}\right)}"
        r"{\operatorname{max}\left(\operatorname{max}_{j} \, \left| \Omega_{j} \right| , 0.02\right)}}",
        rf"J = \frac{{1}}{{N}} \sum_{{j}} w_{{j}} {CLIPPED}".replace("i,t", "j"),
    ],
    "vapo": [
        r"\lambda_{i} = \operatorname{max}\left(0 , 1 - \frac{1}{\alpha \left| o_{i} \right|}\right)",
        r"d_{i,t} = \left[t \text{ last}\right] R_{i} + V_{i,t+1} - V_{i,t} , \qquad V \text{ after the last token } 0",
        r"A_{i,t} = d_{i,t} + \lambda_{i} A_{i,t+1}",
        rf"J = \frac{{1}}{{N}} \sum_{{i,t}} {CLIPPED} + \mu \frac{{1}}{{N_{{\mathrm{{right}}}}}} "
        r"\sum_{\mathrm{right}} \, \log \, \pi\left(o_{i,t}\right)",
        r"\text{ critic } : \text{ minimise } "
        r"\frac{\frac{1}{N} \sum_{i,t} \left(V_{i,t} - R_{i}\right)^{2}}{2}",
    ],
    "aepo": [
        r"A'_{j} = A_{j} \left(1 + a z_{j}\right) , \qquad z_{j} = "
        r"\operatorname{sg}\left(\frac{H_{j} - \operatorname{mean} \, H}{\operatorname{std} \, H}\right)",
        r"J = \frac{1}{N} \sum_{j} \operatorname{min}\left(r_{j} A'_{j} , \operatorname{clip}\left(r_{j} , "
        r"1 - \varepsilon_{\mathrm{low}} , \frac{\left(1 + \varepsilon_{\mathrm{high}}\right) r_{j}}"
        r"{\operatorname{sg}\left(r_{j}\right)}\right) A'_{j}\right)",
    ],
    "reinforce_rej": [
        r"R_{i} = 1 \qquad \text{ if } o_{i} \text{ is right }",
        r"{- 1} \qquad \text{ if } o_{i} \text{ is wrong }",
        r"A_{i} = R_{i} \mathbf{1}\left[0 < c < G\right]",
        rf"J = {TOKEN_MEAN} \left[{CLIPPED} - \beta \, \mathrm{{k3}}_{{i,t}}\right]".replace("A_{i,t}", "A_{i}")
        .replace(r"_{\mathrm{low}}", "")
        .replace(r"_{\mathrm{high}}", ""),
    ],
    "opo": [
        r"b = \frac{\sum_{i} \left| o_{i} \right| R_{i}}{\sum_{i} \left| o_{i} \right|}",
        r"A_{i} = R_{i} - b",
        rf"J = {TOKEN_MEAN} A_{{i}} \, \log \, {RATIO}",
    ],
}


def equation_rows(name: str) -> list[equations.Row]:
    found = [block for block in algorithms.load(name).method if block.kind == "equations"]
    return [row for block in found for row in equations.rows(block.lines)]


@pytest.mark.parametrize("name", EXPECTED)
def test_equations_by_hand(name: str) -> None:
    """The LaTeX of every equation, written by hand from the head docstring."""
    assert [row.latex for row in equation_rows(name)] == EXPECTED[name]


@pytest.mark.parametrize("name", NAMES)
def test_equations_are_whole_and_well_formed(name: str) -> None:
    """No line of a block is lost, nothing is left in plain notation, and the MathML parses."""
    head = sync.HEAD.match(sync.read(name))[1]
    indented = [line.strip() for line in head.splitlines() if line.startswith("    ") and "python " not in line]
    indented = [line for line in indented if not line.startswith("--")]
    shown = equation_rows(name)
    assert [line.strip() for row in shown for line in row.source] == indented
    for row in shown:
        for words in re.findall(r"\\text\{([^}]*)\}", row.latex):
            assert not re.search(r"[_<>=\\|]", words)
        math = ET.fromstring(str(row.mathml))
        plain = {*equations.GREEK, "sum", "floor", "ceil", "eps"}
        for leaf in filter(None, (node.text for node in math.iter())):
            assert not re.search(r"[_\\]", leaf) and leaf not in plain, leaf
        assert math.attrib["alttext"].strip() and math.attrib["display"] == "block"


def test_notes_and_numbers_of_equations() -> None:
    ratio, log = equation_rows("grpo")[0], equation_rows("grpo")[3]
    assert (ratio.note, ratio.label) == ("the same for all t", "")
    assert (log.note, log.label) == ("an estimate of KL", "Eq. 4")
    assert [row.note for row in equation_rows("vapo")][::4] == [
        "length-adaptive; alpha 0: lambda 1",
        "decoupled: its own target is R_i on every token",
    ]
    assert equation_rows("aepo")[0].note == "a: entropy_weight"
    assert [row.indented for row in equation_rows("dapo")] == [False, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "claip(r_it, 1)",  # a function that is not known
        "wibble A_i",  # a word that is not known
        "A_i + zeta",
        "r_xy A_i",  # an index that is not known
        "l_old_new_j",
        "sum_z A_i",
        "A_i = (R_i - b",  # brackets
        "A_i = R_i - b)",
        "|o_i",
        "A_i ^ 2",  # a power stands close
        "A_i^xy",
        "A_i ! 2",  # a sign that is not known
        "A_i / ",
        "1/",
    ],
)
def test_what_cannot_be_read_raises(text: str) -> None:
    with pytest.raises(NotReadable):
        to_latex(text)


def test_strokes_and_bars() -> None:
    """Tight strokes divide atoms, spaced ones products; a spaced bar is a condition."""
    assert to_latex("a_i".replace("a", "A") + "/G b") == r"\frac{A_{i}}{G} b"
    assert to_latex("R_i b / N S") == r"\frac{R_{i} b}{N S}"
    assert to_latex("|o_i| R_i") == r"\left| o_{i} \right| R_{i}"
    assert to_latex("pi(o_i | q)") == r"\pi\left(o_{i} \mid q\right)"
    assert to_latex("(R_i - b) / (L - c)") == r"\frac{R_{i} - b}{L - c}"
    assert to_latex("(A_i / p_i)^2 p_i^2 p_i^o") == r"\left(\frac{A_{i}}{p_{i}}\right)^{2} p_{i}^{2} p_{i}^{o}"
    assert to_latex("a R_i of a minibatch") == r"a R_{i} \text{ of a minibatch }"
    assert to_latex("(R_i - b) (L - c)") == r"\left(R_{i} - b\right) \left(L - c\right)"


# --- What is read from the files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_line_of_a_head_has_a_place(name: str) -> None:
    """Method, differences, pitfalls and commands together are the whole head after its first line."""
    one = algorithms.load(name)
    head = sync.HEAD.match(one.text)[1].splitlines()
    shown = [line for block in one.method + one.pitfalls for line in block.lines]
    shown = " ".join(shown + [d.what for d in one.differences] + [d.where for d in one.differences] + one.commands)
    for line in head[1:]:
        if line.startswith("Parent: "):
            assert one.parent == line.removeprefix("Parent: ").removesuffix(".py")
            continue
        for word in re.sub(r"^- |^Differs from ", "", line.strip()).rstrip(":").split():
            assert word.rstrip(":") in shown, f"{line!r} is not on the page"
    assert one.differences and one.commands


def test_a_head_is_sorted() -> None:
    one = algorithms.load("clip_cov")
    assert (one.title, one.parent, one.arxiv, one.date) == ("Clip-Cov", "dapo", "2505.22617", "May 2025")
    assert [d.where for d in one.differences] == [
        *['the authors\' code, and from verl 0.9 where it was merged (loss_mode="clip_cov")'] * 3,
        "As in the code",
    ]
    assert one.differences[1].line == one.text[: one.text.index("- The quota is floor")].count("\n") + 1
    assert [block.text[:12] for block in one.pitfalls] == ["Which tokens"]
    assert algorithms.load("entropic").authors == "" and algorithms.load("entropic").date == "November 2025"


def test_knobs_against_the_parent() -> None:
    knobs = {knob.name: knob for knob in algorithms.load("opo").knobs}
    assert {*knobs} == {"num_minibatches", "update_epochs"} and knobs["num_minibatches"].default == "1"
    assert algorithms.load("opo").dropped == ["--clip-ratio-low", "--clip-ratio-high", "--beta", "--entropy-coef"]
    mine = {knob.name: knob for knob in algorithms.load("kl_cov").knobs}
    assert mine["kl_cov_ratio"].parent is None and mine["kl_cov_ratio"].flag == "--kl-cov-ratio"
    assert mine["max_resample"].parent == mine["max_resample"].default == "9"


@pytest.mark.parametrize("name", NAMES)
def test_regions_and_warnings_are_at_their_lines(name: str) -> None:
    one = algorithms.load(name)
    lines = one.text.splitlines()
    for region, (first, last) in one.regions.items():
        if region != "head":
            assert lines[first - 1].strip() == f"# [algo: {region}]" and lines[last - 1].strip() == "# [/algo]"
    for line, text in one.warnings:
        assert "warn_once(" in lines[line - 1] and text in one.text
    in_regions = [text for text in sync.own_parts(one.text).values() if "warn_once(" in text]
    assert len(one.warnings) == sum(text.count("warn_once(") for text in in_regions)


def test_levers_are_complete_and_true_where_code_can_tell() -> None:
    """No lever is without a method, defaults named in words are the files' defaults, and what is new is marked."""
    pulled = {lever for record in methods.METHODS.values() for lever in record.levers}
    assert pulled == set(methods.LEVERS)
    for name, record in methods.METHODS.items():
        levers = record.levers
        defaults = {knob: found.default for knob, found in algorithms.flags(sync.read(name)).items()}
        flags = {"sampling": "max_resample", "reward": "overlong_buffer_length", "controller": "kp"}
        assert all(lever in levers for lever, flag in flags.items() if flag in defaults)
        if rounds := defaults.get("max_resample"):
            kept = "every group" if rounds == "0" else "mixed groups only"
            assert levers["sampling"].lstrip("*").startswith(kept), f"{name}: --max-resample {rounds}"
        assert "covariance" in levers or "cov = " not in sync.own_parts(sync.read(name))["loss"]
        words = {("0.2", "0.2"): "0.2 on both sides", ("0.2", "0.28"): "0.2 below, 0.28 above", (None, None): "none"}
        clip = tuple(defaults.get(f"clip_ratio_{side}") for side in ("low", "high"))
        assert words.get(clip, "") in levers["clip"]
        parent = methods.method(sync.parent(name) or "").levers
        for lever, what in levers.items():
            if what.startswith("*") or name == "grpo":
                assert what.lstrip("*") != parent.get(lever, "").lstrip("*"), f"{name}: {lever} is no change"
            elif not what.startswith("as "):
                assert what == parent[lever].lstrip("*"), f"{name}: {lever} is said to be the parent's"


def test_a_file_without_a_record_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is among the others in the overview, pulls no lever that is known, and is not in the comparison."""
    shutil.copytree(sync.ALGOS, tmp_path / "algos")
    (tmp_path / "algos" / "fresh.py").write_text(sync.read("nsr").replace('"""NSR', '"""Fresh'))
    monkeypatch.setattr(sync, "ALGOS", tmp_path / "algos")
    made = pages(tmp_path)
    for name in ("index.html", "map.html", "algorithms/fresh.html"):
        page = made[name]
        text = site.render(page.template, algorithms=[*NAMES, "fresh"], **page.context)
        assert "algorithms/fresh.html" in text or "is not in the comparison yet" in text
    assert "<option>fresh</option>" in site.render("compare.html", **made["compare.html"].context)
    assert '<h2 id="others">' in site.render("index.html", **made["index.html"].context)


def test_empty_regions_are_nothing() -> None:
    fence = "# [algo: {}]\n{}# [/algo]\n"
    text = (
        '"""H."""\n' + fence.format("args", "x = 1\n") + fence.format("setup", "\n") + fence.format("loss", "y = 2\n")
    )
    found = algorithms.regions(text)
    assert found == {"head": (1, 1), "args": (2, 4), "setup": (5, 7), "loss": (8, 10)}
    assert [name for name, lines in found.items() if algorithms.is_empty(text, lines)] == ["head", "setup"]
    assert set(sync.REGIONS) <= set(REGION_TITLES)


# --- Differences ------------------------------------------------------------------------------------------------------


def lines_of(node: Node, cls: str) -> list[str]:
    return [cell.text for cell in node.all("td", cls)]


def diff_command(old: str, new: str, folder: Path) -> tuple[list[str], list[str]]:
    """Removed and added lines as `diff -d` prints them."""
    (folder / "old").write_text(old)
    (folder / "new").write_text(new)
    done = subprocess.run(["diff", "-d", "old", "new"], cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    return tuple([line[2:] for line in lines if line.startswith(mark)] for mark in ("< ", "> "))


ALGORITHMS = algorithms.load_all()
SIBLINGS = [pair for pair in combinations(ALGORITHMS, 2) if are_siblings(*map(ALGORITHMS.get, pair))]
READY_MADE = [pair for pair in combinations(ALGORITHMS, 2) if pair in SIBLINGS or set(pair) & {*map(sync.parent, pair)}]


@pytest.mark.skipif(not shutil.which("diff"), reason="needs the diff command")
@pytest.mark.parametrize(("one", "other"), READY_MADE)
def test_each_difference_is_that_of_diff(trees: dict, tmp_path: Path, one: str, other: str) -> None:
    """On the page of the pair, or that of a file against its parent: what differs in code, and all else left out."""
    first, second = ordered(ALGORITHMS[one], ALGORITHMS[other])
    old, new = first.name, second.name
    texts = [sync.own_parts(sync.read(name))["head"] for name in (old, new)]
    codes = [sync.read(name)[len(head) :] for name, head in zip((old, new), texts, strict=True)]
    (diff,) = trees[diff_page_name(first, second).partition("#")[0]].all("div", "diff")
    assert (diff.attributes["data-old"], diff.attributes["data-new"]) == (old, new)
    code, head = diff.all("div", "code")
    for part, (left, right) in ((code, codes), (head, texts)):
        if part is code:  # heads have little in common, and which lines are then said to stay is a matter of taste
            removed, added = (Counter(lines) for lines in diff_command(left, right, tmp_path))
            # Which of two equal lines has moved is a matter of taste too; what is gone and what is new is not.
            gone, new_ones = Counter(lines_of(part, "del")), Counter(lines_of(part, "ins"))
            assert (gone - new_ones, new_ones - gone) == (removed - added, added - removed)
        rest = left.splitlines(), right.splitlines()
        for piece in (child for child in part.children if isinstance(child, Node)):
            if piece.tag == "a":
                assert piece.attributes["href"].endswith(f"compare.html#{old}-{new}")
                folded = int(piece.text.partition(" ")[0])
                assert folded > 2 and rest[0][:folded] == rest[1][:folded]
                shown = [rest[0][:folded]] * 2
            else:
                shown = [[cell.text for cell in piece.all("td", side) if "none" not in cell.classes] for side in SIDES]
            assert [lines[: len(some)] for lines, some in zip(rest, shown, strict=True)] == shown
            rest = tuple(lines[len(some) :] for lines, some in zip(rest, shown, strict=True))
        assert rest == ([], [])  # nothing of either file is lost


def distances_on_the_map(trees: dict) -> dict[tuple[str, str], int]:
    """(row, column) -> the number in that cell."""
    (table,) = trees["map.html"].all("table", "matrix")
    _, *columns = (cell.text for cell in next(table.all("thead")).all("th"))
    found = {}
    for row in (row for body in table.all("tbody") for row in body.all("tr") if "group" not in row.classes):
        cells = [cell.text for cell in row.all("td")]
        assert len(cells) == len(columns)
        found |= {(next(row.all("th")).text, name): int(n) for name, n in zip(columns, cells, strict=True) if n}
    return found


def test_the_map_has_every_pair_by_family(trees: dict) -> None:
    found = distances_on_the_map(trees)
    assert set(found) == {(one, other) for one in NAMES for other in NAMES if one != other}
    assert all(found[other, one] == count for (one, other), count in found.items())
    assert found["clip_b", "rlrt"] == sync.distance("clip_b", "rlrt")[0]
    families = [methods.method(name).family for name in dict.fromkeys(one for one, _ in found)]
    assert families == sorted(families, key=[*methods.FAMILIES].index)


def test_the_map_has_the_tree_of_all(trees: dict) -> None:
    """Each file once, under its parent."""

    def pairs(node: Node, parent: str | None) -> Iterator[tuple[str, str | None]]:
        for item in (child for child in node.children if isinstance(child, Node)):
            name = Path(next(item.all("a")).attributes["href"]).stem
            yield name, parent
            for deeper in (child for child in item.children if isinstance(child, Node) and child.tag == "ul"):
                yield from pairs(deeper, name)

    (tree,) = trees["map.html"].all("ul", "tree")
    assert sorted(pairs(tree, None)) == sorted((name, sync.parent(name)) for name in NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if sync.parent(name)])
def test_difference_counts_are_the_ledgers(trees: dict, name: str) -> None:
    ledger = {row.split(",")[0]: row.split(",") for row in sync.LEDGER.read_text().splitlines()}
    lines, places = ledger[name][3:5]
    assert f"{lines} lines of code at {places} places" in trees[f"algorithms/{name}.html"].text
    parent = sync.parent(name)
    assert distances_on_the_map(trees)[name, parent] == distances_on_the_map(trees)[parent, name] == int(lines)
    (far,) = [a for a in trees["map.html"].all("a", "far") if f"/{name}.html" in a.attributes["href"]]
    assert far.text == f"{lines} lines"


def test_regions_are_labelled(trees: dict) -> None:
    (diff,) = trees["algorithms/kl_cov.html"].all("div", "diff")
    assert [next(row.all("b")).text for row in diff.all("tr", "label")] == ["args", "credit", "loss"]
    (diff,) = trees["algorithms/dapo.html"].all("div", "diff")
    labels = ["args", "credit", "loss", "setup", "sample", "score"]
    assert [next(row.all("b")).text for row in diff.all("tr", "label")] == labels


def test_stretches_keep_three_lines_and_fold_the_rest() -> None:
    old = '"""H."""\n' + "".join(f"a{n} = 0\n" for n in range(30))
    new = old.replace("a9 = 0", "a9 = 1").replace("a27 = 0\n", "")
    found = diffs.stretches(diffs.compare(old, new))
    assert [(s.folded, len(s.rows)) for s in found] == [(True, 6), (False, 7), (True, 11), (False, 6)]
    assert sync.changes(old, new) == (2, 2)


# --- Curves and claims ------------------------------------------------------------------------------------------------


def method_pages(rows: Path, names: Iterable[str]) -> dict[str, Node]:
    """Pages of some methods beside the comparison's runs in a folder."""
    everything, runs = algorithms.load_all(), load(rows)
    judged = judged_by_method(runs)
    found = {}
    for name in names:
        one = everything[name]
        context = algorithm_page(one, everything, curves(one, runs, judged))
        found[name] = Tree(site.render("algorithm.html", root="../", algorithms=NAMES, **context)).root
    return found


CONTROL = "kl_cov, random selection"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Node]:
    """A comparison of which only these are run, off-policy."""
    rows = tmp_path_factory.mktemp("rows")
    for arm, seeds in (("grpo", 2), ("grpo, mixed groups", 3), ("kl_cov", 3), (CONTROL, 2), ("nsr", 1)):
        keep(rows, arm, seeds, entropy=[*np.linspace(0.3, 0.11, 20)])
    return method_pages(rows, ("grpo", "kl_cov", "nsr", "opo"))


def test_charts_say_their_numbers(compared: dict) -> None:
    about = [next(svg.all("desc")).text for svg in compared["kl_cov"].all("svg", "chart")]
    shown = [text for text in about if "at first" in text]
    assert len(shown) == 4  # the primary outcomes of the one regime that was run
    assert shown[0].startswith("kl_cov: 0.375 ± 0.000 at first, 0.500 ± 0.000 at the end, 3 seeds.")
    assert shown[3].startswith("kl_cov: 0.280 ± 0.000 at first, 0.130 ± 0.000 at the end, 3 seeds.")
    assert all("grpo, mixed groups: " in text and f"{CONTROL}: " in text for text in shown)  # its base and its control
    assert not [svg for svg in compared["opo"].all("svg", "chart") if "at first" in next(svg.all("desc")).text]


def test_the_control_that_decides_is_drawn_before_further_bases(tmp_path: Path) -> None:
    """starter is held against nsr, and its promises against GRPO; there are three colours."""
    for arm in ("grpo", "nsr", "starter", "starter, random selection"):
        keep(tmp_path, arm, 2)
    runs = load(tmp_path)
    judged = judged_by_method(runs)["off-policy", "starter"]
    drawn = charts.shown(runs["off-policy"], "starter", judged)
    assert [*drawn] == ["starter", "nsr", "starter, random selection"]


def test_all_that_is_judged_is_on_the_page(compared: dict) -> None:
    def verdicts(name: str) -> list[list[str]]:
        tables = compared[name].all("table", "claims")
        rows = [[cell.text for cell in row.all("td")] for table in tables for row in table.all("tr")]
        return [row for row in rows if row]

    promised = len(methods.method("kl_cov").claims)
    found = verdicts("kl_cov")
    alike = {"entropy", "pass@1", "pass@32"}  # which promises read at the end beside the same base
    assert len(found) == 2 * promised + 2 * len(charts.MARGINS) - len(alike)
    assert found[2] == ["better at equal steps", "pass@1 at step 100, less grpo, mixed groups", *found[2][2:]]
    assert found[2][2:] == ["+0.000 (+0.000 to +0.000)", "no effect"]
    assert next(row[:2] for row in found if not row[0]) == ["", "coverage at step 100, less grpo, mixed groups"]
    assert len({row[1] for row in found[:-promised]}) == len(found) - promised  # nothing twice
    assert found[promised + 1][1] == f"pass@1 at step 100, less {CONTROL}"
    assert {row[3] for row in found[-promised:]} == {"not run"}
    assert {row[3] for row in verdicts("nsr")} == {"one seed", "not run"} and verdicts("grpo") == []
    assert {row[3] for row in verdicts("opo")} == {"not run"}


def test_what_a_promise_has_read_is_not_said_again() -> None:
    """Whatever it was held against."""

    def one(words: str, verdict: str, claim: Claim | None = None) -> Judged:
        return Judged("off-policy", "qae", "dapo", Effect(0.1, 0.0, 0.2, 0.01, 3, "pass@32", words), verdict, claim)

    kept = Claim("as good with many samples", "pass@32", "dapo", no_less=True)
    some = [
        one("pass@32 at step 400", "reproduced", kept),
        one("pass@32 at step 400", "higher"),
        one("coverage", "higher"),
    ]
    assert [row[:2] for row in charts.verdicts(some)] == [
        ("as good with many samples", "pass@32 at step 400: above -0.04"),
        ("", "coverage"),
    ]


def test_the_tuned_flag_is_said_above_the_curves(tmp_path: Path) -> None:
    everything = algorithms.load_all()
    for value, words in ((5.0, "default 20.0"), (20.0, "its default")):
        keep(tmp_path, "sapo", 1)
        path = tmp_path / "off-policy" / "sapo-s1.json"
        run = json.loads(path.read_text())
        run["flags"]["tau_pos"] = value
        path.write_text(json.dumps(run))
        runs = load(tmp_path)
        [part, _] = curves(everything["sapo"], runs, judged_by_method(runs))
        assert part["knob"] == ("tau_pos", value, 20.0)
        context = algorithm_page(everything["sapo"], everything, [part])
        page = site.render("algorithm.html", root="../", algorithms=NAMES, **context)
        assert f"Run with <code>--tau-pos {value}</code> ({words}), tuned on another seed." in page


def test_missing_results_are_said(tmp_path: Path) -> None:
    text = method_pages(tmp_path, ["steer"])["steer"].text
    assert text.count("STEER is not run yet in this regime") == 2
    assert text.count("No verdicts in this regime yet") == 1  # in the other its promises are listed, as not run
    assert "at first" not in text


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_every_page_is_there(trees: dict) -> None:
    assert {"index.html", "map.html", "compare.html"} <= set(trees)
    assert {f"{folder}/{name}.html" for folder in ("algorithms", "source") for name in NAMES} <= set(trees)
    assert sum(name.startswith("diffs/") for name in trees) == len(SIBLINGS) > 50
    assert {"claims.html", "law.html", "public_logs.html", "frameworks.html", "left_out.html"} <= set(trees)


def test_the_site_is_small(gallery: Path) -> None:
    assert sum(path.stat().st_size for path in gallery.rglob("*") if path.is_file()) < 20e6


def test_the_files_that_are_compared_on_demand_are_whole(gallery: Path) -> None:
    text = (gallery / "static" / "files.js").read_text()
    data = json.loads(text[text.index("= {") + 1 :].rstrip().removesuffix(";"))
    assert set(data["files"]) == set(NAMES) and len(set(data["lines"])) == len(data["lines"])
    lines = [Tree(line).root.text for line in data["lines"]]
    for name, one in data["files"].items():
        assert [lines[at] for at in one["lines"]] == sync.read(name).splitlines()
        assert one["head"] == sync.HEAD.match(sync.read(name))[0].count("\n")
    assert len(data["distance"]) == len(list(combinations(NAMES, 2)))
    assert data["distance"]["dapo-kl_cov"] == sync.distance("dapo", "kl_cov")[0]


def test_links_and_anchors_resolve(gallery: Path, trees: dict) -> None:
    ids = {
        name: [node.attributes["id"] for node in root.all() if "id" in node.attributes] for name, root in trees.items()
    }
    checked = 0
    for name, root in trees.items():
        here = set(ids[name])
        assert len(ids[name]) == len(here), f"{name}: an id is there twice"
        links, nodes = set(), list(root.all())
        for node in nodes:
            links |= {
                (node.tag, node.attributes[key]) for key in ("href", "src", "xlink:href") if key in node.attributes
            }
            for key in ("aria-labelledby", "aria-describedby"):
                assert set(node.attributes.get(key, "").split()) <= here
        for tag, href in links:
            link = urlparse(href)
            if link.scheme:
                assert link.scheme == "data" or (tag == "a" and link.scheme == "https"), f"{name}: {href}"
                continue
            target = os.path.normpath(Path(name).parent / unquote(link.path)) if link.path else name
            assert (gallery / target).is_file(), f"{name}: {href}"
            pair = link.fragment.split("-") if target == "compare.html" else None
            assert not link.fragment or link.fragment in ids[target] or set(pair or [""]) <= set(NAMES), (name, href)
            checked += 1
    assert checked > 1000


def test_pages_are_sound(trees: dict) -> None:
    """Language, one title, one main heading, headings without gaps, alternatives for pictures, names for links."""
    for name, root in trees.items():
        (html,) = root.all("html")
        assert html.attributes["lang"] == "en", name
        (title,) = (node for head in root.all("head") for node in head.all("title"))
        assert title.text.strip(), name
        headings = [int(node.tag[1]) for node in root.all() if re.fullmatch(r"h[1-6]", node.tag)]
        assert headings.count(1) == 1 and headings[0] == 1, name
        assert all(b <= a + 1 for a, b in pairwise(headings)), name
        assert all(node.attributes.get("alt") for node in root.all("img")), name
        for svg in root.all("svg"):
            assert svg.attributes["role"] == "img" and next(svg.all("title")).text, name
        for link in root.all("a"):
            assert link.text.strip() or [picture.attributes["alt"] for picture in link.all("img")], name
        for node in root.all():
            if node.attributes.get("role") == "region":
                assert node.attributes.get("aria-label"), name
    titles = [next(root.all("title")).text for root in trees.values()]
    assert len(titles) == len(set(titles))


def test_source_pages_are_the_files(trees: dict) -> None:
    for name in NAMES:
        (listing,) = trees[f"source/{name}.html"].all("div", "listing")
        lines = [code.text for code in listing.all("code")]
        assert lines == sync.read(name).splitlines()


def test_the_same_files_make_the_same_bytes(gallery: Path, tmp_path: Path) -> None:
    """By the command, in another process with another order of sets; it says where and how long."""
    command = [sys.executable, "-m", "benchmarks.gallery", "--out", str(tmp_path / "site")]
    env = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=sync.ROOT, env=env, capture_output=True, text=True, check=True)
    first, second = (
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (gallery, tmp_path / "site")
    )
    assert first == second
    count = sum(path.suffix == ".html" for path in first)
    assert re.fullmatch(rf"{count} pages in [\d.]+ s: {re.escape(str(tmp_path))}/site/index\.html\n", done.stdout)


def test_a_changed_file_changes_its_page(gallery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(sync.ALGOS, tmp_path / "algos")
    text = sync.read("kl_cov").replace("kl_cov_coef: float = 1.0", "kl_cov_coef: float = 2.5")
    text = text.replace("sum_j [ r_j A_j -", "sum_j [ r_j A_j +").replace("1, where", "9, where")
    (tmp_path / "algos" / "kl_cov.py").write_text(text)
    monkeypatch.setattr(sync, "ALGOS", tmp_path / "algos")
    made = pages(tmp_path)["algorithms/kl_cov.html"].context
    page = site.render("algorithm.html", root="../", algorithms=NAMES, **made)
    before = (gallery / "algorithms" / "kl_cov.html").read_text()
    for new in ("2.5</td>", "r_j A_j + 1[j in I]"):
        assert new in page and new not in before


def test_an_equation_that_cannot_be_read_is_shown_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(sync.ALGOS, tmp_path / "algos")
    (tmp_path / "algos" / "opo.py").write_text(sync.read("opo").replace("A_i = R_i - b ", "A_i = R_i ~ b "))
    monkeypatch.setattr(sync, "ALGOS", tmp_path / "algos")
    made = pages(tmp_path)["algorithms/opo.html"].context
    assert re.search(r"algos/opo\.py, the equations at line 7 are shown as written: .*R_i ~ b", capsys.readouterr().err)
    text = site.render("algorithm.html", root="../", algorithms=NAMES, **made)
    assert re.search(r'<pre class="equations" tabindex="0">[^<]*A_i = R_i ~ b', text)


def test_old_pages_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "diffs").mkdir()
    (tmp_path / "diffs" / "gone-forever.html").write_text("old")
    (tmp_path / "details.html").write_text("old")
    (tmp_path / "mine.txt").write_text("kept")
    site.write(tmp_path, {"a.html": site.Page("left_out.html", "left_out", {"by_flag": (), "left_out": ()})}, [])
    assert not (tmp_path / "diffs").exists() and not (tmp_path / "details.html").exists()
    assert (tmp_path / "mine.txt").exists() and (tmp_path / "a.html").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    check_out(tmp_path)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="error: --out"):
        check_out(tmp_path)
    with pytest.raises(SystemExit, match="error: --out"):
        check_out(tmp_path / "thesis.txt")
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "gallery.js").write_text("")  # an earlier gallery
    check_out(tmp_path)


def test_other_parts_are_linked_once_they_are_built() -> None:
    found = site.navigation(["index.html", "map.html", "explorer/kl_cov.html", "explorer/dapo.html"])
    assert [(part, page) for part, _, page in found][2:] == [("explorer", "explorer/dapo.html")]
    context = pages(Path("nowhere"))["algorithms/kl_cov.html"].context
    link = 'href="../explorer/kl_cov.html"'
    assert link in site.render("algorithm.html", root="../", built={"explorer/kl_cov.html"}, **context)
    assert link not in site.render("algorithm.html", root="../", **context)


def test_prose_marks_what_it_knows_and_keeps_the_rest() -> None:
    context = {"root": "../", "algorithms": ["dapo"]}
    shown = str(site.prose(context, "See dapo.py (arXiv 2503.14476): --max-resample < 3, policy/kl of k_percent & l_j"))
    assert '<a href="../algorithms/dapo.html">dapo.py</a>' in shown
    assert '<a href="https://arxiv.org/abs/2503.14476">arXiv 2503.14476</a>' in shown
    assert "<code>--max-resample</code> &lt; 3, <code>policy/kl</code> of k_percent &amp; <math" in shown
