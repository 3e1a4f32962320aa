#!/usr/bin/env bash
# GXPO, Qwen2.5-1.5B-Instruct, on MATH: Gradient Extrapolation-Based Policy Optimization, arXiv 2605.06755. "script" is
# train-scripts/gxpo/run.sh of SwapniL-afk-now/final-gxpo, the authors' protocol of the paper, on 4 GPUs.
# Differs from the script: all parameters learn (there LoRA of rank 128, unless LORA_RANK=0); all levels of MATH (there
# 3 to 5); which of the method's versions this is says algos/gxpo.py.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-1.5B-Instruct  # authors' README; also others
    --task math                         # authors' README: MATH, see above
    --eval-task math500                 # script
    --prompt-template qwen_boxed        # chosen here
    --max-prompt-length 1024            # script
    --max-response-length 3072          # script
    --num-prompts 128                   # script
    --num-generations 5                 # script
    --num-minibatches 1                 # script: 128 prompts
    --temperature 1.0                   # script
    --learning-rate 1e-7                # script
    --warmup-steps 0                    # script sets none; verl's default
    --weight-decay 0.01                 # script sets none; verl's default
    --max-grad-norm 1.0                 # script
    --clip-ratio-low 0.2                # script
    --clip-ratio-high 0.2               # script
    --beta 0.001                        # script
    --extrapolation 0.5                 # script: alpha
    --horizon 5                         # script: K; also 3 and 10
    --gate 3.0                          # a later default; script: 0.5, on both sides
    --gate-decay 0.1                    # script: omega
    --num-steps 300                     # script
    --eval-every 5                      # script
    --eval-problems 500                 # all of MATH-500
    --eval-samples 16                   # script
    --save-every 5                      # script
)
train gxpo "${flags[@]}" "$@"
