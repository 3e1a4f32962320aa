#!/usr/bin/env bash
# OPO, DeepSeek-R1-Distill-Qwen-7B, on Skywork-OR1-RL-Data (maths): OPO (Hao et al.), arXiv 2505.23585.
# A reconstruction: the paper's text was not at hand, and the authors' code (microsoft/LMOps, opo) has no script. Known
# are model and data (huggingface/trl issue 3540) and one update per rollout without KL and bonus (README of the code).
# Here weights, gradients and optimiser state alone take about 122 GB.
# Data: Skywork/Skywork-OR1-RL-Data writes each answer as a list in text, which is not one gold answer here. By its
# card, PrimeIntellect's copy has the same 105,055 problems in plain columns (question, answer); it was not loaded when
# this was written. Which part the paper used is not known. If the copy does not load, --task deepscaler is the nearest
# named set.
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B  # huggingface/trl issue 3540
    --task PrimeIntellect/Skywork-OR1-RL-Data:math   # the same issue; a copy, see above
    --eval-task aime24                               # one of the sets the paper reports
    --prompt-template qwen_boxed                     # chosen here
    --max-prompt-length 2048                         # chosen here
    --max-response-length 16384                      # chosen here
    --num-prompts 256                                # authors' example in verl pull request 1796; verl's docs: 1,024
    --num-generations 8                              # a review of the paper (jeybird248.github.io)
    --temperature 1.0                                # chosen here
    --learning-rate 1e-6                             # chosen here: verl's default
    --warmup-steps 0                                 # chosen here: verl's default
    --weight-decay 0.01                              # chosen here: verl's default
    --max-grad-norm 1.0                              # chosen here: verl's default
    --num-steps 500                                  # chosen here
    --eval-every 20                                  # chosen here
    --eval-problems 30                               # all of AIME 2024
    --eval-samples 16                                # the paper reports pass@16
    --save-every 20                                  # chosen here
)
train opo "${flags[@]}" "$@"
