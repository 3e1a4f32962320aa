"""From samples to the batch that an algorithm sees, and the minibatches it is cut into."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.problems import Problem
from common.verifier import Verdict


@dataclass(slots=True, eq=False)
class Response:
    """Sampled tokens with the end token, their log-probabilities, and whether the length limit cut them off; where the
    sampler knows it and they are the policy's, the entropy of the distribution that each was drawn from.

    Arrays, of 8 or 12 bytes a token together: batches hold millions of them, on every rank. Lists are taken too.
    """

    token_ids: np.ndarray  # (length,) int32
    logprobs: np.ndarray  # (length,) float32
    truncated: bool
    entropies: np.ndarray | None = None  # (length,) float32, nats

    def __post_init__(self) -> None:
        self.token_ids = np.asarray(self.token_ids, np.int32)
        self.logprobs = np.asarray(self.logprobs, np.float32)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Response)
            and self.truncated == other.truncated
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.logprobs, other.logprobs)
            and (self.entropies is None) == (other.entropies is None)
            and (self.entropies is None or np.array_equal(self.entropies, other.entropies))
        )


@dataclass(slots=True)
class Sample:
    """One response to one problem, with its verdict."""

    problem: Problem
    prompt_ids: list[int]
    response: Response
    text: str
    verdict: Verdict


def pad(rows: Sequence[Sequence[float]], dtype: type, left: bool = False) -> Tensor:
    """Rows of unequal length, lists or arrays, as one (R, longest) tensor with 0 in the gaps."""
    tensors = [torch.from_numpy(np.array(row, dtype)) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_side="left" if left else "right")


def token_batch(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> dict:
    """The part of a batch that `Policy.score` reads: `prompt_ids`, `prompt_mask`, `response_ids`, `mask`.

    Masks are decided by length, never by token id: padding and end token may be the same id.
    """
    prompt_ids, response_ids = pad(prompts, np.int64, left=True), pad(responses, np.int64)
    prompt_lengths, lengths = (torch.tensor(list(map(len, rows)))[:, None] for rows in (prompts, responses))
    return {
        "prompt_ids": prompt_ids,  # (B, Tp) left-padded
        "prompt_mask": torch.arange(prompt_ids.shape[1]) >= prompt_ids.shape[1] - prompt_lengths,  # (B, Tp)
        "response_ids": response_ids,  # (B, T) right-padded
        "mask": torch.arange(response_ids.shape[1]) < lengths,  # (B, T)
    }


def make_batch(samples: list[Sample]) -> dict:
    """The batch that the algorithm sees: tensors with first dimension B, lists of length B; numbers may be added.

    `likely_trained` is a guess, for `Policy.score` to keep their graph: rows of prompts with different rewards.
    `rollout_entropy` (B, T) is there if all responses came with entropies.
    """
    seen: dict[tuple[int, ...], set[float]] = {}
    for s in samples:
        seen.setdefault(tuple(s.prompt_ids), set()).add(s.verdict.reward)
    tokens = token_batch([s.prompt_ids for s in samples], [s.response.token_ids for s in samples])
    known = all(s.response.entropies is not None for s in samples)
    entropy = {"rollout_entropy": pad([s.response.entropies for s in samples], np.float32)} if known else {}
    return (
        tokens
        | entropy
        | {
            "rewards": torch.tensor([s.verdict.reward for s in samples]),  # (B,)
            "likely_trained": torch.tensor([len(seen[tuple(s.prompt_ids)]) > 1 for s in samples]),  # (B,)
            "truncated": torch.tensor([s.response.truncated for s in samples]),  # (B,)
            "rollout_logprobs": pad([s.response.logprobs for s in samples], np.float32),  # (B, T)
            "problems": [s.problem for s in samples],
            "responses": [s.text for s in samples],
            "answers": [s.verdict.answer for s in samples],
        }
    )


def importance_weights(batch: dict, cap: float) -> Tensor:
    """What each token's gradient weighs (B, T): min(pi_trainer / pi_sampler, cap), or 1 with a cap of 0.

    An engine with arithmetic of its own samples from slightly another policy: truncated importance sampling.
    """
    log_ratio = (batch["old_logprobs"] - batch["rollout_logprobs"]).clamp(-20, 20)
    return log_ratio.exp().clamp(max=cap) if cap else torch.ones_like(log_ratio)


def take_rows(batch: dict, rows: Tensor) -> dict:
    """The same keys for some of the rows; what belongs to no row, such as a number, stays as it is."""
    index = rows.tolist()

    def taken(value: object) -> object:
        if isinstance(value, Tensor):
            return value[rows]
        return [value[i] for i in index] if isinstance(value, list) else value

    return {key: taken(value) for key, value in batch.items()}


# --- Minibatches ------------------------------------------------------------------------------------------------


def minibatches(batch: dict, args: Any) -> Iterator[dict]:
    """`args.num_minibatches` parts of the batch, `args.update_epochs` times over, its groups in a new order each time.

    `args.minibatch_split` says what stays together. "groups": whole groups, as losses expect. As controls, "rows": each
    group's rows spread over the minibatches; "balanced": whole groups, dealt out by success rate so that minibatches
    are equally hard. There are fewer minibatches where there are fewer groups (rows). Randomness is torch's.
    """
    groups = torch.arange(len(batch["mask"])).view(-1, args.num_generations)  # (P, G) row numbers
    split = SPLITS[args.minibatch_split]
    for _ in range(args.update_epochs):
        for rows in split(groups[torch.randperm(len(groups))], batch["rewards"], args.num_minibatches):
            yield batch if len(rows) == len(batch["mask"]) else take_rows(batch, rows)


def whole_groups(groups: Tensor, rewards: Tensor, count: int) -> list[Tensor]:
    return [part.flatten() for part in groups.tensor_split(min(count, len(groups)))]


def spread_rows(groups: Tensor, rewards: Tensor, count: int) -> list[Tensor]:
    """A first response of every group, a second one, ...: those of one group stand as far apart as they can."""
    shuffled = groups.gather(1, torch.rand(groups.shape).argsort(1))
    return list(shuffled.t().flatten().tensor_split(min(count, groups.numel())))


def equally_hard(groups: Tensor, rewards: Tensor, count: int) -> list[Tensor]:
    """The groups in the order of their success rates, dealt out to and fro."""
    count = min(count, len(groups))
    ranked = groups[rewards[groups].mean(1).argsort(stable=True)]
    turn, place = torch.arange(len(groups)) // count % 2, torch.arange(len(groups)) % count
    receiver = torch.where(turn == 0, place, count - 1 - place)
    return [ranked[receiver == i].flatten() for i in range(count)]


SPLITS = {"groups": whole_groups, "rows": spread_rows, "balanced": equally_hard}
