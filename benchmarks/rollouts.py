"""One step outside a training run, as the scripts make it: what collapse, details, explore and others share."""

from collections.abc import Iterator, Sequence
from types import ModuleType

import torch
from torch import Tensor

from common.basics import Timer
from common.batch import Sample, make_batch
from common.hf import Transform
from common.policy import Policy
from common.problems import Problem
from common.rollout import make_sampler, sample_groups
from common.tasks import ProblemStream, load_problems
from common.verifier import Verifier


def countdown(seed: int) -> ProblemStream:
    """The training problems of the embedded task, in the order of a run with this seed."""
    return ProblemStream(load_problems("countdown", None, 64)[0], seed)


class Actor:
    """A policy, with what samples from it and what checks its answers."""

    def __init__(self, policy: Policy, backend: str = "hf", verifier: Verifier | None = None):
        self.policy, self.sampler, self.verifier = policy, make_sampler(backend, policy), verifier or Verifier()

    def sample(
        self,
        problems: Sequence[Problem],
        n: int,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        transform: Transform | None = None,
    ) -> list[Sample]:
        """n responses to each problem, checked, prompt-major."""
        how = {"n": n, "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
        return sample_groups(problems, self.sampler, self.verifier, Timer(), **how, transform=transform)


def scored(policy: Policy, samples: Sequence[Sample]) -> dict:
    """A batch of samples with the policy's log-probabilities and entropies as the old ones."""
    batch = make_batch(samples)
    batch["old_logprobs"], batch["entropy"] = policy.score(batch)
    return batch


def minibatches(num_rows: int, size: int, number: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """The rows of each minibatch: whole groups of `size`, in random order."""
    groups = torch.arange(num_rows).view(-1, size)
    order = torch.randperm(len(groups), generator=generator)
    for chosen in groups[order].tensor_split(min(number, len(groups))):
        yield chosen.flatten()


def differentiate(module: ModuleType, current: tuple[Tensor, Tensor], mb: dict, args: object) -> tuple:
    """policy_loss of an algorithm at log-probabilities and entropies (M, T), and its gradients by both."""
    logprobs, entropy = (x.detach().clone().requires_grad_() for x in current)
    loss, _ = module.policy_loss(logprobs, entropy, mb, args)
    return loss.detach(), torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
