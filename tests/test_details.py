"""The one-line variants of benchmarks.details, the arithmetic on them, and the page that shows them."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from benchmarks import details
from benchmarks.details import TOGETHER, VARIANTS, Variant, changed_share, compare, mean_of, on_one_batch, source
from benchmarks.gallery import details as page
from benchmarks.gallery.site import render
from tests.sync import algorithms

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_every_variant_is_a_file_that_compiles_and_differs() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        text = variant.text()  # ends with an error if a text does not occur exactly once
        compile(text, variant.name, "exec")
        assert (text != source(variant.algorithm)) == bool(variant.edits)
        assert variant.edits or variant.flags
        args = details.load(text, variant.algorithm).Args
        for key, value in (variant.base_flags | variant.flags).items():
            assert getattr(args(**{key: value}), key) == value


@pytest.mark.parametrize("old", ["no such line\n", "import"])
def test_a_stale_variant_is_an_error(old: str) -> None:
    variant = Variant("x", "stale", "grpo", ((old, "new\n"),))
    with pytest.raises(
        SystemExit, match=r"error: variant 'stale' replaces text that occurs \d+ times, not once, in algos/grpo\.py"
    ):
        variant.text()


def test_compare_is_cosine_and_ratio_of_norms() -> None:
    row = compare(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0]))
    assert row["cosine"] == pytest.approx(0.8) and row["norm_ratio"] == 2 and row["norm"] == 5
    assert not row["identical"]
    zero = compare(torch.zeros(2), torch.zeros(2))
    assert zero["identical"] and zero["cosine"] is None and zero["norm_ratio"] is None


def test_changed_share_leaves_out_a_common_factor() -> None:
    base = torch.tensor([1.0, -2.0, 3.0, 0.0, 5.0])
    assert changed_share(base, 7 * base) == 0
    other = 7 * base
    other[1] = 0.0  # dropped
    other[3] = 1.0  # new
    assert changed_share(base, other) == pytest.approx(0.4)


def test_mean_of_minibatches() -> None:
    rows = [
        {"cosine": 1.0, "identical": True},
        {"cosine": None, "identical": True},
        {"cosine": 0.5, "identical": False},
    ]
    assert mean_of(rows) == {"cosine": 0.75, "identical": False}


def test_inert_settings_are_exactly_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    """On-policy gradients are equal to the bit, after an update they are not; ten times the loss is ten times it."""
    monkeypatch.setattr(details, "NUM_PROMPTS", 6)
    monkeypatch.setattr(details, "NUM_MINIBATCHES", 2)
    inert = [variant for variant in VARIANTS if variant.detail == "inert" and variant.minibatches == (0,)]
    control = next(variant for variant in VARIANTS if variant.name == "kl_cov, no penalty, last four of eight")
    scale = next(variant for variant in VARIANTS if variant.detail == "loss-scale")
    asked = (*inert, replace(control, minibatches=(1,)), replace(scale, minibatches=(0, 1)))
    results, readings = on_one_batch(1, 0, asked)
    assert len(inert) == 3
    for variant in inert:
        assert results[variant.name]["identical"] and results[variant.name]["norm"] > 0, variant.name
    assert not results[control.name]["identical"] and results[control.name]["cosine"] < 0.999
    assert results[scale.name]["norm_ratio"] == pytest.approx(10, rel=1e-4)
    assert results[scale.name]["cosine"] == pytest.approx(1) and results[scale.name]["changed"] == 0
    assert len({readings["before"], readings["during"], readings["after"]}) == 3


# --- Parts together ---------------------------------------------------------------------------------------------------


def test_settings_are_none_each_and_each_two() -> None:
    parts = [part for part in TOGETHER if part.algorithm == "advanced"]
    names = [details.name_of(setting) for setting in details.settings(parts)]
    assert names[0] == "none" and names[1:5] == [part.name for part in parts]
    assert len(names) == len({*names}) == 1 + 4 + 5  # a controller is not above and below its target at once
    assert {part.algorithm: part.name for part in TOGETHER if part.name in details.PARENTS.values()} == details.PARENTS


@pytest.mark.parametrize("part", TOGETHER, ids=lambda part: part.name)
def test_flags_leave_out_what_is_not_in_a_setting(part: details.Part) -> None:
    """All left out it is no default; a part alone has its own flags at the file's defaults, or at those it names."""
    parts = [other for other in TOGETHER if other.algorithm == part.algorithm]
    known = {key: getattr(details.load(source(part.algorithm), part.algorithm).Args(), key) for key in part.without}
    none, alone = details.flags_of((), parts), details.flags_of((part,), parts)
    assert all(none[key] == part.without[key] != known[key] for key in part.without)
    assert not alone.keys() & part.without.keys() and part.flags.items() <= alone.items()
    others = {key for other in parts if other.without != part.without for key in other.without}
    assert others <= alone.keys()


def test_what_two_parts_add_by_hand() -> None:
    """Gradients and promises of no part, of either, and of both."""
    one, other = TOGETHER[:2]
    mb = {"mask": torch.ones(1, 2, dtype=torch.bool), "entropy": torch.tensor([[0.1, 0.3]])}
    values = {
        (): ([1.0, 1.0], [0.0, 0.2]),
        (one,): ([1.0, 3.0], [0.4, 0.2]),
        (other,): ([2.0, 0.0], [-0.2, 0.2]),
        (one, other): ([9.0, 9.0], [1.0, 1.0]),
    }
    found = {key: (mb, *map(torch.tensor, pair)) for key, pair in values.items()}
    pair = details.about_pair(found, (one, other))
    assert pair["cosine"] == pytest.approx(-1 / math.sqrt(2)) and pair["token_cosine"] == pytest.approx(-1)
    assert [pair[key] for key in ("first", "second", "both")] == pytest.approx([0.2, -0.1, 0.9])
    about = details.about_setting(found, (one,), other)
    assert about["cosine"] == pytest.approx(4 / math.sqrt(20)) and about["norm_ratio"] == pytest.approx(math.sqrt(5))
    assert about["parent_cosine"] == pytest.approx(2 / (2 * math.sqrt(10)))
    assert about["promised"] == pytest.approx(0.3) and about["entropy"] == pytest.approx(0.2)
    easy = replace(other, easy=True)
    found |= {(easy,): found[(other,)], (one, easy): found[(one, other)]}
    assert details.about_pair(found, (one, easy))["token_cosine"] is None


def test_parts_together_on_a_small_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no seeds: the penalty's direction, the controller's sign, and what a part of size 0 is."""
    for name, value in {"NUM_PROMPTS": 8, "NUM_MINIBATCHES": 4, "LEARNING_RATE": 1e-3}.items():
        monkeypatch.setattr(details, name, value)  # a rate at which ratios reach the clip in two passes
    rollouts = details.Rollouts(1, 1)
    starter, advanced = (details.measure_together(rollouts, name) for name in ("starter", "advanced"))
    for found, parent in ((starter, "W-REINFORCE"), (advanced, "KL-Cov")):
        assert found["settings"]["none"]["cosine"] == pytest.approx(1)
        assert found["settings"][parent]["parent_cosine"] == pytest.approx(1)
        assert all(row["cosine"] < 0.9999999 for name, row in found["settings"].items() if name != "none")
    assert {row["entropy"] for row in starter["settings"].values()} == {starter["settings"]["none"]["entropy"]}
    for name, pair in (starter["pairs"] | advanced["pairs"]).items():  # what is added is a difference of two settings
        settings = (advanced if "KL-Cov" in name or "curriculum" in name else starter)["settings"]
        both = settings[name]["promised"] - settings["none"]["promised"]
        assert pair["both"] == pytest.approx(both, abs=1e-9)
    above, below = (advanced["settings"][f"controller, 0.1 {side} its target"] for side in ("above", "below"))
    none, easy = advanced["settings"]["none"], advanced["settings"]["curriculum"]
    assert none["alpha"] == 0 and above["alpha"] > 0 > below["alpha"]
    changes = [(row["promised"] - none["promised"]) / row["alpha"] for row in (above, below)]
    assert changes[0] == pytest.approx(changes[1], rel=1e-3) and changes[0] < 0  # likely tokens pushed up: less entropy
    assert easy["entropy"] != none["entropy"]
    assert advanced["pairs"]["KL-Cov + curriculum"]["token_cosine"] is None


def test_jobs_share_originals_and_are_known_by_their_text() -> None:
    plan = details.jobs((1, 2), 5, 4)
    names = [(job.name, job.seed) for job in plan]
    assert len(names) == len(set(names)) and ("grpo", 1) in names
    one = next(job for job in plan if job.name == "grpo")
    assert one.digest != replace(one, text=one.text + "\n").digest
    assert one.digest != replace(one, flags=(*one.flags, ("beta", 1.0))).digest


# --- Verdicts and the page --------------------------------------------------------------------------------------------


def batch_row(cosine: float, ratio: float, identical: bool = False) -> dict:
    return {"cosine": cosine, "norm_ratio": ratio, "changed": 0.1, "norm": 0.3, "identical": identical}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (batch_row(1.0, 1.0, identical=True), "exactly nothing"),
        (batch_row(1.0, 1.0001), "next to nothing"),
        (batch_row(1.0, 1.069), "scale alone: 1.1 times as large"),
        (batch_row(1.0, 0.2), "scale alone: 0.2 times as large"),
        (batch_row(0.995, 1.0), "slightly another direction"),
        (batch_row(0.6, 22.4), "another direction, 22 times as large"),
    ],
)
def test_words_for_one_batch(row: dict, words: str) -> None:
    assert page.batch_verdict(page.batch_summary([row, row])) == words


def test_remarks_on_clip_and_control() -> None:
    summary = page.batch_summary([batch_row(0.98, 5.0)])
    assert page.clip_remark(summary) == "The gradient clip at norm 1 acts on the variant alone."
    assert page.clip_remark(page.batch_summary([batch_row(0.98, 2.0)])) == ""
    large = {**batch_row(0.98, 0.2), "norm": 2.0}
    assert page.clip_remark(page.batch_summary([large])) == "The gradient clip at norm 1 acts on the original alone."
    variant = next(variant for variant in VARIANTS if variant.name in page.CONTROLS)
    for cosine, word in ((0.97, "no more"), (0.99, "more")):
        remark = page.control_remark(variant, summary, {page.CONTROLS[variant.name]: {"1": batch_row(cosine, 1.0)}})
        assert remark.startswith(f"That is {word} than its control")
    assert page.control_remark(VARIANTS[0], summary, {}) == ""
    assert {*page.CONTROLS, *page.CONTROLS.values()} <= {variant.name for variant in VARIANTS}


def test_words_for_training_follow_from_the_intervals() -> None:
    """The variant ends 0.1 higher in entropy on every seed, its reward differs by chance."""
    variant = next(variant for variant in VARIANTS if variant.train)
    original = {str(s): {"entropy": 0.2 + s / 100, "reward": 0.3, "pass@1": 0.4} for s in (1, 2, 3)}
    changed = {
        s: {"entropy": run["entropy"] + 0.1 + int(s) / 1e3} | {"reward": 0.3 + (-1) ** int(s) / 50}
        for s, run in original.items()
    }
    changed = {s: run | {"pass@1": 0.1 + int(s) / 1e3} for s, run in changed.items()}
    rows = page.effects({variant.original: original, variant.name: changed}, variant)
    assert [row["word"] for row in rows] == ["higher", page.NO_EFFECT, "lower"]
    assert rows[0]["mean"] == pytest.approx(0.102) and rows[0]["low"] > 0
    assert page.training_verdict(rows) == "higher entropy, lower pass@1"
    assert page.training_verdict(rows[1:2]) == page.NO_EFFECT
    assert page.training_verdict([]) == "not run"
    assert page.effect_word(math.nan, math.nan) == page.NO_EFFECT  # one seed


def test_a_line_that_is_gone_is_an_error() -> None:
    with pytest.raises(SystemExit, match=r"error: algos/grpo.py has 0 lines with 'no such line', not one"):
        page.line_number("grpo", "no such line")


def test_every_variant_has_a_detail_and_the_page_shows_all() -> None:
    assert {variant.detail for variant in VARIANTS} <= {detail.key for detail in page.DETAILS}
    context = page.pages(RESULTS)["details.html"]
    html = render("details.html", page="details.html", current="details", algorithms=algorithms(), **context)
    for detail in page.DETAILS:
        assert f'<h2 id="{detail.key}">' in html
    for variant in VARIANTS:
        assert len(re.findall(rf"<h4>{re.escape(str(escape(variant.name)))}(?=</h4>| <span)", html)) == 1
    links = re.findall(r'href="source/(\w+)\.html#L(\d+)"', html)
    assert len(links) == len(page.DETAILS)
    for (algorithm, number), detail in zip(links, page.DETAILS, strict=True):
        assert detail.line in source(algorithm).splitlines()[int(number) - 1]
    anchors = set(re.findall(r'id="([\w-]+)"', html))
    assert set(re.findall(r'href="#([\w-]+)"', html)) <= anchors


def test_words_for_parts_together() -> None:
    assert page.direction(0.1, 0.2) == "raises entropy" and page.direction(-0.2, -0.1) == "lowers entropy"
    assert page.direction(-0.1, 0.2) == page.direction(math.nan, math.nan) == "no direction seen"
    assert page.pair_verdict("raises entropy", "lowers entropy") == "against each other"
    assert page.pair_verdict("lowers entropy", "lowers entropy") == "the same way"
    assert page.pair_verdict("no direction seen", "lowers entropy") == "not clear"


def test_the_page_has_every_pair_of_parts() -> None:
    numbers = json.loads((RESULTS / "details.json").read_text())
    context = page.pages(RESULTS)["details.html"]
    html = render("details.html", page="details.html", current="details", algorithms=algorithms(), **context)
    for algorithm, seeds in numbers["together"].items():
        parts = [part for part in TOGETHER if part.algorithm == algorithm]
        names = {details.name_of(setting) for setting in details.settings(parts)}
        assert f'<h3 id="together-{algorithm}">' in html and len(seeds) == 5
        for row in seeds.values():  # a part that was renamed or added must be measured again
            assert {*row["settings"]} == names and {*row["pairs"]} == {name for name in names if " + " in name}
        assert all(f'<th scope="row">{name}' in html for name in names)
    assert {*numbers["together"]} == {part.algorithm for part in TOGETHER} == {*details.PARENTS}


@pytest.mark.parametrize("algorithm", details.PARENTS)
def test_heads_say_what_was_measured(algorithm: str) -> None:
    """Thousandths of a nat in a head are means over the seeds in the results."""
    (table,) = [one for one in page.pages(RESULTS)["details.html"]["together"] if one["algorithm"] == algorithm]
    known = {f"{1000 * row[key][0]:+.1f}" for row in table["pairs"] for key in ("first", "second", "on_top")}
    head = source(algorithm).partition('"""\n\nimport')[0]
    said = re.findall(r"[+-]\d+\.\d(?=e-3|[ ,;)\n])", head)
    assert said and {*said} <= known, known


def test_results_are_those_of_the_variants() -> None:
    """A variant that was renamed or added must be measured again."""
    numbers = json.loads((RESULTS / "details.json").read_text())
    assert set(numbers["batch"]) == {variant.name for variant in VARIANTS}
    wanted = {name for variant in VARIANTS if variant.train for name in (variant.original, variant.name)}
    assert set(numbers["training"]) <= wanted  # fewer where the command was interrupted
    for variant in VARIANTS:
        if variant.detail == "inert" and variant.minibatches == (0,):
            assert all(row["identical"] for row in numbers["batch"][variant.name].values())


def test_summary_is_sorted_by_effect() -> None:
    rows = page.pages(RESULTS)["details.html"]["rows"]
    sizes = [page.size_of_effect(row["batch"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert len(rows) == len(VARIANTS)


def test_no_page_without_results(tmp_path: Path) -> None:
    assert page.pages(tmp_path) == {}
