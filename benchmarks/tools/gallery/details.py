"""The page "Details that matter": what changes with one line of an algorithm's file, and what does not.

Prose and peers are written here; diffs come from the variants of benchmarks.details, line numbers from searching the
algorithm files, numbers and verdicts from benchmarks/results/details.json.
"""

import difflib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from benchmarks.details import PARENTS, TOGETHER, VARIANTS, Part, Variant, name_of, settings, source
from benchmarks.gallery.site import highlighted, source_line
from benchmarks.report import interval

# How a statement about a peer is known.
EVIDENCE = {
    "code": "read in the code of the version named",
    "paper": "read in the paper",
    "issue": "said in an issue or pull request of that project",
}
# What is linked in the name of a peer: papers, repositories, their issues, and two libraries by their versions.
LIBRARIES = {"verl 0.9": "verl-project/verl", "TRL 1.16": "huggingface/trl", "verl-recipe": "verl-project/verl-recipe"}
LINKED = re.compile(
    r"arXiv (?P<arxiv>\d{4}\.\d{5})"
    r"|(?P<repository>(?:PRIME-RL|Shenzhi-Wang|sail-sg|huggingface|verl-project|karpathy|McGill-NLP)/[\w-]+)"
    r"(?:, (?P<kind>issue|pull request) (?P<number>\d+))?"
    rf"|(?P<library>{'|'.join(LIBRARIES)})(?=[ ,;]|$)"
)
SAME_DIRECTION = 0.9999  # a cosine above this is one direction
NEAR = 0.99
SAME_SIZE = 0.005  # a ratio of norms as near to 1 as this is one size
MAX_GRAD_NORM = 1.0  # default of every file
# Variants whose change must be larger than that of another one to be more than chance.
CONTROLS = {"clip_cov, per micro-batch": "clip_cov, another draw"}
METRICS = {"entropy": "entropy (nats)", "reward": "reward", "pass@1": "pass@1"}
NO_EFFECT = "no effect seen"


@dataclass(frozen=True)
class Peer:
    who: str
    says: str
    known: str  # key of EVIDENCE


@dataclass(frozen=True)
class Detail:
    key: str
    title: str
    what: str
    algorithm: str
    line: str  # text of our line, searched in the algorithm's file
    peers: tuple[Peer, ...]
    note: str = ""  # how the measurement is to be read, or why there is none


DETAILS = (
    Detail(
        "scope",
        "Selection over the minibatch or over a micro-batch",
        "Clip-Cov, KL-Cov and forking tokens rank tokens and keep a share of them. Ranked over the whole minibatch, "
        "the result does not depend on memory; ranked over whatever one forward pass holds, it changes with the number "
        "of GPUs and the length of the responses.",
        "kl_cov",
        "    top = cov.masked_fill(~mask, -torch.inf).view(-1).argsort(descending=True, stable=True)[:quota]  # Eq. 13",
        (
            Peer("Cui et al., arXiv 2505.22617", "over the tokens of a batch (Eq. 10 to 14)", "paper"),
            Peer(
                "PRIME-RL/Entropy-Mechanism-of-RL; verl 0.9, core_algos.compute_policy_loss_kl_cov and _clip_cov",
                "means, number and ranking over one GPU's micro-batch",
                "code",
            ),
            Peer(
                "Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR",
                "top 20 % of one GPU's micro-batch, by count",
                "code",
            ),
            Peer(
                "TRL 1.16, GRPOTrainer.get_high_entropy_mask",
                "a quantile over one micro-batch of all GPUs together",
                "code",
            ),
        ),
        "Emulated with four micro-batches of one group each. Micro-batches of real runs hold other mixtures.",
    ),
    Detail(
        "floor",
        "At least one token, max(1, k)",
        "A share of 2e-3 of 450 tokens is no token. With a floor of one token, each micro-batch still selects one, so "
        "that the share grows with the number of micro-batches and a ratio of 0 does not switch the method off.",
        "kl_cov",
        "    quota = int(args.kl_cov_ratio * num_tokens)",
        (
            Peer(
                "PRIME-RL/Entropy-Mechanism-of-RL; verl 0.9, core_algos.compute_policy_loss_kl_cov and _clip_cov",
                "at least one token of every micro-batch",
                "code",
            ),
            Peer(
                "verl-project/verl, issue 7829",
                "8,192 tokens at 2e-4 select 1 token as one micro-batch and 8 as eight",
                "issue",
            ),
        ),
        "The original selects nothing here and warns so; one held-back token of a small minibatch is not a small "
        "change.",
    ),
    Detail(
        "percent",
        "Percent or ratio",
        "The authors' flag k_percent is a percentage, the later kl_cov_ratio a fraction. The 7B value is 0.2 in the "
        "first and 0.002 in the second; 0.2 copied into the second holds back a fifth of all tokens.",
        "kl_cov",
        "    kl_cov_ratio: arguments.between(0, 1) = 2e-2",
        (
            Peer("PRIME-RL/Entropy-Mechanism-of-RL, recipe/dapo/*.sh", "k_percent 0.2 (7B), 0.02 (32B)", "code"),
            Peer(
                "verl-recipe, entropy",
                "kl_cov_ratio 0.002 (7B), 0.0002 (32B); Clip-Cov scripts still carry 0.2",
                "code",
            ),
            Peer("verl 0.9, default", "kl_cov_ratio 2e-4, the 32B value", "code"),
        ),
        "The original, 2e-3, selects no token of this model's minibatches, so this is 20 % against none.",
    ),
    Detail(
        "draw",
        "Clip-Cov draws its tokens at random",
        "Tokens inside the covariance window are candidates, and as many as the quota are drawn. Two runs that are the "
        "same otherwise part here, unless the draw is seeded or there are no more candidates than the quota.",
        "clip_cov",
        "    drawn = candidates[torch.randperm(len(candidates))[:quota]]  # Eq. 11",
        (
            Peer("Cui et al., arXiv 2505.22617", "drawn uniformly from the window (Eq. 11)", "paper"),
            Peer(
                "verl 0.9, core_algos.compute_policy_loss_clip_cov",
                "drawn at random, anew in every micro-batch",
                "code",
            ),
        ),
        "A control: what a second draw changes is the least that any other change of Clip-Cov must beat.",
    ),
    Detail(
        "ties",
        "A count or a quantile",
        "A threshold at a quantile lets every token through that ties with it, and can be one token off where nothing "
        "ties. Responses to one prompt share their first distributions, so that equal entropies are common.",
        "forking_tokens",
        "    ranks = key.argsort(dim=1, descending=True, stable=True).argsort(dim=1)",
        (
            Peer("Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR", "exactly ceil(0.2 n) tokens", "code"),
            Peer("TRL 1.16, GRPOTrainer.get_high_entropy_mask", "entropy at or above torch.quantile", "code"),
        ),
    ),
    Detail(
        "selected-mean",
        "KL-Cov's penalty: mean over all tokens or over the selected",
        "The penalty of the few selected tokens is part of a mean over all tokens. Averaged over the selected alone, "
        "the same coefficient weighs as much more as the share is small: 50 times at 2 %.",
        "kl_cov",
        "    loss = (token_loss * mask).sum() / num_tokens",
        (
            Peer("Cui et al., arXiv 2505.22617", "1/N over all N tokens (Eq. 14)", "paper"),
            Peer("verl 0.9, core_algos.compute_policy_loss_kl_cov", "all tokens, as here", "code"),
        ),
        "No peer that was read averages over the selected: this is what a natural misreading of the equation would do.",
    ),
    Detail(
        "penalty",
        "KL-Cov's penalty: |log-ratio| or an estimate of KL",
        "The paper writes KL(pi_old, pi), the listing and all code take the size of the log-ratio. Its gradient has "
        "the full size wherever the token has moved at all; that of the k3 estimate vanishes with the distance.",
        "kl_cov",
        '    token_loss = -log_ratio.exp() * advantages + mb["kl_cov_coef"] * log_ratio.abs() * selected  # Eq. 14',
        (
            Peer("Cui et al., arXiv 2505.22617", "KL in Eq. 14, the size of the log-ratio in the listing", "paper"),
            Peer(
                "verl 0.9, core_algos.compute_policy_loss_kl_cov", "the size of the log-ratio; coefficient 0.1", "code"
            ),
        ),
        "The authors' scripts and this file use a coefficient of 1.",
    ),
    Detail(
        "kl-cov-clip",
        "KL-Cov has no PPO clip",
        "The scripts of KL-Cov set clip ratios of 0.2, and its loss never reads them. With them the method would be "
        "another one.",
        "kl_cov",
        '    log_ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20)',
        (
            Peer(
                "PRIME-RL/Entropy-Mechanism-of-RL; verl 0.9, core_algos.compute_policy_loss_kl_cov",
                "no clip and no clamp of the log-ratio; clip_ratio_* and clip_ratio_c are dead settings",
                "code",
            ),
        ),
    ),
    Detail(
        "normalize-by",
        "Forking tokens: divided by the selected or by all",
        "Dividing by all tokens makes the loss smaller by the share selected. The direction is the same; what sees the "
        "difference is the gradient clip, and any term beside it.",
        "forking_tokens",
        '(selected if args.normalize_by == "selected" else mask).sum()',
        (
            Peer("Wang et al., arXiv 2506.01939 v2, and the released code", "the selected", "code"),
            Peer("Wang et al., arXiv 2506.01939 v1, as quoted in huggingface/trl, pull request 3563", "all", "issue"),
            Peer("TRL 1.16, GRPOTrainer._compute_loss", "all tokens of the mask", "code"),
        ),
        "Here `--normalize-by` chooses.",
    ),
    Detail(
        "mean",
        "Which mean",
        "GRPO's paper averages the tokens of a response and then the responses, so that a token of a long response "
        "weighs less. A mean over all tokens weighs them alike. Dividing every response's sum by one constant does "
        "too, and keeps the scale fixed.",
        "grpo",
        "    loss = ((token_loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()",
        (
            Peer("DeepSeekMath, arXiv 2402.03300", "mean of the responses' means (Eq. 3)", "paper"),
            Peer("verl 0.9, core_algos.agg_loss", "token-mean by default; seq-mean-token-mean is the paper's", "code"),
            Peer(
                "TRL 1.16, GRPOTrainer._compute_loss",
                'loss_type "dapo" (all tokens) by default, "grpo" the paper\'s, "dr_grpo" by the longest length',
                "code",
            ),
            Peer("sail-sg/understand-r1-zero", "each response's sum by a constant, the generation budget", "code"),
        ),
    ),
    Detail(
        "zero-spread",
        "Groups without spread in the mean",
        "All-right and all-wrong groups have no gradient, and still count in the denominator. The more of them there "
        "are, the smaller the step, unless Adam or a gradient clip rescales it.",
        "grpo",
        "    scaled[rewards.amax(1) == rewards.amin(1)] = 0.0",
        (
            Peer("verl 0.9 and TRL 1.16", "they stay in the mean, as here", "code"),
            Peer("DAPO, arXiv 2503.14476", "they are dropped and replaced before the update (Eq. 11)", "paper"),
        ),
        "Adam hides a constant factor, not one that changes from minibatch to minibatch.",
    ),
    Detail(
        "loss-scale",
        "The scale of the loss hides behind Adam and the gradient clip",
        "Adam divides by the size of past gradients, so that a constant factor on the loss does next to nothing. The "
        "gradient clip is the exception: above its norm the size is cut, below it is left.",
        "grpo",
        "    max_grad_norm: float = 1.0",
        (Peer("verl 0.9 and TRL 1.16, defaults", "clip the gradient at norm 1", "code"),),
        "The norms in the table say on which side of the clip each file is.",
    ),
    Detail(
        "bessel",
        "Standard deviation with or without Bessel's correction",
        "The paper does not say whether the spread of G rewards is divided by G or G - 1. For a group it is a constant "
        "factor: sqrt(8/7) with eight responses.",
        "grpo",
        "    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)",
        (
            Peer("verl 0.9, core_algos.compute_grpo_outcome_advantage", "G - 1 (torch.std)", "code"),
            Peer("TRL 1.16, trainer/utils.nanstd", "G - 1", "code"),
            Peer("DeepSeekMath, arXiv 2402.03300", "does not say", "paper"),
        ),
    ),
    Detail(
        "epsilon",
        "What is added to the standard deviation",
        "A small number keeps groups without spread from a division by zero. It matters where spreads are as small as "
        "it is, which 0/1 rewards never are.",
        "grpo",
        "    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)",
        (
            Peer("verl 0.9, core_algos.compute_grpo_outcome_advantage", "1e-6", "code"),
            Peer("TRL 1.16, GRPOTrainer._generate_and_score_completions", "1e-4", "code"),
            Peer("sail-sg/oat", "1e-8", "code"),
        ),
    ),
    Detail(
        "no-std",
        "No division by the standard deviation",
        "Dr. GRPO leaves the division out: a group with one right answer of eight then no longer weighs more than one "
        "with four. Advantages shrink as well, so that learning rates do not carry over where Adam does not rescale.",
        "grpo",
        "    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)",
        (
            Peer("Dr. GRPO, arXiv 2503.20783; sail-sg/understand-r1-zero", "no division", "code"),
            Peer("TRL 1.16", 'loss_type "dr_grpo" still divides; scale_rewards "none" is needed too', "code"),
            Peer("verl 0.9", "norm_adv_by_std_in_grpo, true by default", "code"),
        ),
    ),
    Detail(
        "truncated",
        "Truncated responses: wrong, masked, or charged",
        "A response that was cut off has no answer and counts as wrong here. Masked, its tokens teach nothing while "
        "its reward still moves the group's mean. Charged, long responses lose reward before they are cut.",
        "grpo",
        '    batch["loss_mask"] = batch["mask"]',
        (
            Peer(
                "TRL 1.16, GRPOTrainer._generate_and_score_completions",
                "mask_truncated_completions (off by default) masks their tokens, which leave the denominator too",
                "code",
            ),
            Peer("DAPO, arXiv 2503.14476", "masked in the ablation, charged in the method (Eq. 13)", "paper"),
            Peer("verl-recipe, dapo", "charged; masking is not in the released recipe", "code"),
        ),
        "Hardly anything is cut at the default length of 24, so both files run at 16 here.",
    ),
    Detail(
        "temperature",
        "Temperature inside the log-probabilities",
        "Sampling at temperature T draws from softmax(logits / T). Scored without the division, the trained "
        "distribution is not the sampled one: gradients have another size and entropies are those of another policy.",
        "grpo",
        '    """of sampling, and of every log-probability and entropy here"""',
        (
            Peer("verl 0.9; TRL 1.16, GRPOTrainer._get_per_token_logps_and_entropies", "divide by T", "code"),
            Peer(
                "huggingface/trl, issue 4159",
                "at 0.6, the log-probabilities of vLLM had no temperature in them and the trainer's had",
                "issue",
            ),
            Peer("rlhf-book, code/", "samples at 0.6 with top-p and top-k, scores without", "code"),
        ),
        "Both files sample at 0.7, and entropy in the table is that of the samples: -log p at 0.7.",
    ),
    Detail(
        "old-logprobs",
        "Old log-probabilities: the trainer's or the sampler's",
        "The two agree up to rounding. Where a loss has a kink at ratio 1, as KL-Cov's penalty has, rounding is "
        "enough: every selected token gets a push of full size and accidental sign at the first update.",
        "kl_cov",
        '            batch["old_logprobs"], batch["entropy"] = sampler.score(batch, rows)  # (B, T) each',
        (
            Peer("verl 0.9", "scored again by the trainer unless told otherwise (rollout_correction)", "code"),
            Peer(
                "TRL 1.16, GRPOTrainer._generate_and_score_completions",
                "the current values where a rollout ends with its one update; else, and always with vLLM, scored again",
                "code",
            ),
        ),
        "Here the sampler's are taken where it has the trainer's arithmetic, as the current ones of the first update "
        "too, so that its ratio is exactly 1; else both are the trainer's. Measured is one against the other, at the "
        "first minibatch with this machine's float32 rounding; engines that sample in bfloat16 differ by much more.",
    ),
    Detail(
        "dual-clip",
        "Dual clip at c = 3",
        "For negative advantages the PPO loss is not bounded from above. The dual clip stops the gradient where the "
        "ratio exceeds c.",
        "grpo",
        "    token_loss = -torch.min(ratio * advantages, clipped * advantages)  # Eq. 3",
        (
            Peer("verl 0.9, core_algos.compute_policy_loss_vanilla", "on by default, clip_ratio_c = 3", "code"),
            Peer("verl-recipe, dapo", "c = 10", "code"),
            Peer("TRL 1.16", "none by default; delta clamps the ratio", "code"),
            Peer("DeepSeekMath, DAPO", "not mentioned", "paper"),
        ),
        "It can act only on ratios above 3.",
    ),
    Detail(
        "inert",
        "Settings that do nothing on-policy",
        "With one update per rollout, and at the first minibatch of every rollout, the ratio is 1. There a clip never "
        "acts and KL-Cov's penalty has gradient 0: whatever is set, the update is the same.",
        "kl_cov",
        "  # the old values are the current ones, to the bit: the ratio is 1",
        (
            Peer(
                "PRIME-RL/Entropy-Mechanism-of-RL, issue 1", "users asked whether KL-Cov is a no-op on-policy", "issue"
            ),
            Peer(
                "verl 0.9 and TRL 1.16",
                "leave it to the user; clip_ratio and epsilon are accepted all the same",
                "code",
            ),
        ),
        "The two last variants are the control: the same settings at the last minibatches, where the ratio is not 1.",
    ),
    Detail(
        "entropy-metric",
        "Entropy before, during or after the update",
        "One name, several numbers: entropy of the policy that sampled, of the policies along the updates, or after "
        "them; over tokens or over responses; of the whole vocabulary or as -log p of what was sampled. It changes the "
        "curve that is read, not the run.",
        "grpo",
        '            batch["old_logprobs"], batch["entropy"] = scorer.score(batch, rows)  # (B, T) each',
        (
            Peer("verl 0.9", "before the update, with the old log-probabilities, mean over tokens", "code"),
            Peer("TRL 1.16, GRPOTrainer._compute_loss", "during the updates", "code"),
            Peer(
                "McGill-NLP/nano-aha-moment",
                "-log p of the sampled tokens, divided by the length a second time",
                "code",
            ),
        ),
        "Every reading is of the same rollout and the same tokens. Differences are to the first.",
    ),
    Detail(
        "micro-denominator",
        "Denominators of a micro-batch",
        "A mean over tokens must divide by the tokens of the minibatch. Divided by each micro-batch's own count and "
        "averaged, short micro-batches weigh more, and the gradient depends on memory.",
        "grpo",
        "    micro_batch_tokens: int = 16384",
        (
            Peer("verl before 0.9", "each micro-batch by its own count (issues 906, 5625, 5641, 7321)", "issue"),
            Peer('TRL 1.16, loss_type "bnpo"', "by the micro-batch's count, as its documentation warns", "code"),
            Peer("karpathy/nanochat, scripts/chat_rl.py", "mean per pass, then averaged", "code"),
        ),
        "Not measured: `policy_loss` sees the whole minibatch, so that no line of ours could be changed to do it; a "
        "test holds the gradient to be the same for every size of micro-batch.",
    ),
    Detail(
        "nucleus",
        "top-p and top-k while training",
        "A response drawn from a cut distribution and scored under the whole one has a ratio that is not 1 before any "
        "update.",
        "grpo",
        "    temperature: float = 1.0",
        (
            Peer("rlhf-book, code/", "samples with top-p 0.95 and top-k 20, scores without", "code"),
            Peer(
                "huggingface/trl, issue 6789 and pull request 7269",
                "with vLLM, top-p 0.8 keeps 0.895 of the mass and the mean ratio is 0.896",
                "issue",
            ),
        ),
        "Not measured: training scripts here have no such flag, so there is no line to change.",
    ),
)


# --- Reading the numbers ----------------------------------------------------------------------------------------------


def linked(who: str) -> Markup:
    """The name of a peer with links to its papers, repositories and issues."""
    made, at = Markup(""), 0
    for match in LINKED.finditer(who):
        address = f"https://arxiv.org/abs/{match['arxiv']}"
        if not match["arxiv"]:
            address = f"https://github.com/{match['repository'] or LIBRARIES[match['library']]}"
            if match["number"]:
                address += f"/{'issues' if match['kind'] == 'issue' else 'pull'}/{match['number']}"
        made += escape(who[at : match.start()]) + Markup('<a href="{}">{}</a>').format(address, match[0])
        at = match.end()
    return made + escape(who[at:])


def line_number(algorithm: str, text: str) -> int:
    """Of the one line of an algorithm's file that holds this text; raises SystemExit if there is not exactly one."""
    found = [i for i, line in enumerate(source(algorithm).splitlines(), 1) if text in line]
    if len(found) != 1:
        raise SystemExit(f"error: algos/{algorithm}.py has {len(found)} lines with {text!r}, not one")
    return found[0]


def changes(variant: Variant) -> list[tuple[str, str]]:
    """The variant as lines of a diff: ("del" or "ins" or "same", text)."""
    lines = []
    for key, value in variant.flags.items():
        default = variant.base_flags.get(key, default_of(variant.algorithm, key))
        lines += [("del", f"--{key.replace('_', '-')} {default}"), ("ins", f"--{key.replace('_', '-')} {value}")]
    before, after = source(variant.algorithm).splitlines(), variant.text().splitlines()
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag != "equal":
            lines += [("del", line) for line in before[a1:a2]] + [("ins", line) for line in after[b1:b2]]
    return lines


def dedent(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the spaces that all of them begin with."""
    spaces = min(len(text) - len(text.lstrip()) for _, text in lines)
    return [(kind, text[spaces:]) for kind, text in lines]


def default_of(algorithm: str, flag: str) -> str:
    """What the file's Args sets a flag to, as written there."""
    (line,) = [text for text in source(algorithm).splitlines() if text.startswith(f"    {flag}: ")]
    return line.partition(" = ")[2].strip('"')


def batch_summary(rows: list[dict]) -> dict:
    """Mean and range over seeds of one variant's comparisons on one batch."""
    summary = {"identical": all(row["identical"] for row in rows)}
    summary["seeds"] = sum(row["cosine"] is not None for row in rows)  # the others had no gradient to compare
    for key in ("cosine", "norm_ratio", "changed", "norm"):
        values = [row[key] for row in rows if row[key] is not None]
        summary[key] = (float(np.mean(values)), min(values), max(values)) if values else (math.nan,) * 3
    return summary


def batch_verdict(summary: dict) -> str:
    """What changed on one batch, in words."""
    ratio, cosine = summary["norm_ratio"][0], summary["cosine"][0]
    size = f"{ratio:.2g} times as large" if ratio < 10 else f"{ratio:.0f} times as large"
    if summary["identical"]:
        return "exactly nothing"
    if summary["cosine"][1] > SAME_DIRECTION:
        return "next to nothing" if abs(ratio - 1) < SAME_SIZE else f"scale alone: {size}"
    how = "slightly another direction" if cosine >= NEAR else "another direction"
    return how if abs(ratio - 1) < 0.05 else f"{how}, {size}"


def clip_remark(summary: dict) -> str:
    """Where the gradient clip acts on one of the two and not on the other, by their mean norms."""
    original = summary["norm"][0]
    acts = original > MAX_GRAD_NORM, original * summary["norm_ratio"][0] > MAX_GRAD_NORM
    if acts[0] == acts[1]:
        return ""
    return f"The gradient clip at norm {MAX_GRAD_NORM:g} acts on the {'variant' if acts[1] else 'original'} alone."


def control_remark(variant: Variant, summary: dict, batch: dict) -> str:
    """Whether a variant with a control turns the gradient further than that does."""
    control = CONTROLS.get(variant.name)
    if control not in batch:
        return ""
    cosine = batch_summary(list(batch[control].values()))["cosine"][0]
    word = "more" if summary["cosine"][0] < cosine else "no more"
    return f"That is {word} than its control, {control}: cosine {cosine:.3f}."


def effects(training: dict, variant: Variant) -> list[dict]:
    """Variant less original on the seeds that both have finished, metric by metric."""
    original, changed = training.get(variant.original, {}), training.get(variant.name, {})
    seeds = sorted(original.keys() & changed.keys(), key=int)
    rows = []
    for key, label in METRICS.items() if seeds else ():
        a, b = ([runs[seed][key] for seed in seeds] for runs in (original, changed))
        mean, low, high = interval(y - x for x, y in zip(a, b, strict=True))
        row = {"metric": key, "label": label, "original": float(np.mean(a)), "variant": float(np.mean(b))}
        rows.append(row | {"mean": mean, "low": low, "high": high, "seeds": len(seeds), "word": effect_word(low, high)})
    return rows


def effect_word(low: float, high: float) -> str:
    if not math.isfinite(low) or low <= 0 <= high:
        return NO_EFFECT
    return "higher" if low > 0 else "lower"


def training_verdict(rows: list[dict]) -> str:
    """The metrics that changed, or that none did."""
    if not rows:
        return "not run"
    seen = [f"{row['word']} {row['metric']}" for row in rows if row["word"] != NO_EFFECT]
    return ", ".join(seen) if seen else NO_EFFECT


def size_of_effect(summary: dict | None) -> tuple:
    """Sorts: another direction before another scale before nothing before what was not measured."""
    if summary is None:
        return (0, 0.0, 0.0)
    if summary["identical"]:
        return (1, 0.0, 0.0)
    turn = 1 - summary["cosine"][0]
    return (2, turn if summary["cosine"][1] <= SAME_DIRECTION else 0.0, abs(math.log(summary["norm_ratio"][0])))


# --- The page ---------------------------------------------------------------------------------------------------------


def bar(row: dict, widest: float) -> dict:
    """Places of an interval on a line from -widest to widest, 0 to 100."""
    place = lambda value: 50 + 48 * max(-1.0, min(1.0, value / widest))  # noqa: E731
    finite = math.isfinite(row["low"])
    return {
        "low": place(row["low"] if finite else row["mean"]),
        "high": place(row["high"] if finite else row["mean"]),
    } | {"mean": place(row["mean"])}


def measured(variant: Variant, results: dict) -> dict:
    rows = list(results.get("batch", {}).get(variant.name, {}).values())
    summary = batch_summary(rows) if rows else None
    training = effects(results.get("training", {}), variant)
    return {
        "variant": variant,
        "diff": [(kind, highlighted(line)[0]) for kind, line in dedent(changes(variant))],
        "settings": " ".join(f"--{key.replace('_', '-')} {value}" for key, value in variant.base_flags.items()),
        "where": "first minibatch" if variant.minibatches == (0,) else "last four minibatches",
        "batch": summary,
        "batch_verdict": batch_verdict(summary) if summary else "not measured",
        "remarks": [clip_remark(summary), control_remark(variant, summary, results["batch"])] if summary else [],
        "training": training,
        "training_verdict": training_verdict(training),
    }


READINGS = {
    "before": "before the update, mean over tokens (`policy/entropy` here)",
    "during": "during the updates, at each minibatch before its own",
    "after": "after the updates",
    "sampled": "-log p of the sampled tokens (`rollout/entropy` here)",
    "response_means": "before the update, mean of the responses' means",
}


def readings(results: dict) -> list[dict]:
    """The readings of entropy with their distance from the first."""
    rows = list(results.get("entropy_metric", {}).values())
    found = []
    for key, label in READINGS.items() if rows else ():
        mean, low, high = interval(row[key] - row["before"] for row in rows)
        found.append({"label": label, "value": float(np.mean([row[key] for row in rows])), "first": key == "before"})
        found[-1] |= {"mean": mean, "low": low, "high": high, "word": effect_word(low, high), "seeds": len(rows)}
    return found


def direction(low: float, high: float) -> str:
    """What a part does to the change of entropy promised, by its interval over seeds."""
    return {"higher": "raises entropy", "lower": "lowers entropy"}.get(effect_word(low, high), "no direction seen")


def pair_verdict(first: str, second: str) -> str:
    """Whether two parts act against each other on entropy, from the direction of each."""
    if "no direction seen" in (first, second):
        return "not clear"
    return "the same way" if first == second else "against each other"


def together(results: dict) -> list[dict]:
    """The files with several parts: every setting beside the loss without any, and every pair, as the seeds have it."""
    tables = []
    for algorithm, seeds in results.get("together", {}).items():
        parts, runs = [part for part in TOGETHER if part.algorithm == algorithm], list(seeds.values())
        table = {"algorithm": algorithm, "parent": PARENTS[algorithm], "settings": [], "pairs": []}
        for setting in settings(parts):
            name = name_of(setting)
            rows = [run["settings"][name] for run in runs]
            about = {key: average(rows, key) for key in ("cosine", "norm_ratio", "parent_cosine", "entropy")}
            promised = interval(row["promised"] for row in rows)
            table["settings"].append(about | {"name": name, "flags": part_flags(setting), "promised": promised})
            if len(setting) == 2:
                rows = [run["pairs"][name] for run in runs]
                about = {key: average(rows, key) for key in ("cosine", "token_cosine")}
                about |= {key: interval(row[key] for row in rows) for key in ("first", "second")}
                about["on_top"] = interval(row["both"] - row["second"] for row in rows)
                words = [direction(*about[key][1:]) for key in ("first", "second")]
                about |= {"names": [part.name for part in setting], "words": words, "verdict": pair_verdict(*words)}
                table["pairs"].append(about)
        tables.append(table)
    return tables


def average(rows: list[dict], key: str) -> float | None:
    """Over the seeds that have a number."""
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None


def part_flags(setting: tuple[Part, ...]) -> str:
    """What leaves the only part of a setting out, and what it was measured with."""
    if len(setting) != 1:
        return ""
    spelled = lambda flags: " ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in flags.items())  # noqa: E731
    return f"out: {spelled(setting[0].without)}" + f"; in: {spelled(setting[0].flags)}" * bool(setting[0].flags)


def pages(results: Path) -> dict[str, dict]:
    """The page's context; no page where nothing has been measured."""
    path = results / "details.json"
    if not path.exists():
        return {}
    numbers = json.loads(path.read_text())
    sections, rows = [], []
    for detail in DETAILS:
        found = [measured(variant, numbers) for variant in VARIANTS if variant.detail == detail.key]
        line = line_number(detail.algorithm, detail.line)
        sections.append(
            {
                "detail": detail,
                "line": line,
                "href": source_line(detail.algorithm, line),
                "peers": [(linked(peer.who), peer) for peer in detail.peers],
                "variants": found,
                "readings": readings(numbers) if detail.key == "entropy-metric" else [],
            }
        )
        rows += [{"detail": detail} | one for one in found]
    rows.sort(key=lambda row: size_of_effect(row["batch"]), reverse=True)
    trained = [row for row in rows if row["training"]]
    intervals = [one for row in trained for one in row["training"] if math.isfinite(one["low"])]
    widest = {
        key: max((abs(x) for one in intervals if one["metric"] == key for x in (one["low"], one["high"])), default=1.0)
        for key in METRICS
    }
    for row in trained:
        for one in row["training"]:
            one["bar"] = bar(one, widest[one["metric"]] or 1.0)
    context = {
        "sections": sections,
        "rows": rows,
        "evidence": EVIDENCE,
        "widest": widest,
        "no_effect": NO_EFFECT,
        "seeds": sorted({int(seed) for runs in numbers.get("batch", {}).values() for seed in runs}),
        "together": together(numbers),
        "made": {part: numbers.get(f"{part}_made") for part in ("batch", "together", "training")},
        "num_intervals": len(intervals),
        "num_seen": sum(one["word"] != NO_EFFECT for one in intervals),
    }
    return {"details.html": context}
