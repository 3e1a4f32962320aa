"""Sampling: prompts in, responses with their log-probabilities out.

    sampler = make_sampler("auto", policy)
    responses = sampler.generate(prompt_ids, n=8, temperature=1.0, max_new_tokens=24, seed=7)
    sampler.sync()                                   # after the policy's parameters have changed

A sampler draws from exactly softmax(logits / temperature): no top-k, no penalties, whatever the model's generation
config says, and no top-p but in an evaluation that asks for it. Responses come prompt-major: response `g` of prompt `p`
is `responses[p * n + g]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import sdpa_mask

from common import InputError, ranks
from common.packing import attention
from common.policy import Policy
from common.run import Timer, warn_once
from common.tasks import Problem
from common.verifier import Verdict, Verifier

if TYPE_CHECKING:
    from common.vllm import VllmSampler

CACHE_BYTES = {"cpu": 2**32, "cuda": 2**34}  # of keys and values held at a time


@dataclass(slots=True)
class Response:
    """Sampled tokens with the end token, their log-probabilities, and whether the length limit cut them off."""

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


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
    installed = find_spec("vllm") is not None
    if backend == "hf" or (backend == "auto" and not (installed and policy.device.type == "cuda")):
        return TransformersSampler(policy)
    if not installed:
        raise InputError("backend 'vllm' is not installed; pip install -r requirements-gpu.txt, or use --backend hf")
    from common.vllm import VllmSampler  # slow to import, and often not there

    try:
        return VllmSampler(policy, max_length, tensor_parallel_size, gpu_memory_utilization)
    except InputError as error:
        if backend == "vllm":
            raise
        warn_once(f"{error}: sampling with the trained model itself")
        return TransformersSampler(policy)


def fit_prompts(
    policy: Policy, problems: Sequence[Problem], max_prompt_length: int, max_new_tokens: int
) -> tuple[list[Problem], int]:
    """The problems with prompts of at most `max_prompt_length` tokens (0: of any length), and the most tokens that a
    prompt and its response may have together. Prints how many are left out.

    Raises InputError where one is left that the model cannot read or continue: empty, or outgrowing its context.
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
    if longest + max_new_tokens > policy.context_length:
        room = policy.context_length - longest
        raise InputError(
            f"--max-response-length {max_new_tokens} after the longest prompt ({longest} tokens) exceeds the model's "
            f"context of {policy.context_length}; use at most {max(room, 0)}, or leave long prompts out with "
            "--max-prompt-length"
        )
    return [problems[i] for i in fitting], longest + max_new_tokens


def uniform_noise(seed: int, indices: Sequence[int], n: int, length: int) -> Tensor:
    """One number in [0, 1) per token of the prompts with these indices, (len(indices) * n, length), float64.

    Each prompt has its own generator, so its responses do not depend on which other prompts are sampled with it.
    """
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(hash((seed, index)) % 2**63)  # hash of ints: the same in every run
        rows.append(torch.rand(n, length, generator=generator, dtype=torch.float64))
    return torch.cat(rows)


def draw(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Invert the cumulative distribution: probabilities (R, V), noise (R,) in [0, 1) -> token ids (R,)."""
    cumulative = probabilities.double().cumsum(-1)
    # Scaling by the last entry makes rounding in the sum harmless; right=True never picks a token of probability 0.
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens that together reach `top_p`, the others at 0; (R, V), not normalised again."""
    ordered, index = probabilities.sort(-1, descending=True)
    kept = ordered.cumsum(-1) - ordered < top_p  # what stands before a token has not reached it yet
    return torch.zeros_like(probabilities).scatter(-1, index, ordered * kept)


def one_token_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of one new token a row: query (R, H, 1, d), key, value (R, K, L, d), mask (R, 1, 1, L) -> (R, 1, H, d).

    The heads that share keys are one matrix product with them. The library's way copies the whole cache for each of
    them first, at every step, wherever there is a mask; on a CPU that is half the cost of attention.
    """
    rows, heads, _, width = query.shape
    query = query.reshape(rows, key.shape[1], -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = query @ key.transpose(-1, -2)  # (R, K, H/K, L)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    return (scores.softmax(-1) @ value).view(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register("one_token", one_token_attention)
AttentionMaskInterface.register("one_token", sdpa_mask)


@torch.no_grad()
def takes_one_token_attention(model: PreTrainedModel) -> bool:
    """Whether a padded decoding step gives the same logits either way: not every model picks its attention by name."""
    logits, usual = [], model.config._attn_implementation
    if model.device.type != "cpu" or usual != "sdpa":
        return False
    ids, mask = torch.tensor([[3, 4, 5, 6], [0, 0, 7, 8]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    try:
        for implementation in (usual, "one_token"):
            prompt = model(
                input_ids=ids[:, :3], attention_mask=mask[:, :3], position_ids=positions[:, :3], use_cache=True
            )
            with attention(model, implementation):
                step = model(
                    input_ids=ids[:, 3:],
                    attention_mask=mask,
                    position_ids=positions[:, 3:],
                    past_key_values=prompt.past_key_values,
                    use_cache=True,
                )
            logits.append(step.logits)
    except Exception:  # a model that cannot be run this way keeps its own
        return False
    return torch.allclose(*logits, rtol=1e-4, atol=1e-5)


class TransformersSampler:
    """A key-value cached sampling loop over any causal LM, with the policy's own weights.

    Each prompt is read once and its cache repeated for its group; rows that have ended leave the cache. A policy that
    is cut into shards is sampled from with a whole copy of it on every rank, in the passes' dtype, which `sync` renews.
    """

    ranks_per_engine = 1
    own_arithmetic = False  # its probabilities are the trainer's, to rounding

    def __init__(self, policy: Policy):
        self.policy = policy
        self.model = policy.model if ranks.world_size() == 1 else empty_copy(policy)
        self.sync()
        with torch.no_grad(), policy.autocast():
            probe = self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=policy.device), use_cache=True)
        layers = getattr(getattr(probe, "past_key_values", None), "layers", [])
        # A recurrent state cannot be thinned out row by row, and left padding would flow into it.
        if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise InputError("this model keeps no plain key-value cache, which the transformers sampler needs")
        plain = all(type(layer) is DynamicLayer for layer in layers)  # a sliding window would not show in a few tokens
        lean = plain and takes_one_token_attention(self.model)
        self.decode_attention = "one_token" if lean else self.model.config._attn_implementation
        self.cache_bytes_per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    @torch.no_grad()
    def sync(self) -> None:
        """Take up the policy's parameters, where they are not the sampler's own."""
        if self.model is not self.policy.model:
            own = self.model.state_dict()
            for name, tensor in self.policy.weights():
                own[name].copy_(tensor)

    def generate(
        self,
        prompt_ids: list[list[int]],
        n: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        top_p: float = 1.0,
        first: int = 0,
    ) -> list[Response]:
        """`n` responses to each prompt, a function of the parameters, the prompts and `seed` alone.

        `top_p` below 1 is for evaluation: log-probabilities are still those of the whole distribution. `first` is the
        index of the first prompt among those of all ranks: a prompt's seed is a function of (seed, its index).
        """
        if not prompt_ids:
            return []
        indices = range(first, first + len(prompt_ids))
        noise = uniform_noise(seed, indices, n, max_new_tokens).view(len(prompt_ids), n, max_new_tokens)
        # Prompts of similar length share a batch; a batch is as large as its cache may grow.
        order = sorted(range(len(prompt_ids)), key=lambda index: len(prompt_ids[index]), reverse=True)
        budget = CACHE_BYTES.get(self.policy.device.type, 2**34) // self.cache_bytes_per_token
        responses: list[list[Response]] = [[] for _ in prompt_ids]
        start = 0
        while start < len(order):
            longest = len(prompt_ids[order[start]])
            group = order[start : start + max(1, budget // (n * (longest + max_new_tokens)))]
            sampled = self._generate_batch(
                [prompt_ids[i] for i in group], noise[group].flatten(0, 1), temperature, top_p
            )
            for position, index in enumerate(group):
                responses[index] = sampled[position * n : (position + 1) * n]
            start += len(group)
        return [response for group in responses for response in group]

    @torch.inference_mode()
    def _generate_batch(
        self, prompts: list[list[int]], noise: Tensor, temperature: float, top_p: float = 1.0
    ) -> list[Response]:
        """One batch of prompts, longest first; noise (rows, max_new_tokens) gives the number of rows per prompt."""
        model, device = self.model, self.policy.device
        rows, limit = noise.shape
        noise = noise.to(device)
        end_ids = torch.tensor(self.policy.end_ids, device=device)
        width = len(prompts[0])
        padding = torch.tensor([width - len(p) for p in prompts], device=device)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
        visible = torch.arange(width, device=device) >= padding[:, None]  # (rows, tokens so far)
        ragged = bool(padding.any())
        positions = (visible.cumsum(1) - 1).clamp(min=0)

        tokens = torch.zeros(rows, limit, dtype=torch.long, device=device)
        logprobs = torch.zeros(rows, limit, dtype=torch.float32, device=device)
        lengths = torch.full((rows,), limit, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        alive = torch.arange(rows, device=device)  # which row each cached sequence belongs to
        with self.policy.autocast():
            output = model(
                input_ids=ids,
                attention_mask=visible if ragged else None,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            repeat = rows // len(prompts)
            cache.batch_repeat_interleave(repeat)
            logits = output.logits.repeat_interleave(repeat, 0)
            visible, position = visible.repeat_interleave(repeat, 0), positions[:, -1:].repeat_interleave(repeat, 0)
            for t in range(limit):
                if t > 0:
                    with attention(model, self.decode_attention):
                        output = model(
                            input_ids=tokens[alive, t - 1, None],
                            attention_mask=visible if ragged else None,
                            position_ids=position,
                            past_key_values=cache,
                            use_cache=True,
                        )
                    logits = output.logits
                scaled = logits[:, -1].float() / temperature  # (alive rows, V)
                distribution = scaled.log_softmax(-1)
                probabilities = distribution.exp()
                token = draw(nucleus(probabilities, top_p) if top_p < 1 else probabilities, noise[alive, t])
                tokens[alive, t] = token
                logprobs[alive, t] = distribution.gather(1, token[:, None])[:, 0]
                ending = torch.isin(token, end_ids) & ~ended[alive]
                lengths[alive[ending]] = t + 1
                ended[alive[ending]] = True
                # Ended rows run on, unread, until they are an eighth of the batch: shrinking the cache costs a copy.
                going = ~ended[alive]
                position = position + 1
                visible = torch.cat([visible, visible.new_ones(len(visible), 1)], 1)
                num_going = int(going.sum())
                if num_going == 0:
                    break
                if num_going <= 0.875 * len(going):
                    keep = going.nonzero()[:, 0]
                    cache.batch_select_indices(keep)
                    alive, visible, position = alive[keep], visible[keep], position[keep]
        cut = (~ended).tolist()
        return [
            Response(ids[:length], values[:length], truncated)
            for ids, values, length, truncated in zip(
                tokens.tolist(), logprobs.tolist(), lengths.tolist(), cut, strict=True
            )
        ]


def empty_copy(policy: Policy) -> PreTrainedModel:
    """An uncut model for a sharded policy's weights, in the dtype of its passes."""
    from common.sharding import empty_model

    model = empty_model(policy.name).to_empty(device=policy.device)
    model.tie_weights()
    for parameter in model.parameters():
        parameter.requires_grad_(False).data = parameter.data.to(policy.dtype)
    buffers = dict(policy.model.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return model


# --- From problems to a batch -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Sample:
    """One response to one problem, with its verdict."""

    problem: Problem
    prompt_ids: list[int]
    response: Response
    text: str
    verdict: Verdict


def sample_groups(
    problems: Sequence[Problem],
    sampler: "TransformersSampler | VllmSampler",
    verifier: Verifier,
    timer: Timer,
    n: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    top_p: float = 1.0,
) -> list[Sample]:
    """Sample n responses to each problem and check them; every rank gets all. Prompt-major: sample `p * n + g`."""
    mine = ranks.mine(len(problems), sampler.ranks_per_engine)
    first = mine.start  # 0 with one rank, and then nobody need know of it
    asked = [problem for problem in problems for _ in range(n)]
    with timer("rollout"):
        prompt_ids = [sampler.policy.encode(problem.prompt) for problem in problems]
        responses = sampler.generate(
            prompt_ids[mine.start : mine.stop],
            n,
            temperature,
            max_new_tokens,
            seed,
            top_p,
            **({"first": first} if first else {}),
        )
        texts = sampler.policy.decode([response.token_ids for response in responses])
    with timer("verify"):
        verdicts = verifier(asked[mine.start * n : mine.stop * n], texts, **({"first": first * n} if first else {}))
    with timer("rollout"):
        rows = list(zip(responses, texts, verdicts, strict=True))
        made = ranks.gather(rows if ranks.rank() % sampler.ranks_per_engine == 0 else [])
    prompts = [ids for ids in prompt_ids for _ in range(n)]
    return [Sample(problem, prompt, *rest) for problem, prompt, rest in zip(asked, prompts, made, strict=True)]


def pad(rows: list[list], value: float, left: bool = False) -> Tensor:
    """Rows of unequal length as one (R, longest) tensor."""
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([f + row if left else row + f for f, row in zip(fill, rows, strict=True)])


def make_batch(samples: list[Sample]) -> dict:
    """The batch that the algorithm sees: tensors with first dimension B, lists of length B.

    Masks are decided by length, never by token id: padding and end token may be the same id.
    """
    prompt_ids = pad([s.prompt_ids for s in samples], 0, left=True)
    response_ids = pad([s.response.token_ids for s in samples], 0)
    prompt_lengths = torch.tensor([len(s.prompt_ids) for s in samples])
    lengths = torch.tensor([len(s.response.token_ids) for s in samples])
    seen: dict[tuple[int, ...], set[float]] = {}
    for s in samples:
        seen.setdefault(tuple(s.prompt_ids), set()).add(s.verdict.reward)
    return {
        "prompt_ids": prompt_ids,  # (B, Tp) left-padded
        "prompt_mask": torch.arange(prompt_ids.shape[1]) >= prompt_ids.shape[1] - prompt_lengths[:, None],  # (B, Tp)
        "response_ids": response_ids,  # (B, T) right-padded
        "mask": torch.arange(response_ids.shape[1]) < lengths[:, None],  # (B, T)
        "rewards": torch.tensor([s.verdict.reward for s in samples]),  # (B,)
        "mixed": torch.tensor([len(seen[tuple(s.prompt_ids)]) > 1 for s in samples]),  # (B,)
        "truncated": torch.tensor([s.response.truncated for s in samples]),  # (B,)
        "rollout_logprobs": pad([s.response.logprobs for s in samples], 0.0),  # (B, T)
        "responses": [s.text for s in samples],
        "answers": [s.verdict.answer for s in samples],
    }


def take_rows(batch: dict, rows: Tensor) -> dict:
    """The same keys for some of the rows."""
    index = rows.tolist()
    return {k: v[rows] if isinstance(v, Tensor) else [v[i] for i in index] for k, v in batch.items()}
