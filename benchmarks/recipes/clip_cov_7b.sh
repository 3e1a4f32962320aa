#!/usr/bin/env bash
# Clip-Cov, Qwen2.5-7B, on DAPO-Math-17k: The Entropy Mechanism (Cui et al.), arXiv 2505.22617, Section 4.3.
# "script" is 7b_clip_cov.sh. Here weights, gradients and optimiser state alone take about 122 GB.
# Differs from the script: the quota is a minibatch's, as in the paper (there: a GPU's micro-batch of 20,480 tokens).
# Learning rate: none in the paper (5e-7 is its Section 2's); 1e-6 in the script before 2025-06-10 and in verl-recipe's
# copy (entropy). Steps, read as updates: 350.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-7B  # paper
    --learning-rate 5e-7     # script; the paper has none, verl-recipe has 1e-6
    --clip-cov-ratio 2e-4    # paper and script
    --clip-cov-lb 1.0        # paper and script
    --clip-cov-ub 5.0        # paper and script
    --clip-ratio-low 1.0     # script; Eq. 12 has no PPO clip
    --clip-ratio-high 1.0    # script; Eq. 12 has no PPO clip
    --num-steps 2800         # Fig. 11, see common.sh; script: 1,000 epochs, that is until stopped
)
train clip_cov "${entropy_mechanism[@]}" "${flags[@]}" "$@"
