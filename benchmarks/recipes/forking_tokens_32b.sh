#!/usr/bin/env bash
# Forking tokens, Qwen3-32B-Base, on DAPO-Math-17k: Beyond the 80/20 Rule, arXiv 2506.01939 v2, Section 5.2.
# These weights were never published (QwenLM/Qwen3 issues 1275, 1693). The paper's next size has the same settings:
# append --model Qwen/Qwen3-14B-Base. Here weights, gradients and optimiser state alone take about 525 GB.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-32B-Base  # paper
    --num-steps 88               # Fig. 9 ends near 1,400 optimiser steps, 16 a rollout
)
train forking_tokens "${forking_tokens[@]}" "${flags[@]}" "$@"
