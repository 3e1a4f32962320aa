"""The metrics that every algorithm logs, defined once. The README's glossary says what each one means.

A mean over tokens is over all valid response tokens of the batch, never a mean of means.
"""

from torch import Tensor

from common.rollout import Sample


def mean(values: Tensor) -> float:
    """NaN where there is nothing to average."""
    return values.double().mean().item()


def batch_metrics(samples: list[Sample], batch: dict, num_generations: int) -> dict[str, float]:
    """What was sampled, and the policy's entropy before the update."""
    mask, rewards = batch["mask"], batch["rewards"]
    groups = rewards.view(-1, num_generations)  # (P, G)
    entropy = batch["entropy"]
    gap = (batch["old_logprobs"] - batch["rollout_logprobs"]).abs()[mask]
    right = (rewards > 0)[:, None] & mask
    reasons = [sample.verdict.reason for sample in samples]
    return {
        "rollout/reward": mean(rewards),
        "rollout/response_length": mean(mask.sum(1)),
        "rollout/truncated_ratio": mean(batch["truncated"]),
        "rollout/zero_std_ratio": mean(groups.amax(1) == groups.amin(1)),
        "rollout/all_right_ratio": mean(groups.amin(1) == 1),
        "rollout/all_wrong_ratio": mean(groups.amax(1) == 0),
        "rollout/sampler_gap_mean": mean(gap),
        "rollout/sampler_gap_max": gap.max().item(),
        "policy/entropy": mean(entropy[mask]),
        "policy/entropy_right": mean(entropy[right]),
        "policy/entropy_wrong": mean(entropy[mask & ~right]),
        "verifier/timeout_ratio": reasons.count("timeout") / len(reasons),
        "verifier/no_answer_ratio": reasons.count("no_answer") / len(reasons),
        "tokens/rollout": mask.sum().item(),
    }


def update_metrics(mb: dict, logprobs: Tensor, grad_logprobs: Tensor, grad_entropy: Tensor) -> dict[str, float]:
    """How far one minibatch has moved from the policy that sampled it, and how much of it carries gradient.

    approx_kl is the k3 estimate of KL(sampling policy, current policy): r - 1 - log r with r = pi / pi_old.
    """
    log_ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20)[mb["mask"]]
    trained = ((grad_logprobs != 0) | (grad_entropy != 0))[mb["mask"]]
    return {
        "policy/approx_kl": mean(log_ratio.exp() - 1 - log_ratio),
        "policy/trained_token_ratio": mean(trained),
    }
