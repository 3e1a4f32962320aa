"""Loading a model: from a directory, a GGUF file or the hub, with a check of what the policy would get wrong."""

import copy
import io
from contextlib import nullcontext, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from common import InputError, ranks
from common.basics import warn_once
from common.packing import Unit, attention, pack
from common.passes import Pass, empty_model, final_hidden
from common.policy import Policy
from common.sharding import ShardedPolicy

TINY = Path(__file__).parent / "tiny"  # the embedded base model


def load_policy(name: str | None = None, device: str = "auto", **options) -> Policy:
    """A causal LM and its tokenizer from a directory, a GGUF file or the hub, as a policy; None is the embedded model.

    `options` are those of `Policy`. Raises InputError, in one line, for anything that is missing, unreadable or that
    `score` cannot do exactly.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    name = str(name or TINY)
    model = load_model(name) if ranks.rank() == 0 else None
    config = ranks.agree(model and model.config)
    if model is None:
        model = load_empty_model(name, config)
    else:
        check_exact(model, name)
    laid_end_to_end = options.get("packing") or options.get("share_prompts")
    if fault := ranks.agree(packing_fault(model) if laid_end_to_end and ranks.rank() == 0 else ""):
        if options.get("packing"):
            raise InputError(f"model {name!r} cannot take packed rows ({fault}); leave --packing out")
        ranks.say(f"prompts are read anew for each response: model {name!r} cannot take packed rows ({fault})")
        options["share_prompts"] = False
    tokenizer = load_tokenizer(name)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise InputError(
            f"model {name}: its tokenizer has more tokens than the model; use the tokenizer it was trained with"
        )
    if options.get("enable_thinking") is not None:
        check_thinking(tokenizer, name)
    policy_class = ShardedPolicy if ranks.world_size() > 1 else Policy
    return policy_class(model, tokenizer, device=device, **options)


def policy_from_args(args: Any, checkpoint: Path | None = None) -> Policy:
    """The model of a run's command line, with its settings; as it was at the checkpoint of a run that is resumed."""
    policy = load_policy(
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
        share_prompts=args.share_prompts,
    )
    if checkpoint:
        policy.restore(checkpoint)
    return policy


# --- Reading ----------------------------------------------------------------------------------------------------


def check_device(device: str) -> None:
    try:
        torch.ones(1, device=device).item()  # "meta" allocates but holds no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used ({reason}); try --device cpu") from None


def check_model_name(name: str) -> bool:
    """Whether it is a directory or a GGUF file here; raises InputError for what is no hub id (owner/name) either."""
    if Path(name).is_dir():
        return True
    if is_gguf(name):
        check_gguf(name)
        return True
    if Path(name).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(f"model {name!r} is neither a directory nor a hub id (owner/name) nor a .gguf file")
    return False


def is_gguf(name: str) -> bool:
    """Whether it is the name of a GGUF file, there or not: one file with configuration, tokenizer and weights."""
    return Path(name).suffix == ".gguf" and not Path(name).is_dir()


def check_gguf(name: str) -> None:
    """Raises InputError for what cannot be read as a GGUF file."""
    try:
        with open(name, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(
            f"model {name!r} cannot be read ({error.strerror}); a GGUF file is taken from the disk alone: download it "
            "first, or name the hub id (owner/name) of the model that it was made of"
        ) from None
    if start != b"GGUF":
        raise InputError(f"model {name!r} is no GGUF file, whatever its name says; use a whole one, or a directory")
    check_gguf_packages()


def check_gguf_packages() -> None:
    """Raises InputError without the packages that the library reads GGUF files with."""
    if missing := [package for package in ("gguf", "accelerate") if find_spec(package) is None]:
        raise InputError(
            f"a GGUF file is read with the help of {' and '.join(missing)}; pip install -r requirements-gguf.txt"
        )


def place_of(name: str) -> dict[str, str]:
    """What the library's `from_pretrained` is told: a directory or hub id, and the file in it if it is a GGUF."""
    if is_gguf(name):
        return {"pretrained_model_name_or_path": str(Path(name).parent), "gguf_file": Path(name).name}
    return {"pretrained_model_name_or_path": name}


def load_model(name: str) -> PreTrainedModel:
    """The causal LM in float32, every weight of it read from `name`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    check_model_name(name)
    check_whole_model(name)
    options = place_of(name) | {"dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
    quiet = nullcontext()
    if is_gguf(name):  # unpacked into plain numbers, which can be trained and saved; and without a bar of its own
        options |= {"quantization_config": {"quant_method": "gguf", "dequantize": True}}
        quiet = redirect_stderr(io.StringIO())
    try:
        with quiet:
            model, report = AutoModelForCausalLM.from_pretrained(**options)
    except Exception as error:  # whatever a damaged, foreign or unreachable model makes the library raise
        reason = " ".join(str(error).split())[:200]
        if "trust_remote_code" in str(error):
            reason = "it needs program code of its own, which is never run here"
        raise InputError(
            f"model {name!r} cannot be loaded as a causal language model ({reason}); "
            "use a directory or hub id with its config.json and whole weights; `hf auth login` if it is gated"
        ) from None
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise InputError(f"model {name!r} lacks weights that a causal language model needs: {', '.join(missing[:3])}")
    broken = [key for key, tensor in model.named_parameters() if not tensor.isfinite().all()]
    if broken:
        raise InputError(f"model {name!r} has weights that are not finite: {', '.join(broken[:3])}; use a whole one")
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        ranks.say(f"warning: model {name!r}: {len(unused)} weights of its files have no place in it: {unused[0]} ...")
    if model.get_output_embeddings() and model.config.get_text_config().tie_word_embeddings:
        # Files may hold two matrices where the configuration promises one. The library then keeps both; a copy made
        # from the configuration would have one.
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = tied
    model.config.architectures = model.config.architectures or [type(model).__name__]  # a GGUF file names none
    model.generation_config = savable(model.generation_config, name)
    return model


def savable(config: GenerationConfig, name: str) -> GenerationConfig:
    """A generation config that the library will write: many a published one (greedy, with a temperature) it refuses.

    Of such a one only what it accepts is kept. How others should sample decides nothing here; the tokens that end a
    response do, and are always accepted.
    """

    def reason_against(candidate: GenerationConfig) -> str | None:
        try:
            candidate.validate(strict=True)
        except Exception as error:
            return " ".join(str(error).split())[:200]
        return None

    if not (reason := reason_against(config)):
        return config
    fields, kept = config.to_diff_dict(), GenerationConfig()
    leading = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")  # what others need beside them
    for key in sorted(fields, key=lambda key: key not in leading):
        candidate = copy.deepcopy(kept)
        setattr(candidate, key, fields[key])
        if not reason_against(candidate):
            kept = candidate
    lost = ", ".join(sorted(fields.keys() - kept.to_diff_dict().keys()))
    warn_once(f"model {name}: checkpoints leave {lost} out of its generation_config.json ({reason})")
    return kept


def load_empty_model(name: str, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The model of a directory or hub id without its weights, on the meta device; with its own configuration unless
    given another."""
    check_model_name(name)
    model = empty_model(config or AutoConfig.from_pretrained(**place_of(name), trust_remote_code=False))
    with suppress(OSError):  # a model may have none
        model.generation_config = GenerationConfig.from_pretrained(place_of(name)["pretrained_model_name_or_path"])
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place_of(name), trust_remote_code=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"model {name!r} has no usable tokenizer: {reason}") from None
    # Without tokenizer files the library gives an empty tokenizer instead of an error.
    if len(tokenizer) < 2 or not tokenizer("1 a").input_ids:
        raise InputError(f"model {name!r} has no tokenizer files; save the tokenizer beside the weights")
    return tokenizer


# --- Refusing ---------------------------------------------------------------------------------------------------


def check_whole_model(name: str) -> None:
    """Refuse the directory of an adapter, which is the difference to another model."""
    if (Path(name) / "adapter_config.json").exists() and not (Path(name) / "config.json").exists():
        raise InputError(f"model {name!r} is an adapter; merge it into its base model and save that as a whole")


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


def packing_fault(model: PreTrainedModel) -> str:
    """Why rows end to end would change a model's predictions, in a few words; "" if they do not.

    Those of a model with attention of its own, or with windows, they do.
    """
    config = model.config.get_text_config()
    if windows := set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return f"it has layers of {', '.join(sorted(windows))}"
    # Three rows, of which two begin alike: a row by itself, and a stem with two branches.
    ids, lengths = torch.tensor([[3, 5, 7, 11, 13], [4, 6, 8, 0, 0], [4, 6, 9, 2, 0]]) % config.vocab_size, [5, 3, 4]
    units = [Unit([0], 5, [0]), Unit([1, 2], 2, [1, 2])]
    tokens = (torch.arange(5) < torch.tensor(lengths)[:, None]).nonzero(as_tuple=True)
    packed_ids, positions, layout = pack(ids, units, tokens)
    padded = Pass(ids, {}, tokens, tokens, ids[tokens])
    packed = Pass(packed_ids, layout, tokens, positions, ids[tokens])
    try:
        with torch.no_grad():
            expected = final_hidden(model.eval(), padded)
            with attention(model, "packed"):
                found = final_hidden(model, packed)
    except Exception as error:  # whatever a model that cannot take them makes of it
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return "" if torch.allclose(expected, found, rtol=1e-3, atol=1e-4) else "they change its predictions"
