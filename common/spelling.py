r"""One spelling for what is written in many ways: spaces, dashes, digits, roots, powers, fractions, units, currencies.

    normalise("1\u202f234\u00d710\u207b\u00b3")          # "1234\\times 10^{-3}"
    split_unit(r"5\,\mathrm{m/s^2}")                      # ("5", "m second^-2")

Whatever is read of an answer or of a gold answer is read after `normalise`. Each class of spellings is one table here:
who misses a spelling adds it to its table. Nothing here decides what is equal.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

# --- Characters: one table, from a character to LaTeX or ASCII ------------------------------------------------------

# Zero width, byte order marks, soft hyphens, marks of direction: nothing that a reader sees.
UNSEEN = dict.fromkeys(
    [0xAD, 0x61C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF]
)
# Spaces that do not break a line may stand inside a number ("1 234"); the others may not. LaTeX's is "~".
FIXED_SPACES = dict.fromkeys([0xA0, *range(0x2004, 0x200B), 0x202F, 0x205F], "~")
SPACES = [*range(0x09, 0x0E), *range(0x1C, 0x20), 0x85, 0x1680, *range(0x2000, 0x2004), 0x2028, 0x2029, 0x3000]
SPACES = dict.fromkeys(SPACES, " ")
DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2043, 0x207B, 0x208B, 0x2212, 0x2796, 0xFE58, 0xFE63, 0xFF0D], "-")
FULL_WIDTH = {0xFF01 + i: chr(0x21 + i) for i in range(94)} | {0x3001: ",", 0x3002: ".", 0xFF61: "."}
SIGNS = {
    "\u00d7": r"\times ", "\u2715": r"\times ", "\u2a2f": r"\times ", "\u00f7": "/", "\u2044": "/", "\u2215": "/",
    "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2219": r"\cdot ", "\u2022": r"\cdot ", "\u2217": "*", "\u2062": "",
    "\u00b1": r"\pm ", "\u2213": r"\mp ", "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u00ba": r"^\circ ",
    "\u2103": r"^\circ C", "\u2109": r"^\circ F", "\u2032": "'", "\u2033": "''", "\u2018": "'", "\u2019": "'",
    "\u201c": '"', "\u201d": '"', "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\neq ", "\u2248": r"\approx ",
    "\u221a": r"\sqrt ", "\u221b": r"\sqrt[3] ", "\u221c": r"\sqrt[4] ", "\u222a": r"\cup ", "\u2229": r"\cap ",
    "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u2211": r"\sum ", "\u2026": r"\ldots ", "\u22ef": r"\cdots ",
    "\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}", "\u2192": r"\to ", "\u2225": r"\parallel ", "\u22a5": r"\perp ",
    "\u00b5": r"\mu ", "\u2126": r"\Omega ", "\u2236": ":", "\u2a7d": r"\le ", "\u2a7e": r"\ge ", "\u2223": "|",
    "\u230a": r"\lfloor ", "\u230b": r"\rfloor ", "\u2308": r"\lceil ", "\u2309": r"\rceil ", "\u27e8": r"\langle ",
    "\u27e9": r"\rangle ", "\u2115": r"\mathbb{N}", "\u211a": r"\mathbb{Q}", "\u2102": r"\mathbb{C}",
    "\u03d5": r"\phi ", "\u03f5": r"\epsilon ", "\u03d1": r"\theta ", "\u210e": "h",
}  # fmt: skip
GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
).split()
GREEK = {0x3B1 + i: f"\\{name} " for i, name in enumerate(GREEK_NAMES)}
GREEK |= {0x391 + i: f"\\{name.capitalize()} " for i, name in enumerate(GREEK_NAMES) if name in
          "gamma delta theta lambda xi pi sigma upsilon phi psi omega".split()}  # fmt: skip
CURRENCY_SIGNS = {"\u20ac": " euro ", "\u00a3": " pound ", "\u00a5": " yen ", "\u20b9": " rupee ", "\u00a2": " cent "}
VULGAR = {  # fractions in one character
    "\u00bd": (1, 2), "\u2153": (1, 3), "\u2154": (2, 3), "\u00bc": (1, 4), "\u00be": (3, 4), "\u2155": (1, 5),
    "\u2156": (2, 5), "\u2157": (3, 5), "\u2158": (4, 5), "\u2159": (1, 6), "\u215a": (5, 6), "\u2150": (1, 7),
    "\u215b": (1, 8), "\u215c": (3, 8), "\u215d": (5, 8), "\u215e": (7, 8), "\u2151": (1, 9), "\u2152": (1, 10),
}  # fmt: skip
# Letters and digits of the mathematical alphabets, italic or bold.
ALPHABETS = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x1D400, 0x1D800)}
ALPHABETS = {code: GREEK.get(ord(sign), SIGNS.get(sign, sign)) for code, sign in ALPHABETS.items()}
CHARACTERS = str.maketrans(
    SIGNS
    | GREEK
    | ALPHABETS
    | CURRENCY_SIGNS
    | {sign: rf"\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in VULGAR.items()}
    | FULL_WIDTH
    | UNSEEN
    | FIXED_SPACES
    | SPACES
    | DASHES
)
RAISED = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207d\u207e\u207f\u2071",
    "0123456789+-()ni",
)
LOWERED = str.maketrans(
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u208d\u208e\u2090\u2091\u2092\u2093\u2095\u1d62\u2c7c"
    "\u2096\u2097\u2098\u2099\u209a\u1d63\u209b\u209c\u1d64\u1d65",
    "0123456789+-()aeoxhijklmnprstuv",
)
# A sign alone is no exponent: \u207b5 is -5.
RAISED_RUN = re.compile(
    "[{0}]*[{1}][{0}]*".format("".join(map(chr, RAISED)), "".join(c for c in map(chr, RAISED) if c.isalnum()))
)
LOWERED_RUN = re.compile(f"[{''.join(map(chr, LOWERED))}]+")
SMALL_FRACTION = re.compile(f"({RAISED_RUN.pattern})[\u2044/]({LOWERED_RUN.pattern})")
SMALL_INDEX = re.compile(f"(?<!\\w)({RAISED_RUN.pattern})\u221a")  # of a root


def visible(text: str) -> str:
    """Without characters that nobody sees; full-width punctuation (not digits) as ASCII."""
    return text if text.isascii() else text.translate(SEEN)


SEEN = UNSEEN | {code: sign for code, sign in FULL_WIDTH.items() if not sign.isalnum()}


def ascii_signs(text: str) -> str:
    """The text in ASCII and LaTeX, as far as the tables go; letters and digits of other scripts stay."""
    if text.isascii():
        return text.translate(SPACES)
    text = unicodedata.normalize("NFC", text)
    text = SMALL_FRACTION.sub(lambda f: rf"\frac{{{f[1].translate(RAISED)}}}{{{f[2].translate(LOWERED)}}}", text)
    text = SMALL_INDEX.sub(lambda index: f"\\sqrt[{index[1].translate(RAISED)}] ", text)
    text = RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(RAISED)}}}", text)
    text = LOWERED_RUN.sub(lambda run: f"_{{{run[0].translate(LOWERED)}}}", text)
    return text.translate(CHARACTERS)


# --- LaTeX: (pattern, spelling), in the order in which they are applied ---------------------------------------------

# What typesets a gap inside a number, or takes one away. "1 234" may be two numbers, "1 234 567" is one.
SEPARATOR = r"(?:,\\!\s*|\{,\}\s*|\\[,;:> !]|\{\\[,;:!]\}|~|')"
THOUSANDS = re.compile(rf"(?<![0-9.,\w'])[1-9][0-9]{{0,2}}(?:{SEPARATOR}[0-9]{{3}}){{1,9}}(?![0-9'])")
SEPARATORS = re.compile(SEPARATOR)
SPACED_THOUSANDS = re.compile(r"(?<![0-9.,\w])(?<![0-9] )[1-9][0-9]{0,2}(?: [0-9]{3}){2,9}(?! ?[0-9])")
COMMA_THOUSANDS = re.compile(r"(?<![0-9.,\w])[1-9][0-9]{0,2}(?:,[0-9]{3}){1,9}(?![0-9]|,[0-9])")

LAYOUTS = "align|aligned|equation|gather|gathered|split|math|displaymath"  # environments that hold one formula
NO_SPACE = "left|right|displaystyle|textstyle|scriptstyle|limits|nolimits|strut|mathstrut|negthinspace|nonumber|notag"
LATEX_SPACES = [
    (r"\\(?:hspace|vspace|kern)\*?\s*(?:\{[^{}]*\}|-?[0-9.]+\s*(?:em|ex|pt|mu|cm|mm))", " "),
    (r"\\(?:quad|qquad|thinspace|medspace|thickspace|enspace|enskip|hfill|space|nobreakspace)(?![a-zA-Z])", " "),
    (r"(?<!\\)\\[,;:> ]|~", " "),
    (rf"\\(?:{NO_SPACE}|[bB]igg?[lrm]?)(?![a-zA-Z])|(?<!\\)\\[!()\[\]]|\{{\}}", ""),
    (rf"\\(?:begin|end)\{{(?:{LAYOUTS})\*?\}}", " "),
]
NUMERAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
TIMES = r"(?:\\times|\\cdot|\\ast|\*|[xX]|times)"
WRAPPERS = (
    "text textbf textit textrm textsf texttt textnormal textup emph mbox hbox underline mathrm mathbf mathit mathsf "
    "mathtt mathnormal boldsymbol bm operatorname"
).split()
WRAPPER = rf"\\(?:{'|'.join(WRAPPERS)})(?![a-zA-Z])\*?\s*"
SWITCHES = frozenset(r"\rm \bf \it \sf \tt \bfseries \itshape \rmfamily".split())  # of a font, up to the end of a group
FUNCTIONS = dict.fromkeys("ln log exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh sqrt cbrt".split())
FUNCTIONS = {name: f"\\{name}" for name in FUNCTIONS} | {f"a{name}": f"\\arc{name}" for name in ("sin", "cos", "tan")}
COMMANDS = {  # one name for what has several
    name: group.split()[0]
    for group in r"""\frac \dfrac \tfrac \cfrac \sfrac \nicefrac, \binom \dbinom \tbinom, \le \leq \leqslant,
    \ge \geq \geqslant, \neq \ne, \overline \bar, \emptyset \varnothing, \{ \lbrace, \} \rbrace, [ \lbrack, ] \rbrack,
    | \lvert \rvert \vert \mid, \sqrt[3] \cbrt, / \div, i \imath, \phi \varphi, \epsilon \varepsilon, \theta \vartheta,
    ( \langle, ) \rangle, \to \rightarrow, \arcsin \asin, \arccos \acos, \arctan \atan""".split(",")
    for name in group.split()
}
FONTS = frozenset(f"\\{name}" for name in WRAPPERS)
ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\overline": 1, **dict.fromkeys(FONTS, 1)}
NO_ARGUMENTS = frozenset("{})],;&=+-*/^_|")
DIGITS = frozenset("0123456789")
# A function without a backslash counts where something follows that it can be of: ln 2, sin x, but not a log cabin.
TOKEN = re.compile(
    rf"\\[a-zA-Z]+|\\.|(?<![\\a-zA-Z])(?:{'|'.join(FUNCTIONS)})(?=\s*(?:[\\({{0-9^_]|[a-zA-Z](?![a-zA-Z])))|.",
    re.DOTALL,
)


def pop_group(items: list[str], opener: str, closer: str) -> list[str] | None:
    """Take what stands before the `closer` that belongs to an `opener` just read, and the closer; None without one."""
    depth = 1
    for at in range(len(items) - 1, -1, -1):
        depth += (items[at] == opener) - (items[at] == closer)
        if depth == 0:
            inner = items[:at:-1]
            del items[at:]
            return inner
        if items[at] == "}":  # the end of the group around it
            return None
    return None


def pop_number(items: list[str], signed: bool = False) -> str:
    """Take the digits that follow, with a decimal point inside, and a sign; an empty text without any."""
    at, digits = len(items), ""
    while at and (
        items[at - 1] in DIGITS
        or (signed and not digits and items[at - 1] in ("-", "+"))
        or (digits.isdigit() and items[at - 1] == "." and at > 1 and items[at - 2] in DIGITS)
    ):
        at -= 1
        digits += items[at]
    if not digits.strip("-+"):
        return ""
    del items[at:]
    return digits


def pop_arguments(items: list[str], count: int) -> list[str] | None:
    """Take the next `count` items that are no spaces, without their braces; None, and nothing, if there are fewer."""
    at, found = len(items), []
    while len(found) < count:
        at -= 1
        if at < 0 or items[at] in NO_ARGUMENTS:
            return None
        if items[at] != " ":
            found.append(items[at][1:-1] if items[at][0] == "{" else items[at])
    del items[at:]
    return found


def arranged(text: str) -> str:
    r"""The text with the argument of every fraction, root and power in braces: "\frac\pi4" is "\frac{\pi}{4}".

    Read from right to left, so that the arguments of a command are complete items when it is met: a character, a
    group, or a command with its own arguments. A "}" among the items is a group whose "{" is still to come.
    """
    items: list[str] = []
    tokens = TOKEN.findall(text)
    for before, token in reversed(list(zip(["", *tokens], tokens, strict=False))):
        if token in FUNCTIONS:  # sqrt 12, which is not \sqrt12
            items.append(" ")
        token = FUNCTIONS.get(token, token)
        token = COMMANDS.get(token, token)
        if token == "{":
            inner = pop_group(items, "{", "}")
            items.append("{" if inner is None else grouped(inner))
        elif token in SWITCHES:
            at = next((at + 1 for at in range(len(items) - 1, -1, -1) if items[at] == "}"), 0)
            inner = "".join(reversed(items[at:]))
            del items[at:]
            wrap(items, r"\mathrm", inner.strip())
        elif token.startswith(r"\sqrt"):
            items.append(rooted(items, token))
        elif token in "^_":
            items.append(token + script(items, token, one_digit=token + before == "_\\log"))
        elif token in ARGUMENTS and (found := pop_arguments(items, ARGUMENTS[token])):
            if token in FONTS:
                wrap(items, token, found[0])
            else:
                items.append(token + "".join(f"{{{argument.strip()}}}" for argument in found))
        else:
            items.append(token)
    return "".join(reversed(items))


def grouped(inner: list[str]) -> str:
    r"""A group: in braces, but {1 \over 2} is a fraction, and a command of a font needs none."""
    if r"\over" in inner:
        at = inner.index(r"\over")
        return f"\\frac{{{''.join(inner[:at]).strip()}}}{{{''.join(inner[at + 1 :]).strip()}}}"
    return inner[0] if len(inner) == 1 and WRAPPED.fullmatch(inner[0]) else f"{{{''.join(inner)}}}"


def wrap(items: list[str], command: str, inner: str) -> None:
    r"""Put \text{inner} there; a number without it, and a function of something: \text{sec} alone is a second."""
    behind = next((item for item in reversed(items) if item != " "), "}")
    if inner.strip() in FUNCTIONS and (behind[0] in "\\({_^" or behind.isalnum()):
        items += [" ", FUNCTIONS[inner.strip()]]
    elif not any(map(str.isalpha, inner)):
        items.extend(reversed(inner))
    else:
        items.append(f"{command}{{{inner}}}")


def rooted(items: list[str], root: str) -> str:
    r"""A root with its argument in braces: the number behind a space, what is in parentheses, or the next item."""
    if items and items[-1] == "[" and "[" not in root:
        items.pop()
        index = pop_group(items, "[", "]")
        root += "[" if index is None else f"[{''.join(index)}]"
    spaced = bool(items) and items[-1] == " "
    while items and items[-1] == " ":
        items.pop()
    if spaced and (number := pop_number(items)):
        return f"{root}{{{number}}}"
    if items and items[-1] == "(":
        items.pop()
        inner = pop_group(items, "(", ")")
        return f"{root}(" if inner is None else f"{root}{{{''.join(inner)}}}"
    found = pop_arguments(items, 1)
    return f"{root} " if found is None else f"{root}{{{found[0].strip()}}}"


def script(items: list[str], sign: str, one_digit: bool) -> str:
    r"""What follows a "^" or "_", in braces if it is a number, in parentheses, a group or a command with arguments.

    `one_digit`: whether a number ends after its first digit, as the base of \log_28 does; of x^10 it does not.
    """
    while items and items[-1] == " ":
        items.pop()
    if sign == "^" and items and items[-1] == "(":
        items.pop()
        inner = pop_group(items, "(", ")")
        return "(" if inner is None else f"{{{''.join(inner).strip()}}}"
    if one_digit and items and items[-1] in DIGITS:
        return f"{{{items.pop()}}}"
    if number := pop_number(items, signed=sign == "^"):  # 10^33, which LaTeX would set as 10^3 3
        return f"{{{number}}}"
    if items and len(items[-1]) > 1 and "{" in items[-1]:
        item = items.pop()
        return f"{{{(item[1:-1] if item[0] == '{' else item).strip()}}}"
    return ""


# 1 1/4 and 1 and 1/4, but not the second of the two in "3 1 1/4"
MIXED = (
    r"(?<![0-9] )(?<![0-9./^_}a-zA-Z])([0-9]+)(?: and)? ([0-9]+) ?/ ?([0-9]+)(?![0-9./^a-zA-Z])",
    r"\1\\frac{\2}{\3}",
)
NUMBER_WORDS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
COUNT = re.compile(
    rf"(?<![0-9a-zA-Z\\_^.])({NUMERAL})\s*({WRAPPER}\{{)?\s*({'|'.join(NUMBER_WORDS)})(?![a-zA-Z])(\s*\}})?",
    re.IGNORECASE,
)
REPEATING = re.compile(r"(?<![0-9.])([0-9]{0,20})\.([0-9]{0,20})\\overline\{([0-9]{1,20})\}")


def counted(found: re.Match) -> str:
    r"""2.5 million in digits; what else a \\text{} around it holds stays there."""
    numeral, opened, word, closed = found.groups(default="")
    value = Fraction(numeral) * NUMBER_WORDS[word.lower()]
    rest = opened if not closed else closed if not opened else ""
    return f"{value}{rest}" if value.denominator == 1 else found[0]


def repeating(found: re.Match) -> str:
    """The fraction that a repeating decimal is."""
    whole, fixed, period = found.groups()
    bottom = 10 ** len(fixed) * (10 ** len(period) - 1)
    return f"\\frac{{{int(whole + fixed + period) - int(whole + fixed or 0)}}}{{{bottom}}}"


POWERS_OF_TEN = [  # 4.5e33, 4.5\mathrm{E}{+33}, 4.5 x 10^33: all 4.5\times 10^{33}
    (
        rf"(?<![0-9a-zA-Z\\_^.])({NUMERAL})(?:[eE]|\s*{WRAPPER}\{{\s*[eE]\s*\}}\s*)\{{?\+?(-?[0-9]{{1,4}})\}}?"
        r"(?![0-9a-zA-Z.])",
        r"\1\\times 10^{\2}",
    ),
    (
        rf"(?<![0-9a-zA-Z\\_^.])\{{?({NUMERAL})\}}?\s*{TIMES}\s*(?:10|\{{10\}})\s*\^\{{\s*\+?(-?)\s*([0-9]{{1,4}})\s*\}}",
        r"\1\\times 10^{\2\3}",
    ),
]
SYMBOLS = [
    (r"(?<=[0-9 {])([aApP])\.\s?([mM])(?![a-zA-Z])\.?", r"\1\2"),
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\\a-zA-Z])infinity(?![a-zA-Z])", r"\\infty "),
    (r"\^\s*\{?\s*(?:\\circ|\\degree|\\text\{o\})(?![a-zA-Z])\s*\}?", r"\\degree "),
    (r"(?:\\degree|\\textdegree|\\deg)(?![a-zA-Z])\s*", r"^\\circ "),
    (r"\\(?:ldots|dots|cdots|dotsc|dotsb)(?![a-zA-Z])|\.\.\.+", r"\\ldots "),
    (r"<=(?!>)", r"\\le "),
    (r"(?<!<)>=", r"\\ge "),
]
CURRENCIES = [
    (r"\\\$", " dollar "),
    (r"\\(?:euro|texteuro)(?![a-zA-Z])", " euro "),
    (r"\\(?:pounds|textsterling)(?![a-zA-Z])", " pound "),
    (r"\\(?:yen|textyen)(?![a-zA-Z])", " yen "),
]
LATEX_SPACES = [(re.compile(pattern), spelling) for pattern, spelling in LATEX_SPACES + CURRENCIES]
SPELLINGS = [(re.compile(pattern), spelling) for pattern, spelling in [MIXED, *POWERS_OF_TEN, *SYMBOLS]]
WRAPPED = re.compile(WRAPPER + r"\{((?:[^{}]|\{[^{}]*\})*)\}")
BOLD = re.compile(r"(?<!\S)\*\*(?=\S)([^*]+)\*\*(?![\w(])")  # and not the power of 2**3
PAIRS = ("**", "__", "*", "_", "`", '"', "'")  # Markdown's marks and quotation marks around an answer


def undecorated(text: str) -> str:
    """Without dollars, Markdown's marks or quotation marks around it, and without the final period."""
    before = None
    while before != text:
        before, text = text, text.strip(" $")
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for mark in PAIRS:
            if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
                text = text[len(mark) : -len(mark)]
    return text


EMPTY_SETS = dict.fromkeys([r"{}", r"\{\}", r"\{ \}", r"\left\{\right\}", "\u00d8", "\u00f8"], r"\emptyset")


@lru_cache(maxsize=8192)
def normalise(text: str) -> str:
    r"""The text of an answer in the spelling that all reading starts from.

    Single spaces are left where there were some: "1 2" is not 12, and units are words.
    """
    text = ascii_signs(text).strip().removesuffix("\\")  # of "5\\ "
    if text.isdecimal() or text in EMPTY_SETS:
        return EMPTY_SETS.get(text, text)
    text = THOUSANDS.sub(lambda number: SEPARATORS.sub("", number[0]), text)
    for pattern, spelling in LATEX_SPACES:
        text = pattern.sub(spelling, text)
    text = undecorated(BOLD.sub(r"\1", " ".join(text.split())))
    while (whole := WRAPPED.fullmatch(text)) and any(map(str.isdigit, text)):
        text = undecorated(whole[1])
    text = SPACED_THOUSANDS.sub(lambda number: number[0].replace(" ", ""), text)
    if "&" in text and "\\begin" not in text:  # of an alignment, not of a matrix
        text = text.replace("&", "")
    if not any(bracket in text for bracket in ("(", "[", "\\{")):  # (1,234) may be a point
        text = COMMA_THOUSANDS.sub(lambda number: number[0].replace(",", ""), text)
    text = REPEATING.sub(repeating, arranged(text.replace("**", "^")))
    text = COUNT.sub(counted, text)
    for pattern, spelling in SPELLINGS:
        text = pattern.sub(spelling, text)
    return " ".join(text.split())


def plain(text: str) -> str:
    r"""Words or a row of numbers without LaTeX, decoration or brackets around them: "lvf" of "**\text{lvf}**"."""
    text = undecorated(ascii_signs(text))
    for pattern, spelling in LATEX_SPACES:
        text = pattern.sub(spelling, text)
    text = undecorated(WRAPPED.sub(r"\1", text))
    if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
        text = undecorated(text[1:-1])
    return " ".join(text.split())


def tight(text: str) -> str:
    """Without the spaces that do not part two digits: for comparing texts, not for reading LaTeX."""
    return SPACE_BY_NO_DIGIT.sub("", text)


SPACE_BY_NO_DIGIT = re.compile(r"(?<![0-9]) | (?![0-9])")

# --- Units ----------------------------------------------------------------------------------------------------------

# Names that count with or without \text{} around them, a comma after each group; the first of a group stands for it.
NAMES = """
degree degrees deg, dollar dollars USD bucks, cent cents, euro euros EUR, pound pounds lb lbs GBP, yen JPY yuan CNY RMB,
rupee rupees INR Rs, unit units, hour hours hr hrs, minute minutes min mins, second seconds sec secs s, day days,
week weeks, month months, year years yr yrs, inch inches in, foot feet ft, yard yards yd, mile miles mi,
m meter meters metre metres, cm centimeter centimeters centimetre centimetres,
mm millimeter millimeters millimetre millimetres, km kilometer kilometers kilometre kilometres, g gram grams,
kg kilogram kilograms, mg milligram milligrams, ounce ounces oz, l liter liters litre litres,
ml milliliter milliliters millilitre millilitres, gallon gallons, quart quarts, acre acres, hectare hectares,
student students, person people, way ways, apple apples, point points, coin coins, radian radians rad,
newton newtons, joule joules, watt watts, volt volts, ampere amperes amps, ohm ohms, pascal pascals, hertz,
kelvin kelvins, celsius centigrade, fahrenheit, mole moles mol, coulomb coulombs, tesla, calorie calories, mph, kmh kph
"""
# Symbols that are products of letters elsewhere, and units in \text{} or where the other side states a unit too.
UNIT_SYMBOLS = """
hour h, newton N, joule J, watt W, volt V, ampere A, pascal Pa, hertz Hz, kelvin K, coulomb C, tesla T, l L, kPa, MPa,
GHz, MHz, kHz, kJ, MJ, kW, MW, kWh, mW, eV, keV, MeV, GeV, nm, um, ms, ns, us, ug, uL, uA, uF, uC, ml mL, mA, mV, kV,
kN, cal, kcal, ohm Omega, Wb, lm, lx, erg, dyn, pc, ly, AU, bar, atm, rpm, Bq, Gy, Sv, dB, M, t ton tons tonne tonnes,
byte bytes B, bit bits
"""
UNITS = {name: group.split()[0] for group in NAMES.split(",") for name in group.split()}
SYMBOL_UNITS = {name: group.split()[0] for group in UNIT_SYMBOLS.split(",") for name in group.split()}
COMPOUNDS = {"mph": {"mile": 1, "hour": -1}, "kmh": {"km": 1, "hour": -1}}
EXPONENTS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
TEMPERATURES = {"C": "celsius", "F": "fahrenheit", "celsius": "celsius", "fahrenheit": "fahrenheit"}

# A unit may start at a command, or at a letter behind a digit, a brace or a space.
UNIT_START = re.compile(r"\^\\circ|\\[a-zA-Z]+|(?<=[0-9)}. ])[a-zA-Z]")
FRACTION_OF_UNITS = re.compile(r"\\frac\s*\{((?:[^{}]|\{[^{}]*\})+)\}\s*\{((?:[^{}]|\{[^{}]*\})+)\}")
UNIT_TOKEN = re.compile(
    r"(?P<name>[a-zA-Z]+)\.?|(?P<degree>\^\\circ)|\\(?P<command>Omega|mu)|\^(?:\{(?P<braced>[-+]?[0-9])\}|(?P<power>[0-9]))"
    r"|(?P<over>/)|(?P<times>\\cdot|\\times|\*|[ ()-]+)"
)
CURRENCY_FIRST = re.compile(
    r"([-+]?) ?(?:(?:US|U\.S\.|A|C|AU|CA|HK|NZ|S) ?)?(\$|\\\$|[a-zA-Z]{3,6}\b\.?|Rs\.?) ?(?=[-+0-9.\\])"
)
CURRENCY_NAMES = frozenset({"dollar", "euro", "pound", "yen", "rupee"})
ORDINAL = re.compile(rf"(?<=[0-9])\s*\^?\s*\{{?\s*(?:{WRAPPER}\{{)?\s*(?:st|nd|rd|th)\s*\}}{{0,2}}$")
# Words behind a number, in \text{} or where the other side states a unit, name what is counted: 5\text{ red marbles}.
COUNTED = re.compile(
    r"(.*[0-9}]) ?(?:\\(?:text[a-z]*|mbox|hbox) ?\{ ?([a-z]{2,}(?: [a-z]+){0,4}) ?\}| ([a-z]{3,}(?: [a-z]+){0,4}))$"
)
NOT_COUNTED = frozenset(
    "hundred thousand million billion trillion dozen half am pm or and to of in by at is not no mod if for "
    "remainder".split()
)
PERCENT = re.compile(rf"\s*(?:\\?%|(?:{WRAPPER}\{{\s*)?(?:percent|per cent|pct|percentage points?)(?:\s*\}})?)$")
BASE = re.compile(r"(?<=[0-9])\s*_\s*(?:([0-9]+)|\{([0-9]+)\})$")


MICRO = re.compile(r"\\mu\s*(?=[a-zA-Z])")


def unit_factors(text: str, bare: bool) -> dict[str, int] | None:
    """The exponent of each unit in "m/s^2" or "square feet"; None if something in it is no unit.

    `bare`: whether names count that are products of letters where no unit is expected, such as m.
    """
    if fraction := FRACTION_OF_UNITS.search(text):
        text = f"{text[: fraction.start()]} {fraction[1]}/({fraction[2]}) {text[fraction.end() :]}"
    plain = WRAPPED.sub(r" \1", text)
    plain = MICRO.sub("u", plain)
    wrapped = plain != text
    factors: dict[str, int] = {}
    last, sign, power, at = None, 1, 1, 0
    for token in UNIT_TOKEN.finditer(plain):
        if token.start() != at:
            return None
        at = token.end()
        if exponent := token["braced"] or token["power"]:
            if last is None:
                return None
            factors[last] = factors[last] * int(exponent)
        elif token["over"] or token["name"] == "per":
            last, sign = None, -1
        elif token["name"] in EXPONENTS:
            if token["name"].endswith("ed"):
                if last is None:
                    return None
                factors[last] *= EXPONENTS[token["name"]]
            else:
                power = EXPONENTS[token["name"]]
        elif token["degree"]:
            last = "degree"
            factors[last] = sign
        elif last == "degree" and (
            name := TEMPERATURES.get(token["name"] or "") or TEMPERATURES.get((token["name"] or "").lower())
        ):
            factors[name], last = factors.pop("degree"), name
        elif written := token["name"] or token["command"]:
            name = UNITS.get(written) or (is_cased(written) and UNITS.get(written.lower())) or None
            if name is None or (len(written) == 1 and not wrapped and not bare):
                name = SYMBOL_UNITS.get(written) if wrapped or bare else None
            if name is None:
                return None
            for part, exponent in COMPOUNDS.get(name, {name: 1}).items():
                factors[part] = factors.get(part, 0) + sign * exponent * power
            last, power = name if name in factors else None, 1
            if "(" not in plain:
                sign = 1
    return factors if at == len(plain) and power == 1 and factors else None


def is_cased(name: str) -> bool:
    """Whether a unit may be written in capital letters: CM and Feet, but Mg is not mg."""
    return len(name) > 2 or (len(name) == 2 and name[0] != "M")


def split_unit(text: str, bare: bool = False) -> tuple[str, str]:
    r"""The text without its unit, and that in one spelling: ("864", "inch^2") of "864 \mbox{ inches}^2"; 12_8 too.

    `bare`: whether letters alone may be units, as in "5 m", which is a product where no unit is expected.
    """
    text = text.strip("$ ").removesuffix(".").strip("$ ")
    if first := CURRENCY_FIRST.match(text):
        name = "dollar" if "$" in first[2] else UNITS.get(first[2].rstrip("."))
        if name in CURRENCY_NAMES:
            value, unit = split_unit(text[first.end() :], bare)  # $5 per hour
            return first[1] + value, name if unit in ("", name) else f"{name} {unit}"
    before, equals, value = text.rpartition("=")
    if equals and CURRENCY_FIRST.match(value.strip()):  # x = $36
        value, unit = split_unit(value, bare)
        return f"{before}= {value}", unit
    if percent := PERCENT.search(text):
        return text[: percent.start()], "%"
    if base := BASE.search(text):
        return text[: base.start()], f"base {base[1] or base[2]}"
    if ordinal := ORDINAL.search(text):
        return text[: ordinal.start()], "th"
    if text.endswith("'") and text[:-1].rstrip("'").isdecimal():  # feet and inches
        number = text.rstrip("'")
        return number, {1: "foot", 2: "inch"}.get(len(text) - len(number), "'")
    if text[-1:].isalpha() or text[-1:] in "}.)0123456789":
        for start in UNIT_START.finditer(text):
            rest = text[: start.start()].strip("$ ")
            unit = text[start.start() :].strip()
            letters = bare or ("/" in unit and text[start.start() - 1] == " ")  # 5 m/s
            if rest and (factors := unit_factors(unit, letters)):
                return rest, " ".join(name + (f"^{n}" if n != 1 else "") for name, n in sorted(factors.items()) if n)
    if (counted := COUNTED.fullmatch(text)) and (counted[2] or bare):
        words = counted[2] or counted[3]
        if NOT_COUNTED.isdisjoint(words.split()):
            return counted[1], words.removesuffix("s")
    return text, ""
