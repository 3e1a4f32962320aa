"""Attention by another of the functions that transformers lets one register, and the one for packed rows.

Packed rows stand end to end in one long row, without padding between them. Every layer but attention treats tokens one
by one and takes that as it is; attention has to stay inside each row. On CUDA in half precision that is torch's
variable-length attention, one call for all rows; elsewhere (a CPU, float32) the rows are attended to one at a time,
which is as exact and saves nothing.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

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
    """The rows of each pass: one after the other, each in the first pass that has room for it under `budget` tokens."""
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


def pack(
    input_ids: Tensor, lengths: list[int], positions: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor], dict]:
    """Lay right-padded rows end to end: ids (R, L) -> (1, N), (row, column) of some tokens -> where they are then.

    The third part is what the model has to be told of it: positions that start anew, and where each row ends.
    """
    longest = max(lengths)
    lengths = torch.tensor(lengths, device=input_ids.device)
    columns = torch.arange(longest, device=input_ids.device).expand(len(lengths), -1)
    inside = columns < lengths[:, None]
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    row, column = positions
    layout = {"position_ids": columns[inside][None], "cu_seq_lens_q": ends.int(), "max_length_q": longest}
    return input_ids[inside][None], (torch.zeros_like(row), ends[row] + column), layout


def has_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **others: object,
) -> tuple[Tensor, None]:
    """Causal attention inside each packed row: query (1, H, N, d), key and value (1, K, N, d) -> (1, N, H, d).

    `cu_seq_lens_q` (rows + 1,), int32, holds the rows' starts and the end of the last one, `max_length_q` the length of
    the longest. Raises ValueError for a layer that wants more than that: a window, caps, sinks, biases.
    """
    if unknown := [name for name in NOT_PACKED if others.get(name) is not None]:
        raise ValueError(f"packed rows know no {', '.join(unknown)}")
    if has_kernel(query):
        if not SHARES_KEYS:
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
        tokens_first = (x[0].transpose(0, 1) for x in (query, key, value))  # (N, heads, d)
        ends = cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q
        shared = {"enable_gqa": True} if SHARES_KEYS else {}
        return varlen_attn(*tokens_first, *ends, scale=scaling, window_size=(-1, 0), **shared)[None], None
    return row_by_row(query, key, value, cu_seq_lens_q, scaling).transpose(1, 2), None


@torch.compiler.disable  # it would be compiled anew for every number of rows
def row_by_row(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float | None) -> Tensor:
    lengths = ends.diff().tolist()
    rows = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    how = {"is_causal": True, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    return torch.cat([scaled_dot_product_attention(q, k, v, **how) for q, k, v in rows], 2)


AttentionInterface.register("packed", packed_attention)
AttentionMaskInterface.register("packed", lambda *_, **__: None)
