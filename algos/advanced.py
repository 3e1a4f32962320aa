"""Advanced: KL-Cov, a controller that holds entropy at a target, and problems from easy to hard.

Parent: kl_cov.py
Paper: none; a survey's second recommendation, of KL-Cov (arXiv 2505.22617), EntroPIC (arXiv 2511.15248) and SENT's
curriculum (arXiv 2512.04359). S is kl_cov.py's set, F the mean of r_j |A_j| over likely tokens, I the sum of past e:

    e     = mean(H) - target                                               of a step, under the policy that sampled
    alpha = clip(kp e + ki I, -1, 1)                                                                as in entropic.py
    J     = 1/N sum_j (r_j A_j - beta 1[j in S] |log r_j|) + alpha F

Problems come in the order of sent.py. Above its target the controller adds to likely tokens, while the penalty holds
its tokens; below it both slow the fall. On one batch, mean of seeds 1 to 5 (benchmarks.details, "together"), the
penalty raises the promised change of entropy by +2.7e-3 nats a unit of learning rate, with the controller or without:
that, 0.1 off, moves it by 0.03e-3 at most. They hardly meet (cosine 0.00). The curriculum's first problems make another
gradient (cosine 0.03), of no sure direction for entropy.

Differs from its sources: the main term has KL-Cov's penalty where EntroPIC's has PPO's clip; alpha and I are the
step's, with anti-windup, and in EntroPIC's code those of each micro-batch on each GPU. --kp 0 --ki 0
--curriculum-samples 0 is kl_cov.py.

    python algos/advanced.py
    python algos/advanced.py --model Qwen/Qwen2.5-7B --task problems.jsonl --num-prompts 256 --num-minibatches 8 \
        --max-response-length 8192 --kl-cov-ratio 2e-3 --learning-rate 1e-6
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
    max_resample: int = 9
    """further rounds of sampling a step to replace groups without spread; 0: keep every group"""
    kl_cov_ratio: arguments.between(0, 1) = 2e-2
    """share of a minibatch's tokens that is held back, a fraction (paper: 2e-3 at 7B, 2e-4 at 32B); 0: none"""
    kl_cov_coef: float = 1.0
    """weight of the penalty (verl: ppo_kl_coef); 0: none"""
    kl_cov_anneal: bool = False
    """let the weight fall to 0 over num_steps in a straight line (arXiv 2604.09676)"""
    random_selection: bool = False
    """hold back as many tokens drawn at random instead, a control"""
    target_entropy: float = 0.25
    """nats per token at the rollout temperature"""
    kp: float = 1.0
    """the controller's answer to the error; with ki 0 too: no control"""
    ki: float = 0.01
    """its answer to the sum of past errors"""
    high_prob_threshold: float = 0.95
    """tokens likelier than this are its lever"""
    curriculum_samples: int = 4
    """responses to each problem, before the first step, that the order is made of; 0: no curriculum"""
    curriculum_by: Literal["entropy", "accuracy"] = "entropy"
    """what comes first: problems whose answers agree, or those that are solved more often"""
    stages: int = 2
    """parts of the curriculum between which the optimiser is cleared; 1: never"""

    def __post_init__(self) -> None:
        if self.update_epochs * self.num_minibatches == 1:
            basics.warn_once("KL-Cov does nothing with one update per rollout: its penalty is 0; see --num-minibatches")

    # [/algo]


# --- 2. Credit: rewards -> advantages, once a step --------------------------------------------------------------------


# [algo: credit]
def assign_credit(batch: dict, args: Args, state: dict) -> dict[str, float]:
    """Write `advantages` and `loss_mask` (B, T) as GRPO does, `alpha` of the controller and the penalty's weight."""
    rewards = batch["rewards"].view(-1, args.num_generations)  # (P, G)
    centred = rewards - rewards.mean(1, keepdim=True)
    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)
    # Said outright: the mean of equal numbers can round, and 1e-6 would blow the rest up.
    scaled[rewards.amax(1) == rewards.amin(1)] = 0.0
    batch["loss_mask"] = batch["mask"]
    batch["advantages"] = scaled.view(-1, 1) * batch["mask"]
    done = state.get("steps", 0)
    state["steps"] = done + 1
    batch["kl_cov_coef"] = args.kl_cov_coef * (max(0.0, 1 - done / args.num_steps) if args.kl_cov_anneal else 1.0)
    error = batch["entropy"][batch["mask"]].mean().item() - args.target_entropy
    wanted = args.kp * error + args.ki * state.get("integral", 0.0)  # of past errors, without this one
    batch["alpha"] = alpha = min(1.0, max(-1.0, wanted))
    if alpha == wanted or error * wanted < 0:  # anti-windup: not further into the bound
        state["integral"] = state.get("integral", 0.0) + error
    return {"algo/alpha": alpha}


# [/algo]


# --- 3. Loss: log-probabilities and entropies of one minibatch -> scalar ----------------------------------------------


# [algo: loss]
def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args: Args) -> tuple[Tensor, dict[str, float]]:
    """-J of the head docstring over a minibatch of whole groups; logprobs and entropy (B, T) carry the gradient."""
    advantages, mask = mb["advantages"], mb["loss_mask"]
    log_ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20)
    # Statistics of the whole minibatch, from the current policy; no gradient passes through them.
    values, num_tokens = logprobs.detach(), mask.sum().item()
    cov = (values - values[mask].mean()) * (advantages - advantages[mask].mean())  # Eq. 10
    quota = int(args.kl_cov_ratio * num_tokens)
    if quota == 0 and args.kl_cov_ratio > 0:
        basics.warn_once("--kl-cov-ratio is less than one token of a minibatch: nothing is held back; raise it")
    top = cov.masked_fill(~mask, -torch.inf).view(-1).argsort(descending=True, stable=True)[:quota]  # Eq. 13
    if args.random_selection:
        top = mask.flatten().nonzero()[:, 0][torch.randperm(num_tokens)[:quota]]
    selected = torch.zeros_like(mask).flatten().index_fill(0, top, True).view(mask.shape)
    token_loss = -log_ratio.exp() * advantages + mb["kl_cov_coef"] * log_ratio.abs() * selected  # Eq. 14
    loss = (token_loss * mask).sum() / num_tokens
    likely = mask & (values.exp() > args.high_prob_threshold)
    loss = loss - mb["alpha"] * (log_ratio.exp() * advantages.abs() * likely).sum() / likely.sum().clamp(min=1)
    return loss, {
        "algo/selected_ratio": quota / num_tokens,
        "algo/selected_negative_ratio": (advantages[selected] < 0).double().mean().item(),
        "algo/high_prob_ratio": likely.sum().item() / num_tokens,
        "algo/authority": advantages.abs()[likely].mean().item(),
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
        if args.curriculum_samples > 0 and run.checkpoint is None:
            first = stream.take(args.num_steps * args.num_prompts)
            run.state |= rollout.easy_first(first, sampler, verifier, args, args.curriculum_samples, args.curriculum_by)
        stream.reorder(run.state.get("order", []))
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
            batch["old_logprobs"], batch["entropy"] = sampler.score(batch, rows)  # (B, T) each
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
        if args.curriculum_samples > 0 and step in [args.num_steps * k // args.stages for k in range(1, args.stages)]:
            policy.reset_optimizer()  # a stage has ended
        # [/algo]
        run.log(step, metrics, samples, batch)
        if run.saves(step):
            run.save(step)
    run.finish()
