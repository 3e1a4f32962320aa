"""Tiny random models, a tokenizer and batches for the tests."""

import random
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from benchmarks.pretrain_tiny import make_tokenizer
from common.batch import Response, Sample
from common.policy import Policy
from common.problems import Problem
from common.verifier import Verdict

CONFIGS = {"qwen2": Qwen2Config, "llama": LlamaConfig, "neox": GPTNeoXConfig, "phi": PhiConfig}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes, end token 256, padding 257: the tokenizer of the embedded model."""
    return make_tokenizer()


def tiny_model(
    kind: str = "qwen2", tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0, **config
) -> PreTrainedModel:
    """A random causal LM of two layers; `kind` is a key of CONFIGS ("phi" has an output head with bias).

    Its weights are drawn ten times wider than usual so that distributions are not flat, biases and norms included.
    """
    settings = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 257,
    }
    if kind in ("qwen2", "llama"):
        settings["num_key_value_heads"] = 2
    settings |= config
    # An end token that the vocabulary lacks would be an error in every model.
    for key in ("eos_token_id", "pad_token_id"):
        if isinstance(settings[key], int) and settings[key] >= settings["vocab_size"]:
            settings[key] = None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind](**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # else biases are 0 and norms 1, and a mistake with them would not show
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def save_tiny(directory: Path | str, kind: str = "qwen2", tied: bool = True, **config) -> Path:
    """Write a tiny model and the byte tokenizer as Hugging Face files; returns the directory."""
    directory = Path(directory)
    tiny_model(kind, tied, **config).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


def tiny_policy(
    kind: str = "qwen2", tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0, **options
) -> Policy:
    """A policy over `tiny_model` with the byte tokenizer; `options` that are not Policy's go to the config."""
    known = (
        "temperature micro_batch_tokens learning_rate weight_decay max_grad_norm packing share_prompts "
        "gradient_checkpointing"
    ).split()
    config = {key: value for key, value in options.items() if key not in known}
    options = {key: value for key, value in options.items() if key in known}
    return Policy(tiny_model(kind, tied, dtype, seed, **config), byte_tokenizer(), **options)


def random_samples(num_prompts: int = 4, n: int = 3, vocab: int = 258, seed: int = 0) -> list[Sample]:
    """Groups of random tokens and rewards, prompt-major, all lengths different: prompts from 1, responses from 1."""
    rng = random.Random(seed)
    samples = []
    for p in range(num_prompts):
        prompt = [rng.randrange(vocab) for _ in range(1 + 2 * p)]
        for g in range(n):
            length = 1 if p == g else rng.randint(2, 9)
            response = Response(
                [rng.randrange(vocab) for _ in range(length)],
                [-rng.random() for _ in range(length)],
                truncated=g == 0,
            )
            # The last group is all right: it has no advantage and so, without other terms, no gradient.
            verdict = Verdict(float(p == num_prompts - 1 or g == p % n), "match", "1")
            samples.append(
                Sample(Problem("?", "1+2=3", str(p), "countdown", "1+2=3"), prompt, response, "text", verdict)
            )
    return samples
