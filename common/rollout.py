"""Sampling: problems in, checked responses out.

    sampler = make_sampler("auto", policy)
    samples = sample_groups(problems, sampler, verifier, timer, n=8, temperature=1.0, max_new_tokens=24, seed=7)
    sampler.rest()                                   # before the trainer needs the memory
    sampler.sync()                                   # after the policy's parameters have changed

Samples come prompt-major: response `g` to problem `p` is `samples[p * n + g]`.
"""

import copy
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from common import InputError, ranks
from common.basics import Timer, random_seed, warn_once
from common.batch import Response, Sample, token_batch
from common.hf import Transform, TransformersSampler
from common.metrics import mean
from common.policy import Policy
from common.problems import Problem
from common.tasks import ProblemStream
from common.text import opens_thought
from common.verifier import Verifier

if TYPE_CHECKING:
    from common.vllm import VllmSampler


def make_sampler(
    backend: str,
    policy: Policy,
    max_length: int | None = None,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.35,
) -> "TransformersSampler | VllmSampler":
    """The sampler named by `--backend`: "hf" samples with the policy's own model, "vllm" with an engine beside it.

    "auto" is vLLM on CUDA if it is installed, else hf. `max_length`, of prompt and response together, and what follows
    it are for vLLM. Raises InputError for a backend that is not there or cannot run this model.
    """
    if backend not in ("auto", "hf", "vllm"):
        raise InputError(f"backend {backend!r} does not exist; use --backend hf, vllm or auto")
    installed = all(ranks.gather([find_spec("vllm") is not None]))
    if backend == "hf" or (backend == "auto" and not (installed and policy.device.type == "cuda")):
        return TransformersSampler(policy)
    if not installed:
        raise InputError("backend 'vllm' is not installed; pip install -r requirements-gpu.txt, or use --backend hf")
    from common.vllm import VllmSampler  # slow to import, and often not there

    sampler, error = None, None
    try:
        sampler = VllmSampler(policy, max_length, tensor_parallel_size, gpu_memory_utilization)
    except InputError as caught:
        error = str(caught)
    # A rank that went another way than the others would leave them waiting for it.
    error = next(filter(None, ranks.gather([error])), None)
    if error is None:
        return sampler
    if backend == "vllm":
        raise InputError(error)
    warn_once(f"{error}: sampling with the trained model itself")
    return TransformersSampler(policy)


def sampler_from_args(args: Any, policy: Policy, max_length: int) -> "TransformersSampler | VllmSampler":
    """The sampler of a run's command line, for prompts and responses of at most `max_length` tokens together."""
    engine = args.vllm_tensor_parallel_size, args.vllm_gpu_memory_utilization
    return make_sampler(args.backend, policy, max_length, *engine)


def fit_prompts(
    policy: Policy,
    problems: Sequence[Problem],
    max_prompt_length: int,
    max_new_tokens: int,
    further: int = 0,
    responses: int = 1,
) -> tuple[list[Problem], int]:
    """The problems with prompts of at most `max_prompt_length` tokens (0: of any length), and the most tokens that a
    prompt and its response may have together. Prints how many are left out.

    A pass may need more than those two, such as a teacher's context: `responses` is how many of the longest it holds,
    `further` how many tokens beside them and the prompt. Raises InputError where a prompt is left that the model cannot
    read or continue: empty, or outgrowing its context.
    """
    if not policy.end_ids:
        raise InputError("neither the tokenizer nor the generation config names an end token; set eos_token there")
    lengths = [len(policy.encode(problem.prompt)) for problem in problems]
    if min(lengths) == 0:
        raise InputError(
            f"the prompt of problem {problems[lengths.index(0)].id} has no tokens in this model's vocabulary"
        )
    fitting = [i for i, length in enumerate(lengths) if not max_prompt_length or length <= max_prompt_length]
    if not fitting:
        raise InputError(
            f"--max-prompt-length {max_prompt_length} leaves no problem; the shortest prompt has {min(lengths)} tokens"
        )
    if lost := len(problems) - len(fitting):
        warn_once(f"{lost:,} of {len(problems):,} problems left out: prompts over {max_prompt_length} tokens")
    longest = max(lengths[i] for i in fitting)
    room = (policy.context_length - longest - further) // responses
    if max_new_tokens > room:
        times = f", {responses} times," if responses > 1 else ""
        beside = f" and {further} further tokens" if further else ""
        shorter = f"use at most {room}, or " if room > 0 else ""
        raise InputError(
            f"--max-response-length {max_new_tokens}{times} after the longest prompt ({longest} tokens){beside} "
            f"exceeds the model's context of {policy.context_length}; {shorter}leave long prompts out with "
            "--max-prompt-length"
        )
    return [problems[i] for i in fitting], longest + max_new_tokens


# --- Groups -----------------------------------------------------------------------------------------------------


def sample_groups(
    problems: Sequence[Problem],
    sampler: "TransformersSampler | VllmSampler",
    verifier: Verifier,
    timer: Timer,
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    transform: Transform | None = None,
    transformed_logprobs: bool = False,
    prefixes: Sequence[list[int]] | None = None,
) -> list[Sample]:
    """Sample n responses to each problem and check them; every rank gets all. Prompt-major: sample `p * n + g`.

    `transform` changes what is drawn from, f(probabilities (R, V), tokens drawn before) -> weights (R, V); the
    log-probabilities stay those of the policy, unless `transformed_logprobs` asks for the others. vLLM takes none but
    `TopP`.

    `prefixes` are token ids, one list for each problem, with which all of its responses begin: part of an earlier
    response, or the whole of a given one. A response comes back with its beginning, which counts towards
    `max_new_tokens` and has the trainer's log-probabilities.
    """
    policy = sampler.policy
    with timer("rollout"):
        prompts = [policy.encode(problem.prompt) for problem in problems]
        begun = [np.asarray(ids).tolist()[:max_new_tokens] for ids in prefixes] if prefixes else [[] for _ in problems]
        check_same_prompts(prompts, begun)
        if any(begun):
            sampler.rest()  # what follows is the trainer's work
        given = score_beginnings(policy, prompts, begun, temperature)
        rooms = [max_new_tokens - len(response.token_ids) if response.truncated else 0 for response in given]
        unfinished = [p for p, room in enumerate(rooms) if room]
        mine = ranks.share_of(len(unfinished), sampler.ranks_per_engine)
        asked = [unfinished[i] for i in mine]
        drawn = []
        if unfinished:  # else an engine would wake up for nothing
            drawn = sampler.generate(
                [prompts[p] + begun[p] for p in asked],
                n,
                temperature,
                [rooms[p] for p in asked] if any(begun) else max_new_tokens,
                seed,
                first=mine.start,
                transform=transform,
                transformed_logprobs=transformed_logprobs,
            )
        drawn = iter(ranks.gather(drawn if ranks.rank() % sampler.ranks_per_engine == 0 else []))
        responses = [
            joined(response, next(drawn)) if room else response
            for response, room in zip(given, rooms, strict=True)
            for _ in range(n)
        ]
    rows = [(problem, prompt) for problem, prompt in zip(problems, prompts, strict=True) for _ in range(n)]
    mine = ranks.share_of(len(rows))
    with timer("verify"):
        texts = policy.decode([responses[i].token_ids for i in mine])
        # Where the prompt opens the reasoning, a response that was cut off may not have come out of it.
        inside = [responses[i].truncated and opens_thought(policy.tokenizer, rows[i][1]) for i in mine]
        whole = ["<think>" + text if thinking else text for text, thinking in zip(texts, inside, strict=True)]
        verdicts = verifier([rows[i][0] for i in mine], whole, first=mine.start)
        checked = ranks.gather(list(zip(texts, verdicts, strict=True)))
    return [Sample(*row, response, *check) for row, response, check in zip(rows, responses, checked, strict=True)]


def check_same_prompts(prompts: list[list[int]], beginnings: list[list[int]]) -> None:
    """End the run if the ranks are about to sample for different prompts: responses would go to the wrong ones."""
    if ranks.world_size() == 1:
        return
    seen = ranks.gather([hashlib.sha256(repr((prompts, beginnings)).encode()).hexdigest()])
    if other := [rank for rank, digest in enumerate(seen) if digest != seen[0]]:
        remedy = "use the same code, packages and model files on all machines"
        ranks.say(f"error: rank {other[0]} has other prompts than rank 0; {remedy}")
        raise SystemExit(1)


def score_beginnings(
    policy: Policy, prompts: list[list[int]], beginnings: list[list[int]], temperature: float
) -> list[Response]:
    """Given beginnings of responses as they are, with the trainer's log-probabilities and entropies; whole if they
    end."""
    known = [(np.zeros(0, np.float32),) * 2 for _ in beginnings]
    if some := [i for i, ids in enumerate(beginnings) if ids]:
        scorer = copy.copy(policy)
        scorer.temperature = temperature
        scored = scorer.score(token_batch([prompts[i] for i in some], [beginnings[i] for i in some]))
        for i, *rows in zip(some, *(values.float().numpy() for values in scored), strict=True):
            known[i] = tuple(row[: len(beginnings[i])] for row in rows)
    return [
        Response(ids, logprobs, not ids or ids[-1] not in policy.end_ids, entropies)
        for ids, (logprobs, entropies) in zip(beginnings, known, strict=True)
    ]


def joined(beginning: Response, rest: Response) -> Response:
    """A response that was drawn after a given beginning, as a whole."""
    token_ids = np.concatenate([beginning.token_ids, rest.token_ids])
    logprobs = np.concatenate([beginning.logprobs, rest.logprobs])
    known = rest.entropies is not None
    entropies = np.concatenate([beginning.entropies, rest.entropies]) if known else None
    return Response(token_ids, logprobs, rest.truncated, entropies)


def sample_mixed_groups(
    draw: Callable[..., list[Sample]],
    stream: ProblemStream,
    num_prompts: int,
    n: int,
    further_rounds: int,
    seed: Callable[[int], int],
) -> tuple[list[Sample], dict[str, float]]:
    """Draw until `num_prompts` groups have both right and wrong responses: those samples, and the rollout's metrics.

    `draw(problems, seed=...)` samples `n` responses each; round r has the seed `seed(r)`. A further round draws as many
    prompts as will probably do, by the share of mixed groups so far (taken to be at least a tenth); what is left over
    is dropped. After `further_rounds`, or (1 + further_rounds) * num_prompts prompts in all, the step makes do with the
    mixed groups there are; where there is none at all, with the first `num_prompts` groups, from which most methods
    learn nothing. With no further rounds every group is kept. The metrics count all that was drawn.
    """
    sampled, mixed, rounds = [], [], 0
    wanted, left = num_prompts, (1 + further_rounds) * num_prompts
    while wanted > 0 and rounds <= further_rounds:
        fresh = draw(stream.take(wanted), seed=seed(rounds))
        sampled, rounds, left = sampled + fresh, rounds + 1, left - wanted
        for first in range(0, len(fresh), n):
            group = fresh[first : first + n]
            if further_rounds == 0 or len({sample.verdict.reward for sample in group}) > 1:
                mixed.append(group)
        share = max(0.1, len(mixed) * n / len(sampled))
        wanted = min(left, math.ceil((num_prompts - len(mixed)) / share))
    groups = mixed[:num_prompts]
    samples = [sample for group in groups for sample in group] or sampled[: num_prompts * n]
    return samples, metrics(sampled, n, rounds, len(groups) / num_prompts)


def easy_first(
    problems: Sequence[Problem],
    sampler: "TransformersSampler | VllmSampler",
    verifier: Verifier,
    args: Any,
    n: int,
    by: Literal["entropy", "accuracy"],
) -> dict[str, list[int] | int]:
    """Sample n responses to each problem: `order`, the problems' places from the easiest to the hardest, and
    `curriculum_tokens`, how many were drawn for it.

    By "entropy" a problem is as hard as its answers disagree: the entropy of their frequencies, a response without an
    answer being alone. By "accuracy" it is as hard as its rewards are low. Equals keep their order.
    """
    if n == 1 and by == "entropy":
        warn_once("--curriculum-samples 1 knows no disagreement: the order stays as drawn")
    ranks.say(f"curriculum: sampling {len(problems):,} problems {n} times each before the first step")
    sizes = {"n": n, "temperature": args.temperature, "max_new_tokens": args.max_response_length}
    samples = sample_groups(problems, sampler, verifier, Timer(), **sizes, seed=random_seed(args.seed, 0))
    sampler.rest()
    hardness = []
    for first in range(0, len(samples), n):
        verdicts = [sample.verdict for sample in samples[first : first + n]]
        clusters = Counter(i if verdict.answer is None else verdict.answer for i, verdict in enumerate(verdicts))
        # In the order of their sizes: the same sizes give the same sum, to the last digit.
        entropy = -sum(size / n * math.log(size / n) for size in sorted(clusters.values()))
        hardness.append(entropy if by == "entropy" else -sum(verdict.reward for verdict in verdicts))
    order = sorted(range(len(problems)), key=hardness.__getitem__)
    return {"order": order, "curriculum_tokens": sum(len(sample.response.token_ids) for sample in samples)}


def sampled_entropy(samples: list[Sample]) -> float:
    """Mean of -log p over all tokens: an estimate of the entropy, in nats per token, from the samples alone."""
    total = 0.0
    for sample in samples:  # added up in order: the same to the last digit however responses are grouped
        total = np.cumsum(np.append(total, sample.response.logprobs))[-1]
    return float(-total / sum(len(sample.response.logprobs) for sample in samples))


def metrics(
    samples: list[Sample], num_generations: int, rounds: int = 1, trained_group_ratio: float = 1.0
) -> dict[str, float]:
    """What was sampled, all of it: an algorithm that drops groups before training passes them in here all the same.

    `rounds` is how often it sampled, `trained_group_ratio` the share of the groups it wanted that it trains on.
    """
    rewards = torch.tensor([sample.verdict.reward for sample in samples])
    groups = rewards.view(-1, num_generations)  # (P, G)
    lengths = torch.tensor([len(sample.response.token_ids) for sample in samples])
    reasons = [sample.verdict.reason for sample in samples]
    return {
        "rollout/num_samples": len(samples),
        "rollout/reward": mean(rewards),
        "rollout/response_length": mean(lengths),
        "rollout/truncated_ratio": mean(torch.tensor([sample.response.truncated for sample in samples])),
        "rollout/entropy": sampled_entropy(samples),
        "rollout/zero_std_ratio": mean(groups.amax(1) == groups.amin(1)),
        "rollout/all_right_ratio": mean(groups.amin(1) == 1),
        "rollout/all_wrong_ratio": mean(groups.amax(1) == 0),
        "rollout/sampling_rounds": rounds,
        "rollout/trained_group_ratio": trained_group_ratio,
        "verifier/timeout_ratio": reasons.count("timeout") / len(reasons),
        "verifier/no_answer_ratio": reasons.count("no_answer") / len(reasons),
        "verifier/error_ratio": reasons.count("error") / len(reasons),
        "tokens/rollout": lengths.sum().item(),
    }
