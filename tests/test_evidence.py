"""benchmarks.evidence on made-up runs: its limits are where the runs have them, and doctor says them of a run."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import HERE
from benchmarks.doctor import history
from benchmarks.evidence import (
    LEAST,
    applies,
    below_and_above,
    chance,
    derive,
    descent,
    destroyed_at,
    has_limits,
    lessons,
    read,
    sentence,
    where_from,
)

STEPS = [*range(5, 401, 5)]
ENTROPY = np.linspace(0.4, 0.004, 80)  # 0.154 at step 250


def run(seed: int, ruined: bool = False, plateau: int = 250, higher: float = 0.0) -> dict:
    """pass@1 rises by 0.05 an evaluation until the plateau; a ruined run falls to nothing at step 300 instead.

    Sound gradients are from 1 to 2; `higher` is added to its entropy.
    """
    evaluations = []
    for step in range(0, 401, 50):
        value = 0.2 + 0.001 * min(step, plateau)
        evaluations.append({"step": step, "pass@1": 0.0 if ruined and step >= 300 else value, "pass@32": 0.9})
    training = {name: [1.0] * 80 for name in ("reward", "length", "truncated", "all_wrong", "approx_kl", "grad_norm")}
    training["grad_norm"] = [1.0, 2.0] * 40
    if ruined:  # its gradients grow from step 225 on, its responses when all is over, its moves in one run of three
        training["grad_norm"] = [9.0 if step >= 225 else 2.05 if step == 100 else 1.0 for step in STEPS]
        training["length"] = [9.0 if step > 300 else 1.0 for step in STEPS]
        training["approx_kl"] = [9.0 if step == 100 and seed == 1 else 1.0 for step in STEPS]
    training |= {"step": STEPS, "entropy": (ENTROPY + higher).tolist()}
    about = {"arm": "nsr" if ruined else "grpo", "group": "off-policy", "seed": seed, "flags": {}}
    return about | {"training": training, "evaluations": evaluations, "steps": 400, "ended": None}


def records(entropy: float, grad_norm: float = 1.0) -> list[dict]:
    """Five steps of a run in progress, as metrics.jsonl has them."""
    keys = ("rollout/reward", "rollout/response_length", "rollout/truncated_ratio", "rollout/all_wrong_ratio")
    step = dict.fromkeys((*keys, "policy/approx_kl"), 1.0)
    step |= {"rollout/entropy": entropy, "policy/entropy": entropy, "policy/grad_norm": grad_norm}
    return [{"step": number} | step for number in range(1, 6)]


def low_and_high(low: int = LEAST, **of_low: int) -> list[dict]:
    """Runs that stop to gain at step 250, where their entropy is 0.154; as many above go on to the end."""
    return [run(seed, **of_low) for seed in range(low)] + [run(seed, plateau=400, higher=1.0) for seed in range(LEAST)]


def test_past_recovery_is_where_runs_have_stopped_to_gain_and_others_go_on() -> None:
    found = derive(low_and_high())
    level = found["recovery"]["pass@1"]
    assert level["entropy"] == level["at"] == pytest.approx(ENTROPY[STEPS.index(250)])
    assert (level["runs"], level["recovered"], level["expected"]) == (LEAST, 0, LEAST)
    assert found["recovery"]["pass@32"]["entropy"] is None  # nobody gains any
    assert [*lessons(records(0.001), found)] == ["learning over"] and not lessons(records(0.2), found)
    assert not found["destruction"]["signs"] and has_limits(found)  # nothing was destroyed


def test_a_run_that_has_little_time_left_shows_nothing() -> None:
    """Where those above gain no more often at the same step, or one evaluation is left, a low entropy is no limit."""
    alike = derive(low_and_high()[:LEAST] + [run(seed, higher=1.0) for seed in range(LEAST)])
    never = alike["recovery"]["pass@1"]
    assert never["entropy"] is None and not lessons(records(0.001), alike) and not has_limits(alike)
    assert (never["at"], never["recovered"], never["expected"]) == (pytest.approx(ENTROPY[STEPS.index(300)]), 0, 0)
    said = "no entropy is a limit to pass@1: of the 10 runs that came to 0.104, 0 gained more than 0.02 afterwards"
    assert said in where_from(alike)
    assert max(step for (_, step), _, _ in descent(run(1), "pass@1")) == 300  # 350 and 400 have fewer than two to come
    late = derive(low_and_high(plateau=350))["recovery"]["pass@1"]
    assert late["entropy"] is None and late["recovered"] == LEAST  # they still gain at step 300
    some = derive(low_and_high()[2:] + [run(seed, plateau=400) for seed in (0, 1)])["recovery"]["pass@1"]
    assert (some["entropy"], some["recovered"]) == (None, 2)  # two of ten


def test_runs_are_compared_in_their_regime_and_where_as_many_are_above() -> None:
    low, high = (low_and_high()[part] for part in (slice(LEAST), slice(LEAST, None)))
    descents = [descent(one, "pass@1") for one in low + high]
    level = ENTROPY[STEPS.index(250)]
    assert below_and_above(descents, level) == [(False, 1.0)] * LEAST
    assert below_and_above(descents[:-1], level) == []  # nine are above
    elsewhere = [descent(one | {"group": "on-policy"}, "pass@1") for one in high]
    assert below_and_above(descents[:LEAST] + elsewhere, level) == []
    assert chance([0.5, 0.5], 0) == 0.25 and chance([0.1, 0.2], 1) == pytest.approx(0.98) and chance([], 0) == 1


def test_few_runs_give_no_limit_and_say_so() -> None:
    found = derive(low_and_high(LEAST - 1))
    assert found["recovery"]["pass@1"]["entropy"] is None and not lessons(records(0.001), found)
    assert "from 19 runs of 1 arm on" in where_from(found) and "fewer than 10 runs came low" in where_from(found)
    assert "no run of the comparison is kept" in where_from(read(Path("nowhere"))) and not has_limits(read(Path("no")))


def test_signs_of_destruction_are_those_that_no_sound_run_shows() -> None:
    assert destroyed_at(run(1, ruined=True)) == 300 and destroyed_at(run(1)) is None
    assert destroyed_at(run(1) | {"ended": "error: not finite", "steps": 120}) == 120
    found = derive([run(seed) for seed in range(LEAST)] + [run(seed, ruined=True) for seed in (1, 2, 3)])
    assert found["destruction"]["signs"] == {"grad_norm": {"limit": 2.1, "seen_in": 3, "steps_before": 75.0}}
    assert found["destruction"]["destroyed"][0] == "off-policy, nsr, seed 1, step 300"
    assert [*lessons(records(0.5, grad_norm=2.2), found)] == ["sign of destruction, grad_norm"]
    assert not lessons(records(0.5, grad_norm=2.05), found)
    assert not lessons(records(0.5, grad_norm=2.2)[:4], found)  # five steps are looked at


def test_doctor_says_it_of_the_embedded_model_on_countdown_alone() -> None:
    learned = derive(low_and_high())
    args = {"model": None, "task": "countdown", "algorithm": "grpo", "num_steps": 5, "max_response_length": 24}
    said = {name: text for _, name, text in history(records(0.1), args, learned)}
    assert "in pass@1, of the 10 runs that came to 0.154, 0 gained more than 0.02 afterwards" in said["learning over"]
    assert not applies(args | {"model": "some/model"}) and not applies(args | {"task": "gsm8k"})
    elsewhere = history(records(0.1), args | {"task": "gcd"}, learned)
    assert "learning over" not in {name for _, name, _ in elsewhere}


def test_the_page_says_what_was_seen() -> None:
    """Also where it is nothing; of the evidence that is kept."""
    shown = (HERE / "README.md").read_text().partition("<!-- evidence -->\n")[2].partition("\n\n<!-- /evidence -->")[0]
    assert shown == sentence(read())
