#!/usr/bin/env bash
# HTPO, Qwen3-8B-Base on DAPO-17k: HTPO, arXiv 2605.08283. "script" is train.sh of the authors' repository. Here
# weights, gradients and optimiser state alone take about 131 GB.
# Differs from the script: no dual clip (there 10); long prompts are left out; evaluation samples as in training.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-8B-Base     # script
    --task dapo17k                 # script; the copy that holds each problem once
    --eval-task aime24             # chosen here
    --prompt-template dapo         # chosen here: the data set's own words
    --max-prompt-length 2048       # chosen here
    --max-response-length 20480    # script, with a buffer of 4,096
    --num-prompts 128              # script
    --num-generations 16           # script
    --num-minibatches 4            # script: 32 prompts each
    --max-resample 1               # script: a generation batch of 256 for 128
    --temperature 1.0              # script
    --learning-rate 1e-6           # script
    --warmup-steps 10              # script
    --weight-decay 0.1             # chosen here: DAPO's
    --max-grad-norm 1.0            # chosen here: DAPO's
    --overlong-buffer-length 4096  # script
    --overlong-penalty-factor 1.0  # script
    --clip-ratio-low 0.2           # script
    --clip-ratio-high 0.28         # script
    --high-ratio 0.2               # paper
    --hard-accuracy 0.6            # paper
    --drop-low-ratio 0.006         # paper
    --drop-high-ratio 0.02         # paper
    --num-steps 400                # chosen here
    --eval-every 20                # chosen here
    --eval-problems 30             # all of AIME 2024
    --eval-samples 16              # chosen here
    --save-every 20                # chosen here
)
train htpo "${flags[@]}" "$@"
