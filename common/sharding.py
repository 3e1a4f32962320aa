"""The policy over several ranks: parameters, gradients and optimiser state are cut into shards (FSDP2).

Every rank holds its shards in float32; a layer's whole weights exist while it runs, in the passes' dtype, and gradients
are summed over ranks in float32. Embedding and output head are gathered once a pass: going backward needs neither. Each
rank runs its own rows of a batch. Because a pass gathers weights from everybody, all ranks make the same number of
passes; one that has fewer rows runs a single token of no weight instead.

On several machines each holds all shards where its GPUs have the room, and only sums of gradients go between them.

What an algorithm sees is the same as with one process: whole (B, T) tensors, on every rank.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from common import ranks
from common.packing import Unit, pack
from common.passes import Packed, Pass, TokenModel, decoder_layers
from common.policy import BYTES_PER_PARAMETER, Policy
from common.vocabulary import Statistic, vocabulary_backward

ROOM = 0.25  # of a GPU's memory: what shards may take where every machine holds all of them


class VocabularyGradient(torch.autograd.Function):
    """A scalar, 0, whose gradient by hidden states and head is that of a loss with known gradients by its inputs.

    All of it is worked out in the forward pass, while the weights of the head are gathered.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, grad_logprobs, grad_entropy, *how):
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        grad_hidden = vocabulary_backward(
            hidden, weight, bias, targets, grad_logprobs, grad_entropy, *how, grad_weight, grad_bias
        )
        ctx.gradients = grad_hidden, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype)
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx, _):
        """Handed on as they are. `backward` is called on the scalar itself, so there is nothing to multiply by; and
        autograd takes over what nobody else holds, where it would copy what it has saved."""
        gradients, ctx.gradients = ctx.gradients, None
        return (*gradients, *[None] * 6)


class ShardedTokenModel(TokenModel):
    """What is sharded as one. The head's gradient is handed to autograd, which sums it over ranks."""

    def inject(self, hidden: Tensor, head: nn.Linear, targets: Tensor, gradients: tuple, how: tuple) -> Tensor:
        return VocabularyGradient.apply(hidden, head.weight, head.bias, targets, *gradients, *how)


class ShardedPolicy(Policy):
    """`Policy` for several ranks: the same methods, called by all of them with the same arguments."""

    token_model = ShardedTokenModel
    mesh: DeviceMesh | None = None  # a twin's is the same: tensors of both are cut alike

    # --- Placing ---

    def _place(self, root: TokenModel) -> TokenModel:
        """Cut the model into shards. Only the first rank's has weights; the others get their shards from it."""
        weights = root.model.state_dict() if ranks.rank() == 0 else {}
        buffers = dict(root.model.named_buffers())
        root = self._place_empty(root.to("meta"))
        self._take_weights(root.model, weights)
        for name, buffer in root.model.named_buffers():  # of rotary embeddings: no state dict has them
            if ranks.rank() == 0:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
        return root

    def _place_empty(self, root: TokenModel) -> TokenModel:
        root.model.tie_weights()
        self._prepare_layers(root.model)
        if self.mesh is None:
            self.mesh = mesh_for(root, self.device)
        shard = partial(fully_shard, mesh=self.mesh, reshard_after_forward=True)
        if self.dtype != torch.float32:
            mixed = MixedPrecisionPolicy(self.dtype, torch.float32, cast_forward_inputs=False)
            shard = partial(shard, mp_policy=mixed)
        apart, read_again = pieces(root)
        for module in apart:
            shard(module)
        shard(root)  # embedding and head stay together: they may be the same tensor
        root.set_unshard_in_backward(read_again)
        root.to_empty(device=self.device)
        return root

    def _take_weights(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        """Cut the first rank's whole weights into everybody's shards."""
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))

    # --- Passes ---

    def _passes(self, batch: dict, needed: Tensor) -> Iterator[Pass]:
        """This rank's passes, then as many idle ones as another rank has more.

        Which rows run where follows from what is needed, and that from gradients that ranks work out for themselves:
        processors of two kinds may disagree on a last bit, and then the first rank's word counts. Ends the process
        where not even the batches are the same.
        """
        tokens = [batch[key] for key in ("prompt_mask", "mask", "prompt_ids")]
        about_batch, about_needed = digest(*tokens), digest(needed)
        found = ranks.gather([(about_batch, about_needed)])
        if len({about for about, _ in found}) > 1:
            raise SystemExit("error: the ranks hold different batches; give all of them the same files and libraries")
        if len(set(found)) > 1:
            needed = ranks.agree(needed)
        own = list(super()._passes(batch, needed))
        idle = ranks.largest(len(own)) - len(own)  # asked first: in a pass, ranks wait for each other
        yield from own
        for _ in range(idle):
            yield idle_pass(self._packed()).to(self.device)

    def _packed(self, parts: int = 1) -> Packed | None:
        return super()._packed(ranks.world_size())

    def _cut(self, sizes: list[int]) -> list[list[int]]:
        """This rank's rows alone: they go, longest first, to the rank with the fewest tokens."""
        mine, loads = [0] * len(sizes), [0] * ranks.world_size()
        for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
            lightest = loads.index(min(loads))
            loads[lightest] += sizes[row]
            if lightest == ranks.rank():
                mine[row] = sizes[row]
        return super()._cut(mine)

    def score(
        self, batch: dict, rows: Tensor | None = None, also: Sequence[Statistic] = ()
    ) -> tuple[Tensor, Tensor, *tuple[Tensor, ...]]:
        """As with one process, but that no graph is kept."""
        return tuple(ranks.sum_of(part, self.device) for part in super().score(batch, None, also))

    def backward(self, batch: dict, *gradients: Tensor | None) -> None:
        # Gradients are averaged over ranks, and those of a loss over the whole minibatch have to be added.
        super().backward(batch, *(None if g is None else g * ranks.world_size() for g in gradients))

    # --- Whole weights ---

    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each parameter, one at a time; all ranks must go through all of them.

        In `dtype`, if given, are the shards already that are gathered.
        """
        for name, tensor in super().weights(dtype):
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def save(self, directory: Path) -> None:
        """The first rank writes model and tokenizer as Hugging Face files."""
        once = {name for part in (self.model.named_parameters(), self.model.named_buffers()) for name, _ in part}
        whole = {}
        for name, tensor in self.weights():
            if ranks.rank() == 0 and name in once:  # tied weights have two names
                whole[name] = tensor.cpu()
        if ranks.rank() == 0:
            self.model.save_pretrained(directory, state_dict=whole)
            self.tokenizer.save_pretrained(directory)

    def _restore_weights(self, directory: Path) -> None:
        self._take_weights(self.model, self._read_model(directory) if ranks.rank() == 0 else {})


def mesh_for(root: nn.Module, device: torch.device) -> DeviceMesh:
    """All ranks in a row, each with a shard of its own; or machines x ranks of each, if there is room for all shards.

    Then a layer is gathered inside a machine, and what goes between machines is the sum of the gradients' shards.
    """
    world, together = ranks.world_size(), ranks.on_this_machine()
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // together
    size = BYTES_PER_PARAMETER * sum(p.numel() for p in root.parameters()) / together
    alike, roomy = zip(*ranks.gather([(together, size <= ROOM * memory)]), strict=True)
    if together < world and set(alike) == {together} and all(roomy):
        return init_device_mesh(device.type, (world // together, together), mesh_dim_names=("machines", "shards"))
    return init_device_mesh(device.type, (world,))


def pieces(root: TokenModel) -> tuple[list[nn.Module], bool]:
    """What is sharded by itself: the layers, and outside of them what has parameters, such as the last norm, but for
    embeddings and the head. And whether the backward pass reads what is left.

    Of an embedding rows were looked up, and the gradient by the head's inputs is known by then.
    """
    layers, head = decoder_layers(root.model), root.model.get_output_embeddings()
    inside = {module for layer in layers for module in layer.modules()}
    leaves = [module for module in root.model.modules() if module not in inside and not any(module.children())]
    tables = [module for module in leaves if isinstance(module, nn.Embedding) or module is head]
    apart = [*layers, *(module for module in leaves if module not in tables and any(True for _ in module.parameters()))]
    known = {parameter for module in (*apart, *tables) for parameter in module.parameters()}
    return apart, bool(set(root.parameters()) - known)


def digest(*tensors: Tensor) -> bytes:
    """The same on two ranks if their tensors on the CPU are."""
    found = blake2b(digest_size=16)
    for tensor in tensors:
        found.update(repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
    return found.digest()


def idle_pass(packed: Packed | None) -> Pass:
    """A single token of which nothing is wanted: because weights are gathered from everybody, nobody may stay away."""
    ids, none = torch.zeros(1, 1, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    unit = Unit([0], 1, [0])
    ids, in_pass, layout = pack(ids, [unit], (none, none), packed.kernel) if packed else (ids, (none, none), {})
    return Pass(ids, layout, (none, none), in_pass, none)
