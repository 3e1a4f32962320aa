"""Evaluation: avg@n and unbiased pass@k on held-out problems, with bootstrap intervals over the problems."""

from collections.abc import Sequence

import numpy as np

from common.basics import Timer
from common.problems import Problem
from common.rollout import sample_groups, sampled_entropy


def pass_at_k(n: int, right: np.ndarray, k: int) -> np.ndarray:
    """Probability that k of n samples, drawn without replacement, hold a right one: 1 - C(n-right, k) / C(n, k).

    The unbiased estimator of Chen et al. (arXiv 2107.03374, Eq. 1), per problem: right (P,) counts -> (P,).
    """
    wrong = n - np.asarray(right)
    all_wrong = np.ones(wrong.shape)
    for i in range(k):
        all_wrong *= np.maximum(wrong - i, 0) / (n - i)
    return 1.0 - all_wrong


def bootstrap_interval(values: np.ndarray, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` (P,), problems resampled."""
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[picks].mean(1), [0.025, 0.975])
    return float(low), float(high)


def pass_metrics(right: np.ndarray, n: int) -> dict[str, float]:
    """`eval/avg@n` and `eval/pass@k` for k = 1, 2, 4, ... n, each with `_low` and `_high`; right (P,) counts of n."""
    ks = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    curves = {f"eval/avg@{n}": right / n} | {f"eval/pass@{k}": pass_at_k(n, right, k) for k in ks}
    metrics = {}
    for key, values in curves.items():
        metrics[key] = float(values.mean())
        metrics[f"{key}_low"], metrics[f"{key}_high"] = bootstrap_interval(values)
    return metrics


def evaluate(sampler, verifier, problems: Sequence[Problem], args) -> dict[str, float]:
    """Sample each problem `args.eval_samples` times at the rollout's temperature and length, and count.

    `eval/entropy` is the mean of -log p over the sampled tokens: an estimate of the policy's entropy in nats per token,
    on problems that stay the same. The seed is fixed: two evaluations of a run differ by the policy alone. A response
    counts by whether it is right, also where the rewards of training are random.
    """
    n = args.eval_samples
    samples = sample_groups(problems, sampler, verifier, Timer(), n, args.temperature, args.max_response_length, seed=0)
    sampler.rest()
    right = np.array([s.verdict.reason == "match" for s in samples]).reshape(len(problems), n).sum(1)
    return pass_metrics(right, n) | {"eval/entropy": sampled_entropy(samples)}
