#!/usr/bin/env bash
# LUFFY, Qwen2.5-Math-7B, on OpenR1-Math with DeepSeek-R1's traces: LUFFY (Yan et al.), arXiv 2504.14945. "script" is
# exp_scripts/train.sh of ElliottYan/LUFFY, on one node of 8 GPUs; what it leaves out is verl's default there.
# Model: the authors' copy of Qwen2.5-Math-7B, with room for 16,384 tokens and a chat template that asks for <think>.
# Data: the authors' 46,000 problems with traces of at most 8,192 tokens; it was not loaded when this was written. Their
# code takes "<think>" off a trace where the template has written it; if it does, do so in a copy of the data.
# Differs from the script: the sum over tokens is also divided by the number of responses, which clipping of the
# gradient hides; the bonus is summed like the rest of the loss (there: a mean over tokens); evaluation samples as in
# training (there: once, at temperature 0.6).
source "$(dirname "$0")/common.sh"
flags=(
    --model Elliott/Qwen2.5-Math-7B-16k-think     # script
    --task Elliott/Openr1-Math-46k-8192           # script, by way of data/prepare_train.py
    --prompt-column prompt                        # script
    --answer-column reward_model.ground_truth     # verl's form of data
    --trace-column target                         # authors' code: target_key
    --eval-task aime24                            # paper: one of its sets
    --max-prompt-length 1024                      # script
    --max-response-length 8192                    # script
    --num-prompts 128                             # script
    --num-generations 8                           # script: the trace among them
    --num-expert 1                                # script: n_prefix
    --expert-gamma 0.1                            # script: p_div_p_0.1
    --num-minibatches 2                           # script: 64 prompts each
    --temperature 1.0                             # script
    --learning-rate 1e-6                          # script
    --warmup-steps 0                              # script sets none; verl's default
    --weight-decay 0.01                           # script sets none; verl's default
    --max-grad-norm 1.0                           # script sets none; verl's default
    --entropy-coef 0.001                          # script
    --num-steps 500                               # chosen here; script: at most 30 epochs
    --eval-every 10                               # script
    --eval-problems 30                            # all of AIME 2024
    --eval-samples 8                              # chosen here
    --save-every 50                               # script
)
train luffy "${flags[@]}" "$@"
