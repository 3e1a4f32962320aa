#!/usr/bin/env bash
# Forking tokens, Qwen3-8B-Base, on DAPO-Math-17k: Beyond the 80/20 Rule, arXiv 2506.01939 v2, Section 5.2.
# 14B has the same settings: append --model Qwen/Qwen3-14B-Base. Here weights, gradients and optimiser state alone take
# about 131 GB.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-8B-Base  # paper
    --num-steps 88              # chosen here: as at 32B
)
train forking_tokens "${forking_tokens[@]}" "${flags[@]}" "$@"
