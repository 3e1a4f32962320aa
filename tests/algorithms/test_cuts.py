"""CUTS: half of a group drawn evenly from the likely words; credit and loss are GRPO's.

Which rows are drawn so, and what the loss sees of them, is in tests/test_scripts.py.
"""

import pytest
import torch

from common import InputError
from common.basics import warn_once
from tests.algorithms.oracle import SIZE, Neutral, load
from tests.algorithms.test_grpo import FLAGS as GRPO
from tests.algorithms.test_grpo import slow  # noqa: F401

FLAGS = GRPO | {"cuts_ratio": 0.5, "cuts_top_k": 5, "cuts_min_prob": 0.03, "cuts_warmup": 2}
METRICS = set()
SCRIPT_METRICS = {"cuts_reward", "plain_reward"}
SCRIPT_FLAGS = {"cuts-warmup": 1}
CASES = [{}, {"beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.28}]
NEUTRAL = [Neutral({}, "grpo", {}, "grpo"), Neutral({"cuts_ratio": 0.0, "beta": 0.1}, "grpo", {"beta": 0.1}, "grpo")]


def spread(rows: list[list[float]], t: int = 2, dtype: torch.dtype = torch.float64, **options) -> torch.Tensor:
    module, args = load("cuts", **options)
    return module.spread(torch.tensor(rows, dtype=dtype), t, args)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0.9, 0.05, 0.03, 0.01, 0.005, 0.005], {0, 1, 2}),  # a third each
        ([0.99, 0.004, 0.003, 0.003], {0}),  # greedy
        ([0.5, 0.2, 0.1, 0.1, 0.05, 0.05], {0, 1, 2, 3, 4}),  # five are the most, of equals the first
        ([0.05, 0.05, 0.1, 0.1, 0.2, 0.5], {0, 2, 3, 4, 5}),
        ([0.01] * 100, {0, 1, 2, 3, 4}),  # none is likely: the likeliest ones
        ([0.01, 0.02] * 50, {1, 3, 5, 7, 9}),
        ([0.6, 0.4], {0, 1}),  # fewer words than five
    ],
)
def test_golden_sets(row: list[float], words: set[int], dtype: torch.dtype) -> None:
    """The same weight on each word of S, in the probabilities' dtype; other rows do not matter."""
    other = [1.0] + [0.0] * (len(row) - 1)
    weights = spread([other, row], dtype=dtype)
    assert weights.dtype == dtype and weights[0].tolist() == other
    assert {*weights[1].nonzero()[:, 0].tolist()} == words and {*weights[1].tolist()} <= {0.0, 1.0}


def slow_spread(row: list[float], t: int, args) -> list[float]:
    """By the definition, word by word."""
    if t < args.cuts_warmup:
        return row
    ranked = sorted(range(len(row)), key=lambda v: (-row[v], v))[: args.cuts_top_k]
    chosen = [v for v in ranked if row[v] >= args.cuts_min_prob] or ranked
    return [1.0 if v in chosen else 0.0 for v in range(len(row))]


@pytest.mark.parametrize("options", [{}, {"cuts_top_k": 3, "cuts_warmup": 0}, {"cuts_min_prob": 0.5}])
def test_sets_of_random_distributions(options: dict) -> None:
    """Also with ties at the border, which a rounded model makes."""
    module, args = load("cuts", **options)
    generator = torch.Generator().manual_seed(0)
    rows = (4 * torch.randn(50, 12, generator=generator, dtype=torch.float64)).softmax(-1)
    rows = (rows * 100).round() / 100
    for t in range(4):
        expected = [slow_spread(row, t, args) for row in rows.tolist()]
        assert module.spread(rows, t, args).tolist() == expected


def test_the_first_tokens_are_drawn_as_ever() -> None:
    row = [0.9, 0.05, 0.05]
    assert [spread([row], t).tolist() == [row] for t in range(4)] == [True, True, False, False]
    assert spread([row], 0, cuts_warmup=0).tolist() == [[1.0, 1.0, 1.0]]


def test_settings_that_draw_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="--cuts-top-k 0"):
        load("cuts", cuts_top_k=0)
    warn_once.cache_clear()
    load("cuts", cuts_warmup=SIZE, max_response_length=SIZE)
    assert "--cuts-warmup" in capsys.readouterr().err
    load("cuts", cuts_warmup=SIZE, max_response_length=SIZE + 1)
    load("cuts", cuts_ratio=0.0, cuts_top_k=0, cuts_warmup=99)
    assert not capsys.readouterr().err
