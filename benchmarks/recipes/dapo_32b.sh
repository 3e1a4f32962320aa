#!/usr/bin/env bash
# DAPO, Qwen2.5-32B, on DAPO-Math-17k: DAPO (Yu et al.), arXiv 2503.14476, Section 4.1.
# "script" is dapo/run_dapo_qwen2.5_32b.sh of verl-project/verl-recipe, 16 nodes of 8 GPUs. Here weights, gradients and
# optimiser state alone take about 525 GB.
# Differs from the script: a round draws as many prompts as are missing (there: 1,536, the surplus is thrown away);
# where ten rounds do not fill the batch, the step trains on what there is (there: error); long prompts are left out
# (there: cut on the left); no dual clip (there: 10; not in the paper); answers go through our verifier.
# Warm-up is 20 rollouts in the paper and 10 in the script. The number of steps was chosen here: 5,120 updates.
# Evaluation samples as in training. The paper's: python -m benchmarks.evaluate CHECKPOINT --preset dapo \
#       --tasks aime24 --prompt-template dapo --max-response-length 20480
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-32B       # paper
    --task dapo17k                 # paper; the copy that holds each problem once
    --eval-task aime24             # paper
    --prompt-template dapo         # the wording of the authors' data
    --max-prompt-length 2048       # script
    --max-response-length 20480    # paper: 16,384 and a buffer of 4,096
    --num-prompts 512              # paper
    --num-generations 16           # paper
    --num-minibatches 16           # paper: 16 updates a rollout; script: 32 prompts each
    --max-resample 9               # script: at most 10 rounds
    --temperature 1.0              # script
    --learning-rate 1e-6           # paper and script
    --warmup-steps 20              # paper: 20 rollouts; script: 10
    --weight-decay 0.1             # script
    --max-grad-norm 1.0            # script
    --clip-ratio-low 0.2           # paper
    --clip-ratio-high 0.28         # paper
    --overlong-buffer-length 4096  # paper
    --overlong-penalty-factor 1.0  # script; Eq. 13
    --num-steps 320                # chosen here; script: one epoch of a file that repeats each problem 100 times
    --eval-every 5                 # script
    --eval-problems 30             # all of AIME 2024
    --eval-samples 32              # paper: avg@32
    --save-every 20                # chosen here; script: 5
)
train dapo "${flags[@]}" "$@"
