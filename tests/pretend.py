"""A pretended CUDA: tensors that say they are on cuda:0, hold their numbers on the CPU and refuse to meet CPU tensors.

    with PretendedCuda() as cuda:
        policy = Policy(model, tokenizer, device="cuda:0")
        policy.score(batch)
    assert cuda.calls["mm.dtype_out"] == 2 and cuda.syncs["to_cpu"] == 2

All numbers are real, so that results can be compared with the CPU's, and what a GPU would have to wait for is counted.
Kernels that exist for CUDA alone (products of bfloat16 factors in float32, variable-length attention) are worked out as
documented, and refuse what the real ones refuse; what is compiled for CUDA runs as it is written. What it cannot show:
kernels' own limits, memory, streams, NCCL, torch.compile, and files that are written from tensors' addresses.
"""

from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from common import loading, packing, vocabulary

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
HALF = (torch.bfloat16, torch.float16)
# Operators that CUDA allows with tensors of both: copies, and an index that lies on the CPU.
COPYING = {"copy_", "_to_copy", "to"}
MEETING = COPYING | {"index", "index_put", "index_put_", "_index_put_impl_"}
# Operators whose result's size or value the host has to know: it waits for all that was asked of the GPU before.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}

aten = torch.ops.aten
cpu_attention, cpu_where = torch.nn.functional.scaled_dot_product_attention, torch.where


class OnCuda(Tensor):
    """A tensor on the pretended device; `held` are its numbers."""

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnCuda":
        shell = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        made = Tensor._make_subclass(cls, shell, False, dispatch_device=False, device_for_backend_keys=CUDA)
        made.held = held
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self) -> str:
        return f"OnCuda({self.held})"

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> list:
        return self.to("cpu").tolist()

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function} outside of the pretended CUDA")


def on_cuda(tree: object) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, OnCuda)]


class PretendedCuda(TorchDispatchMode):
    """While it is entered, `device="cuda:0"` works.

    `calls` counts operators with a tensor on the device by name and overload, `attention` calls of attention functions
    by name and dtype, `syncs` what the host waits for: operators of `WAITING`, and copies `to_cpu` and `to_cuda`.
    `pinned` counts tensors made in memory that a GPU reads by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.attention, self.syncs, self.pinned = Counter(), Counter(), Counter(), 0

    def __enter__(self) -> "PretendedCuda":
        self.patches = ExitStack()
        for target, name, value in (
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "synchronize", lambda *_: None),
            (torch, "where", self.where),
            (torch.nn.functional, "scaled_dot_product_attention", self.dense_attention),
            (packing, "scaled_dot_product_attention", self.dense_attention),
            (packing, "varlen_attn", self.varlen_attention),
            (loading, "load_model", outside(loading.load_model)),
            (loading, "check_exact", outside(loading.check_exact)),
            (vocabulary, "can_compile", lambda device: True),
            (vocabulary, "compiled_chunks", lambda: (vocabulary.chunk_values, vocabulary.chunk_gradient)),
        ):
            self.patches.enter_context(patch.object(target, name, value))
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)  # module.to(): its tensors change their class
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        torch.__future__.set_swap_module_params_on_conversion(False)
        self.patches.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.ops.prim.device.default:
            return CUDA if isinstance(args[0], OnCuda) else args[0].device
        name = function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, OnCuda)]
        here = [x for x in tensors if not isinstance(x, OnCuda) and x.dim() > 0 and x.device == CPU]
        if there and here and (name not in MEETING or (name.startswith(("index", "_index")) and args[0] is here[0])):
            raise RuntimeError(f"{function}: tensors on cuda:0 and on the CPU, {[tuple(x.shape) for x in here]}")

        asked = kwargs.pop("device", None) or next((x for x in args if isinstance(x, torch.device)), None)
        # In C++ the shells say they are on "meta", and that is where the backward pass makes its zeros.
        in_backward = torch._C._current_graph_task_id() != -1
        asked = CUDA if in_backward and asked is not None and torch.device(asked).type == "meta" else asked
        lands_there = bool(there) if asked is None else torch.device(asked).type == "cuda"
        if name == "copy_":
            lands_there = isinstance(args[0], OnCuda)
        if there:
            self.calls[f"{name}.{function._overloadname}".removesuffix(".default")] += 1
            if name in WAITING:
                self.syncs[name] += 1
            if name.startswith(("index", "_index")) and any(
                isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
            ):
                self.syncs["nonzero"] += 1  # how many there are has to be counted first
            if here and name.startswith(("index", "_index")):
                self.syncs["index_on_cpu"] += 1
        crosses = False
        if name in COPYING:
            source = args[1] if name == "copy_" else args[0]
            crosses = source.device.type != "meta" and isinstance(source, OnCuda) != lands_there
            if crosses:
                self.syncs["to_cuda" if lands_there else "to_cpu"] += 1
        if asked is not None:
            args = tuple(CPU if isinstance(x, torch.device) else x for x in args)
            if not any(isinstance(x, torch.device) for x in args):
                kwargs["device"] = CPU if torch.device(asked).type == "cuda" else asked
        self.pinned += bool(kwargs.pop("pin_memory", None))
        held = {id(x.held): x for x in there}
        bare_args, bare_kwargs = tree_map(lambda x: x.held if isinstance(x, OnCuda) else x, (args, kwargs))
        result = ON_CUDA_ALONE.get(function, function)(*bare_args, **bare_kwargs)

        def placed(x: object) -> object:
            if name == "to" and crosses:  # it leaves out the copy where it sees one device
                x = x.clone()
            if not isinstance(x, Tensor) or not lands_there or x.device.type == "meta":
                return x
            return held[id(x)] if id(x) in held else OnCuda(x)

        return tree_map(placed, result)

    # --- Functions that choose their kernel before they reach the dispatcher ---

    def where(self, condition: Tensor, *values: object) -> Tensor:
        if isinstance(condition, OnCuda):
            values = [x if isinstance(x, Tensor) else torch.tensor(x, device=CUDA) for x in values]
        return cpu_where(condition, *values)

    def dense_attention(
        self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ) -> Tensor:
        """In float32, rounded once at the end."""
        if not isinstance(q, OnCuda):
            return cpu_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        self.attention[f"dense {str(q.dtype).removeprefix('torch.')}"] += 1
        return self._attend(q, k, v, attn_mask, is_causal, scale)

    def _attend(self, q, k, v, attn_mask, is_causal, scale) -> Tensor:
        if not q.dtype == k.dtype == v.dtype:
            raise RuntimeError(f"query, key and value should have the same dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = (q.float() @ k.float().transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if attn_mask is not None:
            added = attn_mask.dtype != torch.bool
            scores = scores + attn_mask if added else scores.masked_fill(~attn_mask, -torch.inf)
        return (scores.softmax(-1).nan_to_num(0.0) @ v.float()).to(v.dtype)

    def varlen_attention(self, q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), **others):
        """(N, H, d), rows one after another, as torch documents it."""
        self.attention[f"varlen {str(q.dtype).removeprefix('torch.')}"] += 1
        if not (isinstance(cu_q, OnCuda) and cu_q.dtype == cu_k.dtype == torch.int32 and q.dtype in HALF):
            raise RuntimeError(f"variable-length attention takes int32 ends and half precision, not {q.dtype}")
        queries, keys = (list(pairwise(ends.held.tolist())) for ends in (cu_q, cu_k))
        longest = tuple(max(b - a for a, b in ends) for ends in (queries, keys))
        if window_size != (-1, 0) or (max_q, max_k) != longest or len(queries) != len(keys):
            raise RuntimeError("not causal attention inside rows of at most max_q and max_k tokens")
        rows = []
        for (a, b), (c, d) in zip(queries, keys, strict=True):
            row = (x[some].transpose(0, 1)[None] for x, some in ((q, slice(a, b)), (k, slice(c, d)), (v, slice(c, d))))
            # The last query sees all keys: torch's dense attention counts from the first one instead.
            mask = torch.ones(b - a, d - c, dtype=torch.bool, device=q.device).tril(d - c - b + a)
            rows.append(self._attend(*row, mask, False, scale)[0].transpose(0, 1))
        return torch.cat(rows)


def outside(function):
    """What reads files and tries a model on the CPU needs no second device, and is slow under one."""

    def call(*args: object, **options: object) -> object:
        with _disable_current_modes():
            return function(*args, **options)

    return call


def product_in_float32(a: Tensor, b: Tensor, out_dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    if a.dtype != b.dtype or a.dtype not in HALF or out_dtype != torch.float32:
        raise RuntimeError(f"mm takes out_dtype=float32 for two factors in half precision, not {a.dtype}, {b.dtype}")
    product = a.float() @ b.float()
    return product if out is None else out.copy_(product)


def sum_in_float32(self: Tensor, a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor, **_: object) -> Tensor:
    if self.dtype not in (out_dtype, a.dtype):
        raise RuntimeError(f"addmm adds to {out_dtype} or {a.dtype}, not {self.dtype}")
    return out.copy_(self + product_in_float32(a, b, out_dtype))


ON_CUDA_ALONE = {
    aten.mm.dtype: product_in_float32,
    aten.mm.dtype_out: product_in_float32,
    aten.addmm.dtype_out: sum_in_float32,
}
