"""Implementation details that change results, or do not: one changed line at a time, measured on the embedded task.

    python -m benchmarks.details                       # all of it; half an hour on one quiet core
    python -m benchmarks.details --parts batch         # gradients on one batch only: minutes
    python -m benchmarks.details --parts together      # the methods inside starter.py and advanced.py: minutes

A variant is an algorithm's file with an exact piece of its text replaced; the text must occur exactly once, or the
command ends, so that a variant cannot go stale in silence. Some variants are flags. Three measurements:

- batch: a model that GRPO has trained for a few steps, one rollout of it, eight updates. At the last four minibatches
  (or at the first, where the variant says so) both files differentiate their loss at the same parameters: cosine and
  ratio of norms of the two parameter gradients, and the share of response tokens whose own gradient changes, as means
  over the minibatches.
- together: the files that put several methods together, on one batch and two passes over it. At the last four
  minibatches the loss is differentiated without any of these parts, with each alone, and with each two: cosines of the
  gradients, and what they promise for entropy (what --polarity logs).
- training: runs of both files with the same seeds. Entropy and reward are means over the last steps' rollouts, pass@1
  is on held-out problems at the end.

Runs go one at a time, with one thread, and are kept under runs/details, so that an interrupted command goes on where it
stopped. Results so far are written after every run: one list of numbers per seed, from which benchmarks/gallery makes
its page.
"""

import copy
import hashlib
import importlib.util
import json
import multiprocessing
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import ModuleType

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small sums on one thread, the same everywhere; and CUDA does not fork

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks import RESULTS, ROOT
from benchmarks.measure import as_flags, check_known, environment, read_metrics
from benchmarks.rollouts import Actor, countdown, differentiate, minibatches, scored
from common.basics import random_seed
from common.batch import make_batch, take_rows
from common.loading import load_policy
from common.metrics import entropy_slopes, promised_change
from common.policy import Policy
from common.rollout import easy_first

RUNS = ROOT / "runs" / "details"
NUM_PROMPTS, NUM_GENERATIONS, NUM_MINIBATCHES = 32, 8, 8
MICRO_BATCHES = 4  # what a variant with selection per micro-batch cuts a minibatch into
WARM_STEPS, LEARNING_RATE = 5, 2e-4
PASSES = 2  # over a batch, for files with several parts: in a first one hardly a ratio reaches a clip
EVAL_PROBLEMS, EVAL_SAMPLES = 64, 8
WINDOW = 5  # last steps over which entropy and reward are averaged
SAME = 0.01  # a token's gradient is unchanged if it is within this share of the original's, up to a common factor


# --- Variants ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """An algorithm's file with one thing changed, by its text (`edits`: old and new) or by `flags`."""

    detail: str  # the detail it belongs to: an anchor of the page
    name: str
    algorithm: str
    edits: tuple[tuple[str, str], ...] = ()
    flags: dict = field(default_factory=dict)
    base_flags: dict = field(default_factory=dict)  # of variant and original
    minibatches: tuple[int, ...] = (4, 5, 6, 7)  # of a rollout, where gradients are compared; 0: before any update
    train: int = 0  # place in the order of the training runs; 0: no run
    # What a variant does outside assign_credit and policy_loss, for the comparison on one batch:
    score_temperature: float | None = None  # log-probabilities at another temperature than the rollout's
    sampler_logprobs: bool = False  # the old log-probabilities are the sampler's

    @property
    def original(self) -> str:
        return " ".join([self.algorithm, *(f"{key}={value}" for key, value in sorted(self.base_flags.items()))])

    def text(self) -> str:
        """The variant's file; raises SystemExit if a text to be replaced does not occur exactly once."""
        text = source(self.algorithm)
        for old, new in self.edits:
            if (count := text.count(old)) != 1:
                first = old.strip().splitlines()[0]
                raise SystemExit(
                    f"error: variant {self.name!r} replaces text that occurs {count} times, not once, in "
                    f"algos/{self.algorithm}.py; mend it in benchmarks/measurements/details.py: {first}"
                )
            text = text.replace(old, new)
        return text


def source(algorithm: str) -> str:
    return (ROOT / "algos" / f"{algorithm}.py").read_text()


KL_COV_SELECTION = """\
    top = cov.masked_fill(~mask, -torch.inf).view(-1).argsort(descending=True, stable=True)[:quota]  # Eq. 13
    if args.random_selection:
        top = mask.flatten().nonzero()[:, 0][torch.randperm(num_tokens)[:quota]]
    selected = torch.zeros_like(mask).flatten().index_fill(0, top, True).view(mask.shape)
"""
KL_COV_PER_MICRO_BATCH = f"""\
    selected = torch.zeros_like(mask)
    for rows in torch.arange(len(mask)).tensor_split({MICRO_BATCHES}):
        v, a, m = values[rows], advantages[rows], mask[rows]
        cov_rows = ((v - v[m].mean()) * (a - a[m].mean())).masked_fill(~m, -torch.inf).flatten()
        top = cov_rows.topk(int(args.kl_cov_ratio * m.sum().item())).indices
        selected[rows] = torch.zeros_like(m).flatten().index_fill(0, top, True).view(m.shape)
"""
KL_COV_FLOOR_PER_MICRO_BATCH = KL_COV_PER_MICRO_BATCH.replace(
    "int(args.kl_cov_ratio * m.sum().item())", "max(1, int(args.kl_cov_ratio * m.sum().item()))"
)
CLIP_COV_DRAW = "    drawn = candidates[torch.randperm(len(candidates))[:quota]]  # Eq. 11\n"
CLIP_COV_PER_MICRO_BATCH = f"""\
    drawn = []
    for rows in torch.arange(len(mask)).tensor_split({MICRO_BATCHES}):
        v, a, m = values[rows], advantages[rows], mask[rows]
        cov_rows = (v - v[m].mean()) * (a - a[m].mean())
        found = (m & ~bound[rows] & (cov_rows > args.clip_cov_lb) & (cov_rows < args.clip_cov_ub)).nonzero()
        chosen = torch.randperm(len(found))[: int(args.clip_cov_ratio * m.sum().item())]
        drawn.append(found[chosen] + torch.tensor([int(rows[0]), 0]))
    drawn = torch.cat(drawn)
"""
FORKING_SELECTION = "    selected = (ranks < ranks.new_tensor(quotas)).view(mask.shape)  # S\n"
FORKING_PER_MICRO_BATCH = f"""\
    selected = torch.zeros_like(mask)
    for rows in torch.arange(len(mask)).tensor_split({MICRO_BATCHES}):
        m = mask[rows]
        values = entropy.detach()[rows].masked_fill(~m, -torch.inf).flatten()
        chosen = values.topk(ceil(args.top_entropy_ratio * m.sum().item())).indices
        selected[rows] = torch.zeros_like(m).flatten().index_fill(0, chosen, True).view(m.shape)
"""
FORKING_QUANTILE = """\
    threshold = torch.quantile(entropy.detach()[mask], 1 - args.top_entropy_ratio)
    selected = mask & (entropy.detach() >= threshold)  # S
"""
SCALED = "    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)\n"
SURROGATE = "    token_loss = -torch.min(ratio * advantages, clipped * advantages)  # Eq. 3\n"
MEAN = (
    "    loss = ((token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()"
    "  # tokens of a response, then responses\n"
)
SHORT, COOL, FEW = {"max_response_length": 16}, {"temperature": 0.7}, {"kl_cov_ratio": 2e-3}

VARIANTS = (
    # Which tokens
    Variant("scope", "kl_cov, per micro-batch", "kl_cov", ((KL_COV_SELECTION, KL_COV_PER_MICRO_BATCH),), train=2),
    Variant("scope", "clip_cov, per micro-batch", "clip_cov", ((CLIP_COV_DRAW, CLIP_COV_PER_MICRO_BATCH),)),
    Variant(
        "scope", "forking_tokens, per micro-batch", "forking_tokens", ((FORKING_SELECTION, FORKING_PER_MICRO_BATCH),)
    ),
    Variant(
        "floor",
        "kl_cov, at least one token",
        "kl_cov",
        (
            (
                "    quota = int(args.kl_cov_ratio * num_tokens)\n",
                "    quota = max(1, int(args.kl_cov_ratio * num_tokens))\n",
            ),
        ),
        base_flags=FEW,
        train=6,
    ),
    Variant(
        "floor",
        "kl_cov, at least one token of each micro-batch",
        "kl_cov",
        ((KL_COV_SELECTION, KL_COV_FLOOR_PER_MICRO_BATCH),),
        base_flags=FEW,
    ),
    Variant("percent", "kl_cov, 0.2 as a ratio", "kl_cov", flags={"kl_cov_ratio": 0.2}, base_flags=FEW, train=4),
    Variant(
        "draw",
        "clip_cov, another draw",
        "clip_cov",
        ((CLIP_COV_DRAW, CLIP_COV_DRAW.replace("len(candidates))[", "len(candidates)).flip(0)[")),),
    ),
    Variant("ties", "forking_tokens, quantile", "forking_tokens", ((FORKING_SELECTION, FORKING_QUANTILE),)),
    # How much they weigh
    Variant(
        "selected-mean",
        "kl_cov, penalty averaged over the selected",
        "kl_cov",
        (("log_ratio.abs() * selected  # Eq. 14", "log_ratio.abs() * selected * num_tokens / max(1, quota)"),),
        train=8,
    ),
    Variant(
        "normalize-by",
        "forking_tokens, divided by all",
        "forking_tokens",
        flags={"normalize_by": "all"},
    ),
    Variant(
        "penalty",
        "kl_cov, k3 for the penalty",
        "kl_cov",
        (("log_ratio.abs() * selected  # Eq. 14", "(log_ratio.exp() - 1 - log_ratio) * selected"),),
    ),
    Variant(
        "kl-cov-clip",
        "kl_cov, with a PPO clip",
        "kl_cov",
        (
            (
                "    token_loss = -log_ratio.exp() * advantages + ",
                "    ratio = log_ratio.exp()\n"
                "    token_loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages) + ",
            ),
        ),
    ),
    Variant(
        "mean",
        "grpo, mean over tokens",
        "grpo",
        ((MEAN, "    loss = (token_loss * mask).sum() / mask.sum()\n"),),
        train=3,
    ),
    Variant(
        "mean",
        "grpo, divided by the longest length",
        "grpo",
        ((MEAN, "    loss = (token_loss * mask).sum(1).mean() / args.max_response_length\n"),),
    ),
    Variant(
        "zero-spread",
        "grpo, mean over mixed groups",
        "grpo",
        (
            (
                MEAN,
                "    per_response = (token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)\n"
                "    loss = per_response.sum() / (advantages != 0).any(1).sum().clamp(min=1)\n",
            ),
        ),
    ),
    Variant(
        "loss-scale", "grpo, ten times the loss", "grpo", ((MEAN, MEAN.replace("loss = ", "loss = 10 * ")),), train=5
    ),
    # Advantages
    Variant(
        "bessel",
        "grpo, without Bessel's correction",
        "grpo",
        ((SCALED, SCALED.replace("keepdim=True)", "keepdim=True, correction=0)")),),
    ),
    Variant("epsilon", "grpo, 1e-4 added", "grpo", ((SCALED, SCALED.replace("1e-6", "1e-4")),)),
    Variant("no-std", "grpo, not divided by the spread", "grpo", ((SCALED, "    scaled = centred\n"),), train=1),
    Variant(
        "truncated",
        "grpo, truncated responses masked",
        "grpo",
        (
            (
                '    batch["loss_mask"] = batch["mask"]\n',
                '    batch["loss_mask"] = batch["mask"] & ~batch["truncated"][:, None]\n',
            ),
        ),
        base_flags=SHORT,
        train=9,
    ),
    Variant(
        "truncated",
        "dapo, long responses charged",
        "dapo",
        flags={"overlong_buffer_length": 4},
        base_flags=SHORT | {"overlong_buffer_length": 0},
    ),
    # Ratios and log-probabilities
    Variant(
        "temperature",
        "grpo, scored at temperature 1",
        "grpo",
        (
            (
                "        policy = policy_from_args(args, run.checkpoint)\n",
                "        policy = policy_from_args(args, run.checkpoint)\n        policy.temperature = 1.0\n",
            ),
        ),
        base_flags=COOL,
        minibatches=(0,),
        train=7,
        score_temperature=1.0,
    ),
    Variant(
        "old-logprobs",
        "kl_cov, the sampler's log-probabilities",
        "kl_cov",
        (
            (
                '            batch["old_logprobs"], batch["entropy"] = sampler.score(batch, rows)  # (B, T) each\n',
                '            batch["old_logprobs"], batch["entropy"] = sampler.score(batch, rows)  # (B, T) each\n'
                '            batch["old_logprobs"] = batch["rollout_logprobs"]\n',
            ),
            ("                if policy.updates == sampled_by:  #", "                if False:  #"),
        ),
        minibatches=(0,),
        sampler_logprobs=True,
    ),
    Variant(
        "dual-clip",
        "grpo, dual clip at 3",
        "grpo",
        (
            (
                SURROGATE,
                "    surrogate = torch.min(ratio * advantages, clipped * advantages)\n"
                "    token_loss = -torch.where(advantages < 0, torch.max(surrogate, 3 * advantages), surrogate)\n",
            ),
        ),
    ),
    # What does nothing on-policy
    Variant(
        "inert",
        "kl_cov, no penalty, one update",
        "kl_cov",
        flags={"kl_cov_coef": 0.0},
        base_flags={"num_minibatches": 1},
        minibatches=(0,),
    ),
    Variant("inert", "kl_cov, no penalty, first of eight", "kl_cov", flags={"kl_cov_coef": 0.0}, minibatches=(0,)),
    Variant(
        "inert",
        "grpo, no clip, one update",
        "grpo",
        ((SURROGATE, "    token_loss = -ratio * advantages\n"),),
        base_flags={"num_minibatches": 1},
        minibatches=(0,),
    ),
    Variant("inert", "kl_cov, no penalty, last four of eight", "kl_cov", flags={"kl_cov_coef": 0.0}),
    Variant(
        "inert", "grpo, no clip, last four of eight", "grpo", ((SURROGATE, "    token_loss = -ratio * advantages\n"),)
    ),
)


@dataclass(frozen=True, eq=False)  # each is a key of its own
class Part:
    """One of the methods that a file puts together, by the flags that leave it out; `flags` are set where it is in."""

    algorithm: str
    name: str
    without: dict
    flags: dict = field(default_factory=dict)
    easy: bool = False  # its problems are those that a curriculum begins with


TOGETHER = (
    Part("starter", "W-REINFORCE", {"positive_weight": 1.0}),
    Part("starter", "top fifth", {"top_entropy_ratio": 1.0}),
    Part("starter", "clip-higher", {"clip_ratio_high": 0.2}),
    Part("advanced", "KL-Cov", {"kl_cov_coef": 0.0}),
    # The trained policy's entropy is near 0.26 nats.
    Part("advanced", "controller, 0.1 above its target", {"kp": 0.0, "ki": 0.0}, {"target_entropy": 0.16}),
    Part("advanced", "controller, 0.1 below its target", {"kp": 0.0, "ki": 0.0}, {"target_entropy": 0.36}),
    Part("advanced", "curriculum", {"curriculum_samples": 0}, easy=True),
)
PARENTS = {"starter": "W-REINFORCE", "advanced": "KL-Cov"}  # nsr.py and kl_cov.py have this part alone


def settings(parts: list[Part]) -> list[tuple[Part, ...]]:
    """None of the parts, each of them, and each two that are not one and the same part."""
    pairs = [pair for pair in combinations(parts, 2) if pair[0].without != pair[1].without]
    return [(), *((part,) for part in parts), *pairs]


def name_of(setting: tuple[Part, ...]) -> str:
    return " + ".join(part.name for part in setting) or "none"


def flags_of(setting: tuple[Part, ...], parts: list[Part]) -> dict:
    """The flags of a file with these parts of all of its parts."""
    flags = {key: value for part in parts for key, value in part.without.items()}
    for part in setting:
        flags = {key: value for key, value in flags.items() if key not in part.without} | part.flags
    return flags


@contextmanager
def script(text: str, algorithm: str) -> Iterator[Path]:
    """A file of this text in a directory of its own, under the algorithm's name, by which a run calls itself."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "algos" / f"{algorithm}.py"
        path.parent.mkdir()
        path.write_text(text)
        yield path


def load(text: str, algorithm: str) -> ModuleType:
    """The file as a module: its Args, assign_credit and policy_loss."""
    with script(text, algorithm) as path:
        spec = importlib.util.spec_from_file_location(f"variant_of_{algorithm}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where a dataclass looks for its module
        search = list(sys.path)
        spec.loader.exec_module(module)
        sys.path[:] = search
    return module


# --- On one batch -----------------------------------------------------------------------------------------------------


def compare(original: Tensor, variant: Tensor) -> dict[str, float | bool | None]:
    """Cosine of two flat gradients, and the norm of the second over that of the first. None where one of them is 0."""
    a, b = original.double(), variant.double()
    norms = a.norm().item(), b.norm().item()
    return {
        "cosine": (a @ b).item() / (norms[0] * norms[1]) if all(norms) else None,
        "norm_ratio": norms[1] / norms[0] if norms[0] else None,
        "norm": norms[0],
        "identical": torch.equal(original, variant),
    }


def changed_share(original: Tensor, variant: Tensor) -> float:
    """Share of tokens whose d loss / d logprob (N,) changes by more than a factor that is common to most of them."""
    both = (original != 0) & (variant != 0)
    factor = (variant[both] / original[both]).median() if both.any() else torch.tensor(1.0)
    return ((variant - factor * original).abs() > SAME * (factor * original).abs()).double().mean().item()


def gradient(module: ModuleType, args, policy: Policy, mb: dict, current: tuple[Tensor, Tensor], seed: int) -> tuple:
    """Flat gradient of all parameters, and those of the minibatch's log-probabilities and entropies, (M, T) each."""
    torch.manual_seed(seed)  # Clip-Cov draws its tokens
    _, grads = differentiate(module, current, mb, args)
    policy.backward(mb, *grads)
    flat = torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in parameters(policy)])
    policy.optimizer.zero_grad()
    return flat, grads


def parameters(policy: Policy) -> list[Tensor]:
    return list(policy.model.parameters())


class Rollouts:
    """A policy that GRPO has trained for a few steps, and rollouts of it: all groups, or mixed ones alone."""

    def __init__(self, seed: int, warm_steps: int):
        self.seed = seed
        self.problems = countdown(seed)
        self.warm = load_policy(None, device="cpu", learning_rate=LEARNING_RATE)
        self.kept: dict[tuple, list] = {}
        module = load(source("grpo"), "grpo")
        args = module.Args(num_prompts=NUM_PROMPTS)
        for step in range(1, warm_steps + 1):
            batch = scored(self.warm, self.sample(NUM_PROMPTS, args, random_seed(seed, step)))
            module.assign_credit(batch, args, {})
            for _, update in updates(module, args, self.warm, batch, seed):
                update()

    def sample(self, num_prompts: int, args, seed: int) -> list:
        problems = self.problems.take(num_prompts)
        return Actor(self.warm).sample(problems, NUM_GENERATIONS, args.max_response_length, seed, args.temperature)

    def batch(self, args) -> dict:
        """32 groups; if the algorithm resamples, the first mixed ones of four times as many."""
        resamples = getattr(args, "max_resample", 0) > 0
        key = (args.temperature, args.max_response_length)
        if key not in self.kept:
            self.kept[key] = self.sample(4 * NUM_PROMPTS, args, random_seed(self.seed, 0))
        samples = mixed_groups(self.kept[key]) if resamples else self.kept[key]
        return make_batch(samples[: NUM_PROMPTS * NUM_GENERATIONS])

    def easy_batch(self, args) -> dict:
        """The first mixed groups of 512 problems in the order that the untrained policy's answers give them."""
        problems, actor = countdown(self.seed).take(16 * NUM_PROMPTS), Actor(load_policy(None, device="cpu"))
        how = args, args.curriculum_samples, args.curriculum_by
        order = easy_first(problems, actor.sampler, actor.verifier, *how)["order"]
        first = [problems[i] for i in order[: 4 * NUM_PROMPTS]]
        seed = random_seed(self.seed, 0)
        samples = Actor(self.warm).sample(first, NUM_GENERATIONS, args.max_response_length, seed, args.temperature)
        return make_batch(mixed_groups(samples)[: NUM_PROMPTS * NUM_GENERATIONS])


def mixed_groups(samples: list) -> list:
    """The samples of groups whose rewards differ."""
    groups = [samples[i : i + NUM_GENERATIONS] for i in range(0, len(samples), NUM_GENERATIONS)]
    return [sample for group in groups if len({s.verdict.reward for s in group}) > 1 for sample in group]


def updates(module: ModuleType, args, policy: Policy, batch: dict, seed: int) -> Iterator[tuple[tuple, Callable]]:
    """A rollout's minibatches as the scripts cut them: ((rows, current values), the function that makes the update)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = len(batch["mask"]), NUM_GENERATIONS, args.num_minibatches
    for number, rows in enumerate(rows for _ in range(args.update_epochs) for rows in minibatches(*sizes, generator)):
        mb = take_rows(batch, rows)
        current = policy.score(mb) if number else (mb["old_logprobs"], mb["entropy"])

        def update(mb: dict = mb, current: tuple = current) -> None:
            torch.manual_seed(seed)
            policy.backward(mb, *differentiate(module, current, mb, args)[1])
            policy.step()

        yield (rows, current), update


def measure_batch(rollouts: Rollouts, variants: list[Variant]) -> dict[str, dict]:
    """All variants of one original: up to its minibatch the original makes the updates, there the two are compared."""
    first = variants[0]
    module = load(source(first.algorithm), first.algorithm)
    sizes = {"num_prompts": NUM_PROMPTS, "num_minibatches": NUM_MINIBATCHES}
    args = module.Args(**sizes | first.base_flags)
    policy = copy.deepcopy(rollouts.warm)
    policy.temperature = args.temperature
    batch = rollouts.batch(args)
    batch["old_logprobs"], batch["entropy"] = policy.score(batch)
    changed = dict(batch)  # its own credit for each variant, the same tensors otherwise
    module.assign_credit(batch, args, {})
    results: dict[str, list[dict]] = {}
    for number, ((rows, current), update) in enumerate(updates(module, args, policy, batch, rollouts.seed)):
        mine = [variant for variant in variants if number in variant.minibatches]
        if mine:
            reference = gradient(module, args, policy, take_rows(batch, rows), current, rollouts.seed)
        for variant in mine:
            other, theirs = load(variant.text(), variant.algorithm), dict(changed)
            options = other.Args(**sizes | variant.base_flags | variant.flags)
            values = current
            if variant.sampler_logprobs:
                theirs["old_logprobs"] = batch["rollout_logprobs"]
            if variant.score_temperature:
                policy.temperature = variant.score_temperature
                theirs["old_logprobs"], theirs["entropy"] = policy.score(batch)
                values = theirs["old_logprobs"][rows], theirs["entropy"][rows]
            other.assign_credit(theirs, options, {})
            mb = take_rows(theirs, rows)
            flat, grads = gradient(other, options, policy, mb, values, rollouts.seed)
            policy.temperature = args.temperature
            known, tokens = (by[0][mb["mask"]] for by in (reference[1], grads))
            results.setdefault(variant.name, []).append(
                compare(reference[0], flat)
                | {"changed": changed_share(known, tokens), "tokens": len(tokens)}
                | {"truncated": mb["truncated"].double().mean().item()}
            )
        update()
    return {name: mean_of(rows) for name, rows in results.items()}


def mean_of(rows: list[dict]) -> dict:
    """Means over minibatches of what exists there; identical if it is so in all of them."""
    mean = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        mean[key] = all(values) if key == "identical" else float(np.mean(values)) if values else None
    return mean


def measure_entropy(rollouts: Rollouts) -> dict[str, float]:
    """Three readings of one step's entropy (nats per token), and the mean of -log p over the same tokens."""
    module = load(source("grpo"), "grpo")
    args = module.Args(num_prompts=NUM_PROMPTS, num_minibatches=NUM_MINIBATCHES)
    policy, batch = copy.deepcopy(rollouts.warm), rollouts.batch(args)
    batch["old_logprobs"], batch["entropy"] = policy.score(batch)
    module.assign_credit(batch, args, {})
    during = []
    for (rows, current), update in updates(module, args, policy, batch, rollouts.seed):
        during.append(current[1][batch["mask"][rows]])
        update()
    mask = batch["mask"]
    return {
        "before": batch["entropy"][mask].mean().item(),
        "during": torch.cat(during).mean().item(),
        "after": policy.score(batch)[1][mask].mean().item(),
        "sampled": -batch["rollout_logprobs"][mask].mean().item(),
        "response_means": ((batch["entropy"] * mask).sum(1) / mask.sum(1)).mean().item(),
    }


def on_one_batch(seed: int, warm_steps: int, variants: tuple[Variant, ...] = VARIANTS) -> tuple[dict, dict]:
    """Variant -> comparison, and the readings of entropy, for one seed."""
    rollouts, results = Rollouts(seed, warm_steps), {}
    for original in dict.fromkeys(variant.original for variant in variants):
        results |= measure_batch(rollouts, [variant for variant in variants if variant.original == original])
    return results, measure_entropy(rollouts)


# --- Parts together ---------------------------------------------------------------------------------------------------


def measure_together(rollouts: Rollouts, algorithm: str) -> dict[str, dict]:
    """`settings` and `pairs` of one file's parts, by name: means over the last four minibatches.

    Up to its minibatch the whole file makes the updates; there every setting is differentiated at one place.
    """
    parts = [part for part in TOGETHER if part.algorithm == algorithm]
    module, tried = load(source(algorithm), algorithm), settings(parts)
    sizes = {"seed": rollouts.seed, "num_prompts": NUM_PROMPTS, "num_minibatches": NUM_MINIBATCHES}
    whole, policy = module.Args(**sizes, update_epochs=PASSES), copy.deepcopy(rollouts.warm)
    drawn = {False: rollouts.batch(whole)}
    if any(part.easy for part in parts):
        drawn[True] = rollouts.easy_batch(whole)
    for batch in drawn.values():
        batch["old_logprobs"], batch["entropy"] = policy.score(batch)
        batch["importance"] = torch.ones_like(batch["old_logprobs"])
        batch |= entropy_slopes(policy, batch)
    credited = {}
    for setting in tried:
        batch, args = dict(drawn[any(part.easy for part in setting)]), module.Args(**sizes | flags_of(setting, parts))
        module.assign_credit(batch, args, {})
        credited[setting] = batch, args
    batch, rows_of_settings, rows_of_pairs = dict(drawn[False]), {}, {}
    module.assign_credit(batch, whole, {})
    for number, ((rows, _), update) in enumerate(updates(module, whole, policy, batch, rollouts.seed)):
        if number >= PASSES * NUM_MINIBATCHES - 4:
            found = {}
            for setting, (theirs, args) in credited.items():
                mb = take_rows(theirs, rows)
                flat, grads = gradient(module, args, policy, mb, policy.score(mb), rollouts.seed)
                found[setting] = mb, flat.double(), promised_change(mb, grads)[mb["mask"]].double()
            parent = next(part for part in parts if part.name == PARENTS[algorithm])
            for setting in tried:
                rows_of_settings.setdefault(name_of(setting), []).append(about_setting(found, setting, parent))
                if len(setting) == 2:
                    rows_of_pairs.setdefault(name_of(setting), []).append(about_pair(found, setting))
        update()
    return {
        "settings": {name: mean_of(rows) for name, rows in rows_of_settings.items()},
        "pairs": {name: mean_of(rows) for name, rows in rows_of_pairs.items()},
    }


def about_setting(found: dict, setting: tuple[Part, ...], parent: Part) -> dict[str, float | None]:
    """What a setting's gradient is beside that without any part, and what it promises.

    `promised` is the change of entropy in first order, as a mean over tokens (nats a unit of learning rate); `entropy`
    that of its minibatch under the policy that sampled, `alpha` the controller's.
    """
    mb, flat, promised = found[setting]
    beside = compare(found[()][1], flat)
    return {
        "cosine": beside["cosine"],
        "norm_ratio": beside["norm_ratio"],
        "parent_cosine": compare(found[(parent,)][1], flat)["cosine"],
        "promised": promised.mean().item(),
        "entropy": mb["entropy"][mb["mask"]].mean().item(),
        "alpha": mb.get("alpha"),
    }


def about_pair(found: dict, setting: tuple[Part, ...]) -> dict[str, float | None]:
    """What either of two parts adds to the loss without any, and what both add.

    `cosine` is between the additions to the gradient, `token_cosine` between those to the change of entropy promised
    token by token: None where one adds nothing, or where a part has another batch. `first`, `second` and `both` are the
    additions to the mean of that change.
    """
    none, first, second, both = (found[part] for part in ((), setting[:1], setting[1:], setting))
    means = [one[2].mean().item() - none[2].mean().item() for one in (first, second, both)]
    same = not any(part.easy for part in setting)
    return {
        "cosine": compare(first[1] - none[1], second[1] - none[1])["cosine"],
        "token_cosine": compare(first[2] - none[2], second[2] - none[2])["cosine"] if same else None,
        **dict(zip(("first", "second", "both"), means, strict=True)),
    }


# --- In training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    name: str  # of a variant, or of an original
    seed: int
    algorithm: str
    text: str
    flags: tuple[tuple[str, object], ...]

    @property
    def directory(self) -> Path:
        word = "".join(c if c.isalnum() else "-" for c in self.name)
        return RUNS / f"{word}-s{self.seed}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.text, self.flags]).encode()).hexdigest()

    def outcome(self) -> dict[str, float] | None:
        """The run's numbers if it was finished with this very text and these flags."""
        mark = self.directory / "digest"
        if not mark.exists() or mark.read_text() != self.digest:
            return None
        records = read_metrics(self.directory)
        steps = [record for record in records if "rollout/reward" in record]
        mean = lambda key, rows: float(np.mean([record[key] for record in rows]))  # noqa: E731
        return {
            "entropy": mean("rollout/entropy", steps[-WINDOW:]),
            "reward": mean("rollout/reward", steps[-WINDOW:]),
            "pass@1": records[-1]["eval/pass@1"],
            "length": mean("rollout/response_length", steps[-WINDOW:]),
            "truncated": mean("rollout/truncated_ratio", steps),
            "grad_norm": mean("policy/grad_norm", steps),
            "selected": mean("algo/selected_ratio", steps) if "algo/selected_ratio" in steps[0] else None,
        }


def jobs(seeds: tuple[int, ...], num_steps: int, num_prompts: int) -> list[Job]:
    """Variant by variant, each beside its original, seed by seed; originals once."""
    sizes = {
        "device": "cpu",
        "num_steps": num_steps,
        "num_prompts": num_prompts,
        "num_generations": NUM_GENERATIONS,
        "num_minibatches": NUM_MINIBATCHES,
        "learning_rate": LEARNING_RATE,
        "save_every": 0,
        "eval_every": num_steps,
        "eval_problems": EVAL_PROBLEMS,
        "eval_samples": EVAL_SAMPLES,
    }
    plan: dict[tuple, Job] = {}
    for variant in sorted((one for one in VARIANTS if one.train), key=lambda one: one.train):
        for seed in seeds:
            for name, text, flags in (
                (variant.original, source(variant.algorithm), variant.base_flags),
                (variant.name, variant.text(), variant.base_flags | variant.flags),
            ):
                plan.setdefault((name, seed), Job(name, seed, variant.algorithm, text, tuple((sizes | flags).items())))
    return list(plan.values())


def train(job: Job) -> None:
    """One run, in a fork of this process, which has imported what takes long to import."""
    shutil.rmtree(job.directory, ignore_errors=True)
    job.directory.mkdir(parents=True)
    process = multiprocessing.get_context("fork").Process(target=_train, args=(job,))
    process.start()
    process.join()
    if process.exitcode:
        log = (job.directory / "log").read_text()
        raise SystemExit(f"error: {job.name}, seed {job.seed}, ended with {process.exitcode}\n{log[-2000:]}")
    shutil.rmtree(job.directory / "checkpoints", ignore_errors=True)  # the records are what is wanted
    (job.directory / "digest").write_text(job.digest)


def _train(job: Job) -> None:
    log = os.open(job.directory / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    sys.argv = [job.algorithm, *as_flags({"seed": job.seed, "output_dir": job.directory} | dict(job.flags))]
    with script(job.text, job.algorithm) as path:
        runpy.run_path(str(path), run_name="__main__")


# --- The command ------------------------------------------------------------------------------------------------------


@dataclass
class Args:
    parts: tuple[str, ...] = ("batch", "together", "training")
    seeds: tuple[int, ...] = (1, 2, 3)
    """of the training runs"""
    batch_seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """of what is measured on one batch"""
    steps: int = 16
    """of a training run"""
    num_prompts: int = 16
    """per step of a training run, each with eight responses"""
    out: Path = RESULTS / "details.json"


def add(path: Path, results: dict) -> None:
    """Write these results beside those of the other part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(kept | results, indent=1, allow_nan=False) + "\n")


def main(args: Args) -> None:
    check_known("parts", args.parts, ("batch", "together", "training"))
    for variant in VARIANTS:
        variant.text()  # a stale one ends the command before anything is measured
    torch.set_num_threads(1)
    if "batch" in args.parts:
        batch, readings = {}, {}
        for seed in args.batch_seeds:
            started = time.perf_counter()
            compared, readings[str(seed)] = on_one_batch(seed, WARM_STEPS)
            for name, row in compared.items():
                batch.setdefault(name, {})[str(seed)] = row
            print(f"batch, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        add(args.out, {"batch": batch, "entropy_metric": readings, "batch_made": made(args, warm_steps=WARM_STEPS)})
    if "together" in args.parts:
        together: dict[str, dict] = {}
        for seed in args.batch_seeds:
            rollouts = Rollouts(seed, WARM_STEPS)
            for algorithm in PARENTS:
                together.setdefault(algorithm, {})[str(seed)] = measure_together(rollouts, algorithm)
            print(f"together, seed {seed}", flush=True)
        about = made(args, warm_steps=WARM_STEPS, update_epochs=PASSES)
        add(args.out, {"together": together, "together_made": about})
    if "training" in args.parts:
        plan = jobs(args.seeds, args.steps, args.num_prompts)
        for number, job in enumerate(plan, 1):
            started = time.perf_counter()
            if job.outcome() is None:
                train(job)
            outcomes = {one: one.outcome() for one in plan}
            training: dict[str, dict] = {}
            for one, outcome in outcomes.items():
                if outcome:
                    training.setdefault(one.name, {})[str(one.seed)] = outcome
            about = made(args, steps=args.steps, num_prompts=args.num_prompts) | {
                "runs": sum(map(bool, outcomes.values())),
                "planned": len(plan),
            }
            add(args.out, {"training": training, "training_made": about})
            seconds = time.perf_counter() - started
            print(f"run {number} of {len(plan)}: {job.name}, seed {job.seed}: {seconds:.0f} s", flush=True)


def made(args: Args, **more: object) -> dict:
    """What one needs to make the numbers again."""
    settings = {"learning_rate": LEARNING_RATE, "num_prompts": NUM_PROMPTS, "num_generations": NUM_GENERATIONS}
    settings |= {"num_minibatches": NUM_MINIBATCHES, "micro_batches": MICRO_BATCHES}
    return environment("details", args) | {"settings": settings | more}


if __name__ == "__main__":
    main(tyro.cli(Args))
