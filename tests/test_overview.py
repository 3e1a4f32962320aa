"""The gallery's overview, from made-up runs and from none; its pages of Markdown files; what is elsewhere."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import elsewhere
from benchmarks.gallery import algorithms, documents, overview, site
from benchmarks.gallery.overview import Card
from benchmarks.gallery.pages import judged_by_method
from benchmarks.judging import Judged
from benchmarks.methods import METHODS, Claim
from benchmarks.readings import Effect, load
from tests import sync
from tests.test_claims import keep
from tests.test_readings import record

ALGORITHMS = algorithms.load_all()
LINES = {name: sync.distance(one.parent, name)[0] if one.parent else None for name, one in ALGORITHMS.items()}
FALLING = [*np.linspace(0.3, 0.11, 20)]


def context(rows: Path) -> dict:
    runs = load(rows)
    return overview.context(ALGORITHMS, LINES, runs, judged_by_method(runs), overview.default_runs(rows))


def cards(rows: Path) -> dict[str, Card]:
    return {card.one.name: card for some in context(rows)["families"].values() for card in some}


@pytest.fixture(scope="module")
def some_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds or three of some, one of others; entropy falls everywhere but in two."""
    rows = tmp_path_factory.mktemp("rows")
    for arm, seeds in (("grpo", 3), ("grpo, mixed groups", 3), ("dapo", 3), ("kl_cov", 3), ("sapo", 2), ("maxrl", 1)):
        keep(rows, arm, seeds, entropy=FALLING)
    keep(rows, "entropic", 3, entropy=[*np.linspace(0.3, 1.2, 20)])  # higher than promised: far from its target
    keep(rows, "gmpo", 3, entropy=[0.3] * 20)
    keep(rows, "kl_cov, random selection", 2, entropy=FALLING)
    keep(rows, "steer", 3, entropy=FALLING)
    keep(rows, "opo", 1, "on-policy", entropy=FALLING)
    return rows


def test_verdicts_in_a_word(some_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sapo", "gmpo"):
        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS[name], claims=()))
    found = cards(some_runs)
    verdicts = {name: card.verdict for name, card in found.items() if card.verdict != "not run"}
    assert verdicts == {
        "grpo": "the base",
        "dapo": "no effect",  # what is promised of it stays inside the margins
        "kl_cov": "no effect",
        "sapo": "no effect",  # nothing is promised: its primary outcomes
        "maxrl": "no verdict yet",
        "entropic": "contradicted",
        "gmpo": "differs",
        "steer": "no verdict yet",  # its base is not run
        "opo": "no verdict yet",
    }
    assert found["maxrl"].words == "one seed yet: no verdict" and found["gmpo"].words == "entropy higher"
    assert found["kl_cov"].words == "no effect; not told from its control" and found["dapo"].words == "no effect"
    assert found["vapo"].words == "not run yet" and not found["vapo"].sparks and found["vapo"].ends is None
    assert set(verdicts.values()) < set(overview.VERDICTS)


def test_a_missing_base_and_a_destroyed_policy(tmp_path: Path) -> None:
    keep(tmp_path, "kl_cov", 3, entropy=FALLING)
    assert cards(tmp_path)["kl_cov"].words == "base not run yet: no verdict"
    for arm in ("lp_reg", "lp_reg, no penalty"):  # its base is one of its own controls
        keep(tmp_path, arm, 3, entropy=FALLING)
    assert cards(tmp_path)["lp_reg"].words == "no effect"
    (tmp_path / "off-policy" / "nsr-s1.json").write_text(json.dumps(record([[2, 2], [1, 1], [0, 0]], "nsr")))
    assert cards(tmp_path)["nsr"].verdict == cards(tmp_path)["nsr"].words == "destroyed"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["reproduced", "reproduced, small"], ("reproduced", "reproduced")),
        (["reproduced", "no effect", "inconclusive"], ("reproduced", "reproduced, 1 of 3 promises")),
        (["contradicted", "not run"], ("contradicted", "contradicted")),
        (["reproduced", "contradicted", "no effect"], ("mixed", "1 reproduced, 1 contradicted")),
        (["no effect", "inconclusive"], ("inconclusive", "inconclusive")),
        (["no effect", "no effect", "not measured"], ("no effect", "no effect")),
    ],
)
def test_a_word_for_several_promises(some_runs: Path, verdicts: list[str], expected: tuple[str, str]) -> None:
    mine = [*load(some_runs)["off-policy"]["dapo"].values()]
    judged = [
        Judged("off-policy", "dapo", "grpo", None if word == "not run" else Effect(0, 0, 0, 0, 3), word, Claim("", ""))
        for word in verdicts
    ]
    assert overview.verdict(ALGORITHMS["dapo"], mine, judged) == expected


def test_a_method_that_does_nothing_is_called_so(tmp_path: Path) -> None:
    for arm in ("bapo", "grpo, token mean"):
        keep(tmp_path, arm, 3, **{"algo/clip_low": 0.6, "algo/clip_high": 1.2})
    assert (cards(tmp_path)["bapo"].verdict, cards(tmp_path)["bapo"].words) == ("inactive", "inactive here")
    keep(tmp_path, "bapo", 3, **{"algo/clip_low": 0.7})
    assert cards(tmp_path)["bapo"].words == "no effect"


def test_small_curves_say_their_numbers(some_runs: Path) -> None:
    """The mean over seeds with GRPO's behind, over the same range for all; no line leaves the picture."""
    found = cards(some_runs)
    entropy, passed = found["entropic"].sparks
    assert "Entropy, nats per token: 0.39 to 1.11, beyond the picture; GRPO 0.28 to 0.13" in entropy
    assert "pass@32: " in passed and str(entropy).count("<polyline") == 2
    assert str(found["grpo"].sparks[0]).count("<polyline") == 1
    for card in found.values():
        for spark in card.sparks:
            for line in re.findall(r'points="([^"]+)"', spark):
                x, y = np.array([point.split(",") for point in line.split()], dtype=float).T
                assert (np.diff(x) > 0).all() and x.min() >= 0 and x.max() <= 100
                assert y.min() >= 0 and y.max() <= overview.charts.SPARK[1]
            assert len(spark) < 1000
    assert found["opo"].regime == "off-policy" and found["opo"].seeds == 1  # one update by definition: in both regimes


def test_the_page_of_some_runs_and_of_none(some_runs: Path, tmp_path: Path) -> None:
    for rows, run in ((some_runs, 9), (tmp_path, 0)):
        text = site.render("index.html", **context(rows))
        assert f"{run} of 53 methods have been run" in text
        assert text.count(">not run yet<") == len(ALGORITHMS) - run and text.count('class="spark"') == 2 * run
        items = re.findall(r'<li data-name="(\w+)" data-date="([\d.]+)" data-lines="(\d*)"(.*?)>', text)
        assert {name for name, *_ in items} == set(ALGORITHMS)
        assert sum('data-pass-32="' in rest for *_, rest in items) == run
        assert {name: lines for name, _, lines, _ in items}["kl_cov"] == str(LINES["kl_cov"])


def test_runs_without_flags_stand_in_for_those_that_are_missing(some_runs: Path, tmp_path: Path) -> None:
    """Means over seeds; on the card of a method that was run through the collapse there is none."""
    columns = "algorithm,seed,reward_start,reward_end,entropy_start,entropy_end,pass@1,pass@32,seconds,threads,commit"
    rows = ("vapo,1,0.1,0.2,0.3,0.20,0.35,0.9,100,1,a", "vapo,2,0.1,0.2,0.3,0.10,0.25,0.8,100,1,a")
    (tmp_path / "defaults.csv").write_text("\n".join((columns, *rows, rows[0].replace("vapo", "kl_cov"))))
    found = overview.default_runs(tmp_path)
    assert found["vapo"] == pytest.approx(
        {"entropy_start": 0.3, "entropy_end": 0.15, "pass@1": 0.3, "pass@32": 0.85, "seeds": 2}
    )
    runs = load(some_runs)
    made = overview.context(ALGORITHMS, LINES, runs, judged_by_method(runs), found)
    text = site.render("index.html", **made)
    assert text.count("Without flags: ") == 1  # kl_cov has its curves
    assert "Without flags: entropy 0.30 to 0.15, pass@1 0.30, pass@32 0.85" in text
    assert overview.default_runs(tmp_path / "none") == {}


# --- Markdown ---------------------------------------------------------------------------------------------------------

TEXT = """# Title & more

Text with [a page](PLAN.md), [a file](runs/x.json), [the net](https://example.org/) and `a < b`.

![what it shows](sub/figure.png) ![gone](missing.png)

## A < B

| arm | n |
|---|---|
| dapo | 1 |
| not a method | 2 |

## A < B
"""


def test_markdown_becomes_a_page(tmp_path: Path) -> None:
    (tmp_path / "collapse" / "sub").mkdir(parents=True)
    (tmp_path / "collapse" / "CLAIMS.md").write_text(TEXT)
    (tmp_path / "collapse" / "sub" / "figure.png").write_bytes(b"png")
    made = documents.pages(tmp_path)
    assert set(made) == {"claims.html", "frameworks.html", "left_out.html"}
    page = made["claims.html"]
    assert page.pictures == {"pictures/collapse-sub-figure.png": tmp_path / "collapse" / "sub" / "figure.png"}
    text = site.render(page.template, **page.context)
    assert "<h1>Title &amp; more</h1>" in text
    assert '<a href="plan.html">a page</a>, a file, <a href="https://example.org/">the net</a>' in text
    assert "<code>a &lt; b</code>" in text and "gone" in text and "missing.png" not in text
    assert '<img src="pictures/collapse-sub-figure.png" alt="what it shows" loading="lazy"' in text
    assert '<td><a href="algorithms/dapo.html">dapo</a></td>' in text and "<td>not a method</td>" in text
    assert '<h2 id="a-b">A &lt; B</h2>' in text and '<h2 id="a-b-">A &lt; B</h2>' in text
    assert '<a href="#a-b-">A &lt; B</a>' in text
    assert '<div class="scroll" tabindex="0" role="region" aria-label="A &lt; B"><table>' in text


def test_two_files_on_one_page(tmp_path: Path) -> None:
    (tmp_path / "collapse").mkdir()
    for name in ("law", "theorem"):
        (tmp_path / "collapse" / f"{name}.md").write_text(f"# The {name}\n\n## Part\n")
    text = site.render("document.html", **documents.pages(tmp_path)["law.html"].context)
    assert re.findall(r'<h(\d)(?: id="([^"]+)")?>([^<]+)</h', text) == [
        ("1", "", "The law and the theorem"),
        ("2", "law", "The law"),
        ("3", "part", "Part"),
        ("2", "theorem", "The theorem"),
        ("3", "part-", "Part"),
    ]


# --- Elsewhere --------------------------------------------------------------------------------------------------------


def test_flags_that_stand_for_a_method_exist() -> None:
    named = 0
    for one in elsewhere.BY_FLAG + elsewhere.LEFT_OUT:
        algorithm = ""
        for command in re.findall(r"`([^`]+)`", one.said):
            algorithm = (re.findall(r"(\w+)\.py", command) or [algorithm])[0]
            flags = re.findall(r"--([a-z][a-z-]*)", command)
            known = algorithms.flags(sync.read(algorithm)) if algorithm else {}
            assert {flag.replace("-", "_") for flag in flags} <= set(known), (one.names, command)
            named += len(flags)
    assert named > 10


def test_frameworks_name_files_and_each_other() -> None:
    assert {file for one in elsewhere.ELSEWHERE for file in one.files} < set(ALGORITHMS)
    for one in elsewhere.ELSEWHERE:
        assert one.found and set(one.found) <= set(elsewhere.FRAMEWORKS) and set(one.found.values()) <= set("CS")
        assert not set(one.code.split()) & set(one.script.split())
    text = site.render("frameworks.html", **documents.pages(Path("nowhere"))["frameworks.html"].context)
    assert all(f'<a href="algorithms/{name}.html">{name}</a>' in text for name in ALGORITHMS)
