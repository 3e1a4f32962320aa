"""VAPO: PPO with a critic that is trained first, and a lambda that grows with the length of a response.

Parent: dapo.py
Paper: VAPO (arXiv 2504.05118), Sections 4 and 5; no code was published. With r_it as in GRPO, R_i = 1 for a right
response and -1 for a wrong one, paid at its last token, and V_it the critic's value of what stands before token t:

    lambda_i = max(0, 1 - 1 / (alpha |o_i|))                                    length-adaptive; alpha 0: lambda 1
    d_it     = [t last] R_i + V_i,t+1 - V_it,    V after the last token 0
    A_it     = d_it + lambda_i A_i,t+1
    J        = 1/N sum_it min(r_it A_it, clip(r_it, 1-eps_low, 1+eps_high) A_it) + mu 1/N_right sum_right log pi(o_it)
    critic   : minimise 1/N sum_it (V_it - R_i)^2 / 2                decoupled: its own target is R_i on every token

For the first --value-warmup steps the critic learns alone. Groups of equal rewards are trained on like all others: the
baseline is the critic's, not the group's. The paper reports less entropy than DAPO's at the end.

Not stated in the paper, and chosen here: a critic of the policy's own trunk with a linear head that starts at 0 (in the
paper it starts from a reward model); rewards of -1 and 1, as in DAPO; no whitening of advantages; a squared error
without clipping. The parent's charge for length and its dynamic sampling are left out, its clip-higher and token mean
stay; V_it is measured once a rollout, by the critic before its update. The critic's rate is constant, and its error is
not weighed by importance where an engine of its own has sampled. The policy's rate rises in the first --warmup-steps,
also while it stands still: at the defaults, 5 of them and 10 of --value-warmup, the policy has no warm-up.

Differs from the paper:
- Its alpha of 0.05 makes lambda 0 up to 20 tokens (0.8 at 100, 0.95 at 400), so that the reward would reach the first
  token of a short response only through V. The default of 1.5 gives 0.97 at 24 tokens.
- Its 50 steps of warm-up and its rates of 1e-6 and 2e-6 are for a model of 32 billion parameters.

Inert on the embedded task: the critic. Its values explain no variance of returns (0.001, the mean of three runs
of 400 steps, benchmarks/results/collapse/CLAIMS.md), so that one baseline for all problems and lambda are what acts
there. Whether a critic that learns would help is not shown.

Costs beside the parent: the critic's weights, gradients and moments (16 bytes a parameter once more), and for each pass
of the policy one of the critic.

    python algos/vapo.py
    python algos/vapo.py --model Qwen/Qwen2.5-32B --task problems.jsonl --num-prompts 512 --num-generations 16 \
        --num-minibatches 16 --max-response-length 20480 --value-warmup 50 --critic-learning-rate 2e-6 \
        --gae-alpha 0.05 --learning-rate 1e-6
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
    critic_learning_rate: float = 5e-4
    """of the critic's AdamW (paper: 2e-6)"""
    value_warmup: int = 10
    """first steps in which the critic learns alone (paper: 50)"""
    gae_alpha: float = 1.5
    """how fast lambda nears 1 as responses get longer (paper: 0.05); 0: lambda is 1"""
    nll_coef: float = 0.1
    """weight of the log-likelihood of right responses (mu); 0: none"""
    # [/algo]


# --- 2. Credit: rewards -> advantages, once a step --------------------------------------------------------------------


# [algo: credit]
def assign_credit(batch: dict, args: Args, state: dict) -> dict[str, float]:
    """Write `advantages` (B, T) by length-adaptive GAE over `values` (B, T), `returns` (B,) and `loss_mask`."""
    mask, values = batch["mask"], batch["values"] * batch["mask"]
    lengths, returns = mask.sum(1, keepdim=True).to(values.dtype), 2 * batch["rewards"][:, None] - 1  # (B, 1)
    decay = (1 - 1 / (args.gae_alpha * lengths)).clamp(min=0) if args.gae_alpha > 0 else torch.ones_like(lengths)
    last = torch.arange(mask.shape[1]) == lengths - 1
    advantages = (last * returns + ~last * values.roll(-1, 1) - values) * mask  # d; then the sum over what follows
    for t in reversed(range(mask.shape[1] - 1)):
        advantages[:, t] += decay[:, 0] * advantages[:, t + 1]
    batch |= {"loss_mask": mask, "returns": returns[:, 0], "advantages": advantages}
    errors, targets = (returns - values)[mask], returns.expand_as(mask)[mask]
    explained = (1 - errors.var() / targets.var()).item() if targets.var() > 0 else torch.nan
    return {"algo/explained_variance": explained, "algo/lambda_mean": decay.mean().item()}


# [/algo]


# --- 3. Loss: log-probabilities and entropies of one minibatch -> scalar ----------------------------------------------


# [algo: loss]
def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args: Args) -> tuple[Tensor, dict[str, float]]:
    """-J of the head docstring over a minibatch of whole groups; logprobs and entropy (B, T) carry the gradient."""
    advantages, mask = mb["advantages"], mb["loss_mask"]
    ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - args.clip_ratio_low, 1 + args.clip_ratio_high)
    token_loss = -torch.min(ratio * advantages, clipped * advantages)
    loss = (token_loss * mask).sum() / mask.sum().clamp(min=1)  # all tokens weigh the same
    right = mask & (mb["returns"] > 0)[:, None]
    nll = -(logprobs * right).sum() / right.sum().clamp(min=1)
    loss = loss + args.nll_coef * nll
    bound = mask & (clipped * advantages < ratio * advantages)  # where the clip takes the gradient away
    return loss, {
        "policy/clip_high_ratio": ((bound & (advantages > 0)).sum() / mask.sum()).item(),
        "policy/clip_low_ratio": ((bound & (advantages < 0)).sum() / mask.sum()).item(),
        "algo/nll": nll.item() if right.any() else torch.nan,
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
        from common.critic import ValueModel

        stream = ProblemStream(train_problems, args.seed)
        critic = policy.twin(ValueModel, learning_rate=args.critic_learning_rate)
        extra = {"critic": critic}  # further models that a checkpoint holds
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
            batch["old_logprobs"], batch["entropy"] = sampler.score(batch, rows)  # (B, T) each
            (batch["values"],) = critic.score(batch)  # (B, T)
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
                (values,) = critic.score(mb, mb["mask"].any(1))
                error, num_tokens = (values - mb["returns"][:, None]) * mb["mask"], mb["mask"].sum()
                critic.backward(mb, error / num_tokens)
                critic.step()
                stats["algo/value_loss"] = (error.square().sum() / (2 * num_tokens)).item()
                if step > args.value_warmup:
                    policy.backward(mb, grads[0] * mb["importance"], grads[1])
                    grad_norm = policy.step(loss)  # leaves the parameters alone if loss or gradient is not finite
                else:
                    grads, grad_norm = (error, torch.zeros_like(error)), 0.0  # what the critic has learned from
                    # Of entropy that promises nothing: no gradient has gone to the policy.
                    stats |= dict.fromkeys(["policy/polarity", "policy/raising_ratio"] * args.polarity, torch.nan)
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
