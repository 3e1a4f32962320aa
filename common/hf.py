"""Sampling with the trained model itself: a key-value cached loop over any causal LM of the transformers library.

A sampler draws from exactly softmax(logits / temperature): no top-k, no penalties, whatever the model's generation
config says, unless a transform is asked for. Responses come prompt-major: response `g` of prompt `p` is
`responses[p * n + g]`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import sdpa_mask

from common import InputError, ranks
from common.batch import Response
from common.packing import attention
from common.passes import empty_model
from common.policy import Policy

CACHE_BYTES = {"cpu": 2**32, "cuda": 2**34}  # of keys and values held at a time
BLOCK = 512  # words of a vocabulary that a draw looks at together

# What may stand between softmax and draw: probabilities (R, V), how many tokens were drawn before -> weights (R, V).
Transform = Callable[[Tensor, int], Tensor]


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
    """Invert the cumulative distribution: probabilities (R, V), noise (R,) in [0, 1) -> token ids (R,).

    Of many words first a block is drawn, then a word in it: all of their cumulative distribution in float64 costs more
    than the softmax. A block's sum is rounded in the probabilities' dtype, as they are themselves.
    """
    words = probabilities.shape[1]
    if words <= 2 * BLOCK:
        return pick(probabilities.double().cumsum(-1), noise)[:, 0]
    whole = words - words % BLOCK  # the words left over are a shorter block
    sums = probabilities[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    sums = torch.cat([sums, probabilities[:, whole:].sum(-1, keepdim=True)], 1).double()
    ends = sums.cumsum(-1)
    block = pick(ends, noise)
    share = sums.gather(1, block)
    # Where in the block's share the noise lies is again a number in [0, 1).
    rest = (noise[:, None] * ends[:, -1:] - ends.gather(1, block) + share) / share
    index = block * BLOCK + torch.arange(BLOCK, device=block.device)
    inside = probabilities.gather(1, index.clamp(max=words - 1)) * (index < words)
    return (block * BLOCK + pick(inside.double().cumsum(-1), rest[:, 0].clamp(0, 1 - 2**-53)))[:, 0]


def pick(cumulative: Tensor, noise: Tensor) -> Tensor:
    """Cumulative weights (R, N) in float64, noise (R,) in [0, 1) -> drawn indices (R, 1)."""
    # Scaling by the last entry makes rounding in the sum harmless; right=True never picks a weight of 0.
    threshold = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=cumulative.shape[1] - 1)


class TopP(NamedTuple):
    """The transform that keeps the likeliest tokens which together reach `top_p`, and no others."""

    top_p: float

    def __call__(self, probabilities: Tensor, t: int) -> Tensor:
        ordered, index = probabilities.sort(-1, descending=True)
        kept = ordered.cumsum(-1) - ordered < self.top_p  # what stands before a token has not reached it yet
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
    is cut into shards, or has parameters in another dtype than its passes, is sampled from with a whole copy of it on
    every rank, in the passes' dtype, which `sync` renews.
    """

    ranks_per_engine = 1
    same_arithmetic = True  # its probabilities are the trainer's, to rounding
    drawn_from = -1, 0.0  # how often the policy had been updated when it was last drawn from, and the temperature
    takes_transforms = True

    def __init__(self, policy: Policy):
        self.policy = policy
        whole = ranks.world_size() == 1 and policy.head.weight.dtype == policy.dtype
        self.model = policy.model if whole else empty_copy(policy)
        self.sync()
        with torch.no_grad():
            probe = self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=policy.device), use_cache=True)
        layers = getattr(getattr(probe, "past_key_values", None), "layers", [])
        # A recurrent state cannot be thinned out row by row, and left padding would flow into it.
        if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise InputError("this model keeps no plain key-value cache, which the transformers sampler needs")
        plain = all(type(layer) is DynamicLayer for layer in layers)  # a sliding window would not show in a few tokens
        lean = plain and takes_one_token_attention(self.model)
        self.decode_attention = "one_token" if lean else self.model.config._attn_implementation
        self.cache_bytes_per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def rest(self) -> None:
        """Nothing to put away between rollouts: it samples with what the trainer has anyway."""

    def trust(self, gap: float) -> None:
        """Nothing to fear: weights that do not arrive are for an engine beside the trainer."""

    def score(self, batch: dict, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `policy.score` gives, (B, T) each, without a pass where each token's values are known from its drawing.

        That is in float32, with one rank or several, for a batch that was drawn from the policy as it is now, and not
        from a changed distribution whose log-probabilities were asked for. In bfloat16 a token in its row and a token
        by itself round to numbers that differ as two policies do, and float64 has more digits than a response keeps.
        """
        now = self.policy.updates, self.policy.temperature
        if "rollout_entropy" in batch and self.drawn_from == now and self.policy.dtype == torch.float32:
            return batch["rollout_logprobs"].clone(), batch["rollout_entropy"].clone()
        return self.policy.score(batch, rows)

    @torch.no_grad()
    def sync(self) -> None:
        """Take up the policy's parameters, where they are not the sampler's own."""
        self.synced_at = self.policy.updates
        if self.model is not self.policy.model:
            own = self.model.state_dict()
            for name, tensor in self.policy.weights(self.policy.dtype):
                own[name].copy_(tensor)

    def generate(
        self,
        prompt_ids: list[list[int]],
        n: int,
        temperature: float,
        max_new_tokens: int | Sequence[int],
        seed: int,
        first: int = 0,
        transform: Transform | None = None,
        transformed_logprobs: bool = False,
    ) -> list[Response]:
        """`n` responses to each prompt, a function of the parameters, the prompts and `seed` alone.

        `max_new_tokens` may be one number for each prompt. `first` is the index of the first prompt among those of all
        ranks: a prompt's seed is a function of (seed, its index). A `transform` changes what is drawn from; the
        log-probabilities stay those of the policy, unless `transformed_logprobs` asks for the others.
        """
        updates = self.policy.updates if self.model is self.policy.model else self.synced_at
        self.drawn_from = updates, temperature
        if not prompt_ids:
            return []
        indices = range(first, first + len(prompt_ids))
        limits = torch.tensor(max_new_tokens).expand(len(prompt_ids))
        longest_response = int(limits.max())
        noise = uniform_noise(seed, indices, n, longest_response).view(len(prompt_ids), n, longest_response)
        # Prompts of similar length share a batch; a batch is as large as its cache may grow.
        order = sorted(range(len(prompt_ids)), key=lambda index: len(prompt_ids[index]), reverse=True)
        budget = CACHE_BYTES.get(self.policy.device.type, 2**34) // self.cache_bytes_per_token
        responses: list[list[Response]] = [[] for _ in prompt_ids]
        start = 0
        while start < len(order):
            longest = len(prompt_ids[order[start]])
            group = order[start : start + max(1, budget // (n * (longest + longest_response)))]
            sampled = self._generate_batch(
                [prompt_ids[i] for i in group],
                noise[group].flatten(0, 1),
                temperature,
                limits[group].repeat_interleave(n),
                transform,
                transformed_logprobs,
            )
            for position, index in enumerate(group):
                responses[index] = sampled[position * n : (position + 1) * n]
            start += len(group)
        return [response for group in responses for response in group]

    @torch.inference_mode()
    def _generate_batch(
        self,
        prompts: list[list[int]],
        noise: Tensor,
        temperature: float,
        limits: Tensor | None = None,
        transform: Transform | None = None,
        transformed_logprobs: bool = False,
    ) -> list[Response]:
        """One batch of prompts, longest first; noise (rows, tokens) gives the number of rows per prompt.

        `limits` (rows,) is the most tokens of each; without it, as many as there is noise for.
        """
        model, device = self.model, self.policy.device
        rows, limit = noise.shape
        limits = torch.full((rows,), limit) if limits is None else limits
        noise, limits = noise.to(device), limits.to(device)
        end_ids = torch.tensor(self.policy.end_ids, device=device)
        width = len(prompts[0])
        padding = torch.tensor([width - len(p) for p in prompts], device=device)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
        visible = torch.arange(width, device=device) >= padding[:, None]  # (rows, tokens so far)
        ragged = bool(padding.any())
        positions = (visible.cumsum(1) - 1).clamp(min=0)

        tokens = torch.zeros(rows, limit, dtype=torch.long, device=device)
        logprobs, entropies = torch.zeros(2, rows, limit, dtype=torch.float32, device=device)
        lengths = limits.clone()
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        alive = torch.arange(rows, device=device)  # which row each cached sequence belongs to
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
            weights = distribution.exp()
            entropies[alive, t] = -torch.linalg.vecdot(weights, distribution)
            if transform:
                weights = transform(weights, t)
                if transformed_logprobs:
                    distribution = (weights / weights.sum(-1, keepdim=True)).log()
            token = draw(weights, noise[alive, t])
            tokens[alive, t] = token
            logprobs[alive, t] = distribution.gather(1, token[:, None])[:, 0]
            ending = torch.isin(token, end_ids) & ~ended[alive] & (t < limits[alive])
            lengths[alive[ending]] = t + 1
            ended[alive[ending]] = True
            # Ended rows run on, unread, until they are an eighth of the batch: shrinking the cache costs a copy.
            going = ~ended[alive] & (t + 1 < limits[alive])
            position = position + 1
            visible = torch.cat([visible, visible.new_ones(len(visible), 1)], 1)
            num_going = int(going.sum())
            if num_going == 0:
                break
            if num_going <= 0.875 * len(going):
                keep = going.nonzero()[:, 0]
                cache.batch_select_indices(keep)
                alive, visible, position = alive[keep], visible[keep], position[keep]
        tokens, logprobs, entropies = (x.cpu().numpy() for x in (tokens.int(), logprobs, entropies))
        of_policy = not (transform and transformed_logprobs)
        return [
            Response(
                tokens[row, :length].copy(),
                logprobs[row, :length].copy(),
                truncated,
                entropies[row, :length].copy() if of_policy else None,
            )
            for row, (length, truncated) in enumerate(zip(lengths.tolist(), (~ended).tolist(), strict=True))
        ]


def empty_copy(policy: Policy) -> PreTrainedModel:
    """An uncut model for a policy's weights, in the dtype of its passes."""
    model = empty_model(policy.model.config, policy.dtype).requires_grad_(False).to_empty(device=policy.device)
    model.tie_weights()
    buffers = dict(policy.model.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return model
