#!/usr/bin/env bash
# Dr. GRPO, Qwen2.5-Math-7B on MATH: Understanding R1-Zero-Like Training (Liu et al.), arXiv 2503.20783. "script" is
# examples/qwen2.5-math-7b.sh of sail-sg/understand-r1-zero, on one node of 8 GPUs. Here weights, gradients and
# optimiser state alone take about 122 GB.
# Data: theirs are the 8,523 problems of MATH's levels 3 to 5; named sets have no filter by level, so all 7,500 training
# problems are taken. Exact: a .jsonl of those levels as --task.
# Prompt: theirs is Qwen's boxed one, as here. A response that is cut off is wrong there; here it is judged by what it
# says.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-Math-7B  # paper and script
    --task math                   # see above
    --eval-task aime24            # paper: one of its five sets
    --prompt-template qwen_boxed  # script: qwen_math
    --max-prompt-length 1024      # chosen here; the model reads 4,096 tokens
    --max-response-length 3000    # script
    --num-prompts 128             # script
    --num-generations 8           # script
    --num-minibatches 8           # script: 128 responses each
    --temperature 1.0             # script
    --learning-rate 1e-6          # script: constant
    --warmup-steps 0              # script: constant
    --weight-decay 0              # chosen here
    --max-grad-norm 1.0           # chosen here
    --clip-ratio-low 0.2          # script sets none; its framework's default
    --clip-ratio-high 0.2         # the same
    --beta 0                      # script: no KL
    --scale-by none               # paper
    --num-steps 500               # chosen here
    --eval-every 20               # chosen here
    --eval-problems 30            # all of AIME 2024
    --eval-samples 16             # chosen here
    --save-every 20               # chosen here
)
train dr_grpo "${flags[@]}" "$@"
