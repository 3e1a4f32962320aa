r"""Mathematical answers: where a response states one, and whether it equals the gold answer.

`find_answer` extracts, `compare` decides most pairs by exact arithmetic or as words, `symbolic` asks math-verify about
the rest. Only `symbolic` and `same_reading` can be slow: `common.verifier` calls them in worker processes that it can
kill. This file imports nothing heavy, because those workers import it.

All of them read what `common.spelling.normalise` makes of a text. Rational numbers are equal if they are exactly equal;
a decimal equals an irrational number within a millionth of it, and never across zero.

Nothing here evaluates text. math-verify reads LaTeX with a grammar that has no calls, and hands nothing but the digits
of a number to sympy's parser, which does evaluate. Its other reader, for plain expressions, is not used.

Words beside numbers are compared in their order, never as products: "8 remainder 3" is not "6 remainder 4". A colon is
that of a ratio or of a time of day. Capital letters are other symbols than small ones, and i is the imaginary unit
where it is no index.

Leniencies that remain: "50%" equals 50 and 0.5; a base, a currency, a unit or what is counted is ignored where only one
side states it (1010_2 and 1010, 5 cm and 5, 5\text{ eggs} and 5, 5', which is five feet, and 5), and a pound is money
and a weight; a time without "am" or "pm" is that of either half of the day; of a chain "5=18" the last part counts;
sums and unsimplified forms are right (9+9 for 18, 4:6 for 2:3), and so is a set in braces that names an element twice;
(1,2) passes for the list 1,2, [5,5] for 5, and 5\approx 6 for 5. A choice counts by its letter where the gold answer
has no text.
"""

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from math import gcd

from common.spelling import UNITS, WRAPPED, WRAPPER, is_cased, normalise, split_unit, tight, visible

MAX_LENGTH = 200  # characters of an answer; longer ones are compared as text alone
TOLERANCE = 1e-6  # of the gold, between a decimal and an irrational number

# --- Extraction -------------------------------------------------------------------------------------------------

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(\{|[^\s{}$]+)")
TAG = r"</?(?:b|i|u|p|em|strong|code|br|h[1-6])\s*/?>"
# Behind the word "answer": decoration and a colon ("**Answer**: 5", "\textbf{Answer:} 5", "The answer is: 5").
LABEL = re.compile(
    rf"(?:[ \t*_`\"'}}]|{TAG}){{0,9}}(?:is[ \t*_]{{0,4}}|\([^()\n]{{1,30}}\)[ \t*_]{{0,4}})?:", re.IGNORECASE
)
LABEL_WORDS = ("answer", "\u7b54\u6848")
# "## Answer" or "**Final Answer**" on a line of its own: what stands before the word, and behind it.
HEADING_START = re.compile(r"[ \t]*(?:#{1,6}[ \t]*|\*\*|__)[*_]*(?:the |your |final |correct |my )*$", re.IGNORECASE)
HEADING_END = re.compile(r"[ \t*_#]{0,9}\r?\n")
# "the answer is 5": counts where there is no mark.
SAID_WORDS = ("answer", "correct option", "correct choice", "right option", "right choice", "\u7b54\u6848")
SENTENCE = re.compile(
    r"(?: to [^.:\n]{1,80}?| choice| option)?\**[ \t]+(?:is|are|equals|(?:would|must|will|should|has to|ought to) be)"
    r"(?:[ \t]+|[ \t]*\r?\n\s*(?=\\\[|\\\(|\$|\\begin|```|[-0-9]))"
    r"(?:therefore |thus |then |simply |indeed |equal to |approximately )?"
    r"|[ \t]*(?:\u5e94\u8be5|\u5e94)?(?:\u662f|\u4e3a|\u7b49\u4e8e)[ \t]*",
    re.IGNORECASE,
)
AROUND_VALUE = re.compile(rf"(?:[\s*}}]|__|{TAG})*", re.IGNORECASE)
BEHIND_VALUE = re.compile(  # ticks and the boxes at the end of a proof too
    rf"(?:{TAG}|[ \t\r*\u2713\u2714\u2705\u2611\ufe0f\u25a0\u25a1\u25fb\u220e]|__)+\.?$", re.IGNORECASE
)
OPEN_ANSWER, CLOSED_ANSWER = (re.compile(f"<{slash}answer>", re.IGNORECASE) for slash in ("", "/"))
OPEN_THOUGHT, CLOSED_THOUGHT = (
    re.compile(rf"<{slash}(?:think|thinking|thought)>|\[{slash}THINK\]", re.IGNORECASE) for slash in ("", "/")
)
BLOCKS = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "```": "```"}
ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}")
NEXT_SENTENCE = re.compile(r"(?<=[^A-Z(.\s])\.\**\s+(?=[A-Z])")  # not behind the letter of a choice
TAKES_BACK = re.compile(r"[0-9$\\=]|\b(?:no|not|but|wait|wrong|incorrect|actually|rather|instead|or)\b", re.IGNORECASE)
HEADLINE = re.compile(r"[ \t*_]{0,9}(?:[0-9]+[.)][ \t]+)?[*_]{0,3}[^\W\d_]{2}[^\n]*\n")


def braced(text: str, start: int) -> str | None:
    r"""What is inside the braces that open at `start` (\{ and \} aside); None if they never close."""
    depth = 0
    for run in re.compile(r"(?:\\.)+|\{+|\}+", re.DOTALL).finditer(text, start):
        if run[0][0] == "{":
            depth += len(run[0])
        elif run[0][0] == "}":
            if len(run[0]) >= depth:
                return text[start + 1 : run.start() + depth - 1]
            depth -= len(run[0])
    return None


def last_match(pattern: re.Pattern, text: str, start: int = 0) -> re.Match | None:
    found = None
    for found in pattern.finditer(text, start):  # noqa: B007  the last one is wanted
        pass
    return found


def last_box(text: str) -> re.Match | None:
    r"""The last \boxed or \fbox with something in it."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    box = BOX.match(text, start) if start >= 0 else None
    return last_match(BOX, text[:start]) if box is None and start >= 0 else box


def value_of(text: str, start: int) -> str | None:
    """What a label that ends at `start` names: the first line behind it, or a block of mathematics or code."""
    skipped = AROUND_VALUE.match(text, start)
    start = skipped.end()
    line = end if (end := text.find("\n", start)) >= 0 else len(text)
    opener = next((mark for mark in BLOCKS if text.startswith(mark, start)), None)
    if environment := ENVIRONMENT.match(text, start):
        opener, closer = environment[0], f"\\end{{{environment[1]}}}"
    else:
        closer = BLOCKS.get(opener)
    if opener and not (opener != "```" and text.find(closer, start + len(opener), line) >= 0):
        end = text.find(closer, start + len(opener))
        if end < 0:
            return None  # cut off
        value = text[start + len(opener) : end]
        if opener == "```" and "\n" in value.strip():
            value = re.sub(r"^\w*[ \t]*\n", "", value)  # the name of a language
        return text[start : end + len(closer)] if environment else value.strip()
    value = text[start:line]
    return trimmed(value.replace("**", "", 1) if skipped[0].endswith("**") else value)  # **E)** 25


def trimmed(value: str) -> str:
    """A value without what a writer puts around it: decoration, and further sentences that take nothing back."""
    value = CLOSED_ANSWER.split(value, maxsplit=1)[0]
    value = BEHIND_VALUE.sub("", value.strip())
    if value.endswith("}") and value.count("}") > value.count("{"):  # of \textbf{Answer: 5}
        value = value[:-1]
    if (further := NEXT_SENTENCE.search(value)) and not TAKES_BACK.search(value, further.end()):
        value = value[: further.start()]
    if len(value) > 2 and value[0] == value[-1] == "`":
        value = value[1:-1]
    return value.strip()


def said(text: str) -> str | None:
    """What the last "answer is" of a text says; None without one."""
    lower, ends = small(text), [-1]
    for word in SAID_WORDS:
        at = len(text)
        while (at := lower.rfind(word, 0, at)) >= 0:
            if sentence := SENTENCE.match(text, at + len(word)):
                ends.append(sentence.end())
                break
    return value_of(text, max(ends)) if max(ends) >= 0 else None


def small(text: str) -> str:
    """The text in small letters, all of them where they were."""
    lower = text.lower()
    if len(lower) != len(text):  # of letters whose small form is longer
        lower = "".join(c.lower() if c.isascii() else c for c in text)
    return lower


def last_label(text: str, start: int, headlines: bool = False) -> int | None:
    """Where the last label from `start` on ends: "Answer:", a heading "Answer", or the "####" of GSM8K.

    `headlines`: whether a "####" counts that reads like the head of a section.
    """
    lower = small(text)
    found = max(label_end(text, lower, word, start) for word in LABEL_WORDS)
    end = len(text)
    while (end := text.rfind("####", max(start, found), end)) >= 0:
        if headlines or not is_headline(text, end + len("####")):
            return end + len("####")
    return found if found >= 0 else None


def label_end(text: str, lower: str, word: str, start: int) -> int:
    """Where the last label that is made of the word ends; -1 without one."""
    at = len(text)
    while (at := lower.rfind(word, start, at)) >= 0:
        behind = at + len(word)
        if label := LABEL.match(text, behind):
            return label.end()
        if heading := HEADING_END.match(text, behind):
            line = max(start, text.rfind("\n", 0, at) + 1, at - 60)
            if HEADING_START.fullmatch(text, line, at):
                return heading.end()
    return -1


def is_headline(text: str, start: int) -> bool:
    """Whether what follows "####" is the head of a section: words, with more text below."""
    line = HEADLINE.match(text, start)
    return bool(line and text[line.end() : line.end() + 1000].strip())


def inside(answer: str) -> str | None:
    """What a label or a sentence inside of a mark names, as in "\\boxed{Answer: 5}"; else all of it."""
    if (label := last_label(answer, 0)) is not None:
        return value_of(answer, label)
    return said(answer) or answer


def find_answer(text: str) -> tuple[str | None, bool]:
    r"""The answer that a text states, or None, and whether a mark says that it is the answer.

    The last mark counts, whatever its kind: \boxed{} or \fbox{}; <answer></answer>; a label ("Answer:", decorated or
    not, a heading "Answer", "####"), whose value is the line behind it or the block of mathematics or code. Without
    any, what "the answer is" says, or the whole text. A mark that never closes is a text that was cut off: no answer.
    Only what comes after the last </think> counts, and nothing while a <think> is open; <thinking>, <thought> and
    [THINK] are the same.
    """
    text = visible(text)
    if thought := last_match(CLOSED_THOUGHT, text):
        text = text[thought.end() :]
    if OPEN_THOUGHT.search(text):
        return None, True
    answer, marked, start = None, False, 0
    if box := last_box(text):
        marked = True
        answer = braced(text, box.start(1)) if box[1] == "{" else box[1].rstrip(".,")
        if answer is None:
            return None, True
        start = box.start(1) + len(answer) + 2 * (box[1] == "{")
    if tag := last_match(OPEN_ANSWER, text, start):
        closed = CLOSED_ANSWER.search(text, tag.end())
        if not closed:
            return None, True
        marked, answer, start = True, text[tag.end() : closed.start()], closed.start()
    if (label := last_label(text, start)) is not None:
        marked, answer = True, value_of(text, label)
    if not marked:
        answer = said(text)
        if answer is None and (label := last_label(text, 0, headlines=True)) is not None:
            answer, marked = value_of(text, label), True
        elif answer is not None:
            marked = True
    answer = inside(answer or "") if marked else text
    return (answer or "").strip() or None, marked


def final_answer(text: str) -> str | None:
    """The answer that a text states, by a mark or as a whole; None if there is none."""
    return find_answer(text)[0]


# --- Exact comparison -------------------------------------------------------------------------------------------
# Digits are ASCII: Python's \d and int() also take Arabic-Indic and other digits.

POWER_OF_TEN = r"10\^\{(-?[0-9]{1,3})\}"
NUMERAL = rf"([-+]?)(?:([0-9]{{1,30}}|(?=\.[0-9]))(?:\.([0-9]{{0,30}}))?(?:\\times{POWER_OF_TEN})?|{POWER_OF_TEN})"
NUMBER = re.compile(NUMERAL)
QUOTIENT = re.compile(r"([-+]?)([0-9]{0,30})\\frac\{([^{}]+)\}\{([^{}]+)\}")  # 1\frac{1}{2} is 3/2
WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*")
CHOICE = re.compile(
    r"(?:[Oo]ption |[Cc]hoice |[Aa]nswer )?(?:\(([A-Z])\)|\[([A-Z])\]|([A-Z])[).:\]]|([A-Z])$)(?![\^_])[.:]?(.*)",
    re.DOTALL,
)
OTHER_CHOICE = re.compile(r"\(?\b[A-Z]\)|^[, ]*(?:and|or|[&/,])|^ ?[A-Z]\b(?:$|[.:,/ ])(?![a-z ])")


def plain_number(text: str) -> Fraction | None:
    parts = NUMBER.fullmatch(text)
    if parts is None:
        return None
    sign, whole, decimals, exponent, power = parts.groups(default="")
    value = Fraction(int(whole + decimals or 0), 10 ** len(decimals)) if not power else Fraction(1)
    if exponent or power:
        value *= Fraction(10) ** int(exponent or power)
    return -value if sign == "-" else value


def number(text: str) -> Fraction | None:
    """The value of a normalised text that is an integer, a decimal, a power of ten, a fraction or a mixed number."""
    text = tight(text)
    while (
        text[:1] in ("{", "(")
        and text[-1:] == {"{": "}", "(": ")"}[text[0]]
        and text[1:-1].strip("0123456789./-") == ""
    ):
        text = text[1:-1]
    if (value := plain_number(text)) is not None:
        return value
    if quotient := QUOTIENT.fullmatch(text):
        sign, whole, top, bottom = quotient[1], quotient[2], plain_number(quotient[3]), plain_number(quotient[4])
        if top is None or not bottom or (whole and (top < 0 or bottom < 0)):
            return None
        value = int(whole or 0) + top / bottom
        return -value if sign == "-" else value
    top, slash, bottom = text.partition("/")
    if not slash:
        return None
    top, bottom = plain_number(top.strip("{}")), plain_number(bottom.strip("{}"))
    return None if top is None or not bottom else top / bottom


def as_number(text: str) -> Fraction | None:
    r"""Integers, decimals, fractions ("1,234", "$5.0", "-3/4", "1\frac{1}{2}", "3e8") as exact numbers; else None."""
    return number(normalise(text))


def as_words(text: str) -> str | None:
    r"""Letters alone, such as "\text{New York}", in one spelling; None for anything else."""
    text = " ".join(WRAPPED.sub(r"\1", text).split()).strip("$ .")
    if len(text) == 1 and text.isalpha() and text.isupper():
        return text
    letters = "".join(sign for sign in text if unicodedata.category(sign)[0] != "M")  # without vowel signs and accents
    return text.casefold() if WORDS.fullmatch(letters) else None


def as_choice(text: str) -> tuple[str, str] | None:
    r"""The letter of a multiple choice and the text behind it: ("E", "25") of "\textbf{(E)}\ 25", "E. 25", "(E)"."""
    text = " ".join(WRAPPED.sub(r"\1 ", text.replace("**", "")).split()).strip("$ ")
    found = CHOICE.fullmatch(text)
    if not found or OTHER_CHOICE.search(found[5]):
        return None
    return found[1] or found[2] or found[3] or found[4], found[5].strip("$ .")


def in_list(text: str) -> list[str]:
    """The parts between the commas outside of all brackets."""
    depth, parts = 0, [""]
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def compare(answer: str, gold: str) -> bool | None:
    """Whether they are equal; None where only algebra can tell. Microseconds, for any text."""
    if max(len(answer), len(gold)) > MAX_LENGTH:
        return answer.split() == gold.split()
    answer, gold = normalise(answer), normalise(gold)
    if answer and tight(answer) == tight(gold):
        return True
    if any(c.isdigit() and not c.isascii() for c in answer):
        return False
    return compare_forms(answer, gold)


def compare_forms(answer: str, gold: str) -> bool | None:
    """`compare` of normalised texts, without its shortcut for equal ones: None says neither numbers nor words."""
    a, b = number(answer), number(gold)
    if a is not None and b is not None:
        return a == b
    choice = as_choice(gold)
    if choice and (picked := as_choice(answer)):
        return picked[0] == choice[0] and (not picked[1] or not choice[1] or loosely(picked[1]) == loosely(choice[1]))
    if (equal := compare_colons(answer, gold)) is not None:
        return equal
    # As algebra, "listen" is a product of letters and equal to "silent". Words are never compared that way.
    words = as_words(answer), as_words(gold)
    if words != (None, None):
        return words[0] == words[1]
    whole = answer, gold
    (answer, unit), (gold, gold_unit) = split_units(answer, gold)
    if unit and gold_unit and unit != gold_unit:
        return False
    a, b = number(answer), number(gold)
    if a is not None and b is not None:
        percent = (unit == "%") - (gold_unit == "%")
        return a == b or (percent == 1 and a == 100 * b) or (percent == -1 and 100 * a == b)
    if has_words(answer) or has_words(gold):
        return phrases(answer) == phrases(gold) or any(read(whole[0]) == read(whole[1]) for read in (phrase, phrases))
    return None if may_be_equal(listed(answer), listed(gold)) else False


# --- Words beside numbers ---

CONNECTIVE = re.compile(rf",?\s*(?:{WRAPPER}\{{\s*(?:and|or)\s*\}}|(?<![\\a-zA-Z])(?:and|or)(?![a-zA-Z]))\s*")
RUN = re.compile(r"\\[a-zA-Z]+|[^\W\d_]+")
SHORT_WORDS = frozenset("to in by of at is vs no am pm st nd rd th".split()) | {
    name for name in UNITS if len(name) == 2
}
PHRASE = re.compile(r"[0-9]*\.?[0-9]+|\\?[^\W\d_]+|[^\s,.]")


def listed(text: str) -> str:
    """A list with commas for its words "and" and "or"."""
    return CONNECTIVE.sub(", ", text)


def has_words(text: str) -> bool:
    """Whether letters are words there and not factors: several with no sign next to them, or some before a number.

    "3 to 4" as a product is "4 to 3", and "8 remainder 3" is "6 remainder 4"; of "3 apples + 2 pears" the sign tells.
    """
    text = WRAPPED.sub(r" \1 ", listed(text))
    for run in RUN.finditer(text):
        if run[0][0] == "\\":
            continue
        before, behind = text[: run.start()], text[run.end() :]
        if behind.lstrip()[:1].isdecimal() and not before.endswith("_"):
            return True
        factors = before[-1:].isdecimal() or behind[:1] in ("(", "\\")  # 2abc, gcd(4,6)
        signed = any(sign in "+-*/^_=<>|{}[!" for sign in before.rstrip()[-1:] + behind.lstrip()[:1])
        if (len(run[0]) > 2 or run[0].lower() in SHORT_WORDS) and not factors and not signed:
            return True
    return False


def folded(word: str) -> str:
    """In small letters if they mean the same: not M, MPa or Mg."""
    return word.casefold() if is_cased(word) and (word[1:].islower() or word.isupper()) else word


def phrase(text: str) -> list:
    """What a text consists of, in its order: numbers by value, words without case, units by one name; no "and"."""
    return [
        Fraction(item) if item[-1].isdecimal() else UNITS.get(item, folded(item))
        for item in PHRASE.findall(WRAPPED.sub(r" \1 ", text))
        if item != "and"
    ]


def phrases(text: str) -> list[list]:
    """The parts of a list, in any order."""
    return sorted((phrase(part) for part in in_list(listed(WRAPPED.sub(r" \1 ", text)))), key=str)


# --- Ratios and times of day ---

TIME = re.compile(r"([0-9]{1,2})(?::([0-5][0-9])|(?=\s*[ap]m))\s*([ap]m)?", re.IGNORECASE)
TO = re.compile(rf"(?<=[0-9}}])\s*(?:{WRAPPER}\{{\s*to\s*\}}|to(?![a-zA-Z]))\s*")  # of 3 to 4


def time_of_day(text: str) -> tuple[int, int, str] | None:
    """Hours, minutes and "am", "pm" or nothing of "7:45 AM"; None for anything else."""
    found = TIME.fullmatch(WRAPPED.sub(r" \1 ", text).strip())
    if not found or int(found[1]) > 24:
        return None
    return int(found[1]), int(found[2] or 0), (found[3] or "").lower()


def in_day(hours: int, minutes: int, half: str) -> tuple[int, int]:
    """The time with its hours counted from midnight, as far as "am" or "pm" tell."""
    return (hours % 12 + 12 * (half == "pm") if half else hours), minutes


def compare_colons(answer: str, gold: str) -> bool | None:
    """Equality of ratios and times of day; None where neither has a colon, or a ratio is one of other things.

    Of two texts that may be times neither is a ratio: 3:30 is not 1:10. Beside a number one is a time, and equal to
    none, if it is no ratio in lowest terms: 3:30 is not 0.1, and 3:4 is 0.75.
    """
    if ":" not in answer + gold or r"\{" in answer + gold:  # a set of all x : x > 2
        return None
    lefts, (answer, gold) = zip(*(text.rpartition("=")[::2] for text in (answer, gold)), strict=True)
    if all(lefts) and tight(lefts[0]) != tight(lefts[1]):
        return None  # a:b = 2:3 and b:a = 2:3
    times = time_of_day(answer), time_of_day(gold)
    if None not in times:
        one_half = "" in {times[0][2], times[1][2]}  # 7:45 may be that of the morning or of the evening
        return in_day(*times[0]) == in_day(*times[1]) or (one_half and times[0][:2] == times[1][:2])
    sides = TO.sub(":", answer).split(":"), TO.sub(":", gold).split(":")
    reducible = any(time and gcd(*time[:2]) > 1 for time in times)
    if any(time and time[2] for time in times) or (reducible and min(map(len, sides)) == 1):
        return False
    one, other = ([number(part) for part in side] for side in sides)
    if None in one + other:  # x:y is x/y
        return None if max(map(len, sides)) == 2 else tight(answer) == tight(gold)
    one, other = (side if side[1:] else [*side, Fraction(1)] for side in (one, other))  # a number n is n:1
    if len(one) != len(other):
        return False
    return one == other or (
        one[0] * other[0] != 0 and all(a * other[0] == b * one[0] for a, b in zip(one, other, strict=True))
    )


def split_units(answer: str, gold: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """`split_unit` of both; a letter alone is a unit where the other side states one."""
    first, second = split_unit(answer), split_unit(gold)
    if first[1] and not second[1]:
        second = split_unit(gold, bare=True)
    elif second[1] and not first[1]:
        first = split_unit(answer, bare=True)
    return first, second


def loosely(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def may_be_equal(answer: str, gold: str) -> bool:
    """False where math-verify would read past an ellipsis, a prime, a missing comma or an element that repeats."""
    if "\\ldots" in answer or "\\ldots" in gold or "'" in answer or "'" in gold:
        return answer.count("\\ldots") == gold.count("\\ldots") and answer.count("'") == gold.count("'")
    if re.search("[0-9] [0-9]", answer):
        return False
    parts = in_list(answer), in_list(gold)
    if min(map(len, parts)) == 1 or "\\pm" in answer + gold:
        return True
    values = [sorted(value for part in side if (value := number(part.strip())) is not None) for side in parts]
    numbers_alone = [len(side) for side in values] == [len(side) for side in parts]
    return values[0] == values[1] if numbers_alone else len(parts[0]) == len(parts[1])


# --- Algebra: in worker processes ---------------------------------------------------------------------------------


# Letters that latex2sympy takes for something else, by what they are renamed to: I is its imaginary unit, and i is not.
RENAMED = {"I": r"\text{capital i}", r"\gamma": r"\text{small gamma}", r"\Gamma": r"\text{capital gamma}"}
LETTER = re.compile(
    rf"{WRAPPER}\{{\s*([iI])\s*\}}|(\\[gG]amma)(?![a-zA-Z]|\s*\()|(?:{WRAPPER}|\\(?:hat|vec|begin|end|mathbb)\s*)\{{[^{{}}]*\}}"
    r"|\\[a-zA-Z]+|([iI])"
)
INDEX = re.compile(r"\\sum|\\prod|_\{[^{}]*i|_i|(?<![a-zA-Z])i\s*=")  # where i is one, and no number


def has_imaginary(text: str) -> bool:
    """Whether a normalised text has the letter i, alone or among other letters, and not as an index."""
    return not INDEX.search(text) and any("i" in found.groups() for found in LETTER.finditer(text))


@lru_cache(maxsize=256)  # the gold of a group's answers is one
def parsed(text: str, imaginary: bool = False):
    r"""What latex2sympy reads of a normalised text: an expression of sympy, or None.

    `imaginary`: whether i is the imaginary unit; symbols are real numbers unless it occurs. Capital and small letters
    are different symbols, and \gamma is one.
    """
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify.parser import get_last_eq

    def renamed(found: re.Match) -> str:
        if found.lastindex is None:
            return found[0]
        letter = found[found.lastindex]
        return "{I}" if imaginary and letter == "i" else RENAMED.get(letter, letter)

    text = LETTER.sub(renamed, text.replace("'", r"^{\prime}"))  # which it would leave out
    # Units are ours: math-verify's list has letters such as t, h and c, so that 5t would equal 5.
    text = normalize_latex(text, NormalizationConfig(basic_latex=True, boxed="none"))
    for formula in dict.fromkeys((text, get_last_eq(text))):
        try:
            return latex2sympy(
                formula,
                is_real=None if imaginary else True,
                normalization_config=None,
                conversion_config=ConversionConfig(lowercase_symbols=False),
            )
        except Exception:  # of many kinds: it cannot read the text
            continue
    return None


def exact(expression):
    """The expression with its decimals as fractions, and evaluated."""
    from sympy import Float, Rational

    return expression.xreplace({f: Rational(str(f)) for f in expression.atoms(Float)}).doit()


def numerically_equal(gold, answer, *_) -> bool:
    """In the place of math-verify's own comparison of numbers, which rounds to six places: 0.0 is 10^-12 there.

    Exact for rational numbers. A decimal equals an irrational number of the same sign within `TOLERANCE` of the gold.
    """
    from sympy import Float, MatrixBase

    if isinstance(gold, MatrixBase) or isinstance(answer, MatrixBase):
        shapes = getattr(gold, "shape", None), getattr(answer, "shape", None)
        return shapes[0] == shapes[1] and all(map(numerically_equal, gold.flat(), answer.flat()))
    a, b = exact(gold), exact(answer)
    if a == b:
        return True
    if a.free_symbols or b.free_symbols or (a.is_Rational and b.is_Rational) or a.is_zero or b.is_zero:
        return False
    bound = TOLERANCE if gold.has(Float) or answer.has(Float) else 1e-25
    a, difference = abs(a.evalf(40)), abs((a - b).evalf(40))
    return bool(a.is_finite and difference <= bound * a)


def undefined(expression) -> bool:
    """Whether it divides by zero: no value, and equal to none."""
    from sympy import nan, preorder_traversal, zoo

    return any(
        part in (nan, zoo) or (getattr(part, "is_Pow", False) and part.exp.is_negative and part.base.is_zero)
        for part in preorder_traversal(expression)
    )


def symbolic(answer: str, gold: str) -> bool:
    """Whether math-verify takes them for equal. Can run for ever: to be called where it can be killed."""
    from math_verify import grader, verify

    grader.sympy_numeric_eq = numerically_equal
    grader.sympy_compare_symbols = grader.sympy_symbolic_eq  # its own takes \Omega for \omega
    answer, gold = (listed(text) for text, _ in split_units(normalise(answer), normalise(gold)))
    imaginary = has_imaginary(gold) or has_imaginary(answer)
    read = parsed(gold, imaginary), parsed(answer, imaginary)
    return not any(side is None or undefined(side) for side in read) and verify(*read, timeout_seconds=None)


def same_reading(gold: str) -> bool:
    """Whether math-verify reads the number that we read, or nothing. Can run for ever."""
    from sympy import Rational

    text = split_unit(normalise(gold))[0]
    value, read = number(text), parsed(text)
    return read is None or numerically_equal(read, Rational(value.numerator, value.denominator))
