#!/usr/bin/env bash
# STILL-3, Qwen2.5-32B, on STILL-3-Preview-RL-Data: An Empirical Study on Eliciting and Improving R1-like Reasoning
# Models (Chen et al.), arXiv 2503.04548, Section 3.1 and Table 1. "script" is VERL-STILL/scripts/run_grpo.sh of
# RUCAIBox/Slow_Thinking_with_LLMs, whose values are not those that the paper recommends: 128 prompts, 16 responses
# each, temperature 1.0. Paper and script are known from notes on them.
# Prompt: qwen_boxed stands in for the paper's detailed one. Data: the set of the authors' 1.5B runs, which was not
# loaded when this was written.
# KL: the script's sum of an annealed and a constant weight is not here.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-32B                  # paper
    --task RUC-AIBOX/STILL-3-Preview-RL-Data  # a stand-in, see above
    --eval-task aime24                        # paper: one of its sets
    --prompt-template qwen_boxed              # chosen here, see above
    --max-prompt-length 2048                  # chosen here
    --max-response-length 8192                # script
    --num-prompts 1024                        # paper: train batch size; script: 128
    --num-generations 64                      # paper; script: 16
    --num-minibatches 1                       # paper: on-policy
    --temperature 1.2                         # paper; script: 1.0
    --learning-rate 5e-7                      # script; paper's study of prompts: 1e-6
    --warmup-steps 0                          # verl's default
    --weight-decay 0.01                       # verl's default
    --max-grad-norm 1.0                       # verl's default
    --clip-ratio-low 0.2                      # verl's default
    --clip-ratio-high 0.2                     # verl's default
    --beta 1e-3                               # paper
    --beta-schedule cosine                    # paper
    --beta-steps 500                          # authors' code
    --entropy-coef 0                          # paper and script
    --num-steps 500                           # chosen here
    --eval-every 20                           # chosen here
    --eval-problems 30                        # all of AIME 2024
    --eval-samples 64                         # paper: the mean over 64 samples
    --save-every 20                           # chosen here
)
train still3 "${flags[@]}" "$@"
