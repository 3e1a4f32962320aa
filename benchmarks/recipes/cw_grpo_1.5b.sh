#!/usr/bin/env bash
# CW-GRPO, DeepSeek-R1-Distill-Qwen-1.5B, on Open-RS: Taming Extreme Tokens, arXiv 2605.11538.
# A reconstruction: neither the paper's text nor code of the authors was at hand, only two notes on it, from which comes
# what is marked "paper". They trained with TRL; what the notes leave out is TRL's default there.
# Reward: the paper adds one for format to that for the answer; here the answer alone counts.
# Data: named after the authors of Open-RS; it was not loaded when this was written.
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B  # paper; also a 7B
    --task knoveleng/open-rs                           # paper: Open-RS, 7,000 problems, see above
    --eval-task math500                                # paper: one of its sets
    --prompt-template qwen_boxed                       # chosen here
    --max-prompt-length 512                            # chosen here
    --max-response-length 4096                         # paper
    --num-prompts 4                                    # paper: 12 responses a pass, 4 passes a step
    --num-generations 12                               # paper
    --num-minibatches 1                                # TRL's default: one update a rollout
    --temperature 0.7                                  # paper
    --learning-rate 1e-6                               # paper
    --warmup-steps 0                                   # TRL's default
    --weight-decay 0                                   # TRL's default
    --max-grad-norm 1.0                                # TRL's default
    --clip-ratio-low 0.2                               # TRL's default
    --clip-ratio-high 0.2                              # TRL's default
    --kernel-width 1.0                                 # paper: no such number
    --num-steps 200                                    # paper: reports MATH-500 at steps 100, 150 and 200
    --eval-every 50                                    # paper
    --eval-problems 500                                # all of MATH-500
    --eval-samples 4                                   # chosen here
    --save-every 50                                    # chosen here
)
train cw_grpo "${flags[@]}" "$@"
