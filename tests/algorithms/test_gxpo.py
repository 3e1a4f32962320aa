"""GXPO: two steps, a leap ahead, a third step; the loss is GRPO's.

What the script does with them is in tests/test_scripts.py.
"""

import math

import pytest
import torch

from common import InputError
from tests.algorithms.oracle import Neutral, load
from tests.algorithms.test_grpo import FLAGS as GRPO
from tests.algorithms.test_grpo import slow  # noqa: F401

FLAGS = GRPO | {"extrapolation": 0.5, "horizon": 5, "gate": 3.0, "gate_decay": 0.1}
METRICS = set()
SCRIPT_METRICS = {"scale_mean", "gate_z"}
CASES = [{}, {"beta": 0.3, "entropy_coef": 0.1, "clip_ratio_high": 0.28}]
NEUTRAL = [Neutral({}, "grpo", {}, "grpo"), Neutral({"extrapolation": 0.0, "beta": 0.1}, "grpo", {"beta": 0.1}, "grpo")]


def lead(ratios: list[float], **options) -> list[float]:
    """k where the second step is so many times the first."""
    module, args = load("gxpo", **options)
    ratios = torch.tensor(ratios, dtype=torch.float64)
    x = torch.full_like(ratios, 0.25)
    y = x + 0.5  # numbers without rounding
    return module.lead(x, y, y + 0.5 * ratios, args).tolist()


def test_golden_scales() -> None:
    """S_5 / S_2 = (1 + q + q^2 + q^3 + q^4) / (1 + q), from 1 to 3.5; q from -2 to 3; 0 / 0 at -1."""
    ratios = [0.0, 0.5, 1.0, 1.5, 3.0, 9.0, -0.5, -1.0, -1.5, -2.0, -9.0]
    sums = [max(1.0, (1 - 0.5 + 0.25 - 0.125 + 0.0625) / 0.5), 1, 1.0, 1.0, 1.0]  # -1.5: 2.75 / -0.5 is below 1
    expected = [1.0, 1.291667, 2.5, 3.5, 3.5, 3.5, *sums]
    assert lead(ratios) == pytest.approx(expected, abs=1e-6)
    assert lead([0.5], horizon=3) == pytest.approx([1.166667], abs=1e-6)
    assert lead([-0.75]) == pytest.approx([(1 - 0.75 + 0.75**2 - 0.75**3 + 0.75**4) / 0.25])
    assert lead([1.4, 0.7], horizon=2) == [1.0, 1.0]  # no further than was seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_parameter_that_stood_still_is_not_led(dtype: torch.dtype) -> None:
    """Nothing to divide by, whatever the second step did."""
    module, args = load("gxpo")
    x = torch.tensor([1.0, 1.0, 0.0], dtype=dtype)
    y = x + torch.tensor([0.0, 0.0, 1e-13], dtype=dtype)
    k = module.lead(x, y, torch.tensor([1.0, 2.0, 1.0], dtype=dtype), args)
    assert k.tolist() == [1.0] * 3 and k.dtype == dtype


@pytest.mark.parametrize("horizon", [2, 5, 10])
def test_exact_on_a_diagonal_quadratic(horizon: int) -> None:
    """x - K(h, rate) steps of plain gradient descent on h x^2 / 2, from two of them."""
    module, args = load("gxpo", horizon=horizon, extrapolation=1.0)
    curvature = torch.linspace(0.1, 9.9, 20, dtype=torch.float64)
    points = [torch.linspace(-3, 4, 20, dtype=torch.float64)]
    for _ in range(horizon):
        points.append(points[-1] - 0.1 * curvature * points[-1])
    x, y, z = points[:3]
    torch.testing.assert_close(x + module.lead(x, y, z, args) * (z - x), points[-1], rtol=0, atol=1e-12)


# --- The gate ---------------------------------------------------------------------------------------------------------


def watched(norms: list[float], **options) -> tuple[list[float], dict]:
    module, args = load("gxpo", **options)
    state = {}
    return [module.watch(norm, args, state) for norm in norms], state


def test_gate_by_hand() -> None:
    """Mean and variance from 1 and 1, d 0.1; z is of the norm against what was before it."""
    z, state = watched([2.0, 1.0, 3.0])
    mean, var = 1.0, 1.0
    mean, var = 1.1, 0.9 * var + 0.1 * 1.0
    mean, var = 1.1 - 0.1 * 0.1, 0.9 * var + 0.1 * 0.01
    assert math.isnan(z[0]) and math.isnan(z[1]) and z[2] == pytest.approx((3.0 - mean) / math.sqrt(var))
    assert state["gate_mean"] == pytest.approx(0.9 * mean + 0.3)
    assert state["gate_var"] == pytest.approx(0.9 * var + 0.1 * (3.0 - mean) ** 2)
    assert state["gate_count"] == 3 and state["off"] == 0


@pytest.mark.parametrize(
    ("norms", "gate", "off"),
    [
        ([1.0, 1.0, 4.1], 3.0, 1),  # deviation 0.9
        ([1.0, 1.0, 3.6], 3.0, 0),
        ([1.0, 50.0], 3.0, 0),  # the first two say nothing
        ([1.0, 1.0, 0.0], 0.5, 0),  # below is no danger
        ([1.0, 1.0, 90.0], 0.0, 0),  # never
        ([1.0, 1.0, 90.0], 3.0, 1),
    ],
)
def test_gate_opens_upwards(norms: list[float], gate: float, off: int) -> None:
    assert watched(norms, gate=gate)[1]["off"] == off


def test_deviation_has_a_floor() -> None:
    """Norms that are all but the same end nothing."""
    z, state = watched([1.0] * 200 + [1.02])
    assert z[-1] == pytest.approx(2.0) and not state["off"]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_step_that_was_not_made_is_not_counted(norm: float) -> None:
    z, state = watched([norm] * 3)
    assert all(map(math.isnan, z)) and not state


@pytest.mark.parametrize("horizon", [1, 101])
def test_horizon_is_beyond_what_is_seen_and_its_powers_are_numbers(horizon: int) -> None:
    with pytest.raises(InputError, match=f"--horizon is {horizon};"):
        load("gxpo", horizon=horizon)
    module, args = load("gxpo", horizon=100)
    x, q = torch.full((4,), 0.25), torch.tensor([-2.0, 3.0, -1.0, 0.0])
    k = module.lead(x, x + 0.5, x + 0.5 + 0.5 * q, args)
    assert k.tolist() == [51.0, 51.0, 1.0, 1.0]  # at -2: (1 - (-2)^100) / 3 / -1
