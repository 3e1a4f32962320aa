"""The model: log-probabilities and entropies out, gradients in.

    logprobs, entropy = policy.score(batch)                    # (B, T) each, no graph
    policy.backward(batch, grad_logprobs, grad_entropy)        # d loss / d (logprobs, entropy) -> parameter gradients
    grad_norm = policy.step()

An algorithm differentiates its loss with respect to the two (B, T) tensors; `backward` runs the model again and
injects that gradient. By the chain rule this equals `loss.backward()` through the model. Because the incoming
gradient is known before the forward pass, rows and positions without gradient are skipped, and the vocabulary is
crossed once (see common/vocabulary.py). Where one pass holds a minibatch, `score` can keep its graph for `backward`.

Sequences are right-padded and causal, so they need no attention mask: what comes after a token cannot reach it.
"""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from common import InputError, ranks
from common.packing import attention, first_fit, pack
from common.vocabulary import vocabulary_backward, vocabulary_score

TINY = Path(__file__).parent / "tiny"  # the embedded base model
OPTIMIZER = "optimizer"  # the part of a checkpoint that all ranks write
CHUNK_BYTES = {"cpu": 2**27, "cuda": 2**29}  # of float32 logits held at a time


# --- The policy -------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """One run of the model over R rows of at most L tokens, and the N predictions wanted from it."""

    input_ids: Tensor  # (R, L), right-padded; or (1, sum of lengths), packed
    layout: dict  # what the model is told of packed rows
    tokens: tuple[Tensor, Tensor]  # row and column of each wanted token in the batch, (N,) each
    positions: tuple[Tensor, Tensor]  # row and column in `input_ids` of the token that it is predicted from
    targets: Tensor  # its id (N,)


class Graph(NamedTuple):
    """A pass that `score` made with a graph, for `backward` on the same batch while the parameters are the same."""

    batch: dict
    versions: int
    part: Pass
    hidden: Tensor  # (N, D)


class Policy:
    """A causal language model with its tokenizer and optimiser.

    `temperature` is the rollout temperature: log-probabilities and entropies are those of softmax(logits / T), the
    distribution that was sampled. `micro_batch_tokens` bounds rows x length of one pass; it changes memory only.
    `dtype` is what the passes compute in (float32 on CPU, bfloat16 on CUDA unless given); parameters, gradients and
    optimiser state are float32 always. `gradient_checkpointing` keeps each layer's input alone and runs it again in the
    backward pass, `offload_optimizer` keeps the optimiser's state on the CPU but for its steps, `compiled` has
    torch.compile make the layers and the element-wise work over the vocabulary, `packing` puts rows of a pass end to
    end, so that `micro_batch_tokens` bounds the sum of their lengths.
    """

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
    ):
        self.device = torch.device(device)
        if dtype is None and self.device.type == "cuda":
            dtype = torch.bfloat16
        self.dtype = dtype or next(model.parameters()).dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.offload_optimizer = offload_optimizer
        self.compiled = compiled
        self.packing = packing
        self.model = model = self._place(model.eval())  # eval: dropout would make score and backward disagree
        self.tokenizer = tokenizer
        self.temperature = temperature
        self._graph: Graph | None = None
        self.micro_batch_tokens = micro_batch_tokens
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.head: nn.Linear = model.get_output_embeddings()
        self.chunk = max(1, CHUNK_BYTES.get(self.device.type, 2**29) // (4 * self.head.out_features))
        self.end_ids = end_token_ids(model, tokenizer)
        self.template_options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self.context_length = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=self.device.type == "cuda"
        )

    @classmethod
    def load(cls, name: str | None, device: str = "auto", **options) -> "Policy":
        """Load a causal LM and its tokenizer from a directory or the hub; None is the embedded model.

        Raises InputError, in one line, for anything that is missing, unreadable or that `score` cannot do exactly.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        name = str(name or TINY)
        if ranks.world_size() > 1 and cls is Policy:
            from common.sharding import ShardedPolicy

            return ShardedPolicy.load(name, device, **options)
        model = cls._load_model(name)
        if options.get("packing"):
            check_packed(model, name)
        tokenizer = load_tokenizer(name)
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            raise InputError(
                f"model {name}: its tokenizer has more tokens than the model; use the tokenizer it was trained with"
            )
        if options.get("enable_thinking") is not None:
            check_thinking(tokenizer, name)
        policy = cls(model, tokenizer, device=device, **options)
        policy.name = name
        return policy

    @classmethod
    def from_args(cls, args) -> "Policy":
        """Load the model of a run's command line, with its settings."""
        return cls.load(
            args.model,
            device=args.device,
            temperature=args.temperature,
            micro_batch_tokens=args.micro_batch_tokens,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_grad_norm=args.max_grad_norm,
            enable_thinking=args.enable_thinking,
            gradient_checkpointing=args.gradient_checkpointing,
            offload_optimizer=args.offload_optimizer,
            compiled=args.compile,
            packing=args.packing,
        )

    @staticmethod
    def _load_model(name: str) -> PreTrainedModel:
        model = load_model(name)
        check_exact(model, name)
        return model

    def _place(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make the model ready to run on the policy's device."""
        self._prepare_layers(model)
        return model.to(self.device)

    def _prepare_layers(self, model: PreTrainedModel) -> None:
        for layer in decoder_layers(model):
            if self.gradient_checkpointing:  # the library's own way works in training mode alone
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
            if self.compiled:
                layer.compile(dynamic=True)

    # --- Text ---

    def encode(self, prompt: str | list[dict]) -> list[int]:
        """Token ids of a text, or of chat messages through the tokenizer's chat template.

        The tokenizer's own first token (BOS) comes once: a template writes it itself, and so does a text that was made
        with one.
        """
        bos = self.tokenizer.bos_token
        if isinstance(prompt, str):
            return self.tokenizer(prompt, add_special_tokens=not (bos and prompt.startswith(bos))).input_ids
        if not self.tokenizer.chat_template:
            raise InputError(
                "the prompts are chat messages but this model's tokenizer has no chat template; use plain text"
            )
        try:
            return self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=False, **self.template_options
            )
        except Exception as error:  # templates refuse roles that they do not know, each in its own words
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"this model's chat template refuses the prompt {prompt!r:.100} ({reason})") from None

    def decode(self, token_ids: list[list[int]]) -> list[str]:
        """Text of each response, special tokens left out."""
        return self.tokenizer.batch_decode(token_ids, skip_special_tokens=True) if token_ids else []

    # --- Passes ---

    def autocast(self) -> torch.autocast:
        """float32 parameters, passes in `dtype`."""
        mixed = self.dtype != next(self.model.parameters()).dtype
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed)

    def _passes(self, batch: dict, needed: Tensor) -> Iterator[Pass]:
        """Cut the `needed` (B, T) positions into passes over rows of similar length.

        A row is run up to its last needed token, and not at all without one.
        """
        needed, prompt_mask = needed.to(self.device), batch["prompt_mask"].to(self.device)
        prompt_ids, response_ids = batch["prompt_ids"].to(self.device), batch["response_ids"].to(self.device)
        prompt_lengths = prompt_mask.sum(1)
        last = (needed * torch.arange(1, needed.shape[1] + 1, device=self.device)).amax(1)  # 1-based; 0 where none
        lengths = torch.where(last > 0, prompt_lengths + last - 1, 0)  # the last token is predicted, never read
        # Move each prompt's padding from the left of its row to the far right.
        ids = torch.cat([prompt_ids, response_ids], 1)
        columns = torch.arange(ids.shape[1], device=self.device) + (prompt_ids.shape[1] - prompt_lengths)[:, None]
        ids = ids.gather(1, columns.clamp(max=ids.shape[1] - 1))
        sizes = lengths.tolist()
        for chosen in self._cut(sizes):
            rows = torch.tensor(chosen or [0], device=self.device)
            r, t = needed[rows[: len(chosen)]].nonzero(as_tuple=True)
            positions = (r, prompt_lengths[rows[r]] - 1 + t)
            lengths = [sizes[row] for row in chosen] or [1]
            input_ids, layout = ids[rows, : max(lengths)], {}
            if self.packing:
                input_ids, positions, layout = pack(input_ids, lengths, positions)
            yield Pass(input_ids, layout, (rows[r], t), positions, response_ids[rows[r], t])

    def _cut(self, sizes: list[int]) -> list[list[int]]:
        """The rows of each pass: longest first, as many as `micro_batch_tokens` holds of the longest one's length.

        Packed, each row goes into the first pass that has room for it. A pass may have no rows (`ShardedPolicy`): it
        runs a token that nothing is wanted of.
        """
        order = sorted((row for row, size in enumerate(sizes) if size > 0), key=lambda row: -sizes[row])
        if self.packing:
            return first_fit(order, sizes, self.micro_batch_tokens)
        passes = []
        while order:
            fitting = max(1, self.micro_batch_tokens // sizes[order[0]])
            passes.append(order[:fitting])
            order = order[fitting:]
        return passes

    def _hidden(self, part: Pass) -> Tensor:
        """The final hidden states (N, D) that make a pass's predictions, before the output head."""
        with self.autocast():
            return final_hidden(self.model, part)

    def _attention(self) -> AbstractContextManager:
        """Stays inside packed rows, also where the backward pass runs layers again."""
        return attention(self.model, "packed") if self.packing else nullcontext()

    def score(self, batch: dict, graph_rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token and entropy (nats) of its distribution, at the rollout temperature.

        Two (B, T) tensors on the CPU, zero outside `batch["mask"]`, without a graph. `graph_rows` (B,) says that a
        `backward` on this very batch follows, and which rows will probably be trained on: if one pass holds them, its
        graph is kept, and `backward` needs no second forward pass over them. A wrong guess costs time, nothing else.
        """
        self._graph = None
        mask, in_graph = batch["mask"], torch.zeros(len(batch["mask"]), dtype=torch.bool)
        dtype = torch.promote_types(self.dtype, torch.float32)
        logprobs, entropy = torch.zeros(mask.shape, dtype=dtype), torch.zeros(mask.shape, dtype=dtype)
        with self._attention():
            if graph_rows is not None:
                parts = list(self._passes(batch, mask & graph_rows[:, None]))
                if len(parts) == 1:
                    in_graph = graph_rows
                    self._graph = Graph(batch, self._versions(), parts[0], self._hidden(parts[0]))
            with torch.no_grad():
                known = [(self._graph.part, self._graph.hidden)] if self._graph else []
                others = ((part, None) for part in self._passes(batch, mask & ~in_graph[:, None]))
                for part, hidden in chain(known, others):
                    index = tuple(i.cpu() for i in part.tokens)
                    logprobs[index], entropy[index] = (v.cpu() for v in self._values(part, hidden))
        return logprobs, entropy

    def _values(self, part: Pass, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of a pass, (N,) each."""
        hidden = self._hidden(part) if hidden is None else hidden
        weight = self.head.weight.to(self.dtype)
        return vocabulary_score(
            hidden.to(weight.dtype), weight, self.head.bias, part.targets, self.temperature, self.chunk, self.compiled
        )

    def _versions(self) -> int:
        """Changes whenever a parameter is written to."""
        return sum(parameter._version for parameter in self.model.parameters())

    def backward(self, batch: dict, grad_logprobs: Tensor, grad_entropy: Tensor | None = None) -> None:
        """Add to the parameters' gradients that of a loss whose derivatives by the outputs of `score` are given.

        Both gradients are (B, T); positions outside `batch["mask"]` are ignored. The parameters must be those that
        `score` saw.
        """
        needed = grad_logprobs != 0
        if grad_entropy is not None:
            needed = needed | (grad_entropy != 0)
            grad_entropy = grad_entropy.to(self.device) if (grad_entropy != 0).any() else None
        needed, grad_logprobs = needed & batch["mask"], grad_logprobs.to(self.device)
        graph, self._graph = self._graph, None
        with self._attention():
            if graph is not None and graph.batch is batch and graph.versions == self._versions():
                wanted = needed.to(self.device)[graph.part.tokens]
                tokens = tuple(index[wanted] for index in graph.part.tokens)
                # Backward runs all rows of a graph. A forward pass costs half of that: fewer rows are better run again.
                if 3 * len(tokens[0].unique()) >= 2 * len(graph.part.tokens[0].unique()):
                    part = graph.part._replace(tokens=tokens, targets=graph.part.targets[wanted])
                    self._backward(part, grad_logprobs, grad_entropy, graph.hidden[wanted])
                    needed[tuple(index.cpu() for index in tokens)] = False
            for part in self._passes(batch, needed):
                self._backward(part, grad_logprobs, grad_entropy)

    def _backward(
        self, part: Pass, grad_logprobs: Tensor, grad_entropy: Tensor | None, hidden: Tensor | None = None
    ) -> None:
        """Backward through one pass: head and vocabulary by `vocabulary_backward`, the rest by autograd."""
        hidden = self._hidden(part) if hidden is None else hidden
        for parameter in (self.head.weight, self.head.bias):
            if parameter is not None and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        weight = self.head.weight.detach().to(self.dtype)
        with torch.no_grad():
            grad_hidden = vocabulary_backward(
                hidden.to(weight.dtype),
                weight,
                self.head.bias,
                part.targets,
                grad_logprobs[part.tokens],
                None if grad_entropy is None else grad_entropy[part.tokens],
                self.temperature,
                self.chunk,
                self.head.weight.grad,
                None if self.head.bias is None else self.head.bias.grad,
                self.compiled,
            )
        hidden.backward(grad_hidden.to(hidden.dtype))

    def step(self) -> float:
        """One optimiser step on the accumulated gradient, clipped to `max_grad_norm`; the gradient is cleared.

        Returns the norm before clipping. If it is not finite the parameters are left as they are.
        """
        for parameter in self.model.parameters():
            if parameter.grad is None:  # nothing to learn from: Adam still moves by its momentum
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            self._move_optimizer(self.device)
            self.optimizer.step()
            self._move_optimizer("cpu")
        self.optimizer.zero_grad()
        return norm

    def _move_optimizer(self, device: torch.device | str) -> None:
        """With `offload_optimizer`: its moments to the device for a step, and back to the CPU after it."""
        if not self.offload_optimizer:
            return
        for state in self.optimizer.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                local = state[key]._local_tensor if isinstance(state[key], DTensor) else state[key]
                local.data = local.data.to(device)

    def frozen_copy(self) -> "Policy":
        """A reference policy: the same model as it is now, without gradients."""
        reference = copy.copy(self)
        reference.optimizer = None
        reference.model = copy.deepcopy(self.model).requires_grad_(False)
        reference.head = reference.model.get_output_embeddings()
        return reference

    def restore(self, directory: Path) -> None:
        """Take up parameters and optimiser state from a directory written by `save` and `save_optimizer`, to the bit.

        The number of ranks may be another one. Raises InputError if the optimiser's state is missing or damaged.
        """
        self._restore_weights(directory)
        state = {"optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        try:
            with whole_failures():
                dcp.load(state, checkpoint_id=directory / OPTIMIZER)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(
                f"cannot resume {directory.parents[1]}: {directory.name}/{OPTIMIZER} is missing or damaged ({reason}); "
                f"remove {directory} to resume from the one before"
            ) from None
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])

    def _restore_weights(self, directory: Path) -> None:
        self.model.load_state_dict(load_model(str(directory)).state_dict())

    def save_optimizer(self, directory: Path) -> None:
        """Write the optimiser's state, each rank its own part of it."""
        state = {"optimizer": get_optimizer_state_dict(self.model, self.optimizer)}
        with whole_failures():
            dcp.save(state, checkpoint_id=directory / OPTIMIZER)

    def save(self, directory: Path) -> None:
        """Write model and tokenizer as Hugging Face files."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of each parameter, tied ones under both names."""
        yield from self.model.state_dict().items()


@contextmanager
def whole_failures() -> Iterator[None]:
    """torch.distributed.checkpoint without its warning that there is one process; its failures as an OSError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except CheckpointException as error:  # not an Exception
            raise OSError("; ".join(str(failure) for failure, _ in error.failures.values())) from None


def final_hidden(model: PreTrainedModel, part: Pass) -> Tensor:
    """The hidden states (N, D), after the last layer and its norm, at the positions of a pass."""
    return model.base_model(input_ids=part.input_ids, use_cache=False, **part.layout).last_hidden_state[part.positions]


def decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks of the decoder, which the library names for a model to be cut into."""
    return [m for m in model.modules() if type(m).__name__ in (model._no_split_modules or ())]


# --- Loading ----------------------------------------------------------------------------------------------------


def check_device(device: str) -> None:
    try:
        torch.ones(1, device=device).item()  # "meta" allocates but holds no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used ({reason}); try --device cpu") from None


def check_model_name(name: str) -> bool:
    """Whether the model is a directory here; raises InputError for what is no hub id (owner/name) either."""
    if Path(name).is_dir():
        return True
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"model {name!r} is neither a directory nor a hub id (owner/name)")
    return False


def load_model(name: str) -> PreTrainedModel:
    """The causal LM in float32, every weight of it read from `name`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    check_model_name(name)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # whatever a damaged, foreign or unreachable model makes the library raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model {name!r} cannot be loaded as a causal language model ({reason}); "
            "use a directory or hub id with its config.json and whole weights; `hf auth login` if it is gated"
        ) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise InputError(f"model {name!r} lacks weights that a causal language model needs: {', '.join(missing[:3])}")
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model {name!r} has no usable tokenizer: {reason}") from None
    # Without tokenizer files the library gives an empty tokenizer instead of an error.
    if len(tokenizer) < 2 or not tokenizer("1 a").input_ids:
        raise InputError(f"model {name!r} has no tokenizer files; save the tokenizer beside the weights")
    return tokenizer


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's, the generation config's and that of the chat template.

    A base model with a chat template (Qwen2.5) names another end token than the one its template puts after a turn.
    """
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    return sorted({i for i in [*ids, tokenizer.eos_token_id, turn_end_id(tokenizer)] if i is not None})


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an answer; None without such a template or token."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "response"}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template for other things than two turns
        return None
    after = tokenizer(rendered.rpartition("response")[2], add_special_tokens=False).input_ids[:1]
    is_special = after and getattr(tokenizer.added_tokens_decoder.get(after[0]), "special", False)
    return after[0] if is_special else None


def check_thinking(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse --enable-thinking where it would do nothing."""
    turns = [{"role": "user", "content": "question"}]
    texts = {
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=switch)
        for switch in (True, False)
        if tokenizer.chat_template
    }
    if len(texts) < 2:
        raise InputError(f"the chat template of model {name} has no thinking switch; leave --enable-thinking out")


def check_exact(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose log-probabilities `Policy` would get wrong, by comparing on a few tokens.

    Three things must hold: the logits are a linear map of the final hidden states (no soft-capping or scaling after
    it), what comes later in a sequence does not change what came before, and some token ends a response.
    """
    head = model.get_output_embeddings()
    if model.config.is_encoder_decoder or not isinstance(head, nn.Linear) or model.base_model is model:
        raise InputError(f"model {name!r} has no linear output head over a decoder; a causal language model is needed")
    ids = torch.tensor([[3, 5, 7, 11], [3, 5, 7, 13]]) % head.out_features
    with torch.no_grad():
        hidden = model.eval().base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = model(input_ids=ids, use_cache=False).logits
    if not torch.allclose(hidden[0, :3], hidden[1, :3], rtol=1e-3, atol=1e-4):
        raise InputError(f"model {name!r} is not causal: later tokens change earlier predictions")
    if not torch.allclose(head(hidden), logits, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"model {name!r} changes its logits after the output head (soft-capping or scaling): not supported"
        )


def check_packed(model: PreTrainedModel, name: str) -> None:
    """Refuse --packing for a model that rows end to end would change: with attention of its own, or with windows."""
    if model.device.type == "meta":  # the first rank has the weights, and looks
        return
    config = model.config.get_text_config()
    ids, lengths = torch.tensor([[3, 5, 7, 11, 13], [4, 6, 8, 0, 0]]) % config.vocab_size, [5, 3]
    tokens = (torch.arange(5) < torch.tensor(lengths)[:, None]).nonzero(as_tuple=True)
    packed_ids, positions, layout = pack(ids, lengths, tokens)
    padded, packed = (
        Pass(ids, {}, tokens, tokens, ids[tokens]),
        Pass(packed_ids, layout, tokens, positions, ids[tokens]),
    )
    reason = "they change its predictions"
    try:
        with torch.no_grad():
            expected = final_hidden(model.eval(), padded)
            with attention(model, "packed"):
                found = final_hidden(model, packed)
        same = torch.allclose(expected, found, rtol=1e-3, atol=1e-4)
    except Exception as error:  # whatever a model that cannot take them makes of it
        reason, same = " ".join(f"{type(error).__name__}: {error}".split())[:200], False
    if windows := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        reason, same = f"it has layers of {', '.join(sorted(windows))}", False
    if not same:
        raise InputError(f"model {name!r} cannot take packed rows ({reason}); leave --packing out")
