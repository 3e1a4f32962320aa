#!/usr/bin/env bash
# EntroPIC, Qwen3-8B-Base, on DAPO-Math-17k as a stand-in: EntroPIC (Yang et al.), arXiv 2511.15248, on-policy.
# "script" is run_entropic.sh of yk7333/EntroPIC, one node of 8 GPUs; the paper's text was not at hand. Here weights,
# gradients and optimiser state alone take about 131 GB. Script and README do not name the training set, the prompt or
# the number of steps, nor how the off-policy runs split the batch.
# The target of 0.1 nats is meant at temperature 0.6. The README has results at temperature 1 too, without their target.
# Differs from the script: the controller moves once a step, from the whole batch, with anti-windup (there: in every
# micro-batch of every GPU, without); no dual clip (there: verl's default, 3).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-8B-Base    # script
    --task dapo17k                # chosen here; script: $TRAIN_DATASET_PATH
    --eval-task aime24            # README: one of its six sets
    --prompt-template qwen_boxed  # chosen here
    --max-prompt-length 1024      # script: longer ones are left out there too
    --max-response-length 8192    # script
    --num-prompts 512             # script
    --num-generations 8           # script
    --num-minibatches 1           # script: mini-batch 512, on-policy
    --temperature 0.6             # script
    --learning-rate 1e-6          # script
    --warmup-steps 0              # script sets none; verl's default
    --weight-decay 0.01           # script sets none; verl's default
    --max-grad-norm 1.0           # script sets none; verl's default
    --clip-ratio-low 0.2          # script sets none; verl's default
    --clip-ratio-high 0.2         # script sets none; verl's default
    --target-entropy 0.1          # script
    --kp 1.0                      # script: entropy_control_p
    --ki 0.01                     # script: entropy_control_i
    --high-prob-threshold 0.95    # authors' code
    --num-steps 1000              # chosen here; script: 100 epochs of its data
    --eval-every 20               # script
    --eval-problems 30            # all of AIME 2024
    --eval-samples 32             # README: 32 on AIME and AMC, 8 on the larger sets
    --save-every 20               # script
)
train entropic "${flags[@]}" "$@"
