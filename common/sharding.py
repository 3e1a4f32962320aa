"""The policy over several ranks: parameters, gradients and optimiser state are cut into shards (FSDP2).

Every rank holds its shards in float32; a layer's whole weights exist while it runs, in the passes' dtype, and gradients
are summed over ranks in float32. Each rank runs its own rows of a batch. Because a pass gathers weights from everybody,
all ranks make the same number of passes; one that has fewer rows runs a single token of no weight instead.

What an algorithm sees is the same as with one process: whole (B, T) tensors, on every rank.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from common import ranks
from common.policy import Pass, Policy, decoder_layers, final_hidden, load_model
from common.vocabulary import vocabulary_backward, vocabulary_score


class VocabularyGradient(torch.autograd.Function):
    """A scalar, 0, whose gradient by hidden states and head is that of a loss with known gradients by its inputs.

    All of it is worked out in the forward pass, while the weights of the head are gathered.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, grad_logprobs, grad_entropy, *how):
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        grad_hidden = vocabulary_backward(
            hidden, weight, bias, targets, grad_logprobs, grad_entropy, *how[:2], grad_weight, grad_bias, how[2]
        )
        grad_bias = None if bias is None else grad_bias.to(bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype), grad_bias)
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx, grad):
        return (*(None if g is None else g * grad for g in ctx.saved_tensors), *[None] * 6)


class TokenModel(nn.Module):
    """What is sharded as one: the causal LM from token ids to the log-probabilities of chosen tokens."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, part: Pass, gradients: tuple[Tensor, Tensor | None] | None, *how):
        """(log-probabilities, entropies) of a pass; or, given their gradients, what to call `backward` on."""
        hidden = final_hidden(self.model, part)
        head = self.model.get_output_embeddings()
        if gradients is None:
            return vocabulary_score(hidden, head.weight, head.bias, part.targets, *how)
        return VocabularyGradient.apply(hidden, head.weight, head.bias, part.targets, *gradients, *how)


class ShardedPolicy(Policy):
    """`Policy` for several ranks: the same methods, called by all of them with the same arguments."""

    @staticmethod
    def _load_model(name: str) -> PreTrainedModel:
        return Policy._load_model(name) if ranks.rank() == 0 else empty_model(name)

    def _place(self, model: PreTrainedModel) -> PreTrainedModel:
        """Cut the model into shards. Only the first rank's has weights; the others get their shards from it."""
        weights = model.state_dict() if ranks.rank() == 0 else {}
        buffers = dict(model.named_buffers())
        model = model.to("meta")
        model.tie_weights()
        self._prepare_layers(model)
        mesh = init_device_mesh(self.device.type, (ranks.world_size(),))
        shard = partial(fully_shard, mesh=mesh, reshard_after_forward=True)
        if self.dtype != torch.float32:
            mixed = MixedPrecisionPolicy(self.dtype, torch.float32, cast_forward_inputs=False)
            shard = partial(shard, mp_policy=mixed)
        for layer in decoder_layers(model):
            shard(layer)
        self.root = shard(TokenModel(model))  # embedding and head stay together: they may be the same tensor
        self.root.to_empty(device=self.device)
        self._take_weights(model, weights)
        for name, buffer in model.named_buffers():  # of rotary embeddings: no state dict has them
            if ranks.rank() == 0:
                buffer.copy_(buffers[name])
            dist.broadcast(buffer, 0)
        return model

    def _take_weights(self, model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
        """Cut the first rank's whole weights into everybody's shards."""
        set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))

    def _cut(self, sizes: list[int]) -> list[list[int]]:
        """This rank's passes: rows go, longest first, to the rank with the fewest tokens; [] is a pass of no weight."""
        parts: list[list[int]] = [[0] * len(sizes) for _ in range(ranks.world_size())]
        loads = [0] * len(parts)
        for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
            lightest = loads.index(min(loads))
            parts[lightest][row] = sizes[row]
            loads[lightest] += sizes[row]
        passes = [super(ShardedPolicy, self)._cut(part) for part in parts]
        return passes[ranks.rank()] + [[]] * (max(map(len, passes)) - len(passes[ranks.rank()]))

    def score(self, batch: dict, graph_rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As with one process, but that no graph is kept: it would hold on to gathered weights."""
        parts = super().score(batch)
        return tuple(ranks.sum_of(part, self.device) for part in parts)

    def _values(self, part: Pass, hidden: None = None) -> tuple[Tensor, Tensor]:
        return self.root(part, None, self.temperature, self.chunk, self.compiled)

    def _backward(self, part: Pass, grad_logprobs: Tensor, grad_entropy: Tensor | None, hidden: None = None) -> None:
        # Gradients are averaged over ranks, and those of a loss over the whole minibatch have to be added.
        gradients = (
            grad_logprobs[part.tokens] * ranks.world_size(),
            None if grad_entropy is None else grad_entropy[part.tokens] * ranks.world_size(),
        )
        self.root(part, gradients, self.temperature, self.chunk, self.compiled).backward()

    def weights(self):
        """Name and whole tensor of each parameter, one at a time; all ranks must go through all of them."""
        for name, tensor in self.model.state_dict().items():
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def frozen_copy(self) -> "ShardedPolicy":
        """A reference policy: the model as it was loaded, without gradients."""
        how = {"temperature": self.temperature, "packing": self.packing}
        reference = type(self).load(self.name, device=self.device.type, **how)
        reference.micro_batch_tokens = self.micro_batch_tokens
        reference.optimizer = None
        reference.model.requires_grad_(False)
        return reference

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
        self._take_weights(self.model, load_model(str(directory)).state_dict() if ranks.rank() == 0 else {})


def empty_model(name: str) -> PreTrainedModel:
    """The model of a directory or hub id without its weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name), dtype=torch.float32)
    with suppress(OSError):  # a model may have none
        model.generation_config = GenerationConfig.from_pretrained(name)
    return model.eval()
