"""The records of benchmarks/methods.py: one for each file, and what they name is there."""

import dataclasses
import importlib

import pytest

from benchmarks import methods
from benchmarks.collapse import ROWS
from benchmarks.explore import STATUSES
from benchmarks.methods import FAMILIES, LEVERS, METHODS
from benchmarks.readings import OUTCOMES, READINGS, load_group
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


def test_arms_are_told_apart() -> None:
    """No name twice."""
    assert len(ARMS) == sum(len(record.arms) for record in METHODS.values())
