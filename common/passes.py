"""One run of the model: which rows and tokens of a batch it holds, and what comes out of it.

Sequences are right-padded and causal, so they need no attention mask: what comes after a token cannot reach it. The
index arithmetic is on the CPU, where the batch is; only what a pass reads goes to the model's device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from common.packing import Unit, pack
from common.vocabulary import Statistic, vocabulary_backward, vocabulary_score


class Pass(NamedTuple):
    """One run of the model over R rows of at most L tokens, and the N predictions wanted from it."""

    input_ids: Tensor  # (R, L), right-padded; or (1, N), packed
    layout: dict  # what the model is told of packed rows
    in_batch: tuple[Tensor, Tensor]  # row and column of each wanted token in a (B, T) tensor, (N,) each, on the CPU
    in_pass: tuple[Tensor, Tensor]  # row and column in `input_ids` of the token before it, which predicts it
    targets: Tensor  # its id (N,)

    def to(self, device: torch.device) -> "Pass":
        """What the model reads, on its device."""
        layout = tree_map_only(Tensor, lambda x: x.to(device), self.layout)
        in_pass = tuple(index.to(device) for index in self.in_pass)
        return Pass(self.input_ids.to(device), layout, self.in_batch, in_pass, self.targets.to(device))


class Packed(NamedTuple):
    """How rows are laid end to end (common/packing.py)."""

    sharing: bool  # a prompt once for its responses
    kernel: bool
    most: int  # tokens that a pass may have
    parts: int  # that the passes are dealt out to


def cut_into_passes(
    batch: dict, needed: Tensor, cut: Callable[[list[int]], list[list[int]]], packed: Packed | None
) -> Iterator[Pass]:
    """Passes that hold the `needed` (B, T) tokens, on the CPU.

    A row is run up to its last needed token, and not at all without one. `cut` says what runs together, given how many
    tokens each row, or `packed` each unit of rows, has.
    """
    prompt_ids, response_ids = batch["prompt_ids"], batch["response_ids"]
    prompt_lengths = batch["prompt_mask"].sum(1)
    last = (needed * torch.arange(1, needed.shape[1] + 1)).amax(1)  # 1-based; 0 where none
    sizes = torch.where(last > 0, prompt_lengths + last - 1, 0).tolist()  # the last token is predicted, never read
    # Move each prompt's padding from the left of its row to the far right.
    ids = torch.cat([prompt_ids, response_ids], 1)
    columns = torch.arange(ids.shape[1]) + (prompt_ids.shape[1] - prompt_lengths)[:, None]
    ids = ids.gather(1, columns.clamp(max=ids.shape[1] - 1))
    units = units_of(ids, prompt_lengths.tolist(), sizes, packed) if packed else []
    for chosen in cut([unit.size for unit in units] if packed else sizes):
        rows = torch.tensor([row for i in chosen for row in units[i].rows] if packed else chosen)
        r, t = needed[rows].nonzero(as_tuple=True)
        before = prompt_lengths[rows[r]] - 1 + t  # the column that predicts it
        if packed:
            laid = pack(ids, [units[i] for i in chosen], (rows[r], before), packed.kernel)
        else:
            laid = ids[rows, : max(sizes[row] for row in chosen)], (r, before), {}
        input_ids, in_pass, layout = laid
        yield Pass(input_ids, layout, (rows[r], t), in_pass, response_ids[rows[r], t])


def units_of(ids: Tensor, prompt_lengths: list[int], sizes: list[int], packed: Packed) -> list[Unit]:
    """Which of the rows (B, W) with tokens to be read have one prompt and share it, given how many each has.

    A group is taken apart, and its prompt repeated, where it has more tokens than a pass may have or than one of the
    `parts` should get.
    """
    groups: dict[object, list[int]] = {}
    for row, size in enumerate(sizes):
        if size:
            prompt = ids[row, : prompt_lengths[row]].numpy().tobytes()
            groups.setdefault(prompt if packed.sharing else row, []).append(row)

    def unit(rows: list[int]) -> Unit:
        stem = prompt_lengths[rows[0]] if len(rows) > 1 else sizes[rows[0]]
        return Unit(rows, stem, [sizes[row] - stem for row in rows])

    units, total = [], sum(unit(rows).size for rows in groups.values())
    for rows in groups.values():
        pieces = math.ceil(packed.parts * unit(rows).size / total)
        piece: list[int] = []
        for row in rows:
            full = len(piece) == math.ceil(len(rows) / pieces) or unit([*piece, row]).size > packed.most
            if piece and full:
                units.append(unit(piece))
                piece = []
            piece.append(row)
        units.append(unit(piece))
    return units


def final_hidden(model: PreTrainedModel, part: Pass) -> Tensor:
    """The hidden states (N, D), after the last layer and its norm, at the positions of a pass."""
    return model.base_model(input_ids=part.input_ids, use_cache=False, **part.layout).last_hidden_state[part.in_pass]


class Cast(nn.Module):
    """A module's forward pass with its parameters, or its own ones alone, cast to `dtype` while it runs."""

    def __init__(self, module: nn.Module, dtype: torch.dtype, own: bool):
        super().__init__()
        self.module, self.dtype, self.own = module, dtype, own
        self.forward_pass = module.forward

    def forward(self, *inputs: object, **options: object) -> object:
        return self.forward_pass(*inputs, **options)

    def run(self, *inputs: object, **options: object) -> object:
        """Also where a layer runs again in the backward pass. The parameters get their gradients in their own dtype."""
        named = self.module.named_parameters(recurse=not self.own)
        return functional_call(self, {f"module.{name}": p.to(self.dtype) for name, p in named}, inputs, options)


def compute_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Have a decoder compute in `dtype` with parameters in another: in the same arithmetic as over several ranks.

    Every parameter is rounded, norms included, and so is what comes out of each operation, as in a model that was
    loaded in that dtype; autocast would leave norms, rotary embeddings and the residual stream in float32.
    """
    if next(model.parameters()).dtype == dtype:
        return
    layers = decoder_layers(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for layer in layers:
        layer.forward = Cast(layer, dtype, own=False).run
    for module in model.modules():
        if id(module) in inside or not any(True for _ in module.parameters(recurse=False)):
            continue
        if type(module) is nn.Embedding:  # what is looked up, rounded, and not the whole table
            module.register_forward_hook(lambda module, inputs, output: output.to(dtype))
        else:
            module.forward = Cast(module, dtype, own=True).run


class TokenModel(nn.Module):
    """A causal LM from token ids to the log-probabilities and entropies of chosen tokens; passes compute in `dtype`."""

    outputs = 2

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype):
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(
        self,
        part: Pass,
        how: tuple[float, int, bool],
        hidden: Tensor | None = None,
        gradients: tuple[Tensor | None, ...] | None = None,
        also: Sequence[Statistic] = (),
    ) -> tuple[Tensor, ...] | Tensor:
        """(N,) tensors: log-probabilities, entropies, what `also` asks for. Given the gradients of a loss by the first
        two, a scalar to call `backward` on.

        `how` is temperature, tokens of a chunk, and whether to compile; `hidden` what `self.hidden` gave before.
        """
        hidden = (self.hidden(part) if hidden is None else hidden).to(self.dtype)
        head = self.model.get_output_embeddings()
        if gradients is None:
            return vocabulary_score(hidden, head.weight.to(self.dtype), head.bias, part.targets, *how, also)
        return self.inject(hidden, head, part.targets, gradients, how)

    def hidden(self, part: Pass) -> Tensor:
        """The final hidden states (N, D) that make a pass's predictions, before the output head."""
        return final_hidden(self.model, part)

    def inject(self, hidden: Tensor, head: nn.Linear, targets: Tensor, gradients: tuple, how: tuple) -> Tensor:
        """A scalar whose gradient by `hidden` is that of the loss; the head's gradient is added to its `grad` here."""
        for parameter in (head.weight, head.bias):
            if parameter is not None and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            grad_hidden = vocabulary_backward(
                hidden,
                head.weight.to(self.dtype),
                head.bias,
                targets,
                *gradients,
                *how,
                head.weight.grad,
                None if head.bias is None else head.bias.grad,
            )
        return (hidden * grad_hidden).sum()


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the decoder, which the library names for a model to be cut into."""
    return [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]


def empty_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal LM without weights, on the meta device, with parameters of a dtype and buffers in float32 at least."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.promote_types(dtype, torch.float32)).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
