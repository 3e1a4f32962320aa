"""The batch that all lessons count on: sampled from the embedded model once, and kept as results/lessons.json.

Eight prompts with eight responses each, every token with its log-probability and entropy under the policy that sampled,
and under the policy that the eighth update of a rollout finds: two passes of four minibatches, all else GRPO's default.
Besides, the likely next words in three states, what 512 further responses to one prompt begin with, and what one update
of the whole batch does to its entropy.
"""

import json
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from algos import grpo
from benchmarks import RESULTS
from benchmarks.explore import short, token_texts
from benchmarks.rollouts import Actor, countdown, differentiate, scored
from benchmarks.theorem import both_updates
from common import InputError
from common.batch import Sample, minibatches, token_batch
from common.loading import load_policy
from common.metrics import entropy_slopes
from common.policy import Policy

PATH = RESULTS / "lessons.json"
SEED, PROMPTS, SIZE, LENGTH = 8, 8, 8, 24  # of the batch; the seed's has mixed groups of many kinds, and all-wrong ones
MORE, OFTEN = 512, 5  # further responses, and the prompt that they are to: one that is often solved
STATES = ((0, ""), (0, "5"), (OFTEN, ""))  # prompt, and the beginning of a response to it
SGD_RATE = 0.01
ARGS = {"num_prompts": PROMPTS, "num_generations": SIZE, "num_minibatches": 4, "update_epochs": 2}
TOKENS = {  # list of a response -> tensor (B, T) of the batch
    "ids": "response_ids",
    "logprob": "old_logprobs",
    "entropy": "entropy",
    "slope": "entropy_slope",
    "later_logprob": "later_logprobs",
    "later_entropy": "later_entropy",
}


# --- Making -----------------------------------------------------------------------------------------------------------


def fresh_policy() -> Policy:
    """The embedded model, with GRPO's default optimiser."""
    return load_policy(device="cpu", learning_rate=grpo.Args.learning_rate)


def sample() -> tuple[list[Sample], list[Sample]]:
    """The batch's responses, and further ones to one of its prompts."""
    actor, problems = Actor(fresh_policy()), countdown(SEED).take(PROMPTS)
    return actor.sample(problems, SIZE, LENGTH, SEED), actor.sample([problems[OFTEN]], MORE, LENGTH, SEED + 1)


def distribution(policy: Policy, ids: list[int]) -> Tensor:
    """Probability of every word behind these tokens, (V,)."""
    words = range(len(policy.tokenizer))
    logprobs, _ = policy.score(token_batch([ids] * len(words), [[word] for word in words]))
    return logprobs[:, 0].exp()


def state(policy: Policy, prompt: str, beginning: str) -> dict:
    """The words of at least 0.001 behind a prompt and the beginning of a response, likeliest first; `rest`: all others.

    `entropy` is that of the whole vocabulary, in nats.
    """
    p = distribution(policy, policy.encode(prompt + beginning)).double()
    chosen = p.argsort(descending=True)[: int((p >= 1e-3).sum())]
    return {
        "prompt": prompt,
        "beginning": beginning,
        "words": token_texts(policy, chosen.tolist()),
        "p": [short(value) for value in p[chosen].tolist()],
        "rest": short(1 - p[chosen].sum().item()),
        "entropy": short(torch.special.entr(p).sum().item()),
    }


def first_words(policy: Policy, samples: list[Sample]) -> dict[str, dict[str, int]]:
    """How many responses begin with each word, by whether they are right."""
    begun = token_texts(policy, [int(one.response.token_ids[0]) for one in samples])
    counts = Counter(zip(begun, ("right" if one.verdict.reward else "wrong" for one in samples), strict=True))
    words = sorted(set(begun), key=lambda word: (-sum(counts[word, key] for key in ("right", "wrong")), word))
    return {word: {key: counts[word, key] for key in ("right", "wrong")} for word in words}


def measure(samples: list[Sample]) -> dict:
    """All that is computed from the batch's responses, without sampling anything."""
    policy, args = fresh_policy(), grpo.Args(**ARGS)
    batch = scored(policy, samples)
    batch |= entropy_slopes(policy, batch) | {"importance": torch.ones_like(batch["entropy"])}
    batch["row"] = torch.arange(len(samples))
    grpo.assign_credit(batch, args, {})

    _, grads = differentiate(grpo, (batch["old_logprobs"], batch["entropy"]), batch, args)
    updates = [*both_updates(fresh_policy(), batch, grads, SGD_RATE)]

    torch.manual_seed(SEED)
    *parts, last = minibatches(batch, args)
    for mb in parts:
        _, grads = differentiate(grpo, policy.score(mb), mb, args)
        policy.backward(mb, *grads)
        policy.step()
    batch["later_logprobs"], batch["later_entropy"] = policy.score(batch)

    groups = []
    for first in range(0, len(samples), SIZE):
        responses = []
        for row, one in enumerate(samples[first : first + SIZE], first):
            ids = one.response.token_ids.tolist()
            found = {"text": one.text, "reward": one.verdict.reward, "tokens": token_texts(policy, ids)}
            for key, name in TOKENS.items():
                values = batch[name][row, : len(ids)].tolist()
                found[key] = values if key == "ids" else [short(value) for value in values]
            responses.append(found)
        groups.append({"prompt": samples[first].problem.prompt, "responses": responses})
    start = fresh_policy()
    return {
        "groups": groups,
        "last_minibatch": last["row"].tolist(),
        "states": [state(start, groups[p]["prompt"], beginning) for p, beginning in STATES],
        "updates": [{key: v if key == "optimiser" else short(v) for key, v in one.items()} for one in updates],
    }


def make() -> dict:
    """The record, but for how it was made."""
    samples, more = sample()
    return measure(samples) | {"first_words": first_words(fresh_policy(), more)}


# --- Reading ----------------------------------------------------------------------------------------------------------


def load(path: Path = PATH) -> tuple[dict, dict]:
    """The record, and its batch as an algorithm's `assign_credit` finds it, in float64: B = 64 rows, T tokens.

    `later_logprobs` and `later_entropy` (B, T) are of the policy that the eighth update finds, `tokens` the texts.
    Raises InputError where there is no record.
    """
    if not path.exists():
        raise InputError(f"{path} is missing; make it with: python -m benchmarks.lessons --record")
    record = json.loads(path.read_text())
    responses = [one for group in record["groups"] for one in group["responses"]]
    lengths = torch.tensor([len(one["ids"]) for one in responses])
    batch = {
        "mask": torch.arange(int(lengths.max())) < lengths[:, None],
        "rewards": torch.tensor([one["reward"] for one in responses], dtype=torch.float64),
        "tokens": [one["tokens"] for one in responses],
    }
    for key, name in TOKENS.items():
        dtype = torch.long if key == "ids" else torch.float64
        batch[name] = pad_sequence([torch.tensor(one[key], dtype=dtype) for one in responses], batch_first=True)
    return record, batch


def kept_run(arm: str, regime: str = "off-policy", seed: int = 1) -> dict:
    """A run of the comparison through the collapse, as benchmarks.collapse keeps it."""
    return json.loads((RESULTS / "collapse" / "runs" / regime / f"{arm}-s{seed}.json").read_text())
