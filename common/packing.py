"""Attention by another of the functions that transformers lets one register, and the one for passes laid end to end.

Such a pass is one long row of segments without padding. A stem is a whole row, or a prompt that several rows begin
with; a branch is the rest of such a row. Every layer but attention treats tokens one by one and takes that as it is; in
attention a token sees its own segment up to itself, and a branch all of its stem. On CUDA in half precision that is
torch's variable-length attention, one call with the keys of a stem repeated for its branches; elsewhere (a CPU,
float32) the segments are attended to in blocks of similar lengths, padded for the time of it.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

SHARES_KEYS = "enable_gqa" in inspect.signature(varlen_attn).parameters  # torch 2.13 and later
NOT_PACKED = ("sliding_window", "softcap", "s_aux", "position_bias")  # what a model may want of attention besides


@contextmanager
def attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Run the model with another of the registered attention functions."""
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before


def first_fit(order: list[int], sizes: list[int], budget: int) -> list[list[int]]:
    """What goes into each pass: one after the other, into the first pass that has room for it under `budget` tokens."""
    passes: list[list[int]] = []
    room: list[int] = []
    for row in order:
        chosen = next((i for i, left in enumerate(room) if left >= sizes[row]), len(room))
        if chosen == len(room):
            passes.append([])
            room.append(budget)
        passes[chosen].append(row)
        room[chosen] -= sizes[row]
    return passes


# --- Laying out -------------------------------------------------------------------------------------------------


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16)


class Unit(NamedTuple):
    """Rows that begin with the same tokens and run together; or one row."""

    rows: list[int]
    stem: int  # how many tokens they share; of a single row, all that is read of it
    branches: list[int]  # how many are read of each row after that

    @property
    def size(self) -> int:
        return self.stem + sum(self.branches)


class Segment(NamedTuple):
    """Tokens that stand side by side in a pass."""

    rows: list[int]  # that have them
    first: int  # their first column in these rows
    length: int
    stem: int  # number of the segment before it in its rows; a stem's own number


class Block(NamedTuple):
    """R segments of similar lengths, n tokens in all, as attention without a kernel takes them: padded to L each."""

    spread: Tensor  # (R, L) which of the n tokens stands at each place; padding repeats one
    true: Tensor  # (R * L, 1) whether it is no padding
    back: Tensor  # (n,) the place of each token among R * L
    stem: Tensor | None  # (R,) of branches: their stems' rows in the last block of stems, which has C places each
    mask: Tensor | None  # (R, 1, L, C + L) of branches: 0 for what a token sees of stem and branch, else -inf


def similar(lengths: Sequence[int]) -> list[list[int]]:
    """Their places in groups, longest first, in which none is less than half as long as another."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not groups or 2 * lengths[place] < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(place)
    return groups


def segments_of(units: Sequence[Unit]) -> list[list[Segment]]:
    """All segments, in blocks of similar lengths: some stems, and then the branches that go on from them."""
    blocks, count = [], 0
    for places in similar([unit.stem for unit in units]):
        stems = [(count + i, units[place]) for i, place in enumerate(places)]
        blocks.append([Segment(unit.rows, 0, unit.stem, number) for number, unit in stems])
        branches = [
            Segment([row], unit.stem, length, number)
            for number, unit in stems
            for row, length in zip(unit.rows, unit.branches, strict=True)
            if length > 0
        ]
        blocks += [[branches[i] for i in some] for some in similar([branch.length for branch in branches])]
        count += len(stems) + len(branches)
    return blocks


def pack(
    ids: Tensor, units: Sequence[Unit], wanted: tuple[Tensor, Tensor], kernel: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor], dict]:
    """Lay rows end to end: ids (B, W), each row from column 0 on -> (1, N); row and column of some tokens -> where they
    are then.

    The third part is what the model has to be told of it: positions, which start anew in every row, and the segments as
    `packed_attention` takes them, with a `kernel` or without one.
    """
    blocks = segments_of(units)
    segments = [segment for block in blocks for segment in block]
    first, length, stem = torch.tensor([segment[1:] for segment in segments]).unbind(1)  # (S,) each
    begins = torch.tensor([segment.rows[0] for segment in segments])
    start = length.cumsum(0) - length
    segment = torch.arange(len(segments)).repeat_interleave(length)  # (N,) that each token is part of
    column = torch.arange(len(segment)) - (start - first)[segment]

    stem_of, branch_of = torch.zeros(2, len(ids), dtype=torch.long)  # the segments of each row
    for number, some in enumerate(segments):
        (stem_of if some.stem == number else branch_of)[some.rows] = number
    rows, columns = wanted
    home = torch.where(columns < length[stem_of[rows]], stem_of[rows], branch_of[rows])
    place = columns + (start - first)[home]

    layout = kernel_layout(start, length, stem) if kernel else {"blocks": tuple(padded(blocks, length, stem))}
    return ids[begins[segment], column][None], (torch.zeros_like(place), place), {"position_ids": column[None]} | layout


def kernel_layout(start: Tensor, length: Tensor, stem: Tensor) -> dict:
    """Where queries and keys of each segment (S,) end, and which tokens the keys (sum of their lengths,) are."""
    shared = torch.where(stem == torch.arange(len(stem)), 0, length[stem])
    queries, keys = (torch.cat([x.new_zeros(1), x.cumsum(0)]) for x in (length, shared + length))
    layout = {"cu_seq_lens_q": queries.int(), "max_length_q": int(length.max())}
    if not shared.any():
        return layout
    segment = torch.arange(len(stem)).repeat_interleave(shared + length)
    nth = torch.arange(len(segment)) - keys[segment]
    of_stem, of_branch = start[stem][segment] + nth, (start - shared)[segment] + nth
    layout["keys"] = torch.where(nth < shared[segment], of_stem, of_branch)
    return layout | {"cu_seq_lens_k": keys.int(), "max_length_k": int((shared + length).max())}


def padded(blocks: list[list[Segment]], length: Tensor, stem: Tensor) -> Iterator[Block]:
    """The segments (S,) block by block, side by side."""
    numbers = torch.arange(len(length)).split([len(block) for block in blocks])
    for some in numbers:
        lengths, own = length[some], torch.arange(int(length[some].max()))
        inside = (own < lengths[:, None]).flatten()  # (R * L,)
        spread = ((lengths.cumsum(0) - lengths)[:, None] + own).clamp(max=int(lengths.sum()) - 1)
        of_block = spread, inside[:, None], inside.nonzero()[:, 0]
        if stem[some[0]] == some[0]:
            stems = some
            yield Block(*of_block, None, None)
            continue
        shape = len(some), 1, len(own), -1
        context = torch.arange(int(length[stems].max())) < length[stem[some], None]  # (R, C)
        seen = torch.cat([context[:, None, None].expand(shape), (own <= own[:, None]).expand(shape)], 3)
        yield Block(*of_block, stem[some] - stems[0], torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf))


# --- Attention --------------------------------------------------------------------------------------------------


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attention inside the segments of a pass: query (1, H, N, d), key and value (1, K, N, d) -> (1, N, H, d).

    `others` hold what `pack` says about them. Raises ValueError for a layer that wants more than that: a window, caps,
    sinks, biases.
    """
    if unknown := [name for name in NOT_PACKED if others.get(name) is not None]:
        raise ValueError(f"packed rows know no {', '.join(unknown)}")
    attend = in_blocks if "blocks" in others else by_kernel
    tokens_first = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, heads, d)
    return attend(*tokens_first, scaling, **others)[None], None


def by_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    keys: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_k: int | None = None,
    **_: object,
) -> Tensor:
    """By torch's variable-length attention, which aligns queries with the last ones of their keys."""
    if not SHARES_KEYS:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    ends = cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q
    if keys is not None:
        key, value = key[keys], value[keys]
        ends = cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k
    shared = {"enable_gqa": True} if SHARES_KEYS else {}
    return varlen_attn(query, key, value, *ends, scale=scaling, window_size=(-1, 0), **shared)


@torch.compiler.disable  # it would be compiled anew for every number of rows
def in_blocks(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, blocks: tuple[Block, ...], **_: object
) -> Tensor:
    """By torch's dense attention, block by block."""
    head, sizes, found = query.shape[2], [len(block.back) for block in blocks], []
    for block, *parts in zip(blocks, *(x.flatten(1).split(sizes) for x in (query, key, value)), strict=True):
        q, k, v = (Moved.apply(x, block.spread.flatten(), block.back) for x in parts)
        q, k, v = (x.view(*block.spread.shape, -1) for x in (q, k, v))  # (R, L, heads * d)
        if block.stem is None:
            stems = k, v  # (S, C, K * d)
        else:
            context = (of_stem.index_select(0, block.stem) for of_stem in stems)
            k, v = (torch.cat(both, 1) for both in zip(context, (k, v), strict=True))
        q, k, v = (x.unflatten(2, (-1, head)).transpose(1, 2) for x in (q, k, v))  # (R, heads, tokens, d)
        mask = None if block.mask is None else block.mask.to(q.dtype)
        how = {"attn_mask": mask, "is_causal": mask is None, "scale": scaling, "enable_gqa": q.shape[1] != k.shape[1]}
        attended = scaled_dot_product_attention(q, k, v, **how).transpose(1, 2).reshape(block.spread.numel(), -1)
        found.append(Moved.apply(attended, block.back, block.spread.flatten(), block.true))
    return torch.cat(found).unflatten(1, (-1, head))


class Moved(torch.autograd.Function):
    """x[there], for a way that has one `back`: the gradient is read there, where adding it up row by row takes longer
    than attention. Places that are not `true` have none."""

    @staticmethod
    def forward(ctx, x: Tensor, there: Tensor, back: Tensor, true: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(back, true)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        back, true = ctx.saved_tensors
        grad = grad.index_select(0, back)
        return grad if true is None else grad * true, None, None, None


AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *_, **__: None)
