"""Groups of responses: given beginnings, changed distributions, dynamic sampling; with the embedded conventions."""

import math
import re
from functools import partial

import pytest
import torch
from torch import Tensor

from common import InputError
from common.basics import Timer
from common.batch import Response, Sample, make_batch
from common.hf import TopP, TransformersSampler
from common.policy import Policy
from common.problems import Problem
from common.rollout import fit_prompts, sample_groups, sample_mixed_groups
from common.verifier import Verdict, Verifier
from tests.helpers import tiny_policy
from tests.test_rollout import ids_of

LIMIT = 12
PROBLEMS = [Problem(f"{a}+{b}=", str(a + b), f"{a}{b}", "math") for a in range(1, 4) for b in range(1, 4)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(temperature=0.8)


def groups(policy: Policy, problems: list[Problem] = PROBLEMS, n: int = 2, seed: int = 0, **options) -> list[Sample]:
    sampler = TransformersSampler(policy)
    return sample_groups(problems, sampler, Verifier("random"), Timer(), n, 0.8, LIMIT, seed, **options)


# --- Given beginnings -------------------------------------------------------------------------------------------


def test_responses_begin_as_given_and_come_back_whole(policy: Policy) -> None:
    """All sorts at once: none, short, ended, as long as the limit, longer."""
    beginnings = [[], [65, 66], [70, 256], list(range(60, 60 + LIMIT)), list(range(60, 80)), [71], [], [72], [73, 74]]
    samples = groups(policy, prefixes=beginnings)
    assert len(samples) == 2 * len(PROBLEMS)
    for p, beginning in enumerate(beginnings):
        for sample in samples[2 * p : 2 * p + 2]:
            ids = sample.response.token_ids.tolist()
            assert sample.problem is PROBLEMS[p] and sample.prompt_ids == policy.encode(PROBLEMS[p].prompt)
            assert ids[: len(beginning)] == beginning[:LIMIT] and len(ids) <= LIMIT
            assert len(sample.response.logprobs) == len(ids)
            assert sample.response.truncated == (ids[-1] != 256) and (len(ids) == LIMIT or ids[-1] == 256)
            assert sample.text == policy.decode([ids])[0]
    given = [samples[4].response, samples[5].response]
    assert ids_of(given) == [[70, 256]] * 2 and not given[0].truncated
    assert samples[6].response.truncated and ids_of([samples[8].response]) == [beginnings[4][:LIMIT]]


def test_log_probabilities_are_those_of_the_policy(policy: Policy) -> None:
    """Of the beginning and of what follows, at the rollout temperature (I9)."""
    samples = groups(policy, prefixes=[[65, 66, 67]] * 5 + [[]] * 4)
    batch = make_batch(samples)
    scored, _ = policy.score(batch)
    assert (scored - batch["rollout_logprobs"]).abs().max() < 1e-4


def test_a_beginning_is_continued_as_a_prompt_would_be(policy: Policy) -> None:
    """The same distribution: what is drawn after prompt and beginning is what is drawn after both as a prompt."""
    sampler = TransformersSampler(policy)
    samples = groups(policy, PROBLEMS[:1], n=3, seed=4, prefixes=[[65, 66]])
    prompt = policy.encode(PROBLEMS[0].prompt)
    plain = sampler.generate([[*prompt, 65, 66]], 3, 0.8, LIMIT - 2, seed=4)
    assert [ids[2:] for ids in ids_of([s.response for s in samples])] == ids_of(plain)


def test_no_beginnings_are_no_prefixes(policy: Policy) -> None:
    plain, empty = groups(policy), groups(policy, prefixes=[[]] * len(PROBLEMS))
    assert [s.response for s in plain] == [s.response for s in empty]


def test_whole_responses_wake_no_sampler(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given to the end token or to the limit, nothing is left to draw."""
    monkeypatch.setattr(TransformersSampler, "generate", lambda *_, **__: pytest.fail("something was drawn"))
    samples = groups(policy, PROBLEMS[:2], n=3, prefixes=[[65, 256], list(range(60, 80))])
    assert ids_of([s.response for s in samples]) == [[65, 256]] * 3 + [list(range(60, 60 + LIMIT))] * 3


def test_room_is_counted_for_each_response(policy: Policy) -> None:
    """A row that has used its room up neither grows nor ends later, while others go on."""
    sampler = TransformersSampler(policy)
    prompts = [policy.encode(problem.prompt) for problem in PROBLEMS[:3]]
    mixed = sampler.generate(prompts, 2, 0.8, [3, 9, 6], seed=1)
    for limit, first in ((3, 0), (9, 2), (6, 4)):
        for response in mixed[first : first + 2]:
            assert len(response.token_ids) <= limit
            assert response.truncated == (response.token_ids[-1] != 256)
            assert len(response.token_ids) == limit or not response.truncated
    assert any(response.truncated for response in mixed[:2])


# --- Changed distributions --------------------------------------------------------------------------------------


def test_a_transform_changes_the_draw_and_not_the_log_probabilities(policy: Policy) -> None:
    seen = []

    def only_letters(probabilities: Tensor, t: int) -> Tensor:
        seen.append(t)
        assert torch.allclose(probabilities.sum(1), torch.ones(len(probabilities)), atol=1e-5)
        weights = torch.zeros_like(probabilities)
        weights[:, 64:90] = 1.0
        return weights

    samples = groups(policy, transform=only_letters)
    batch = make_batch(samples)
    assert seen == list(range(LIMIT))
    assert ((batch["response_ids"] >= 64) & (batch["response_ids"] < 90)).all() and batch["truncated"].all()
    scored, _ = policy.score(batch)
    assert (scored - batch["rollout_logprobs"]).abs().max() < 1e-4


def test_transformed_log_probabilities_where_they_are_asked_for(policy: Policy) -> None:
    def uniform(probabilities: Tensor, t: int) -> Tensor:
        return torch.ones_like(probabilities)

    samples = groups(policy, transform=uniform, transformed_logprobs=True)
    values = torch.tensor([value for sample in samples for value in sample.response.logprobs])
    torch.testing.assert_close(values, torch.full_like(values, -math.log(258)), rtol=0, atol=1e-5)


def test_identity_is_no_transform(policy: Policy) -> None:
    assert [s.response for s in groups(policy)] == [s.response for s in groups(policy, transform=lambda p, t: p)]


def test_top_p_keeps_the_likeliest() -> None:
    probabilities = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
    assert TopP(0.6)(probabilities, 0).tolist() == [[0.5, 0.0, pytest.approx(0.4)], [0.0, pytest.approx(0.7), 0.0]]


# --- Dynamic sampling -------------------------------------------------------------------------------------------


class Draws:
    """Groups by a script: m(ixed), (all) r(ight) or w(rong), one letter after the other; what was asked for."""

    def __init__(self, kinds: str, n: int = 3):
        self.kinds, self.n, self.taken, self.asked, self.seeds = kinds, n, 0, [], []

    def take(self, count: int) -> list[int]:
        self.taken += count
        return list(range(self.taken - count, self.taken))

    def draw(self, problems: list[int], seed: int) -> list[Sample]:
        self.asked.append(len(problems))
        self.seeds.append(seed)
        samples = []
        for number in problems:
            kind = self.kinds[number % len(self.kinds)]
            for g in range(self.n):
                right = kind == "r" or (kind == "m" and g == 0)
                response = Response([1], [-1.0], False)
                samples.append(Sample(number, [number], response, "", Verdict(float(right), "match", "1")))
        return samples


def run(kinds: str, num_prompts: int, further_rounds: int = 9) -> tuple[Draws, list[int], dict]:
    draws = Draws(kinds)
    samples, metrics = sample_mixed_groups(draws.draw, draws, num_prompts, 3, further_rounds, seed=lambda r: 100 + r)
    assert metrics["rollout/num_samples"] == 3 * sum(draws.asked)
    assert metrics["rollout/sampling_rounds"] == len(draws.asked)
    assert draws.seeds == [100 + r for r in range(len(draws.asked))]
    numbers = [sample.problem for sample in samples]
    assert numbers == [number for number in numbers[::3] for _ in range(3)]
    return draws, numbers[::3], metrics


def test_a_second_round_draws_what_will_probably_do() -> None:
    """Half of the groups are mixed: to replace four, eight are drawn, and the surplus is dropped."""
    draws, kept, metrics = run("mw", 8)
    assert draws.asked == [8, 8] and kept == [0, 2, 4, 6, 8, 10, 12, 14]
    assert metrics["rollout/trained_group_ratio"] == 1 and metrics["rollout/zero_std_ratio"] == 0.5


def test_surplus_groups_are_dropped_in_order() -> None:
    draws, kept, _ = run("mwwwmmmmmmmmmmmm", 4)
    assert draws.asked == [4, 12] and kept == [0, 4, 5, 6]


def test_nothing_mixed_yet_counts_as_a_tenth() -> None:
    draws, kept, metrics = run("w" * 4 + "m" * 40, 4)
    assert draws.asked == [4, 36] and kept == [4, 5, 6, 7]  # 40 in all, of which 4 are gone
    assert metrics["rollout/trained_group_ratio"] == 1


def test_prompts_in_all_are_bounded() -> None:
    draws, kept, metrics = run("w", 4, further_rounds=2)
    assert draws.asked == [4, 8] and kept == [0, 1, 2, 3]
    assert metrics["rollout/trained_group_ratio"] == 0 and metrics["rollout/all_wrong_ratio"] == 1


def test_rounds_are_bounded() -> None:
    draws, kept, metrics = run("mwwwwwwwwwwwwwwwwwww", 4, further_rounds=2)
    assert draws.asked == [4, 8] and kept == [0]
    assert metrics["rollout/trained_group_ratio"] == 0.25


def test_without_further_rounds_every_group_is_kept() -> None:
    draws, kept, metrics = run("mwrw", 4, further_rounds=0)
    assert draws.asked == [4] and kept == [0, 1, 2, 3] and metrics["rollout/trained_group_ratio"] == 1


def test_enough_at_once_is_one_round() -> None:
    draws, kept, _ = run("m", 4)
    assert draws.asked == [4] and kept == [0, 1, 2, 3]


# --- Room in the context ----------------------------------------------------------------------------------------


def test_further_tokens_need_room_too(policy: Policy) -> None:
    """The context of 128 holds prompt, response, and what a pass needs beyond them; at 4 + 24 that is 100."""
    fit = partial(fit_prompts, policy, PROBLEMS, 0, 24)
    assert fit() == fit(further=100) == (PROBLEMS, 28)
    with pytest.raises(InputError, match="and 101 further tokens exceeds the model's context of 128; use at most 23"):
        fit(further=101)


@pytest.mark.parametrize("further", [0, 1, 4, 99])
@pytest.mark.parametrize("responses", [1, 2, 3])
def test_the_length_that_a_refusal_names_fits(further: int, responses: int, policy: Policy) -> None:
    """And one more does not: by trying, whatever a pass holds beside prompt and response."""
    fit = partial(fit_prompts, policy, PROBLEMS, 0, further=further, responses=responses)
    with pytest.raises(InputError) as refused:
        fit(1000)
    room = int(re.search("use at most ([0-9]+)", str(refused.value))[1])
    assert fit(room) == (PROBLEMS, 4 + room)
    with pytest.raises(InputError, match=f"use at most {room}, or leave long prompts out"):
        fit(room + 1)


def test_where_no_length_fits_none_is_named(policy: Policy) -> None:
    with pytest.raises(InputError, match="context of 128; leave long prompts out with --max-prompt-length"):
        fit_prompts(policy, PROBLEMS, 0, 24, further=124)
