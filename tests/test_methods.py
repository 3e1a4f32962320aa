"""The records of benchmarks/methods.py: one for each file, and what they name is there."""

import dataclasses
import importlib
import re

import pytest

from benchmarks import methods
from benchmarks.collapse import ROWS
from benchmarks.explore import STATUSES
from benchmarks.methods import FAMILIES, LEVERS, METHODS
from benchmarks.readings import OUTCOMES, READINGS, can_be_read, column, load_group
from tests import sync

ARMS = {arm for record in METHODS.values() for arm in record.arms}


def test_every_file_has_a_record_and_no_record_lacks_a_file() -> None:
    """A new method is made known to the benchmarks in benchmarks/methods.py."""
    assert {*METHODS} == {*sync.algorithms()}
    assert methods.method("a file of one's own") == methods.Method()


@pytest.mark.parametrize("name", METHODS)
def test_a_record_names_what_is_there(name: str) -> None:
    record = METHODS[name]
    assert record.family in FAMILIES and record.levers and {*record.levers} <= {*LEVERS}
    known = {field.name for field in dataclasses.fields(importlib.import_module(f"algos.{name}").Args)}
    flags = [record.acts, *record.tried, *(arm.flags for arm in record.arms.values())]
    flags += [{record.knob[0]: None} if record.knob else {}, {record.draws: None} if record.draws else {}]
    for one in flags:
        assert {*one} <= known
    loss = sync.own_parts(sync.read(name))["loss"]
    for mask, letter in record.masks.items():
        assert f"    {mask.removeprefix('~')} = " in loss and letter in STATUSES
    assert {*record.statuses} <= {*STATUSES}
    assert not record.claims or name in record.arms
    for claim in record.claims:
        assert claim.outcome in OUTCOMES and claim.reading in READINGS and claim.base in {"", *ARMS}
        assert claim.base or claim.outcome.startswith("share of selected")


def test_a_promised_target_is_that_of_the_runs() -> None:
    """The method's default, or the value that was tuned and stands in the rows that are kept."""
    kept = load_group(ROWS, "off-policy") | load_group(ROWS, "from-grpo")
    held = {name: claim.target for name, record in METHODS.items() for claim in record.claims if claim.target}
    assert {"entropic", "skywork", "positive_weight", "advanced"} <= {*held}
    for name, target in held.items():
        default = importlib.import_module(f"algos.{name}").Args().target_entropy
        knob, values = METHODS[name].knob
        assert target in (values if knob == "target_entropy" else (default,))
        for run in kept.get(name, {}).values():
            assert run.record["flags"].get("target_entropy", default) == target


def test_a_promise_of_as_much_is_none_of_more() -> None:
    """It is held against minus the margin, and a promise of more is not."""
    claims = [claim for record in METHODS.values() for claim in record.claims if claim.direction]
    kept = [claim for claim in claims if re.search(r"\bas good\b|\bkeeps\b|\bthe same\b", claim.promise)]
    assert len(kept) >= 7 and all(claim.no_less == (claim in kept) for claim in claims)
    assert all(OUTCOMES[claim.outcome] > 0 and claim.direction == 1 for claim in kept)


def test_a_promise_is_read_where_the_reading_means_something() -> None:
    for name, record in METHODS.items():
        assert all(can_be_read(name, claim.base, claim.reading) for claim in record.claims)


def test_what_shows_a_method_active_can_fail_to() -> None:
    """A bound begins where it does nothing, and has to leave that; a level that is never 0 shows nothing."""
    for name, record in METHODS.items():
        bounds = {key for key in record.active if re.match("algo/clip_(low|high)$", key)}
        assert {*record.starts} == bounds
        assert not [key for key in record.active if re.search(r"reward|algo/lambda_|_rank$|authority", key)]
        args = importlib.import_module(f"algos.{name}").Args()
        for key, start in record.starts.items():
            side = -args.clip_ratio_low if key.endswith("low") else args.clip_ratio_high
            assert start == pytest.approx(1 + side)
            assert all(column(run.record, key)[0] == start for run in load_group(ROWS, "off-policy")[name].values())


def test_arms_are_told_apart() -> None:
    """No name twice."""
    assert len(ARMS) == sum(len(record.arms) for record in METHODS.values())
