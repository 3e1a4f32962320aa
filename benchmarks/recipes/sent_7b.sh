#!/usr/bin/env bash
# SENT, Qwen2.5-Math-7B, on DAPO-Math-17k: SENT, arXiv 2512.04359. "script" is one of the two of
# examples/grpo_curriculum in zldscr0/SENT, on 4 GPUs. Here weights, gradients and optimiser state alone take about
# 122 GB, the reference 15.
# Differs from the scripts: the loss is the paper's, not the released one, as algos/sent.py says, and the weights of its
# KL are reconstructed; one run goes through both stages (there the second starts from the first's weights).
# The curriculum: its data, its order and how often a problem was sampled for it are not published. Here all 84,480
# draws of the run are sampled four times before the first step, five times each problem: as long as some 165 steps.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-Math-7B  # script
    --task dapo17k                # paper; the copy that holds each problem once
    --eval-task aime24            # script
    --prompt-template dapo        # chosen here: the data set's own words
    --max-prompt-length 1024      # script: longer ones are left out there too
    --max-response-length 2048    # script
    --num-prompts 256             # script
    --num-generations 8           # script
    --num-minibatches 2           # script: 128 prompts each
    --max-resample 0              # script: every group is kept
    --temperature 1.0             # script
    --learning-rate 1e-6          # script
    --warmup-steps 0              # script sets none; verl's default
    --weight-decay 0.01           # script sets none; verl's default
    --max-grad-norm 1.0           # script sets none; verl's default
    --clip-ratio-low 0.2          # the paper clips; verl's default. The released loss does not
    --clip-ratio-high 0.2         # verl's default
    --low-entropy-ratio 0.8       # authors' code
    --cov-ratio 2e-4              # authors' code
    --beta 1e-3                   # reconstructed; script: a KL of this weight on all tokens
    --cov-beta 4e-3               # reconstructed: the two weights of the authors' code stand 4 to 1
    --curriculum-samples 4        # chosen here
    --curriculum-by entropy       # paper
    --stages 2                    # script
    --num-steps 330               # 2 stages of 5 epochs, half of some 17,000 problems each
    --eval-every 10               # script
    --eval-problems 30            # all of AIME 2024
    --eval-samples 16             # chosen here; script: 1
    --save-every 20               # script
)
train sent "${flags[@]}" "$@"
