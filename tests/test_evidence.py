"""benchmarks.evidence on made-up runs: its limits are where the runs have them, and doctor says them of a run."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.doctor import history
from benchmarks.evidence import LEAST, applies, derive, destroyed_at, lessons, read, speaking, where_from

STEPS = [*range(5, 401, 5)]
ENTROPY = np.linspace(0.4, 0.004, 80)  # 0.154 at step 250


def run(seed: int, ruined: bool = False, plateau: int = 250) -> dict:
    """pass@1 rises by 0.05 an evaluation until the plateau; a ruined run falls to nothing at step 300 instead.

    Sound gradients are from 1 to 2.
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
    training |= {"step": STEPS, "entropy": ENTROPY.tolist()}
    about = {"arm": "nsr" if ruined else "grpo", "group": "off-policy", "seed": seed, "flags": {}}
    return about | {"training": training, "evaluations": evaluations, "steps": 400, "ended": None}


def records(entropy: float, grad_norm: float = 1.0) -> list[dict]:
    """Five steps of a run in progress, as metrics.jsonl has them."""
    keys = ("rollout/reward", "rollout/response_length", "rollout/truncated_ratio", "rollout/all_wrong_ratio")
    step = dict.fromkeys((*keys, "policy/approx_kl"), 1.0)
    step |= {"rollout/entropy": entropy, "policy/entropy": entropy, "policy/grad_norm": grad_norm}
    return [{"step": number} | step for number in range(1, 6)]


def test_past_recovery_is_where_runs_have_stopped_to_gain() -> None:
    found = derive([run(seed) for seed in range(LEAST)])
    level = found["recovery"]["pass@1"]
    assert level["entropy"] == pytest.approx(ENTROPY[STEPS.index(250)]) and (level["runs"], level["recovered"]) == (
        LEAST,
        0,
    )
    never = found["recovery"]["pass@32"]
    assert (never["entropy"], never["runs"], never["recovered"]) == (None, LEAST, 0)  # it gains at no entropy
    assert "pass@32 has risen again in 0 of 10, from whichever entropy" in where_from(found)
    assert [*lessons(records(0.001), found)] == ["learning over"]
    assert not found["destruction"]["signs"]  # nothing was destroyed
    mixed = derive([run(seed, plateau=300 if seed < 2 else 250) for seed in range(LEAST)])
    assert mixed["recovery"]["pass@1"]["entropy"] == ENTROPY[STEPS.index(300)]  # two of ten went on until there


def test_few_runs_give_no_limit_and_say_so() -> None:
    found = derive([run(seed) for seed in range(LEAST - 1)])
    assert found["recovery"]["pass@1"]["entropy"] is None and not lessons(records(0.001), found)
    assert "9 runs of 1 arms" in where_from(found) and "too few" in where_from(found)
    assert "no run of the comparison is kept" in where_from(read(Path("nowhere")))


def test_signs_of_destruction_are_those_that_no_sound_run_shows() -> None:
    assert destroyed_at(run(1, ruined=True)) == 300 and destroyed_at(run(1)) is None
    assert destroyed_at(run(1) | {"ended": "error: not finite", "steps": 120}) == 120
    found = derive([run(seed) for seed in range(LEAST)] + [run(seed, ruined=True) for seed in (1, 2, 3)])
    assert found["destruction"]["signs"] == {"grad_norm": {"limit": 2.1, "seen_in": 3, "steps_before": 75.0}}
    assert found["destruction"]["destroyed"][0] == "off-policy, nsr, seed 1, step 300"
    assert [*lessons(records(0.5, grad_norm=2.2), found)] == ["sign of destruction, grad_norm"]
    assert not lessons(records(0.5, grad_norm=2.05), found)
    assert not lessons(records(0.5, grad_norm=2.2)[:4], found)  # five steps are looked at


def test_random_rewards_teach_nothing_here() -> None:
    assert speaking([run(1), run(2) | {"flags": {"reward_mode": "random"}}]) == [run(1)]


def test_doctor_says_it_of_the_embedded_model_on_countdown_alone() -> None:
    learned = derive([run(seed) for seed in range(LEAST)])
    args = {"model": None, "task": "countdown", "algorithm": "grpo", "num_steps": 5, "max_response_length": 24}
    said = {name: text for _, name, text in history(records(0.1), args, learned)}
    assert (
        "of the 10 kept runs of this model that came to 0.154, 0 gained more than 0.02 of pass@1"
        in said["learning over"]
    )
    assert not applies(args | {"model": "some/model"}) and not applies(args | {"task": "gsm8k"})
    elsewhere = history(records(0.1), args | {"task": "gcd"}, learned)
    assert "learning over" not in {name for _, name, _ in elsewhere}
