#!/usr/bin/env bash
# W-REINFORCE, Qwen2.5-Math-7B, on MATH: Negative Reinforcement (Zhu et al.), arXiv 2506.01347 v2.
# "script" is run_qwen2.5-math-7b_psr_nsr.sh. Here weights, gradients and optimiser state alone take about 122 GB.
# The paper's evaluation: python -m benchmarks.evaluate CHECKPOINT --preset nsr --limit 0 --tasks math aime25 amc23 \
#       --prompt-template qwen_boxed --max-response-length 4096
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-Math-7B  # paper and script
    --max-response-length 3072    # script: 4,096 with the prompt
)
train nsr "${negative_reinforcement[@]}" "${flags[@]}" "$@"
