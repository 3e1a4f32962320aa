#!/usr/bin/env bash
# KL-Cov, Qwen2.5-32B, on DAPO-Math-17k: The Entropy Mechanism (Cui et al.), arXiv 2505.22617, Section 4.3.
# "script" is 32b_kl_cov.sh. Here weights, gradients and optimiser state alone take about 525 GB.
# Differs from the script: the quota is a minibatch's, as in the paper (there: a GPU's micro-batch of 20,480 tokens).
# Learning rate: none in the paper. Steps, read as updates: 144.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-32B  # paper
    --learning-rate 1e-6      # script and verl-recipe; the paper has none
    --kl-cov-ratio 2e-4       # paper; script: k_percent=0.02, in percent
    --kl-cov-coef 1.0         # paper, script: ppo_kl_coef=1
    --num-steps 1150          # Fig. 11, see common.sh; script: 1,000 epochs, that is until stopped
)
train kl_cov "${entropy_mechanism[@]}" "${flags[@]}" "$@"
