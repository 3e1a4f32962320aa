"""The model: log-probabilities and entropies out, gradients in.

    logprobs, entropy = policy.score(batch)                    # (B, T) each, no graph
    policy.backward(batch, grad_logprobs, grad_entropy)        # d loss / d (logprobs, entropy) -> parameter gradients
    grad_norm = policy.step()

An algorithm differentiates its loss with respect to the two (B, T) tensors; `backward` runs the model again and
injects that gradient. By the chain rule this equals `loss.backward()` through the model. Because the incoming
gradient is known before the forward pass, rows and positions without gradient are skipped, and the vocabulary is
crossed once (see common/vocabulary.py). `score` can keep the graphs of its passes for `backward`.

A second model (a reference, a critic) is a `twin`: the same passes over parameters of its own.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common import text
from common.checkpoint import read_parts, resumable, write_parts
from common.packing import attention, first_fit, has_kernel
from common.passes import Packed, Pass, TokenModel, compute_in, cut_into_passes, decoder_layers, empty_model
from common.vocabulary import Statistic

OPTIMIZER = "optimizer"  # the part of a checkpoint that all ranks write
BYTES_PER_PARAMETER = 16  # float32 weights, gradients and the two moments of AdamW
CHUNK_BYTES = {"cpu": 2**27, "cuda": 2**29}  # of float32 logits held at a time


GRAPH_BYTES = {"cpu": 2**30, "cuda": 2**32}  # of graphs of several passes kept from scoring to the update


class Graph(NamedTuple):
    """Passes that `score` made with a graph, for `backward` on the same batch while the parameters are the same."""

    batch: dict
    updates: int
    kept: list[tuple[Pass, Tensor]]  # with their hidden states (N, D)


class Policy:
    """A causal language model with its tokenizer and optimiser.

    `temperature` is the rollout temperature: log-probabilities and entropies are those of softmax(logits / T), the
    distribution that was sampled. `micro_batch_tokens` bounds rows x length of one pass; it changes memory only.
    `dtype` is what the passes compute in (float32 on CPU, bfloat16 on CUDA unless given); parameters, gradients and
    optimiser state are float32 always. `gradient_checkpointing` keeps each layer's input alone and runs it again in the
    backward pass, `offload_optimizer` keeps the optimiser's state on the CPU but for its steps, `compiled` has
    torch.compile make the layers and the element-wise work over the vocabulary, `packing` puts rows of a pass end to
    end, so that `micro_batch_tokens` bounds the sum of their lengths. So does `share_prompts`, and rows with the same
    prompt read it once; on CUDA it takes both.

    `updates` counts how often the parameters were written to: while it stays the same, so do they.
    """

    token_model = TokenModel

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        temperature: float = 1.0,
        micro_batch_tokens: int = 16384,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        enable_thinking: bool | None = None,
        gradient_checkpointing: bool = False,
        offload_optimizer: bool = False,
        compiled: bool = False,
        packing: bool = False,
        share_prompts: bool = False,
    ):
        self.device = torch.device(device)
        if dtype is None and self.device.type == "cuda":
            dtype = torch.bfloat16
        self.dtype = dtype or next(model.parameters()).dtype
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.micro_batch_tokens = micro_batch_tokens
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.gradient_checkpointing = gradient_checkpointing
        self.offload_optimizer = offload_optimizer
        self.compiled = compiled
        self.packing = packing
        self.share_prompts = share_prompts and (packing or self.device.type == "cpu")
        self.end_ids = text.end_token_ids(model, tokenizer)
        self.silent_ids = text.silent_ids(tokenizer)
        self.template_options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self.context_length = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        # eval: dropout would make score and backward disagree
        self._take(self._place(self.token_model(model.eval(), self.dtype)))

    def _take(self, root: TokenModel) -> None:
        """Make a placed model this policy's own, with an optimiser that remembers nothing."""
        self.root, self.model = root, root.model
        self.head: nn.Linear = self.model.get_output_embeddings()
        self.chunk = max(1, CHUNK_BYTES.get(self.device.type, 2**29) // (4 * self.head.out_features))
        self.optimizer = torch.optim.AdamW(
            [p for p in root.parameters() if p.requires_grad],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        self.kept_bytes = bytes_kept(self.model, self.dtype, self.gradient_checkpointing)
        self.updates = 0
        self._parked: dict[tuple[int, str], Tensor] = {}
        self._graph: Graph | None = None

    def _place(self, root: TokenModel) -> TokenModel:
        """Make a model ready to run on the policy's device."""
        compute_in(root.model, self.dtype)
        self._prepare_layers(root.model)
        return root.to(self.device)

    def _place_empty(self, root: TokenModel) -> TokenModel:
        """The same for a model without weights, which it gets from elsewhere."""
        compute_in(root.model, self.dtype)
        self._prepare_layers(root.model)
        root.to_empty(device=self.device)
        root.model.tie_weights()
        return root

    def _prepare_layers(self, model: PreTrainedModel) -> None:
        for layer in decoder_layers(model):
            if self.gradient_checkpointing:  # the library's own way works in training mode alone
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            if self.compiled:
                layer.compile(dynamic=True)

    # --- Second models ---

    def twin(
        self,
        token_model: type[TokenModel] | None = None,
        learning_rate: float | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Policy":
        """Another model with this one's weights as they are now, and an optimiser of its own.

        `token_model` says what comes out of its passes (`common.critic.ValueModel`); what it has besides the language
        model starts at 0. `dtype` is that of its parameters, by default as here.
        """
        twin = copy.copy(self)
        twin.learning_rate = self.learning_rate if learning_rate is None else learning_rate
        model = empty_model(self.model.config, dtype or next(self.model.parameters()).dtype)
        twin._take(twin._place_empty((token_model or self.token_model)(model, self.dtype)))
        own = {id(p) for p in twin.model.parameters()}
        with torch.no_grad():
            for parameter in twin.root.parameters():
                if id(parameter) not in own:
                    parameter.zero_()
            for ours, theirs in zip(twin.model.buffers(), self.model.buffers(), strict=True):
                ours.copy_(theirs)  # of rotary embeddings: no state dict has them
        twin.copy_from(self)
        return twin

    def frozen_copy(self, moves: bool = False) -> "Policy":
        """A reference: a twin that does not learn, held in the passes' dtype unless it `moves` by shares (`copy_from`),
        which would be rounded away there."""
        reference = self.twin(dtype=None if moves else self.dtype)
        reference.root.requires_grad_(False)
        reference.optimizer = None
        return reference

    @torch.no_grad()
    def copy_from(self, other: "Policy", share: float = 1.0) -> None:
        """Replace the language model's parameters by those of `other`, or move them that share of the way there.

        Raises ValueError for a share where that would be rounded away.
        """
        if share != 1 and next(self.model.parameters()).dtype != next(other.model.parameters()).dtype:
            raise ValueError("a reference that moves by shares has to be made with frozen_copy(moves=True)")
        for ours, theirs in zip(self.model.parameters(), other.model.parameters(), strict=True):
            if share == 1:
                shard(ours).copy_(shard(theirs))
            else:
                shard(ours).lerp_(shard(theirs), share)
        self.updates += 1

    @torch.no_grad()
    def snapshot(self) -> list[Tensor]:
        """A copy of all parameters, this rank's part of each: to compute with, and for `write`."""
        return [shard(parameter).clone() for parameter in self.root.parameters()]

    @torch.no_grad()
    def write(self, tensors: Sequence[Tensor]) -> None:
        """Set all parameters to tensors such as `snapshot` gave."""
        for parameter, tensor in zip(self.root.parameters(), tensors, strict=True):
            shard(parameter).copy_(tensor)
        self.updates += 1

    # --- Text ---

    def encode(self, prompt: str | list[dict]) -> list[int]:
        """Token ids of a text, or of chat messages through the tokenizer's chat template."""
        return text.encode(self.tokenizer, prompt, **self.template_options)

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each response, without special tokens but for the marks of reasoning and answer."""
        spoken = [[i for i in np.asarray(ids).tolist() if i not in self.silent_ids] for ids in token_ids]
        return self.tokenizer.batch_decode(spoken) if spoken else []

    def token_texts(self, response_ids: Tensor) -> list[list[str]]:
        """The text of each token by itself, special ones too, for methods that speak of steps inside a response:
        (B, T) ids -> B lists of T. A token that is part of a character reads as the replacement character."""
        known = response_ids.unique().tolist()
        texts = dict(zip(known, self.tokenizer.batch_decode([[i] for i in known]), strict=True))
        return [[texts[i] for i in row] for row in response_ids.tolist()]

    def step_index(self, batch: dict, separator: str) -> Tensor:
        """Which step each response token is part of, from 0 (B, T): how many tokens before it end a separator.

        A separator is part of the step that it ends, and may lie across tokens; an empty one makes each token a step.
        0 on padding.
        """
        texts = self.token_texts(batch["response_ids"])
        before = torch.tensor(
            [text.separators_before(row, separator) if separator else range(len(row)) for row in texts]
        )
        return (before.diff(prepend=before[:, :1]) > 0).cumsum(1) * batch["mask"]

    # --- Passes ---

    def _passes(self, batch: dict, needed: Tensor) -> Iterator[Pass]:
        """Cut the `needed` (B, T) tokens into passes over rows of similar length."""
        for part in cut_into_passes(batch, needed, self._cut, self._packed()):
            yield part.to(self.device)

    def _packed(self, parts: int = 1) -> Packed | None:
        kernel = has_kernel(self.device, self.dtype)
        packed = Packed(self.share_prompts, kernel, self.micro_batch_tokens, parts)
        return packed if self.packing or self.share_prompts else None

    def _cut(self, sizes: list[int]) -> list[list[int]]:
        """The rows of each pass: longest first, as many as `micro_batch_tokens` holds of the longest one's length.

        Packed, each unit of rows goes into the first pass that has room for it.
        """
        order = sorted((row for row, size in enumerate(sizes) if size > 0), key=lambda row: -sizes[row])
        if self.packing or self.share_prompts:
            return first_fit(order, sizes, self.micro_batch_tokens)
        passes = []
        while order:
            fitting = max(1, self.micro_batch_tokens // sizes[order[0]])
            passes.append(order[:fitting])
            order = order[fitting:]
        return passes

    def _attention(self) -> AbstractContextManager:
        """Stays inside packed rows, also where the backward pass runs layers again."""
        return attention(self.model, "packed") if self.packing or self.share_prompts else nullcontext()

    def _how(self) -> tuple[float, int, bool]:
        """Temperature, tokens of a chunk, and whether what crosses the vocabulary is compiled: on CUDA in any case."""
        return self.temperature, self.chunk, self.compiled or self.device.type == "cuda"

    def score(
        self, batch: dict, rows: Tensor | None = None, also: Sequence[Statistic] = ()
    ) -> tuple[Tensor, Tensor, *tuple[Tensor, ...]]:
        """Log-probability of each response token and entropy (nats) of its distribution, at the rollout temperature.

        (B, T) tensors on the CPU, zero outside `batch["mask"]`, without a graph. `rows` (B,) says that a `backward` on
        this very batch follows, and which rows will probably be trained on: the graph of a pass that holds them all is
        kept, or those of several that fit into `GRAPH_BYTES`, and `backward` needs no second forward pass over them. A
        wrong guess costs time, nothing else.

        Each of `also` adds a tensor, of another number that each token's distribution gives: a function of
        log-probabilities (C, V) and targets (C, 1) to (C,), called for a chunk of tokens at a time.
        """
        self._graph = None
        mask, in_graph = batch["mask"], torch.zeros(len(batch["mask"]), dtype=torch.bool)
        dtype = torch.promote_types(self.dtype, torch.float32)
        found = torch.zeros(self.root.outputs + len(also), *mask.shape, dtype=dtype)
        kept: list[tuple[Pass, Tensor]] = []
        with self._attention():
            if rows is not None:
                parts = list(self._passes(batch, mask & rows[:, None]))
                tokens = accumulate(part.input_ids.numel() for part in parts)
                for part, total in zip(parts, tokens, strict=True):
                    if len(parts) == 1 or total * self.kept_bytes <= GRAPH_BYTES.get(self.device.type, 0):
                        kept.append((part, self.root.hidden(part)))
                        in_graph[part.in_batch[0]] = True
                self._graph = Graph(batch, self.updates, kept)
            with torch.no_grad():
                others = ((part, None) for part in self._passes(batch, mask & ~in_graph[:, None]))
                for part, hidden in chain(kept, others):
                    for values, of_pass in zip(found, self.root(part, self._how(), hidden, also=also), strict=True):
                        values[part.in_batch] = of_pass.to("cpu", dtype)
        return tuple(found)

    def backward(self, batch: dict, *gradients: Tensor | None) -> None:
        """Add to the parameters' gradients that of a loss whose derivatives by the outputs of `score` are given.

        (B, T) tensors in the order of the outputs; all but the first may be None or left out. Positions outside
        `batch["mask"]` are ignored. The parameters must be those that `score` saw.
        """
        first, *others = gradients
        others = [g if g is not None and (g != 0).any() else None for g in others]
        others += [None] * (self.root.outputs - 1 - len(others))
        needed = first != 0
        for g in filter(lambda g: g is not None, others):
            needed = needed | (g != 0)
        gradients, needed = (first, *others), needed & batch["mask"]
        graph, self._graph = self._graph, None
        with self._attention():
            current = graph is not None and graph.batch is batch and graph.updates == self.updates
            for part, hidden in graph.kept if current else []:
                wanted = needed[part.in_batch]
                in_batch = tuple(index[wanted] for index in part.in_batch)
                # Backward runs all rows of a graph. A forward pass costs half of that: fewer rows are better run again.
                if 3 * len(in_batch[0].unique()) >= 2 * len(part.in_batch[0].unique()):
                    chosen = wanted.to(self.device)
                    part = part._replace(in_batch=in_batch, targets=part.targets[chosen])
                    self._backward(part, gradients, hidden[chosen])
                    needed[in_batch] = False
            for part in self._passes(batch, needed):
                self._backward(part, gradients)

    def _backward(self, part: Pass, gradients: tuple[Tensor | None, ...], hidden: Tensor | None = None) -> None:
        """Backward through one pass."""
        wanted = tuple(None if g is None else g[part.in_batch].to(self.device) for g in gradients)
        self.root(part, self._how(), hidden, wanted).backward()

    # --- Updates ---

    def step(self, loss: Tensor | None = None) -> float:
        """One optimiser step on the accumulated gradient, clipped to `max_grad_norm`; the gradient is cleared.

        Returns the norm before clipping, NaN if the `loss` is not finite. Then, or if the norm is not finite, the
        parameters are left as they are.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:  # nothing to learn from: Adam still moves by its momentum
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        if loss is not None and not loss.isfinite():
            norm = math.nan
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            self._move_optimizer(self.device)
            self.optimizer.step()
            self._move_optimizer("cpu")
            self.updates += 1
        self.optimizer.zero_grad()
        return norm

    def reset_optimizer(self) -> None:
        """Forget what Adam remembers, as at the start."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                step = torch.zeros((), device=parameter.device if group["fused"] else "cpu")
                moments = {key: torch.zeros_like(parameter.data) for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": step, **moments}
        self._move_optimizer("cpu")

    def _move_optimizer(self, device: torch.device | str) -> None:
        """With `offload_optimizer`: Adam's moments to the device for a step, and back to the CPU after it.

        There they keep their places, in memory that a GPU copies from and to by itself.
        """
        if not self.offload_optimizer:
            return
        target = torch.device(device)
        for state in self.optimizer.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                local, place = shard(state[key]), (id(state), key)
                if local.device.type == target.type:
                    continue
                if target.type == "cpu":
                    moved = self._parked.pop(place, None)
                    if moved is None:
                        moved = torch.empty_like(local, device="cpu", pin_memory=self.device.type == "cuda")
                    moved.copy_(local, non_blocking=True)
                else:
                    self._parked[place] = local
                    moved = local.to(target, non_blocking=True)
                state[key] = with_shard(state[key], moved)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # before the CPU reads them

    # --- Checkpoints ---

    def save(self, directory: Path) -> None:
        """Write model and tokenizer as Hugging Face files."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def save_optimizer(self, directory: Path) -> None:
        """Write the optimiser's state, each rank its own part of it."""
        write_parts(directory / OPTIMIZER, {"optimizer": self._optimizer_state(self.model)})

    def restore(self, directory: Path) -> None:
        """Take up parameters and optimiser state from a directory written by `save` and `save_optimizer`, to the bit.

        The number of ranks may be another one. Raises InputError for what is missing or damaged.
        """
        with resumable(directory, "the model"):
            self._restore_weights(directory)
        state = {"optimizer": self._optimizer_state(self.model)}
        with resumable(directory, OPTIMIZER):
            read_parts(directory / OPTIMIZER, state)
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        self._move_optimizer("cpu")
        self.updates += 1

    def _restore_weights(self, directory: Path) -> None:
        self.model.load_state_dict(self._read_model(directory))

    def _read_model(self, directory: Path) -> dict[str, Tensor]:
        return type(self.model).from_pretrained(directory, dtype=torch.float32).state_dict()

    def _optimizer_state(self, model: nn.Module) -> dict:
        if not self.optimizer.state:  # to ask for a state that is not there would make one that has taken a step
            self.reset_optimizer()
        return get_optimizer_state_dict(model, self.optimizer)

    def save_state(self, directory: Path) -> None:
        """Write parameters and, if it learns, optimiser state of a further model, each rank its own part of them."""
        write_parts(directory, self._state())

    def restore_state(self, directory: Path) -> None:
        """Take up what `save_state` wrote, to the bit, with any number of ranks. Raises InputError as `restore`."""
        state = self._state()
        with resumable(directory.parent.parent, f"{directory.parent.name}/{directory.name}"):
            read_parts(directory, state)
        set_model_state_dict(self.root, state["model"])
        if self.optimizer:
            set_optimizer_state_dict(self.root, self.optimizer, state["optimizer"])
            self._move_optimizer("cpu")
        self.updates += 1

    def _state(self) -> dict:
        optimizer = {"optimizer": self._optimizer_state(self.root)} if self.optimizer else {}
        return {"model": get_model_state_dict(self.root)} | optimizer

    def weights(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of each parameter, tied ones under both names; rounded to `dtype` if it is given."""
        for name, tensor in self.model.state_dict().items():
            yield name, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def bytes_kept(model: PreTrainedModel, dtype: torch.dtype, gradient_checkpointing: bool) -> int:
    """What a pass keeps of each token for its backward pass, nearly: what goes into its layers' matrices and comes out
    of them, or with checkpointing what goes into the layers."""
    layers = decoder_layers(model)
    if gradient_checkpointing:
        return dtype.itemsize * len(layers) * model.get_input_embeddings().embedding_dim
    matrices = (m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear))
    return dtype.itemsize * sum(m.in_features + m.out_features for m in matrices)


def shard(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of it, or its shard."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor.data


def with_shard(tensor: Tensor, local: Tensor) -> Tensor:
    """The tensor with another part on this rank, which may be on another device."""
    if not isinstance(tensor, DTensor):
        return local
    tensor._local_tensor = local
    return tensor
