#!/usr/bin/env bash
# MCPO, Qwen3-8B-Base, on DAPO-Math-17k: Mastery-consolidated policy optimization, arXiv 2604.16972.
# A reconstruction: neither the paper's text nor code of the authors was at hand, only two notes on it, from which comes
# what is marked "paper". What they leave out is DAPO's recipe, on which the paper builds: "DAPO" below.
# Evaluation samples as in training, at temperature 1 (paper: 0.7).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-8B-Base     # paper; also 14B
    --task dapo17k                 # paper; the copy that holds each problem once
    --eval-task aime24             # paper: one of its sets
    --prompt-template qwen_boxed   # chosen here
    --max-prompt-length 2048       # DAPO
    --max-response-length 8192     # chosen here; DAPO: 20480
    --num-prompts 512              # DAPO
    --num-generations 16           # DAPO
    --num-minibatches 16           # DAPO; with one the hinge does nothing
    --temperature 1.0              # DAPO
    --learning-rate 1e-6           # DAPO
    --warmup-steps 20              # DAPO
    --weight-decay 0.1             # DAPO
    --max-grad-norm 1.0            # DAPO
    --clip-ratio-low 0.2           # paper
    --clip-ratio-high 0.28         # paper
    --mastery-beta 1.0             # paper
    --mastery-delta 0.01           # paper
    --num-steps 200                # chosen here
    --eval-every 10                # chosen here
    --eval-problems 30             # all of AIME 2024
    --eval-samples 8               # paper
    --save-every 20                # chosen here
)
train mcpo "${flags[@]}" "$@"
