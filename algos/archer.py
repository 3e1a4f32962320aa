"""Archer: tokens where the policy is sure and tokens where it is not have a clip and a KL of their own.

Parent: grpo.py
Paper: Stabilizing Knowledge, Promoting Reasoning: Dual-Token Constraints for RLVR (arXiv 2507.15778); formulas and
constants are those of the authors' code (wizard-III/ArcherCodeR). Inside a response, with H_it the entropy of the
current policy and A_i, r_it and k3_it as in GRPO:

    S    = tokens with H_it > q_i                                         q: the 0.8-quantile of the response's H_it
    e_it = eps_hard if in S, else eps
    J    = E (1/G) sum_i (1/|o_i|) sum_t min(r_it A_i, clip(r_it, 1 - e_it, 1 + e_it) A_i) - beta K - beta_hard K_hard

K is the mean of k3 over the tokens of a response that are not in S, K_hard that over those in S, each then
averaged over all responses. Unsure tokens may move further (0.5 on both sides) and are not held to the initial policy;
sure ones, which carry what the model knows, are clipped at 0.2 and leashed.

The quantile is linear, of the response and of the current entropy, so that a token may change its class between
updates. A response of one token has no hard one. Without the leash the paper's runs collapse. Its beta of 1e-3 does
next to nothing in a hundred steps of the embedded task; the clips act on stale rollouts alone: --num-minibatches 8
--update-epochs 2.

--hard-clip-ratio 0.2 --beta 0 is grpo.py. --shuffle-entropy, the entropies permuted inside each response, is the
control.

Differs from the paper and the authors' code: nothing known in the loss but the dual clip (there c = 10), which is not
here. Unset bounds fall back on each other there in two ways; here all have values.

    python algos/archer.py
    python algos/archer.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --task problems.jsonl --num-prompts 64 \
        --num-generations 16 --num-minibatches 2 --update-epochs 3 --max-response-length 32768 --beta 0.001 \
        --learning-rate 1e-6
"""

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve a second process
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, find common/

import torch
from torch import Tensor

from common import arguments, basics, rollout
from common.batch import importance_weights, make_batch, minibatches
from common.evaluate import evaluate
from common.loading import policy_from_args
from common.metrics import batch_metrics, entropy_change, entropy_slopes, mean_of_updates, update_metrics
from common.run import Run
from common.tasks import ProblemStream, problems_from_args
from common.verifier import Verifier

# Shapes: P prompts a step, G responses each, B = P*G rows (row p*G + g), T response tokens. [b, t] of every (B, T)
# tensor speaks of response token t of row b. The batch, one dict:
#   prompt_ids (B, Tp) prompt_mask (B, Tp) response_ids (B, T)   tokens, padded left / right; the mask is True on tokens
#   mask (B, T) bool          response tokens, the end token included
#   rewards (B,), truncated (B,) bool    the verifier's 0/1; whether a response was cut off at max_response_length
#   likely_trained (B,) bool  a guess, for score to keep a graph: responses to the prompt have different rewards
#   old_logprobs (B, T)       under the policy that sampled, at the rollout temperature, in the trainer's arithmetic
#   entropy (B, T)            nats, whole vocabulary, same policy and temperature
#   rollout_logprobs (B, T)   old_logprobs as the sampler reported them
#   ref_logprobs (B, T)       under the reference, only if beta > 0
#   importance (B, T)         weight of each token's gradient, 1 unless an engine of its own sampled
#   problems, responses, answers      the Problem of each row; decoded text; the extracted answer or None
#   advantages (B, T), loss_mask (B, T)                          written by assign_credit, which may add numbers too
# `state` is the algorithm's own memory: numbers, strings and lists of them, saved with every checkpoint.


# --- 1. Arguments -----------------------------------------------------------------------------------------------------


@dataclass
class Args:
    # Run
    seed: int = 1
    num_steps: int = 100
    """training steps: rollouts, each followed by update_epochs * num_minibatches optimiser steps"""
    output_dir: str | None = None
    """run directory; by default runs/<algorithm>-<task>-s<seed>-<time>"""
    resume: str | None = None
    """a run directory to go on from, with its own flags as defaults"""
    save_every: int = 50
    """steps between checkpoints; 0: only at the end and when interrupted"""
    device: str = "auto"
    """auto is cuda where there is one, else cpu"""
    track: bool = False
    """also log to Weights & Biases, offline without an account"""
    wandb_project_name: str = "entropy"
    dry_run: bool = False
    """check flags and paths, print the plan, load and write nothing"""

    # Model and task
    model: str | None = None
    """directory, GGUF file or hub id of a causal language model; by default the embedded one"""
    task: str = "countdown"
    """procedural (countdown:numbers=4), named set (gsm8k), owner/name:config:split, rg:<set of reasoning-gym>, file"""
    prompt_column: str | None = None
    answer_column: str | None = None
    trace_column: str | None = None
    """of worked solutions, for methods that learn from them"""
    prompt_template: Literal["raw", "chat", "qwen_boxed", "dapo", "r1"] = "raw"
    """how a question is put: as it is, as a chat message, or in the words of a paper"""
    enable_thinking: bool | None = None
    """a chat template's thinking switch (Qwen3); by default the template's own"""
    max_prompt_length: int = 0
    """in tokens; problems with longer prompts are left out and counted; 0: no limit"""
    reward_mode: Literal["verifier", "random"] = "verifier"
    """random: a coin toss instead of the reward, as a control"""

    # Sampling
    backend: str = "auto"
    """hf samples with the trained model itself, vllm with an engine beside it; auto is vllm on cuda if installed"""
    vllm_tensor_parallel_size: int = 1
    """processes per engine, under torchrun"""
    vllm_gpu_memory_utilization: float = 0.35
    """share of the GPU's memory that vLLM takes while it samples"""
    importance_cap: float = 2.0
    """of the weights on tokens that vLLM sampled, whose probabilities are not quite the trainer's; 0: no weights"""
    num_prompts: int = 48
    """prompts per step (P)"""
    num_generations: int = 8
    """responses per prompt (G)"""
    max_response_length: int = 24
    temperature: float = 1.0
    """of sampling, and of every log-probability and entropy here"""

    # Optimisation
    learning_rate: float = 1e-4
    """of AdamW; 1e-6 is usual for models of a billion parameters and more"""
    warmup_steps: int = 5
    """training steps over which the learning rate rises linearly; constant afterwards"""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    update_epochs: int = 1
    """passes over each batch"""
    num_minibatches: int = 4
    """optimiser steps per pass; 1 is strictly on-policy"""
    minibatch_split: Literal["groups", "rows", "balanced"] = "groups"
    """whole groups at random; as controls, each group's rows spread over minibatches, or groups dealt by success"""
    micro_batch_tokens: int = 16384
    """most tokens in one forward pass: memory only, never the result"""
    packing: bool = False
    """rows end to end in a pass instead of padded; meant for CUDA, where lengths differ much"""
    share_prompts: bool = True
    """read a prompt once for all of its responses; on CUDA with packing alone"""
    gradient_checkpointing: bool = False
    """run each layer again in the backward pass: less memory, a third more time"""
    offload_optimizer: bool = False
    """keep the optimiser's state on the CPU but for its steps"""
    compile: bool = False
    """torch.compile of layers and vocabulary; meant for CUDA, and takes a minute at the start"""

    # Evaluation
    eval_task: str | None = None
    """by default problems held out from task"""
    eval_every: int = 50
    """steps between evaluations, which also come before the first step and at the end; 0: none"""
    eval_problems: int = 64
    eval_samples: int = 32
    """responses per evaluation problem (n of avg@n, largest k of pass@k)"""
    polarity: bool = False
    """log the change of entropy that updates promise, token by token, and the one measured: two more passes a step"""

    # [algo: args]
    clip_ratio_low: float = 0.2
    """eps below 1, on easy tokens (TRL: epsilon)"""
    clip_ratio_high: float = 0.2
    """eps above 1, on easy tokens (TRL: epsilon_high)"""
    beta: float = 0.01
    """weight of the KL to the initial policy on easy tokens (paper: 1e-3); 0: no reference model"""
    entropy_coef: float = 0.0
    """weight of an entropy bonus (verl: entropy_coeff); 0: none"""
    hard_quantile: arguments.between(0, 1) = 0.8
    """quantile of a response's entropies above which its tokens are hard (rho)"""
    hard_clip_ratio: float = 0.5
    """eps on both sides of 1, on hard tokens"""
    hard_beta: float = 0.0
    """weight of the KL to the initial policy on hard tokens; 0: none"""
    shuffle_entropy: bool = False
    """a control: the entropies permuted inside each response"""

    def __post_init__(self) -> None:
        if self.hard_beta > 0 and self.beta == 0:
            raise arguments.InputError("--hard-beta needs a reference model; set --beta too")
        if self.update_epochs * self.num_minibatches == 1:
            basics.warn_once("Archer's clips do nothing with one update per rollout, where every ratio is 1")

    # [/algo]


# --- 2. Credit: rewards -> advantages, once a step --------------------------------------------------------------------


# [algo: credit]
def assign_credit(batch: dict, args: Args, state: dict) -> dict[str, float]:
    """Write `advantages` and `loss_mask` (B, T): each reward standardised inside its group, on every response token."""
    rewards = batch["rewards"].view(-1, args.num_generations)  # (P, G)
    centred = rewards - rewards.mean(1, keepdim=True)
    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)
    # Said outright: the mean of equal numbers can round, and 1e-6 would blow the rest up.
    scaled[rewards.amax(1) == rewards.amin(1)] = 0.0
    batch["loss_mask"] = batch["mask"]
    batch["advantages"] = scaled.view(-1, 1) * batch["mask"]
    return {}


# [/algo]


# --- 3. Loss: log-probabilities and entropies of one minibatch -> scalar ----------------------------------------------


# [algo: loss]
def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args: Args) -> tuple[Tensor, dict[str, float]]:
    """-J of the head docstring over a minibatch of whole groups; logprobs and entropy (B, T) carry the gradient."""
    advantages, mask = mb["advantages"], mb["loss_mask"]
    chosen = entropy.detach().masked_fill(~mask, torch.nan)
    if args.shuffle_entropy:
        order = torch.rand_like(chosen).masked_fill(~mask, 2.0).argsort(1)  # tokens first, in any order
        chosen = chosen.gather(1, order).where(mask, torch.nan)
    hard = mask & (chosen > chosen.nanquantile(args.hard_quantile, 1, keepdim=True))  # S

    def mean(values: Tensor, tokens: Tensor) -> Tensor:
        return ((values * tokens).sum(1) / tokens.sum(1).clamp(min=1)).mean()  # of a response, then of all

    ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20).exp()
    easy_clip = ratio.clamp(1 - args.clip_ratio_low, 1 + args.clip_ratio_high)
    clipped = torch.where(hard, ratio.clamp(1 - args.hard_clip_ratio, 1 + args.hard_clip_ratio), easy_clip)
    token_loss = -torch.min(ratio * advantages, clipped * advantages) - args.entropy_coef * entropy
    loss, easy_kl, hard_kl = mean(token_loss, mask), torch.nan, torch.nan
    if args.beta > 0:
        log_ref_ratio = (mb["ref_logprobs"] - logprobs).clamp(-20, 20)
        k3 = log_ref_ratio.exp() - log_ref_ratio - 1
        easy_kl, hard_kl = mean(k3, mask & ~hard), mean(k3, hard)
        loss = loss + args.beta * easy_kl + args.hard_beta * hard_kl
        easy_kl, hard_kl = easy_kl.item(), hard_kl.item()
    bound = mask & (clipped * advantages < ratio * advantages)  # where the clip takes the gradient away
    return loss, {
        "policy/clip_high_ratio": ((bound & (advantages > 0)).sum() / mask.sum()).item(),
        "policy/clip_low_ratio": ((bound & (advantages < 0)).sum() / mask.sum()).item(),
        "algo/hard_ratio": (hard.sum() / mask.sum()).item(),
        "algo/easy_kl": easy_kl,
        "algo/hard_kl": hard_kl,
        "algo/hard_clip_ratio": ((bound & hard).sum() / hard.sum()).item(),
    }


# [/algo]


if __name__ == "__main__":
    # --- 4. Setup -----------------------------------------------------------------------------------------------------
    with arguments.exit_on_bad_input():
        args = arguments.parse_args(Args)
        run = Run(Path(__file__).stem, args)
        if args.dry_run:
            run.show_plan()
        train_problems, eval_problems = problems_from_args(args)
        run.check_data(train_problems, eval_problems)
        policy = policy_from_args(args, run.checkpoint)
        limits = args.max_prompt_length, args.max_response_length
        train_problems, longest = rollout.fit_prompts(policy, train_problems, *limits)
        eval_problems, eval_longest = rollout.fit_prompts(policy, eval_problems, *limits)
        sampler = rollout.sampler_from_args(args, policy, max(longest, eval_longest))
        verifier = Verifier(args.reward_mode, args.seed)
        # [algo: setup]
        stream = ProblemStream(train_problems, args.seed)
        reference = policy.frozen_copy() if args.beta > 0 else None
        extra = {"reference": reference} if reference else {}  # further models that a checkpoint holds
        # [/algo]
        run.start(policy, stream, extra)
    sizes = {"n": args.num_generations, "temperature": args.temperature, "max_new_tokens": args.max_response_length}
    draw = partial(rollout.sample_groups, sampler=sampler, verifier=verifier, **sizes)
    measure = partial(evaluate, sampler, verifier, eval_problems, args, run.log_evaluation)
    if run.evaluates(0):
        run.log(0, measure(0))

    for step in run.steps():
        timer = basics.Timer()
        torch.manual_seed(basics.random_seed(args.seed, step))  # of both alone, so that a resumed run repeats a step
        policy.learning_rate = args.learning_rate * min(1.0, step / max(1, args.warmup_steps))

        # --- 5. Sample ------------------------------------------------------------------------------------------------
        # [algo: sample]
        samples = draw(stream.take(args.num_prompts), timer=timer, seed=basics.random_seed(args.seed, step))
        metrics = rollout.metrics(samples, args.num_generations)
        # [/algo]
        batch = make_batch(samples)
        run.show_first_step(samples)

        # --- 6. Score and assign credit -------------------------------------------------------------------------------
        with timer("score"):
            sampler.rest()
            batch |= entropy_slopes(policy, batch) if args.polarity else {}
            # [algo: score]
            rows = batch["likely_trained"] if args.num_minibatches == 1 else None
            scorer = policy if reference else sampler  # one rounding for both, so that equal models have a KL of 0
            batch["old_logprobs"], batch["entropy"] = scorer.score(batch, rows)  # (B, T) each
            if reference:
                batch["ref_logprobs"], _ = reference.score(batch)
            # [/algo]
        batch["importance"] = importance_weights(batch, 0 if sampler.same_arithmetic else args.importance_cap)
        metrics |= batch_metrics(batch)
        sampler.trust(metrics["rollout/sampler_gap_mean"])  # else it has not got the trainer's weights
        metrics |= assign_credit(batch, args, run.state)

        # --- 7. Update: differentiate the loss first, the model second ------------------------------------------------
        updates, sampled_by = [], policy.updates
        with timer("update"):
            for mb in minibatches(batch, args):
                # [algo: update]
                if policy.updates == sampled_by:  # the old values are the current ones, to the bit: the ratio is 1
                    logprobs, entropy = mb["old_logprobs"].clone(), mb["entropy"].clone()  # (M, T) each
                else:
                    logprobs, entropy = policy.score(mb, (mb["advantages"] != 0).any(1))
                inputs = logprobs.requires_grad_(), entropy.requires_grad_()
                loss, stats = policy_loss(*inputs, mb, args)
                grads = torch.autograd.grad(loss, inputs, materialize_grads=True)
                policy.backward(mb, grads[0] * mb["importance"], grads[1])
                grad_norm = policy.step(loss)  # leaves the parameters alone if loss or gradient is not finite
                # [/algo]
                run.count_update(grad_norm)
                updates.append(update_metrics(mb, logprobs, grads, loss, grad_norm) | stats)
            metrics |= entropy_change(policy, batch) if args.polarity else {}
            sampler.sync()

        # --- 8. Log, evaluate, save -----------------------------------------------------------------------------------
        metrics |= mean_of_updates(updates) | {"policy/learning_rate": policy.learning_rate} | timer.pop()
        metrics |= measure(step) if run.evaluates(step) else {}
        # [algo: end]
        # [/algo]
        run.log(step, metrics, samples, batch)
        if run.saves(step):
            run.save(step)
    run.finish()
