#!/usr/bin/env bash
# KL-Cov, Qwen2.5-7B, on DAPO-Math-17k: The Entropy Mechanism (Cui et al.), arXiv 2505.22617, Section 4.3.
# "script" is 7b_kl_cov.sh. Here weights, gradients and optimiser state alone take about 122 GB.
# Differs from the script: the quota is a minibatch's, as in the paper (there: a GPU's micro-batch of 30,720 tokens).
# Learning rate: none in the paper (5e-7 is its Section 2's); 1e-6 in the script before 2025-06-10 and in verl-recipe's
# copy (entropy). Steps, read as updates: 350.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-7B  # paper
    --learning-rate 5e-7     # script; the paper has none, verl-recipe has 1e-6
    --kl-cov-ratio 2e-3      # paper; script: k_percent=0.2, in percent
    --kl-cov-coef 1.0        # paper, script: ppo_kl_coef=1
    --num-steps 2800         # Fig. 11, see common.sh; script: 1,000 epochs, that is until stopped
)
train kl_cov "${entropy_mechanism[@]}" "${flags[@]}" "$@"
