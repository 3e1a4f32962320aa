#!/usr/bin/env bash
# W-REINFORCE, Qwen3-4B without thinking, on MATH: Negative Reinforcement (Zhu et al.), arXiv 2506.01347 v2.
# "script" is run_qwen3-4b_psr_nsr.sh. Here weights, gradients and optimiser state alone take about 64 GB.
# The paper evaluates with 64 samples, temperature 0.7, top-p 0.8, top-k 20 (issue 23 of the authors' repository).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-4B        # paper and script
    --enable-thinking False      # script: prompt_template_type=qwen3_no_thinking
    --max-response-length 31744  # script: 32,768 with the prompt
)
train nsr "${negative_reinforcement[@]}" "${flags[@]}" "$@"
