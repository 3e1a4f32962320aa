"""BCPG-NSA: right steps of wrong answers are charged less, under a leash on whole responses."""

import pytest
import torch

from common import InputError
from common.verifier import countdown_steps
from tests.algorithms.oracle import Neutral, grads_of, group_of, load, random_batch

FLAGS = {"right_step_weight": 0.5, "beta": 1e-3, "step_separator": ","}
METRICS = {"right_step_ratio", "leash"}
CASES = [{"beta": 0.3}, {"right_step_weight": -0.5, "beta": 0.0}, {"right_step_weight": 0.0, "beta": 0.1}]
ON_POLICY = [Neutral({"right_step_weight": 1.0, "beta": 0.0}, "dr_grpo", {"length_norm": True}, "dr_grpo")]
NEUTRAL: list[Neutral] = []  # none off-policy: no ratio


def extra(batch: dict, generator: torch.Generator) -> dict:
    return {"step_right": (torch.rand(batch["mask"].shape, generator=generator) < 0.5) & batch["mask"]}


def slow(batch: dict, logprobs: list, entropy: list, args) -> float:
    """Eq. 6 and 7."""
    total = 0.0
    for i, row in enumerate(batch["mask"]):
        n, reward = sum(row), batch["rewards"][i]
        group, one = group_of(batch["rewards"], i), 0.0
        for t in range(n):
            weight = args.right_step_weight if batch["step_right"][i][t] and reward == 0 else 1.0
            one += weight * (reward - sum(group) / len(group)) * logprobs[i][t]
        if args.beta:
            apart = sum(logprobs[i][t] - batch["ref_logprobs"][i][t] for t in range(n))
            one -= args.beta / 2 * apart**2
        total += one / n
    return -total / len(batch["mask"])


@pytest.mark.parametrize(
    ("weight", "value", "gradient"),
    [
        (1.0, 0.249999, [-0.124975] * 4),
        (0.5, 0.174999, [-0.124975, -0.062475, -0.062475, -0.124975]),
        (-0.5, 0.024999, [-0.124975, 0.062525, 0.062525, -0.124975]),
    ],
)
def test_golden_response(weight: float, value: float, gradient: list[float]) -> None:
    """A wrong response of four tokens, the middle two in right steps; the mean of its group is a half."""
    module, args = load("bcpg_nsa", right_step_weight=weight, num_generations=2)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    batch = {"mask": mask, "rewards": torch.tensor([0.0, 1.0]).double(), "step_right": torch.zeros_like(mask)}
    batch["step_right"][0, 1:3] = True
    logprobs = torch.tensor([[-0.5, -0.2, -1.0, -0.3], [0.0] * 4], dtype=torch.float64, requires_grad=True)
    batch["ref_logprobs"] = torch.tensor([[-0.6, -0.2, -0.8, -0.3], [0.0] * 4], dtype=torch.float64)
    module.assign_credit(batch, args, {})
    loss, (found, _) = grads_of(module, args, batch, logprobs, torch.zeros_like(logprobs, requires_grad=True))
    assert -2 * loss.item() == pytest.approx(value, abs=2e-6)
    assert (-2 * found[0]).tolist() == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "right"),
    [
        (["3*6=18", "18*8=144"], [True, True]),
        (["3*6=19", "19*8=152"], [False, False]),  # 19 is at nobody's hand
        (["3*6=19", "3*6=18"], [False, True]),  # a wrong step uses nothing up
        (["3*6=18", "3*8=24"], [True, False]),  # 3 is gone
        (["8*18=144", "3*6=18"], [False, True]),  # in this order it is not at hand
        (["6/3=2", "2+8=10"], [True, True]),
        (["6/4=1"], [False]),
        (["", "Answer: 3*6=18", "3 * 6 = 18"], [False, False, False]),
        ([" 8-6=2 ", "2-3=-1"], [True, True]),
        (["8-8=0"], [False]),
    ],
)
def test_steps(steps: list[str], right: list[bool]) -> None:
    assert countdown_steps("3*6=18,18*8=144", steps) == right


def test_right_responses_keep_their_credit() -> None:
    """And a weight of 1 is the plain centred reward."""
    module, args = load("bcpg_nsa")
    batch, _, _ = random_batch(1, extra=extra)
    module.assign_credit(batch, args, {})
    groups = batch["rewards"].view(-1, args.num_generations)
    centred = (groups - groups.mean(1, keepdim=True)).view(-1, 1) * batch["mask"]
    spared = batch["step_right"] & (batch["rewards"] == 0)[:, None]
    torch.testing.assert_close(batch["advantages"], torch.where(spared, 0.5 * centred, centred), rtol=0, atol=1e-12)
    assert spared.any()


def test_other_tasks_are_refused() -> None:
    load("bcpg_nsa", task="countdown:numbers=4")
    for task in ("arithmetic", "gsm8k", "countdowns"):
        with pytest.raises(InputError, match="only countdown"):
            load("bcpg_nsa", task=task)
    with pytest.raises(InputError, match="--step-separator ,"):
        load("bcpg_nsa", step_separator="")


ANSWER = "3*7=21,21-5=17"


@pytest.mark.parametrize(
    ("before", "after"),
    [("", ""), ("Answer: ", ""), ("<answer>", "</answer>"), ("\\boxed{", "}"), ("Well, as I said: \\boxed{", "}.")],
)
def test_steps_are_those_of_the_statement(before: str, after: str) -> None:
    """However it is marked, as the verifier reads it; what came before its first step is of none."""
    module, _ = load("bcpg_nsa")
    text = before + ANSWER + after
    right = module.right_tokens([*text], text, "3*7=21,21+5=26", ",")
    found = "".join(c for c, kept in zip(text, right, strict=True) if kept)
    assert found == before.rpartition(",")[2] + "3*7=21,"


def test_a_separator_may_lie_across_tokens_or_inside_one() -> None:
    module, _ = load("bcpg_nsa")
    for tokens, separator in ((["3*7=21", ",", " ", "21-5=16"], ", "), (["3*7", "=21,21", "-5=17"], ",")):
        right = module.right_tokens(tokens, "".join(tokens), "3*7=21,21+5=26", separator)
        assert right == ([True] * 4 if separator == ", " else [True, True, False])
    assert not any(module.right_tokens(["no", "thing"], "nothing", "3*7=21,21+5=26", ","))
