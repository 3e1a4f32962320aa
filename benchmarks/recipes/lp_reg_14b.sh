#!/usr/bin/env bash
# Lp-Reg, Qwen3-14B-Base, on-policy: Low-probability Tokens Sustain Exploration (Huang et al.), arXiv 2510.03222.
# "script" is the authors' training script in verl. Here weights, gradients and optimiser state alone take about 236 GB.
# Data: the paper's is DAPO's. Append --num-minibatches 8 for its off-policy runs (32 prompts each).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-14B-Base  # paper
    --task dapo17k               # paper; the copy that holds each problem once
    --eval-task aime24           # paper: one of its sets
    --prompt-template dapo       # chosen here: the data set's own words
    --max-prompt-length 2048     # chosen here
    --max-response-length 8192   # script
    --num-prompts 256            # script
    --num-generations 8          # script
    --num-minibatches 1          # script: on-policy
    --temperature 1.0            # script
    --learning-rate 1e-6         # script: constant
    --warmup-steps 0             # script: constant
    --weight-decay 0             # script
    --max-grad-norm 1.0          # chosen here: verl's default
    --clip-ratio-low 1.0         # paper: no clip below
    --clip-ratio-high 9.0        # paper: a ratio of at most 10
    --min-p 0.02                 # script
    --low-prob-ratio 0.01        # script: at 14B; 0.005 at 32B
    --lp-coef 1.0                # script
    --beta 0                     # script
    --num-steps 400              # chosen here
    --eval-every 20              # chosen here
    --eval-problems 30           # all of AIME 2024
    --eval-samples 16            # chosen here
    --save-every 20              # chosen here
)
train lp_reg "${flags[@]}" "$@"
