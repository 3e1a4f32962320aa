r"""The equations of the head docstrings, from plain text to LaTeX, and from LaTeX to MathML by latex2mathml.

The notation, as the files write it:

- Two or more spaces part the cells of a line: a formula, further formulas, a note in words, and its number (Eq. 8).
- Two factors side by side are a product. `a/b` without spaces divides two atoms, `a b / c d` with spaces two products.
- `r_it` has the indices i and t, `V_i,t+1` those of the next token, `l_old_j` an upper and a lower mark, `o_i<t` the
  tokens of o_i before t. `A'_j` is another A, `p_v^2` a power, `p_j^o` an upper mark of one letter.
- `sum_i`, `sum_(i,t) in S`, `sum_(i: r_i = 1)`; `1[...]` is 1 where the condition holds, else 0; `|x|` is a size;
  a bar between spaces is "given".
- A line whose first cell stands under a later cell of the line above is another case of that cell.

A name, subscript or word that is not in the tables below is an error: what cannot be read is shown as it is written.
"""

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

from latex2mathml.converter import convert
from markupsafe import Markup

MATHML = "http://www.w3.org/1998/Math/MathML"
ET.register_namespace("", MATHML)

GREEK = {
    name: rf"\{name}" for name in "alpha beta gamma delta eta kappa lambda mu pi rho sigma tau theta Omega".split()
}
NAMES = (
    GREEK
    | {"eps": r"\varepsilon", "E": r"\mathbb{E}", "kp": "k_{p}", "ki": "k_{i}", "k3": r"\mathrm{k3}"}
    | {
        name: rf"\operatorname{{{name}}}"
        for name in ("mean", "std", "min", "max", "clip", "Cov", "sg", "sigmoid", "sign")
    }
    | {"log": r"\log", "ln": r"\ln", "exp": r"\exp", "cos": r"\cos"}
    | {name: rf"\mathrm{{{name}}}" for name in ("ratio", "coef", "target", "lb", "ub")}
    | {letter: letter for letter in "ABCDFGHIJKLMNRSUVXabcdefghijklmnopqrstuvwxz"}
)
CALLED = set(
    "pi mean std min max clip log ln exp cos sg sigmoid sign".split()
)  # what a bracket right behind is the argument of
MARKS = {
    "old",
    "ref",
    "low",
    "high",
    "min",
    "right",
    "wrong",
    "hard",
    "pos",
    "neg",
    "GRPO",
    "PPO",
    "PSR",
    "NSR",
}  # subscripts that are words
INDICES = set("hijkntv1FG")
# Words inside a formula, and "a" before one of them. Notes, in cells of their own, are free.
WORDS = set(
    "after among at beyond charge critic down drawn else from groups if is largest last longest minibatch minimise"
    " number of over plus random response responses right smallest the then those to token tokens with wrong".split()
)
SIGNS = {
    "<-": r"\leftarrow",
    "<=": r"\le",
    ">=": r"\ge",
    "<": "<",
    ">": ">",
    "=": "=",
    "+": "+",
    "-": "-",
    ",": ",",
    ":": ":",
}
TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([A-Za-z]'?\w*(?:<t\b|(?<=_i),[tj]\+1\b)?)|(<-|<=|>=|[-+=<>,:/()\[\]|^]))")
ROMAN = re.compile(r"\\(?:(?:mathrm|operatorname)\{\w+\}|log|ln|exp)(?:_\{\w+\})?")
LABEL = re.compile(r"\((Eqs?\. [\d, ]+)\)(?:, )?")


class NotReadable(ValueError):
    """An equation with something that the tables do not know."""


@dataclass
class Row:
    """One line of an equation block, with the cases that stand under it."""

    source: list[str]
    latex: str
    note: str = ""
    label: str = ""
    indented: bool = False

    @property
    def mathml(self) -> Markup:
        """MathML, with the plain text as its alternative."""
        root = ET.fromstring(to_mathml(self.latex, "block"))
        root.set("alttext", " ".join(self.source))
        return Markup(ET.tostring(root, encoding="unicode"))


def to_mathml(latex: str, display: str) -> str:
    """MathML by latex2mathml. A sum's index is its limit wherever it stands: browsers put it aside in running text."""
    root = ET.fromstring(convert(latex, display=display))
    for node in root.iter():
        if node.text and "\\" in node.text:
            raise NotReadable(f"{latex!r}: latex2mathml leaves {node.text!r} as it is")
        if node.tag == f"{{{MATHML}}}msub" and node[0].text == "∑":
            node.tag = f"{{{MATHML}}}munder"
    return ET.tostring(root, encoding="unicode")


# --- Formulas ---------------------------------------------------------------------------------------------------


@dataclass
class Token:
    kind: str  # number, name, word or sign
    text: str
    space: bool  # one stands before it
    tight: bool = False  # none stands behind it


def tokens(text: str) -> list[Token]:
    found, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise NotReadable(f"{text!r}: {text[at:]!r} is no name, number or sign")
        kind = ("number", "name", "sign")[match.lastindex - 1]
        end = match.end()
        space, tight = text[at : at + 1] == " " or at == 0, end < len(text) and text[end] != " "
        found.append(Token(kind, match[match.lastindex], space, tight))
        at = end
    for token, after in zip(found, [*found[1:], None], strict=True):
        if token.text in WORDS or (token.text == "a" and after and after.text in WORDS):
            token.kind = "word"
    return found


def symbol(name: str) -> str:
    """A name with its marks and indices: "l_old_j" is l^{\\mathrm{old}}_{j}."""
    whole, *after = re.split(r"(?=<t$|,t\+1$)", name)
    more = {"<t": ",<t", ",t+1": ",t+1"}["".join(after)] if after else ""
    base, *marks = whole.split("_")
    base, prime = base.removesuffix("'"), "'" * base.endswith("'")
    if base not in NAMES or len(marks) > 2 or (more and not marks):
        raise NotReadable(f"{name!r} is not in the tables of benchmarks/tools/gallery/equations.py")
    written = []
    for mark in marks:
        if mark in MARKS:
            written.append(rf"\mathrm{{{mark}}}")
        elif mark and set(mark) <= INDICES:
            written.append(",".join(mark))
        else:
            raise NotReadable(f"{name!r}: the subscript {mark!r} is not in the tables")
    upper = f"^{{{written[0]}}}" if len(written) == 2 else ""
    lower = f"_{{{written[-1]}{more}}}" if written else ""
    return NAMES[base] + prime + upper + lower


@dataclass
class Reader:
    """Reads a formula from left to right. Each method returns LaTeX and leaves `at` behind what it has read."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    at: int = 0

    def __post_init__(self) -> None:
        self.tokens = tokens(self.text)

    def peek(self, offset: int = 0) -> Token | None:
        return self.tokens[self.at + offset] if self.at + offset < len(self.tokens) else None

    def sign(self, *texts: str) -> bool:
        return (token := self.peek()) is not None and token.kind == "sign" and token.text in texts

    def take(self, *texts: str) -> Token:
        token = self.peek()
        if token is None or (texts and token.text not in texts):
            raise NotReadable(f"{self.text!r}: expected {' or '.join(texts) or 'more'}, found {token and token.text!r}")
        self.at += 1
        return token

    def whole(self) -> str:
        latex = self.sequence()
        if self.peek():
            raise NotReadable(f"{self.text!r}: cannot read on from {self.peek().text!r}")
        return latex

    def sequence(self) -> str:
        """Products with signs, relations, commas and words between them, up to a closing bracket."""
        parts = []
        while token := self.peek():
            if token.text in (")", "]") or (token.text == "|" and not token.tight and not token.space):
                break
            if token.text == "|" and token.space and not token.tight:
                self.take()
                parts.append(r"\mid")
            elif token.kind == "sign" and token.text == "|" and self.closes():
                break
            elif token.text == "-" and self.begins_term():
                self.take()
                parts.append(f"{{- {self.fraction()}}}")
            elif token.text in SIGNS:
                parts.append(SIGNS[self.take().text])
            elif token.kind == "name" and token.text in ("in", "not"):
                if self.take().text == "not":
                    self.take("in")
                    parts.append(r"\notin")
                else:
                    parts.append(r"\in")
            elif token.kind == "word":
                parts.append(self.words())
            else:
                parts.append(self.fraction())
        return " ".join(parts)

    def begins_term(self) -> bool:
        """Whether nothing that could be subtracted from stands before this place."""
        before = self.tokens[self.at - 1] if self.at else None
        return before is None or before.text in ("(", "[", *SIGNS) or before.kind == "word"

    def closes(self) -> bool:
        """Whether the bar here ends a size: no space stands before it."""
        return not self.peek().space

    def words(self) -> str:
        """Words side by side and the commas between them, with the spaces that text in a formula would lose."""
        found = [self.take().text]
        while token := self.peek():
            after = self.peek(1)
            if token.text == "," and after and after.kind == "word":
                self.take()
                found[-1] += ","
            elif token.kind != "word":
                break
            found.append(self.take().text)
        return rf"\text{{ {' '.join(found)} }}"

    def fraction(self) -> str:
        """A product, or two with a spaced stroke between them."""
        upper = self.product()
        if self.sign("/") and self.peek().space:
            self.take("/")
            lower = self.product()
            return rf"\frac{{{bare(upper)}}}{{{bare(lower)}}}"
        return upper

    def product(self) -> str:
        """Factors side by side, apart where one is a name of several letters."""
        factors = []
        while (token := self.peek()) and self.begins_factor(token):
            factors.append(self.factor())
        if not factors:
            raise NotReadable(f"{self.text!r}: nothing to read at {token and token.text!r}")
        joined = previous = factors[0]
        for factor in factors[1:]:
            apart = r" \, " if ROMAN.fullmatch(previous) or (ROMAN.match(factor) and "(" not in factor) else " "
            joined, previous = joined + apart + factor, factor
        return joined

    def begins_factor(self, token: Token) -> bool:
        if token.kind == "name":
            return token.text not in ("in", "not")
        return (
            token.kind == "number"
            or token.text in ("(", "[")
            or (token.text == "|" and token.space and token.tight)
            or (token.text == "|" and self.at > 0 and self.tokens[self.at - 1].text in ("/", "(", "["))
        )

    def factor(self) -> str:
        upper = self.atom()
        if self.sign("/") and not self.peek().space:
            self.take("/")
            return rf"\frac{{{bare(upper)}}}{{{bare(self.atom())}}}"
        return upper

    def atom(self) -> str:
        """A number, name, bracket, size, sum or call, with its power."""
        latex = self.base()
        if self.power():
            self.take("^")
            upper = self.take()
            latex += f"^{{{upper.text if upper.kind == 'number' else symbol(upper.text)}}}"
        return latex

    def power(self) -> bool:
        return self.sign("^") and not self.peek().space and self.peek().tight

    def base(self) -> str:
        token = self.take()
        following = self.peek()
        adjacent = following is not None and not following.space
        if token.kind == "number":
            if token.text == "1" and adjacent and following.text == "[":
                return r"\mathbf{1}" + self.bracketed("[", "]")
            return token.text
        if token.text in ("(", "["):
            self.at -= 1
            inside = self.bracketed(token.text, ")" if token.text == "(" else "]")
            return bare(inside) if is_fraction(bare(inside)) and not self.power() else inside
        if token.text == "|":
            inside = self.sequence()
            self.take("|")
            return rf"\left| {inside} \right|"
        if token.text == "sum_" and adjacent and following.text == "(":
            self.take("(")
            below = self.sequence()
            self.take(")")
            if (after := self.peek()) and after.text == "in":
                self.take()
                below = rf"({below}) \in {self.atom()}"
            return rf"\sum_{{{below}}}"
        if token.text.startswith("sum_"):
            index = token.text.removeprefix("sum_")
            if index in MARKS:
                return rf"\sum_{{\mathrm{{{index}}}}}"
            if not index or not set(index) <= INDICES:
                raise NotReadable(f"{self.text!r}: {token.text!r} sums over nothing known")
            return rf"\sum_{{{','.join(index)}}}"
        if token.text in ("floor", "ceil") and adjacent and following.text == "(":
            self.take("(")
            inside = self.sequence()
            self.take(")")
            return rf"\l{token.text} {inside} \r{token.text}"
        if token.kind != "name":
            raise NotReadable(f"{self.text!r}: {token.text!r} begins nothing")
        latex = symbol(token.text)
        if adjacent and following.text in ("(", "["):
            if token.text.split("_")[0] not in CALLED or following.text == "[":
                raise NotReadable(f"{self.text!r}: {token.text!r} is not a function that the tables know")
            return latex + self.bracketed("(", ")")
        return latex

    def bracketed(self, opening: str, closing: str) -> str:
        self.take(opening)
        inside = re.sub(r" \}$", "}", self.sequence())  # no space behind a last word
        self.take(closing)
        return rf"\left{opening}{inside}\right{closing}"


def bare(latex: str) -> str:
    """A term without the round brackets that hold all of it: a fraction's stroke groups already."""
    if not (latex.startswith(r"\left(") and latex.endswith(r"\right)")):
        return latex
    inside = latex.removeprefix(r"\left(").removesuffix(r"\right)")
    depth = 0
    for bracket in re.findall(r"\\left\(|\\right\)", inside):
        depth += 1 if bracket == r"\left(" else -1
        if depth < 0:  # the first bracket closes before the end
            return latex
    return inside


def is_fraction(latex: str) -> bool:
    """Whether a term is one fraction and no more: two groups in braces behind the command."""
    depth, groups = 0, 0
    for at, letter in enumerate(latex):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "}" and depth == 0:
            groups += 1
            if groups == 2:
                return latex.startswith(r"\frac{") and at == len(latex) - 1
    return False


def to_latex(text: str) -> str:
    """One formula in the notation of the files as LaTeX."""
    return Reader(text).whole()


def inline(name: str) -> Markup | str:
    """A name in running text, such as "l_old_j", as MathML, or as it is where it is none of an equation."""
    try:
        return Markup(to_mathml(symbol(name), "inline"))
    except NotReadable:
        return name


# --- Blocks -----------------------------------------------------------------------------------------------------


def cells(line: str) -> list[tuple[int, str]]:
    """Column and text of the cells of a line; the spaces that line up the first equals sign or colon part none."""
    aligned = re.match(r" *\S+( +)(?=[=:] )", line)
    gap = len(aligned[1]) - 1 if aligned else 0
    shifted = line[: aligned.start(1)] + line[aligned.end(1) - 1 :] if aligned else line
    found = [(match.start(), match[0]) for match in re.finditer(r"\S+(?: \S+)*", shifted)]
    return [found[0], *((column + gap, text) for column, text in found[1:])]


def is_note(cell: str) -> bool:
    """Words alone: no relation and no name with an index; it begins with a word, or with a flag's two strokes.

    Behind a word and its colon anything may stand.
    """
    if cell.startswith("--") or re.match(r"[a-z'-]+: ", cell):
        return True
    return bool(re.match(r"[a-z'-]+[,;]?( |$)", cell)) and not re.search(r"[=<>_]", cell)


def rows(lines: list[str]) -> list[Row]:
    """An equation block, line by line. Raises NotReadable where the notation is not the one above."""
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    found: list[Row] = []
    columns: list[int] = []  # of the last row's cells
    open_cases: list[tuple[int, list[str]]] = []  # position of a case's first formula, and the cases so far
    pieces: list[str] = []

    def close() -> None:
        """Turn the formulas of the last row into its LaTeX."""
        if not found:
            return
        if open_cases:
            first, cases = open_cases[0]
            joined = [*pieces[:first], rf"\begin{{cases}} {' '.join(cases)} \end{{cases}}"]
            found[-1].latex = " ".join(joined)
        else:
            found[-1].latex = r" \qquad ".join(pieces)

    for line in lines:
        split = cells(line)
        start = split[0][0]
        formulas, note, label = [], "", ""
        for position, (_, cell) in enumerate(split):
            if match := LABEL.match(cell):
                label, cell = match[1], cell[match.end() :]
            if not cell:
                continue
            if position and is_note(cell):
                note = f"{note}, {cell}" if note else cell
            else:
                formulas.append(to_latex(cell))
        if found and start > margin and start in columns[1:]:
            if not open_cases:
                first = columns.index(start)
                open_cases.append((first, [" & ".join(pieces[first:])]))  # the row above is the first case
            words = rf" & \text{{{note}}}" if note else ""
            open_cases[0][1].append(r"\\ " + " & ".join(formulas).replace(r"\frac", r"\dfrac") + words)
            found[-1].source.append(line[margin:])
            found[-1].label = found[-1].label or label
            continue
        close()
        open_cases, pieces, columns = [], formulas, [column for column, _ in split]
        found.append(Row([line[margin:]], "", note, label, indented=start > margin))
    close()
    return found
