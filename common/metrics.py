"""The metrics that every algorithm logs, defined once. The glossary of common/README.md says what each one means.

A mean over tokens is over all valid response tokens of the batch, never a mean of means.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from common.policy import Policy


def mean(values: Tensor) -> float:
    """NaN where there is nothing to average."""
    return values.double().mean().item()


def batch_metrics(batch: dict) -> dict[str, float]:
    """What is trained on, as the policy sees it before the update."""
    mask, entropy = batch["mask"], batch["entropy"]
    gap = (batch["old_logprobs"] - batch["rollout_logprobs"]).abs()[mask]
    right = (batch["rewards"] > 0)[:, None] & mask
    return {
        "rollout/importance_mean": mean(batch["importance"][mask]),
        "rollout/sampler_gap_mean": mean(gap),
        "rollout/sampler_gap_max": gap.max().item(),
        "policy/entropy": mean(entropy[mask]),
        "policy/entropy_right": mean(entropy[right]),
        "policy/entropy_wrong": mean(entropy[mask & ~right]),
    }


def entropy_slope(logprobs: Tensor, targets: Tensor) -> Tensor:
    """(C, V), (C, 1) -> (C,): S2 - S1, the first-order change of a state's entropy as its token gets likelier.

    A state of its own logits z whose token's log-probability l has a loss gradient g moves by -g dl/dz a unit of
    learning rate, and its entropy H, of which dH/dz_v = -p_v (log p_v + H), by -g (S2 - S1): S1 = p (l + H) of the
    token, S2 = sum_v p_v^2 (log p_v + H). Exact in first order, for a policy with a table of logits (arXiv 2605.11775
    calls it the token's polarity).
    """
    flow = entropy_flow(logprobs)
    return (logprobs.exp() * flow).sum(1) - flow.gather(1, targets)[:, 0]


def entropy_square(logprobs: Tensor, targets: Tensor) -> Tensor:
    """(C, V), (C, 1) -> (C,): |dH/dz|^2, what a loss gradient of -1 by the state's entropy adds to that entropy."""
    return entropy_flow(logprobs).square().sum(1)


def entropy_flow(logprobs: Tensor) -> Tensor:
    """-dH/dz of each state and word, (C, V)."""
    p = logprobs.exp()
    wordwise = p * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)  # 0 for words of no probability
    return wordwise - p * wordwise.sum(1, keepdim=True)


def entropy_slopes(policy: "Policy", batch: dict) -> dict[str, Tensor]:
    """What `promised_change` reads: `entropy_slope` and `entropy_square` (B, T) under the policy that sampled."""
    _, _, slope, square = policy.score(batch, also=(entropy_slope, entropy_square))
    return {"entropy_slope": slope, "entropy_square": square}


def promised_change(mb: dict, grads: tuple[Tensor, Tensor]) -> Tensor:
    """First-order change of each token's entropy a unit of learning rate, (M, T), times the minibatch's tokens.

    `grads` are those of the loss by log-probabilities and entropies. For the plain policy gradient by token means,
    -A / N each, it is A (S2 - S1). In a rollout's later updates the slopes are those of the policy that sampled.
    """
    by_token = grads[0] * mb["importance"] * mb["entropy_slope"]
    return -(by_token + grads[1] * mb["entropy_square"]) * mb["mask"].sum()


def entropy_change(policy: "Policy", batch: dict) -> dict[str, float]:
    """What a step's updates have made of the entropy on the very tokens that were sampled."""
    mask = batch["mask"]
    return {"policy/entropy_change": mean((policy.score(batch)[1] - batch["entropy"])[mask])}


def update_metrics(
    mb: dict, logprobs: Tensor, grads: tuple[Tensor, Tensor], loss: Tensor, grad_norm: float
) -> dict[str, float]:
    """How far one minibatch has moved from the policy that sampled it, and how much of it carries gradient.

    `grads` are those of the loss by log-probabilities and entropies, (M, T) each. approx_kl is the k3 estimate of
    KL(sampling policy, current policy): r - 1 - log r with r = pi / pi_old.
    """
    log_ratio = (logprobs.detach() - mb["old_logprobs"]).clamp(-20, 20)[mb["mask"]]
    trained = ((grads[0] != 0) | (grads[1] != 0))[mb["mask"]]
    polarity = {}
    if "entropy_slope" in mb:
        promised = promised_change(mb, grads)[mb["mask"]]
        polarity = {"policy/polarity": mean(promised), "policy/raising_ratio": mean((promised > 0)[trained])}
    return polarity | {
        "policy/loss": loss.item(),
        "policy/grad_norm": grad_norm,
        "policy/approx_kl": mean(log_ratio.exp() - 1 - log_ratio),
        "policy/clip_high_ratio": 0.0,  # unless the loss clips, and says so
        "policy/clip_low_ratio": 0.0,
        "policy/trained_token_ratio": mean(trained),
        "tokens/trained": trained.sum().item(),
        "tokens/minibatch": len(trained),
    }


def mean_of_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """One step's statistics from those of its updates.

    Minibatches weigh by their tokens, so that a mean over tokens stays one; an update in which a number does not exist
    (NaN, or no such key) is left out of that number. The gradient norm is a plain mean of the updates that were made.
    """
    tokens = torch.tensor([update["tokens/minibatch"] for update in updates], dtype=torch.float64)
    metrics = {}
    for key in sorted(set().union(*updates) - {"tokens/trained", "tokens/minibatch", "policy/grad_norm"}):
        values = torch.tensor([update.get(key, math.nan) for update in updates], dtype=torch.float64)
        known = ~values.isnan()
        metrics[key] = ((values * tokens)[known].sum() / tokens[known].sum()).item()
    norms = [update["policy/grad_norm"] for update in updates if math.isfinite(update["policy/grad_norm"])]
    return metrics | {
        "policy/grad_norm": sum(norms) / len(norms) if norms else math.nan,
        "policy/skipped_updates": len(updates) - len(norms),
        "tokens/trained": sum(update["tokens/trained"] for update in updates),
    }
