"""One number in every usual spelling: all are the same answer, and another number in any of them is another."""

import itertools

import pytest

from common.problems import Problem
from common.verifier import Verifier

SPELLINGS = {
    "450000": [
        "450000",
        "450,000",
        "450\u202f000",
        "4.5e5",
        "4.5E5",
        r"4.5 \times 10^5",
        r"4.5\cdot10^{5}",
        "4.5 x 10^5",
        "4.5\u00d710\u2075",
        "\uff14\uff15\uff10\uff10\uff10\uff10",
        r"450{,}000",
        r"450\,000",
        "$450,000",
        "450000.0",
    ],
    "-0.25": ["-0.25", "-1/4", "\u22120.25", r"-\frac{1}{4}", r"-\frac14", "-.25", "\u20130.25", "-2.5e-1", "-25%"],
    "3/2": ["3/2", "1.5", "1 1/2", r"1\frac{1}{2}", "1\u00bd", r"\dfrac{3}{2}", r"\frac32", "1.50", "15e-1"],
    "0.00000000000000000016": ["1.6e-19", r"1.6\times 10^{-19}", "1.6 \u00d7 10^-19", "1.6E-19"],
    r"\sqrt{2}": [r"\sqrt{2}", "\u221a2", "sqrt(2)", r"\sqrt2"],
    "x^2": ["x^2", "x\u00b2", "x**2", r"x^{2}"],
}


@pytest.fixture(scope="module")
def verifier():
    with Verifier() as made:
        yield made


def rewards(verifier, pairs: list[tuple[str, str]], kind: str = "math") -> list[float]:
    problems = [Problem("q", gold, str(i), kind) for i, (gold, _) in enumerate(pairs)]
    return [verdict.reward for verdict in verifier(problems, [answer for _, answer in pairs])]


def test_every_spelling_of_a_number_is_every_other(verifier) -> None:
    pairs = [pair for same in SPELLINGS.values() for pair in itertools.product(same, same)]
    found = rewards(verifier, [(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])
    assert not [pair for pair, reward in zip(pairs, found, strict=True) if reward != 1]


def test_different_numbers_are_different_in_every_spelling(verifier) -> None:
    pairs = [
        pair
        for one, other in itertools.permutations(SPELLINGS, 2)
        for pair in itertools.product(SPELLINGS[one][:4], SPELLINGS[other])
    ]
    found = rewards(verifier, [(gold, rf"\boxed{{{answer}}}") for gold, answer in pairs])
    assert not [pair for pair, reward in zip(pairs, found, strict=True) if reward]


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3e8", "24e", False),
        (r"6.63\times 10^{-34}", r"1.6\times 10^{-19}", False),
        (r"\frac{1}{10^{12}}", "0.0", False),
        ("1e-9", "-1e-9", False),
        (r"5 \mathrm{~cm}", "5 cm", True),
        (r"5\text{ m/s}", r"5~\mathrm{m\,s^{-1}}", True),
        ("5", "5 USD", True),
        ("5", "5 \u00b0C", True),
        ("5", "5 cm", True),
        ("5 kg", "5 cm", False),
    ],
)
def test_scale_sign_and_units(verifier, gold: str, answer: str, right: bool) -> None:
    assert rewards(verifier, [(gold, rf"\boxed{{{answer}}}")]) == [float(right)]


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("5", "**Answer**: 5"),
        ("5", "**Answer:** 5"),
        ("5", "Answer:\n\\[\n5\n\\]"),
        ("5", r"\boxed{4}, no: answer: 5"),
        ("D", r"First \boxed{C}. Answer: D"),
        ("E", r"\boxed{(E) 25}"),
        ("E", r"\boxed{E: by symmetry}"),
    ],
)
def test_the_last_mark_counts_whatever_its_kind(verifier, gold: str, response: str) -> None:
    assert rewards(verifier, [(gold, response)]) == [1.0]


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("28 + 13 = 41.", True),
        ("The answer is 41.", True),
        (r"So \boxed{41}", True),
        ("<answer>41</answer>", True),
        ("Answer: 41", True),
        ("28 + 13 = 42", False),
        ("41 is not it: 42", False),
    ],
)
def test_procedural_tasks_pay_a_real_models_answer(verifier, response: str, right: bool) -> None:
    assert rewards(verifier, [("41", response)], "exact") == [float(right)]


SAME = [
    # capital and small letters
    (r"\gamma+1", r"1+\gamma"),
    (r"2\Omega", r"\Omega+\Omega"),
    (r"\Gamma(5)", "24"),
    ("R=2r", "2r"),
    (r"\frac{2x}{2}", "x"),
    (r"10\mathrm{KG}", r"10\mathrm{kg}"),
    # words beside numbers
    (r"2\text{ to }6", "2 to 6"),
    (r"\text{June 20}", "June 20"),
    ("5 ft 3 in", "5 feet 3 inches"),
    ("8 remainder 3", r"8\text{ remainder }3"),
    ("red, blue", "blue, red"),
    ("5 or 6", "6, 5"),
    (r"5\text{ and }6", "5,6"),
    ("1, 2 and 3", "1,2,3"),
    (r"x=1\text{ or }x=2", "x=1, x=2"),
    ("2abc", "2cba"),
    ("xyz+1", "1+xyz"),
    ("log 2 + log 3", "log 6"),
    (r"\text{Area}=5", "5"),
    ("3 ln 2", r"\ln 8"),
    # ratios and times
    ("2:4:6", "1:2:3"),
    ("7:45 AM", r"7:45\text{ AM}"),
    (r"7:45\text{ a.m.}", r"7:45\text{ AM}"),
    ("7:45", r"7:45\text{ AM}"),
    ("7:45 am", "7:45 a.m."),
    ("2:3", "4:6"),
    ("1:2", "0.5"),
    ("1:2", r"\frac{1}{2}"),
    ("1 : 2", "1:2"),
    ("19:45", "7:45 PM"),
    (r"\sqrt{2}:1", r"2:\sqrt{2}"),
    (r"1:\sqrt3:2", r"1:\sqrt{3}:2"),
    (r"\{x : x > 2\}", r"\{x: x>2\}"),
    ("5:00", "5:00 PM"),
    # roots
    (r"\sqrt\frac34", r"\frac{\sqrt3}{2}"),
    (r"\sqrt[3]\frac18", "0.5"),
    ("\u221a\u00be", r"\frac{\sqrt3}{2}"),
    (r"\sqrt\pi", r"\sqrt{\pi}"),
    ("\u221a\u03c0", r"\sqrt{\pi}"),
    (r"\sqrt2\sqrt3", r"\sqrt6"),
    # fractions
    (r"\frac\pi4", r"\frac{\pi}{4}"),
    (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
    (r"\frac{\sqrt{3}}2", r"\frac{1}{2}\sqrt{3}"),
    (r"\frac1x", "1/x"),
    (r"\frac xy", "x/y"),
    (r"\frac x2", "x/2"),
    (r"\frac1\pi", r"1/\pi"),
    (r"\dfrac1n", "1/n"),
    (r"\frac{x^2}2", r"\frac{x^2}{2}"),
    (r"\frac{2^{10}}3", r"\frac{1024}{3}"),
    (r"\frac{\frac12}3", r"\frac16"),
    # logarithms
    (r"\log_2 8", "3"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
    (r"\log_28", "3"),
    # the imaginary unit
    ("2i", r"2\cdot i"),
    ("2i", "2*i"),
    ("2i", r"2\mathrm{i}"),
    ("2i", "(1+i)^2"),
    (r"2\sqrt2 i", r"2i\sqrt2"),
    (r"\frac{1+i}{2}", "0.5+0.5i"),
    ("-1", "i^2"),
    (r"i\sqrt3", r"\sqrt{-3}"),
    ("a+bi", "bi+a"),
    (r"\sum_{i=1}^{3} i", "6"),
    ("x_i+1", "1+x_i"),
    ("3+4i", "4i+3"),
    # functions
    (r"\ln 2", "ln 2"),
    (r"\ln 2", "ln(2)"),
    (r"\sin x", "sin(x)"),
    (r"\cos\theta", "cos(\u03b8)"),
    ("e^{-x}", "exp(-x)"),
    (r"\arctan 2", "arctan(2)"),
    (r"\arctan 2", r"\operatorname{arctan}(2)"),
    (r"\ln 2", r"\operatorname{ln} 2"),
    (r"\ln 2", r"\mathrm{ln}(2)"),
    (r"\sqrt{2+\sqrt2}", "sqrt(2+sqrt(2))"),
    (r"\sqrt3", "sqrt{3}"),
    (r"2\sqrt2", "2 sqrt 2"),
    ("e^((x+1)(x+2))", "e^{x^2+3x+2}"),
    (r"2\sqrt2", "2sqrt2"),
    (r"\sqrt[3]{2}", "cbrt(2)"),
    (r"\ln(x+1)", "ln(1+x)"),
    (r"\sin^2 x", "sin^2(x)"),
    # what is counted
    (r"5\text{ eggs}", "5"),
    (r"5\text{ eggs}", r"5\text{ egg}"),
    (r"5\text{ eggs}", "5 eggs"),
    (r"5\mbox{ marbles}", "5"),
    (r"5\text{ years old}", "5"),
    (r"5\text{ red marbles}", "5"),
    (r"5^{\text{th}}", "5"),
    ("5th", "5"),
    ("5^{th}", r"5\text{th}"),
    (r"\frac{1}{2}\text{ cups}", "0.5"),
    (r"8\text{ cups}", "8.0"),
    # fonts
    (r"\mathbf{3}", "3"),
    (r"\mathbf{1.25}", "1.25"),
    (r"\text{1.25}", "1.25"),
    (r"\textbf{1.25}", "5/4"),
    (r"\text{1/2}", "0.5"),
    (r"\text{50\%}", r"50\%"),
    (r"\text{5 cm}", "5"),
    (r"\text{\$18}", "18"),
    (r"\mathbf{1e6}", "1000000"),
    (r"5{\rm cm}", r"5\text{ cm}"),
    (r"5{\rm\ m}", r"5\text{ m}"),
    (r"5\ \rm m", "5"),
    (r"\bf 3", "3"),
    (r"\underline{5}", "5"),
    (r"\texttt{B}", "B"),
    (r"\textbf{1,250}", "1250"),
    # repeating decimals, number words, equations
    (r"0.\overline{3}", "1/3"),
    (r"0.\bar3", "1/3"),
    (r"0.\bar{3}", r"\frac13"),
    (r"0.3\overline{6}", r"\frac{11}{30}"),
    (r"2.\overline{3}", "7/3"),
    (r"-0.\overline{3}", "-1/3"),
    ("1 million", "1000000"),
    ("2.5 million", "2500000"),
    (r"\$2.5 million", "2500000"),
    (r"2.5\text{ million}", "2,500,000"),
    (r"2.5\text{ million dollars}", "2,500,000"),
    ("3 dozen", "36"),
    (r"x = \$36", "36"),
    ("x=36", r"\$36"),
    # signs and letters
    (r"\varnothing", r"\emptyset"),
    ("\u00d8", r"\emptyset"),
    ("{}", r"\emptyset"),
    (r"\{\}", "\u2205"),
    (r"\lbrace 1,2\rbrace", r"\{1,2\}"),
    ("x\u2a7d3", r"x\le 3"),
    ("x\u2a7e3", r"x\ge 3"),
    ("\u230ax\u230b", r"\lfloor x\rfloor"),
    ("\u2223x\u2223", "|x|"),
    ("\u2115", r"\mathbb{N}"),
    ("\u211a", r"\mathbb{Q}"),
    ("\u27e81,2\u27e9", r"\langle 1,2\rangle"),
    ("\U0001d465+1", "x+1"),
    ("2\U0001d70b", r"2\pi"),
    ("\U0001d7d3", "5"),
    ("\u2077\u2044\u2089", "7/9"),
    ("\u207b5", "-5"),
    ("x\u207b\u00b9", "1/x"),
    ("\u03d5", r"\phi"),
    ("\u03f5", r"\epsilon"),
    ("\u00b3\u221a2", r"\sqrt[3]{2}"),
    ("a\u2099", "a_n"),
    ("2a\u2099", "a_n+a_n"),
    (r"5\ \mu\text{m}", r"5\text{ um}"),
    ("5\\text{ \u03bcm}", r"5\ \mu\mathrm{m}"),
    ("5 \u03bcm", r"5\ \mu\text{m}"),
    ("5 \u00b5m", r"5\text{ um}"),
    ("\u0928\u092e\u0938\u094d\u0924\u0947", "\u0928\u092e\u0938\u094d\u0924\u0947"),
    ("Zu\u0308rich", "Z\u00fcrich"),
    ("\u00e9t\u00e9", "\\text{e\u0301te\u0301}"),
    ("\u0643\u064e\u062a\u064e\u0628", "\\text{\u0643\u064e\u062a\u064e\u0628}"),
    ("\u00c9T\u00c9", "\\text{\u00e9t\u00e9}"),
    (r"5\ ", "5"),
    # further pairs
    ("a:b = 2:3", "2:3"),
    ("12:30 AM", "0:30"),
    (r"\mathbf{(1,2)}", "(1,2)"),
    ("a:b = 4:6", "a:b=2:3"),
    (r"5\text{ sec}", "5"),
    (r"5\text{ sec}", "5 seconds"),
    (r"\mathrm{sec}(0)", "1"),
    (r"x^\frac12", r"\sqrt{x}"),
    (r"2^{\frac12}", r"\sqrt2"),
    (r"\pi^10", r"\pi^{10}"),
    (r"\frac{\pi}{2}", r"\frac\pi2"),
    (r"\sqrt{x^2+1}", "sqrt(x^2+1)"),
    ("(x-1)(x+1)", "x^2-1"),
    ("f(x)=x^2", "x^2"),
    (r"2\ln(3)-\ln 2", "ln(9/2)"),
    (r"\log_{10}(100)", "2"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"x=5\text{ and }y=3", "x=5, y=3"),
    (r"\text{Monday}", "monday"),
    (r"\text{(B)}", "B"),
    (r"3\text{ hours } 20\text{ minutes}", "3 hours 20 minutes"),
    ("3 hr 20 min", "3 hours 20 minutes"),
    (r"3\text{ hours and }20\text{ minutes}", "3 hours and 20 minutes"),
    ("3 hours and 20 minutes", "3 hours 20 minutes"),
    ("3 hours, 20 minutes", "3 hours 20 minutes"),
    (r"\text{6:30 PM}", "6:30 p.m."),
    (r"\text{6:30 P.M.}", "6:30 pm"),
    (r"6:30\,\text{PM}", "6:30 PM"),
    (r"6\text{ PM}", "6 pm"),
    ("6 p.m.", "6 PM"),
    ("6:00 PM", "6 PM"),
    ("3:4", "3 : 4"),
    ("3:4", "3 to 4"),
    (r"3\text{ to }4", "3:4"),
    ("3:4", "6 to 8"),
    ("a:b:c", "a : b : c"),
    (r"e^{i\pi}", "-1"),
    (r"3+\sqrt{-4}", "3+2i"),
    ("|z|=1", "|z| = 1"),
    (r"3\mathbf{i}+2\mathbf{j}", r"2\mathbf{j}+3\mathbf{i}"),
    (r"3\hat{i}+2\hat{j}", r"2\hat{j}+3\hat{i}"),
    ("10 mL", r"10\text{ ml}"),
    ("10 Kg", "10 kg"),
    ("10 Feet", r"10\text{ ft}"),
    ("x_1+x_2", "x_2+x_1"),
    ("x_{10}+1", "1+x_{10}"),
    ("2^{3}", "8"),
    ("C(5,2)", "C(5,2)"),
    (r"\binom52", "10"),
    (r"\binom{5}{2}", "10"),
    (r"\tbinom n k", r"\binom{n}{k}"),
    ("5!", "120"),
    (r"\$5.50\text{ per pound}", "5.5"),
    (r"15\text{ square inches}", "15"),
    (r"2\pi\text{ cubic feet}", r"2\pi"),
    (r"7\text{ people per day}", "7"),
    ("1/3", r"0.333\overline{3}"),
    (r"0.1\overline{45}", r"\frac{8}{55}"),
    ("two", r"\text{Two}"),
    (r"\frac{a+b}{2}", "(a+b)/2"),
    (r"\frac{dy}{dx}", r"\frac{dy}{dx}"),
    (r"\sin^{-1}(1/2)", r"\frac{\pi}{6}"),
    (r"\sqrt{3}/3", r"\frac1{\sqrt3}"),
    (r"\frac{-1+\sqrt5}2", r"\frac{\sqrt5-1}{2}"),
    (r"-\frac{\sqrt{2}}{2}", r"-\sqrt{2}/2"),
    ("2x+3y=6", "6=2x+3y"),
    ("y=2x+1", "2x+1"),
    ("x>3", "3<x"),
    (r"x\geq 3", "x>=3"),
    (r"1\le x\le 2", r"1\leq x\leq 2"),
    (r"\mathrm{GCD}(4,6)", r"\mathrm{GCD}(4,6)"),
    (r"12 \text{ or } 13", "13, 12"),
    (r"\emptyset", r"\{\}"),
    (r"\text{no solution}", "No solution"),
    (r"2\text{ boys, }3\text{ girls}", "2 boys, 3 girls"),
    (r"1\text{st}", "1"),
    (r"21^{\mathrm{st}}", "21"),
    (r"\frac 1 2", "0.5"),
    (r"\frac{1}{2} \text{ cup}", r"\frac12"),
]
DIFFERENT = [
    # capital and small letters
    (r"\frac{M}{m}", "1"),
    ("R=2r", "r=2R"),
    ("N-n", "0"),
    (r"\binom{N}{n}", "1"),
    ("3R^2", "3r^2"),
    (r"\Omega", r"\omega"),
    (r"\Gamma", r"\gamma"),
    (r"\gamma", "0.5772"),
    (r"\gamma", "0.5772156649"),
    (r"10\mathrm{Mg}", r"10\mathrm{mg}"),
    (r"\Pi", "3.14159265"),
    (r"\Delta", r"\delta"),
    (r"\Sigma x", r"\sigma x"),
    # words beside numbers
    ("8 remainder 3", "6 remainder 4"),
    ("3 to 4", "4 to 3"),
    ("1 in 6", "2 in 3"),
    ("4 by 6", "3 by 8"),
    ("2 hours 12 minutes", "3 hours 8 minutes"),
    ("5 ft 3 in", "3 ft 5 in"),
    (r"3\text{ red and }4\text{ blue}", r"4\text{ red and }3\text{ blue}"),
    ("May 5", "5 yam"),
    ("3 ln 2", "2 ln 3"),
    ("log 2 + log 3", "log 5"),
    ("2 cos 40", "cos 80"),
    ("8 R 3", "6 R 4"),
    ("8R3", "6R4"),
    ("4 out of 6", "6 out of 4"),
    ("3 dogs and 4 cats", "4 dogs and 3 cats"),
    (r"3\text{ red},4\text{ blue}", r"4\text{ red},3\text{ blue}"),
    ("listen, act", "silent, cat"),
    (r"2\text{ to }6", r"6\text{ to }2"),
    # ratios and times
    ("3:00 PM", "6:00 PM"),
    ("7:00 PM", "6:00 PM"),
    ("2:10 PM", "6:30 PM"),
    ("0.1", "3:30"),
    ("1:10", "3:30"),
    ("1:6", "1:2:3"),
    ("1:3:2", "1:2:3"),
    ("6:00 AM", "6:00 PM"),
    ("7:45 AM", "19:45"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
    ("5:00", "5"),
    # roots
    (r"\sqrt\frac34", r"\frac34"),
    # the imaginary unit
    ("2i", "2"),
    ("2i", "-2i"),
    ("1+2i", "2+i"),
    ("1", "i^2"),
    # what is counted
    (r"5\text{ eggs}", r"5\text{ marbles}"),
    (r"5\text{ eggs}", "6"),
    (r"5\text{ million}", "5"),
    (r"5\text{ dozen}", "5"),
    (r"10\text{ am}", r"10\text{ pm}"),
    (r"10\text{ am}", "10"),
    (r"5\text{ or more}", "5"),
    (r"5\text{ to one}", "5"),
    (r"2^{5\text{th}}", "3"),
    # fonts
    (r"5{\rm cm}", r"5\text{ m}"),
    (r"\mathbf{1.25}", "1.2"),
    # repeating decimals, number words, equations
    (r"0.\overline{3}", "0.3"),
    (r"0.3\overline{6}", "0.36"),
    (r"x = \$36", "35"),
    ("1 million", "1 billion"),
    # signs and letters
    (r"5\ \mu\text{m}", r"5\text{ m}"),
    ("\u2205", "0"),
    (r"\lfloor x\rfloor", "x"),
    # further pairs
    ("a:b = 2:3", "b:a = 2:3"),
    ("12:30 AM", "12:30 PM"),
    ("8:30", "8:03"),
    (r"2\text{ kg }3\text{ g}", r"3\text{ kg }2\text{ g}"),
    ("2x 3y", "3x 4y"),
    (r"0.\overline{36}", r"0.3\overline{6}"),
    ("3 dogs (4 cats)", "4 dogs (3 cats)"),
    (".5 red balls", "5 red balls"),
    ("1:2:3", "1"),
    ("2 x 3", "3 x 2"),
    ("6:00 PM", "7 PM"),
    ("6 AM", "6 PM"),
    ("1:2", "2:1"),
    (r"\frac{0}{0}", "1"),
    ("3i", "3"),
    (r"3\hat{i}+2\hat{j}", r"2\hat{i}+3\hat{j}"),
    (r"10\text{ mW}", r"10\text{ MW}"),
    (r"10\text{ mPa}", r"10\text{ MPa}"),
    (r"10\text{ mHz}", r"10\text{ MHz}"),
    (r"A=2\pi r", r"a=2\pi R"),
    (r"\frac{K}{k}", "1"),
    (r"\Theta", r"\theta"),
    ("I", "i"),
    ("\\text{\u03a9}", "\u03c9"),
    (r"12 \text{ or } 13", "12"),
    ("3 or 4 red", "4 or 3 blue"),
    ("no solution", r"\text{one solution}"),
    ("3 more than 5", "5 more than 3"),
    (r"2\text{ boys, }3\text{ girls}", r"3\text{ boys, }2\text{ girls}"),
    (r"21^{\mathrm{st}}", "22"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_answer_in_two_spellings(verifier, one: str, other: str) -> None:
    assert rewards(verifier, [(one, rf"\boxed{{{other}}}"), (other, rf"\boxed{{{one}}}")]) == [1.0, 1.0]
    assert verifier.verifiable([Problem("q", gold, "0", "math") for gold in (one, other)]) == [True, True]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers_however_alike(verifier, one: str, other: str) -> None:
    assert rewards(verifier, [(one, rf"\boxed{{{other}}}"), (other, rf"\boxed{{{one}}}")]) == [0.0, 0.0]
