#!/usr/bin/env bash
# Skywork-OR1, DeepSeek-R1-Distill-Qwen-7B, first stage, on Skywork-OR1-RL-Data (maths): Skywork Open Reasoner 1 (He et
# al.), arXiv 2505.22312. "script" is or1_scripts/train/7b_8k.sh of SkyworkAI/Skywork-OR1, on 8 GPUs a node, which names
# no model. Here weights, gradients and optimiser state alone take about 122 GB.
# The second stage is a run of its own: --model with this run's last checkpoint, --max-response-length 16384.
# Data: theirs is maths and code, with the maths of this recipe counted half. Skywork/Skywork-OR1-RL-Data writes each
# answer as a list in text, which is not one gold answer here; PrimeIntellect's copy has plain columns (question,
# answer), and was not loaded when this was written. If it does not load, --task deepscaler is the nearest named set.
# Differs from the script: the bonus is a mean over all tokens (there of each micro-batch); evaluation samples as in
# training (there at temperature 0.6).
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B  # paper
    --task PrimeIntellect/Skywork-OR1-RL-Data:math   # a copy of the authors' maths, see above
    --eval-task aime24                               # script: one of its two sets
    --prompt-template qwen_boxed                     # chosen here
    --max-prompt-length 2048                         # script
    --max-response-length 8192                       # script
    --num-prompts 256                                # script
    --num-generations 16                             # script
    --num-minibatches 1                              # script: mini-batch 256
    --temperature 1.0                                # script
    --learning-rate 1e-6                             # script
    --warmup-steps 0                                 # script sets none; verl's default
    --weight-decay 0.01                              # script sets none; verl's default
    --max-grad-norm 1.0                              # script sets none; verl's default
    --clip-ratio-low 0.2                             # script sets none; verl's default
    --clip-ratio-high 0.2                            # script sets none; verl's default
    --entropy-coef 0                                 # script
    --target-entropy 0.2                             # script
    --coef-step 1e-4                                 # script: delta_ent_coef
    --coef-max 0.005                                 # script: max_ent_coef
    --num-steps 500                                  # chosen here; script: 30 epochs of its data
    --eval-every 20                                  # script
    --eval-problems 30                               # all of AIME 2024
    --eval-samples 8                                 # script
    --save-every 20                                  # script
)
train skywork "${flags[@]}" "$@"
