"""STEER: damp the tokens whose update would move the entropy most.

Parent: dapo.py
Paper: Stabilizing Token-level Entropy-change via Reweighting (arXiv 2510.10150); the weights are those of the authors'
code (zz-haooo/STEER), the paper's own form of Omega was not at hand. With A_j and r_j as in GRPO, p_j and l_j the
probability and log-probability of token j under the current policy, o marking the policy that sampled:

    Omega_j = (A_j / p_j^o) p_j (1 - p_j) (l_j + H_j^o)                       --omega released: as the code computes it
    Omega_j = r_j A_j [p_j (l_j + H_j^o) - S_j],  S_j = sum_v p_v^2 (log p_v + H)      --omega exact: first order, below
    w_j     = clip(exp(-k |Omega_j|), w_min, 1),    k = -ln(w_min) / max(max_j |Omega_j|, 0.02)
    J       = 1/N sum_j w_j min(r_j A_j, clip(r_j, 1-eps_low, 1+eps_high) A_j)

w_min is 1 - damping: the code's script has 0.8, the paper's fourth version 0.7. Weights carry no gradient and stay out
of the denominator. The parent's charge for length is left out; every group is kept (--max-resample 0), as in the code.

Which Omega: if a step raised the logit of token j alone by A_j, entropy would change by -A_j p_j (l_j + H_j); a policy
gradient moves all logits of the state, by A_j (1[v = j] - p_v), and the change is -A_j [p_j (l_j + H_j) - S_j]. The
released factor p (1 - p) / p^o is neither of the two: it overrates rare tokens. S_j is that of the policy that sampled
(`state_mean`), and costs two more sums over the vocabulary in the scoring pass.

Differs from the authors' code:
- The largest |Omega| is the whole minibatch's; there it is that of a micro-batch of eight responses, whose size thereby
  becomes part of the method. One token sets k for all, and may leave little to damp: on the embedded task the mean
  weight (algo/weight_mean) is 0.996 at the start and 0.999 after 100 steps, at the default damping.
- No dual clip of negative advantages (there c = 10). An Omega that is not finite counts as 0, as in the code.
- Its linear variant, weights from 1.2 down to 0.8, is not here.

--shuffle-weights is the control: the same weights on other tokens of the minibatch.

    python algos/steer.py
    python algos/steer.py --model Qwen/Qwen2.5-7B --task problems.jsonl --num-prompts 512 --num-minibatches 16 \
        --max-response-length 3072 --damping 0.3 --learning-rate 1e-6
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
    """eps below 1 (TRL: epsilon)"""
    clip_ratio_high: float = 0.28
    """eps above 1 (TRL: epsilon_high)"""
    max_resample: int = 0
    """further rounds of sampling a step to replace groups without spread; 0: keep every group"""
    damping: arguments.between(0, 1) = 0.2
    """most that a token's weight is lowered by (1 - w_min; paper, version 4: 0.3); 0: none"""
    omega: Literal["released", "exact"] = "released"
    """what a token does to entropy: as the authors' code has it, or to first order"""
    shuffle_weights: bool = False
    """a control: the weights permuted over the tokens of a minibatch"""
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
def state_mean(logprobs: Tensor, targets: Tensor) -> Tensor:
    """S = sum_v p_v^2 (log p_v + H) of each state: log-probabilities (C, V) -> (C,)."""
    p = logprobs.exp()
    entropy = -(p * logprobs).sum(1, keepdim=True)
    return (p * p * (logprobs + entropy)).sum(1)


def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args: Args) -> tuple[Tensor, dict[str, float]]:
    """-J of the head docstring over a minibatch of whole groups; logprobs and entropy (B, T) carry the gradient."""
    advantages, mask = mb["advantages"], mb["loss_mask"]
    ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - args.clip_ratio_low, 1 + args.clip_ratio_high)
    token_loss = -torch.min(ratio * advantages, clipped * advantages)
    values = logprobs.detach()
    p, surprise = values.exp(), values + mb["entropy"]
    if args.omega == "exact":
        omega = ratio.detach() * advantages * (p * surprise - mb["state_mean"])
    else:
        omega = advantages / mb["old_logprobs"].exp() * p * (1 - p) * surprise
    omega = omega.nan_to_num(0.0, 0.0, 0.0).abs() * mask
    weights = (1 - args.damping) ** (omega / omega.max().clamp(min=0.02))  # exp(-k |Omega|)
    if args.shuffle_weights:
        weights[mask] = weights[mask][torch.randperm(mask.sum())]
    loss = (weights * token_loss * mask).sum() / mask.sum().clamp(min=1)  # weights stay out of the denominator
    least, most = (weights[mask].min().item(), omega.max().item()) if mask.any() else (torch.nan, torch.nan)
    bound = mask & (clipped * advantages < ratio * advantages)  # where the clip takes the gradient away
    return loss, {
        "policy/clip_high_ratio": ((bound & (advantages > 0)).sum() / mask.sum()).item(),
        "policy/clip_low_ratio": ((bound & (advantages < 0)).sum() / mask.sum()).item(),
        "algo/weight_mean": weights[mask].mean().item(),
        "algo/weight_min": least,
        "algo/omega_max": most,
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
        extra = {}  # further models that a checkpoint holds
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
        samples, metrics = rollout.sample_mixed_groups(
            partial(draw, timer=timer),
            stream,
            args.num_prompts,
            args.num_generations,
            args.max_resample,
            seed=partial(basics.random_seed, args.seed, step),
        )
        # [/algo]
        batch = make_batch(samples)
        run.show_first_step(samples)

        # --- 6. Score and assign credit -------------------------------------------------------------------------------
        with timer("score"):
            sampler.rest()
            batch |= entropy_slopes(policy, batch) if args.polarity else {}
            # [algo: score]
            rows = batch["likely_trained"] if args.num_minibatches == 1 else None
            also = (state_mean,) if args.omega == "exact" else ()
            batch["old_logprobs"], batch["entropy"], *exact = policy.score(batch, rows, also)  # (B, T) each
            batch |= {"state_mean": exact[0]} if exact else {}
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
