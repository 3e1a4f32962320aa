"""Evaluation: avg@n, unbiased pass@k and coverage on held-out problems, with bootstrap intervals over the problems."""

from collections.abc import Callable, Sequence

import numpy as np

from common.basics import Timer
from common.batch import Sample
from common.problems import Problem
from common.rollout import sample_groups, sampled_entropy
from common.solutions import solution, solutions


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


def mean_metrics(key: str, values: np.ndarray) -> dict[str, float]:
    """The mean of `values` (P,) under this key, and its interval under `_low` and `_high`."""
    low, high = bootstrap_interval(values)
    return {key: float(values.mean()), f"{key}_low": low, f"{key}_high": high}


def pass_metrics(right: np.ndarray, n: int) -> dict[str, float]:
    """`eval/avg@n` and `eval/pass@k` for k = 1, 2, 4, ... n, each with `_low` and `_high`; right (P,) counts of n."""
    ks = sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})
    metrics = mean_metrics(f"eval/avg@{n}", right / n)
    for k in ks:
        metrics |= mean_metrics(f"eval/pass@{k}", pass_at_k(n, right, k))
    return metrics


def count_solutions(problems: Sequence[Problem], samples: Sequence[Sample], n: int) -> dict[str, list[int | None]]:
    """Per problem the `distinct` right solutions among its n samples, and the `total` that there are (solutions.py).

    None for a problem whose solutions are not enumerated: of another kind than countdown, or too large.
    """
    counts = {"distinct": [], "total": []}
    for p, problem in enumerate(problems):
        every = solutions(problem.answer) if problem.kind == "countdown" else None
        texts = {s.text for s in samples[p * n : (p + 1) * n] if s.verdict.reason == "match"} if every else ()
        counts["distinct"].append(len({solution(text) for text in texts}) if every else None)
        counts["total"].append(len(every) if every else None)
    return counts


def evaluate(
    sampler, verifier, problems: Sequence[Problem], args, keep: Callable[[int, dict], None], step: int
) -> dict[str, float]:
    """Sample each problem `args.eval_samples` times at the rollout's temperature and length, and count.

    `eval/entropy` is the mean of -log p over the sampled tokens: an estimate of the policy's entropy in nats per token,
    on problems that stay the same. `eval/coverage`, of countdown alone, is the share of a problem's distinct right
    solutions that its samples hold, mean over the problems. The seed is fixed: two evaluations of a run differ by the
    policy alone. A response counts by whether it is right, also where the rewards of training are random.

    `keep` is handed the step and the counts of each problem: `right` of n, and those of `count_solutions` if there are.
    """
    n = args.eval_samples
    samples = sample_groups(problems, sampler, verifier, Timer(), n, args.temperature, args.max_response_length, seed=0)
    sampler.rest()
    right = np.array([s.verdict.reason == "match" for s in samples]).reshape(len(problems), n).sum(1)
    metrics, counts = pass_metrics(right, n), count_solutions(problems, samples, n)
    shares = [found / total for found, total in zip(*counts.values(), strict=True) if total]
    metrics |= mean_metrics("eval/coverage", np.array(shares)) if shares else {}
    keep(step, {"right": right.tolist()} | (counts if shares else {}))
    return metrics | {"eval/entropy": sampled_entropy(samples)}
