"""Forking tokens: learn from the fifth of the tokens where the policy was least sure, and from no others.

Parent: dapo.py
Paper: Beyond the 80/20 Rule (Wang et al., arXiv 2506.01939 v2), Section 5. All as in DAPO, and H_it the entropy of the
current policy where it chose o_it:

    S = the ceil(rho N) tokens of largest H_it among the N response tokens of a minibatch
    J = E 1/|S| sum_(i,t) in S min(r_it A_it, clip(r_it, 1-eps_low, 1+eps_high) A_it)

The selection is a constant: no gradient passes through the entropy. It is made anew in every update. Tokens outside S
cost no vocabulary projection in the backward pass, and responses without a token in S no backward pass at all.

--normalize-by is the one thing that paper and peers disagree on: the second version of the paper and the released code
divide by |S| ("selected"), the first version and TRL 1.16 by all N tokens ("all"), which makes the loss 1/rho smaller.
Adam does not see that factor, gradient clipping does.

Differs from the authors' code:
- S is taken over the whole minibatch; there, over one GPU's micro-batch, so that few long responses may share a quota.
- No dual clip (c = 10 there), as in the parent. Dynamic sampling and charge for length are the parent's, as there.
- The first public release never applied its mask (their issue #14, mended on 2025-11-29): what it made is DAPO's.
TRL takes tokens at or above a quantile of the entropy, so that ties let more than rho through and the count may be one
off; here it is exact.

Through the collapse (embedded task, benchmarks/results/collapse/CLAIMS.md) pass@1 is not told apart from DAPO's. With
one update a rollout (three runs) pass@32 and coverage end 0.11 and 0.12 above DAPO's, with eight (five runs) they are
not told apart. With --top-entropy-ratio 0.5, which tuning kept, nothing is, in either.

    python algos/forking_tokens.py
    python algos/forking_tokens.py --model Qwen/Qwen3-8B-Base --task problems.jsonl --num-prompts 512 \
        --num-generations 16 --num-minibatches 16 --max-response-length 20480 --overlong-buffer-length 4096 \
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
    """eps below 1 (TRL: epsilon)"""
    clip_ratio_high: float = 0.28
    """eps above 1 (TRL: epsilon_high)"""
    max_resample: int = 9
    """further rounds of sampling a step to replace groups without spread; 0: keep every group"""
    overlong_buffer_length: int = 5
    """last tokens of max_response_length over which the charge rises (c; paper: 4096 of 20480); 0: no charge"""
    overlong_penalty_factor: float = 1.0
    """charge for the longest response, on rewards of -1 and 1"""
    top_entropy_ratio: arguments.between(1e-9, 1) = 0.2
    """share of a minibatch's tokens that is trained on, a fraction (rho; TRL: top_entropy_quantile); 1: all"""
    normalize_by: Literal["selected", "all"] = "selected"
    """what the loss is divided by: the selected tokens (paper v2, released code) or all (paper v1, TRL)"""
    entropy_scope: Literal["minibatch", "response"] = "minibatch"
    """where a share is selected: among all tokens of a minibatch, or in each response (EARL, arXiv 2511.12033)"""
    random_selection: bool = False
    """train on as many tokens drawn at random instead, a control"""
    # [/algo]


# --- 2. Credit: rewards -> advantages, once a step --------------------------------------------------------------------


# [algo: credit]
def assign_credit(batch: dict, args: Args, state: dict) -> dict[str, float]:
    """Write `advantages` and `loss_mask` (B, T): GRPO's, of rewards that are charged for length."""
    lengths = batch["mask"].sum(1).to(batch["rewards"].dtype)
    excess = lengths - (args.max_response_length - args.overlong_buffer_length)
    penalty = args.overlong_penalty_factor * excess.clamp(min=0) / max(1, args.overlong_buffer_length)  # Eq. 13
    rewards = (2 * batch["rewards"] - 1 - penalty).view(-1, args.num_generations)  # (P, G), Eq. 7
    centred = rewards - rewards.mean(1, keepdim=True)
    scaled = centred / (rewards.std(1, keepdim=True) + 1e-6)
    # Said outright: the mean of equal numbers can round, and 1e-6 would blow the rest up.
    scaled[rewards.amax(1) == rewards.amin(1)] = 0.0
    if args.max_resample > 0:  # unmixed groups are here only where a step found no other; length alone teaches nothing
        right = batch["rewards"].view_as(rewards)
        scaled[right.amax(1) == right.amin(1)] = 0.0
    batch["loss_mask"] = batch["mask"]
    batch["advantages"] = scaled.view(-1, 1) * batch["mask"]
    return {"algo/overlong_penalty": penalty.mean().item()}


# [/algo]


# --- 3. Loss: log-probabilities and entropies of one minibatch -> scalar ----------------------------------------------


# [algo: loss]
from math import ceil, nan


def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args: Args) -> tuple[Tensor, dict[str, float]]:
    """-J of the head docstring over a minibatch of whole groups; logprobs and entropy (B, T) carry the gradient."""
    advantages, mask = mb["advantages"], mb["loss_mask"]
    ratio = (logprobs - mb["old_logprobs"]).clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - args.clip_ratio_low, 1 + args.clip_ratio_high)
    token_loss = -torch.min(ratio * advantages, clipped * advantages)
    key = torch.rand_like(entropy) if args.random_selection else entropy.detach()
    shape = mask.shape if args.entropy_scope == "response" else (1, -1)  # a row for each set that is ranked
    key = key.masked_fill(~mask, -torch.inf).reshape(shape)
    ranks = key.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    quotas = [[ceil(args.top_entropy_ratio * n - 1e-9)] for n in mask.reshape(shape).sum(1).tolist()]
    selected = (ranks < ranks.new_tensor(quotas)).view(mask.shape)  # S
    loss = (token_loss * selected).sum() / (selected if args.normalize_by == "selected" else mask).sum().clamp(min=1)
    bound = mask & (clipped * advantages < ratio * advantages)  # where the clip takes the gradient away
    return loss, {
        "policy/clip_high_ratio": ((bound & (advantages > 0)).sum() / mask.sum()).item(),
        "policy/clip_low_ratio": ((bound & (advantages < 0)).sum() / mask.sum()).item(),
        "algo/selected_ratio": (selected.sum() / mask.sum()).item(),
        "algo/entropy_threshold": entropy.detach()[selected].min().item() if selected.any() else nan,
        "algo/selected_entropy_ratio": ((entropy * selected).sum() / (entropy * mask).sum()).item(),
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
        # [/algo]
        run.log(step, metrics, samples, batch)
        if run.saves(step):
            run.save(step)
    run.finish()
