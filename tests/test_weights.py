"""The gallery's figures of a token's weight by its ratio: what autograd says of each loss, against formulas by hand."""

import math

import pytest

from benchmarks.gallery import weights
from tests import sync


def expected(name: str, right: bool, ratio: float) -> float:
    if name == "opo":  # no ratio; its baseline is weighted by length, and the right response is the short one
        return 0.5 if right else 1.0
    beyond = ratio > (1.28 if name == "passk" else 1.2) if right else ratio < 0.8
    return 0.0 if beyond else ratio * (0.1 if name == "nsr" and right else 1.0)


@pytest.mark.parametrize("name", ["grpo", "passk", "opo", "nsr"])
def test_weights_by_hand(name: str) -> None:
    for one in weights.curves(name):
        for ratio, weight in one.points:
            assert weight == pytest.approx(expected(name, one.right, ratio), abs=1e-9), (one, ratio)


def test_a_cap_keeps_the_gradient() -> None:
    """CISPO: the weight grows with the ratio up to the cap, and stays there on both sides of the reward."""
    for one in weights.curves("cispo"):
        points = dict(one.points)
        grown = [w / points[1.0] for r, w in one.points]
        assert grown == pytest.approx([min(r, max(grown)) for r, _ in one.points], abs=1e-9) and max(grown) < 4


@pytest.mark.parametrize("name", sync.algorithms())
def test_every_method_has_a_figure(name: str) -> None:
    found = weights.curves(name)
    assert [one.label for one in found] == ["right, p 0.05", "right, p 0.6", "wrong, p 0.05", "wrong, p 0.6"]
    assert all(math.isfinite(weight) for one in found for _, weight in one.points)
    still = [dict(one.points)[1.0] for one in found]
    assert max(map(abs, still)) == pytest.approx(1) or not any(still)
    assert max(ratio * one.probability for one in found for ratio, _ in one.points) <= 1
    svg = weights.figure(name)
    assert svg.count("<polyline") == 4 and "nan" not in svg
    shown = weights.table(name)
    assert len(shown) == 4 and shown[1][1][-1] == ""  # twice 0.6 is no probability
