"""The metrics that every algorithm logs, defined once. The README's glossary says what each one means.

A mean over tokens is over all valid response tokens of the batch, never a mean of means.
"""

import math

import torch
from torch import Tensor


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


def update_metrics(
    mb: dict, logprobs: Tensor, grads: tuple[Tensor, Tensor], loss: Tensor, grad_norm: float
) -> dict[str, float]:
    """How far one minibatch has moved from the policy that sampled it, and how much of it carries gradient.

    `grads` are those of the loss by log-probabilities and entropies, (M, T) each. approx_kl is the k3 estimate of
    KL(sampling policy, current policy): r - 1 - log r with r = pi / pi_old.
    """
    log_ratio = (logprobs.detach() - mb["old_logprobs"]).clamp(-20, 20)[mb["mask"]]
    trained = ((grads[0] != 0) | (grads[1] != 0))[mb["mask"]]
    return {
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
