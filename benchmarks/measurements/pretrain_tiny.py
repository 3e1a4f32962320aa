"""Make the embedded base model: a Qwen2 of 0.43 M parameters that knows arithmetic and guesses at countdown.

It is pretrained on random walks: "6 8 3=144:" followed by random exact operations over the three numbers. A share
`--hit-ratio` of the walks reach the stated number; in the others that number is one which different steps would have
reached. So the model learns to write valid steps with right results, but only leans towards the target: which
operand and operator come next stays open, the digits of a result do not. That is a base model in miniature, for
reinforcement learning to sharpen.

No held-out countdown problem (`common.tasks.held_out`) is ever shown. The tokenizer reads bytes, so any text can be
encoded.

    python -m benchmarks.pretrain_tiny                  # writes common/tiny/, about 20 minutes on one core
    python -m benchmarks.pretrain_tiny --out /tmp/base  # somewhere else
"""

import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy

from benchmarks.rollouts import Actor, scored
from common.evaluate import pass_metrics
from common.loading import TINY, load_policy
from common.procedural import countdown_key, countdown_prompt, countdown_steps, held_out
from common.records import environment
from common.tasks import load_task

END = "<|endoftext|>"
PAD = "<|pad|>"


@dataclass
class Args:
    out: Path = TINY
    """where the model is written"""
    seed: int = 0
    steps: int = 2400
    batch_size: int = 192
    learning_rate: float = 3e-3
    """peak, after a linear warm-up over 100 steps; then a cosine to a hundredth"""
    hit_ratio: float = 0.35
    """share of training walks that reach the stated target"""
    layers: int = 4
    width: int = 96
    heads: int = 4
    threads: int = 1


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE without merges: 256 bytes, an end token and a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=None)


def walk(rng: random.Random, hit_ratio: float) -> tuple[str, str]:
    """A (prompt, response) pair whose problem is not held out."""
    while True:
        numbers = [rng.randint(1, 10) for _ in range(3)]
        steps, reached = countdown_steps(rng, numbers)
        target = reached if rng.random() < hit_ratio else countdown_steps(rng, numbers)[1]
        if not held_out(countdown_key(numbers, target)):
            return countdown_prompt(numbers, target), steps


def make_rows(rng: random.Random, ids: dict[str, int], args: Args) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, L) and labels (B, L), right-padded; prompt and padding have label -100."""
    rows, labels = [], []
    for _ in range(args.batch_size):
        prompt, response = walk(rng, args.hit_ratio)
        prompt, response = [ids[c] for c in prompt], [ids[c] for c in response] + [ids[END]]
        rows.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([-100] * len(prompt) + response))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True, padding_value=ids[PAD]), pad(labels, batch_first=True, padding_value=-100)


def pretrain(model: torch.nn.Module, ids: dict[str, int], args: Args) -> float:
    """Train in place; returns the mean loss in nats per token over the last 100 steps."""
    rng = random.Random(args.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))
    losses, started = [], time.time()
    for step in range(args.steps):
        cosine = 0.505 + 0.495 * math.cos(math.pi * step / args.steps)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 100) * cosine
        inputs, labels = make_rows(rng, ids, args)
        logits = model(input_ids=inputs).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            print(f"step {step + 1:5d}  loss {recent:.4f}  {time.time() - started:6.0f} s", flush=True)
    return sum(losses[-100:]) / len(losses[-100:])


def measure(directory: Path, num_problems: int = 256, n: int = 32) -> dict[str, float]:
    """pass@k on held-out problems, how many responses are valid steps, and where the entropy sits.

    The digits after "=" are determined by what stands before them; operands, operators and commas are choices.
    """
    policy = load_policy(str(directory))
    problems = load_task("countdown", "eval", num_problems)
    samples = Actor(policy).sample(problems, n, max_new_tokens=24, seed=0)
    right = torch.tensor([s.verdict.reward for s in samples]).view(-1, n).sum(1).numpy()
    batch = scored(policy, samples)
    entropy = batch["entropy"]
    is_digit = torch.zeros_like(batch["mask"])
    for row, sample in enumerate(samples):
        result = False
        for t, character in enumerate(sample.text):
            is_digit[row, t] = result and character.isdigit()
            result = character == "=" or (result and character.isdigit())
    digits, choices = entropy[is_digit & batch["mask"]], entropy[~is_digit & batch["mask"]]
    return {k: round(v, 4) for k, v in pass_metrics(right, n).items()} | {
        "valid_ratio": round(sum(s.verdict.answer is not None for s in samples) / len(samples), 4),
        "entropy": round(entropy[batch["mask"]].mean().item(), 4),
        "entropy_of_result_digits": round(digits.mean().item(), 4),
        "entropy_of_choices": round(choices.mean().item(), 4),
        "entropy_share_of_choices": round((choices.sum() / (choices.sum() + digits.sum())).item(), 4),
    }


if __name__ == "__main__":
    args = tyro.cli(Args)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=args.width * 8 // 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    # Every character of these problems is ASCII, one byte and so one token each.
    ids = {c: tokenizer.convert_tokens_to_ids("Ġ" if c == " " else c) for c in " 0123456789+-*/=,:"}
    ids |= {END: tokenizer.eos_token_id, PAD: tokenizer.pad_token_id}
    started = time.time()
    loss = pretrain(model, ids, args)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record = {
        "made_by": "python -m benchmarks.pretrain_tiny",
        "arguments": {k: v for k, v in asdict(args).items() if k != "out"},
        "environment": {k: v for k, v in environment().items() if k not in ("command", "device")},
        "parameters": model.num_parameters(),
        "loss_nats_per_token": round(loss, 4),
        "seconds": round(time.time() - started),
        "held_out_countdown": measure(args.out),
    }
    (args.out / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))
