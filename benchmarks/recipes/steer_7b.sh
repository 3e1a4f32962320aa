#!/usr/bin/env bash
# STEER, Qwen2.5-Math-7B: STEER, arXiv 2510.10150. "script" is the authors' training script in verl. Here weights,
# gradients and optimiser state alone take about 122 GB.
# Differs from the script: no dual clip (there 10); long prompts are left out.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-Math-7B  # script
    --task dapo17k                # chosen here
    --eval-task aime24            # paper: its best checkpoint there
    --prompt-template qwen_boxed  # chosen here
    --max-prompt-length 1024      # chosen here; the model reads 4,096 tokens
    --max-response-length 3072    # script
    --num-prompts 512             # script
    --num-generations 8           # script
    --num-minibatches 16          # script: 32 prompts each
    --temperature 1.0             # script
    --learning-rate 1e-6          # script
    --warmup-steps 0              # chosen here
    --weight-decay 0.01           # chosen here: verl's default
    --max-grad-norm 1.0           # chosen here: verl's default
    --clip-ratio-low 0.2          # script
    --clip-ratio-high 0.28        # script
    --damping 0.3                 # paper, version 4; script: 0.2
    --omega released              # script
    --num-steps 200               # paper: at most 200
    --eval-every 20               # chosen here
    --eval-problems 30            # all of AIME 2024
    --eval-samples 16             # chosen here
    --save-every 20               # chosen here
)
train steer "${flags[@]}" "$@"
