#!/usr/bin/env bash
# Archer, DeepSeek-R1-Distill-Qwen-1.5B: Archer (Wang et al.), arXiv 2507.15778. "script" is
# scripts/train/run_archer_qwen2.5_1.5b_code.sh of the authors' repository, which trains on code, on 16 GPUs. Here
# weights, gradients and optimiser state alone take about 28 GB.
# Data: theirs are programs judged by tests, which no task here has; the paper trains on maths too, as this recipe does.
# Differs from the script: no dual clip (there 10); groups without spread stay in the mean (there they are dropped).
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B  # script
    --task dapo17k                                     # chosen here, see above
    --eval-task aime24                                 # paper: one of its sets
    --prompt-template chat                             # chosen here
    --max-prompt-length 2048                           # chosen here
    --max-response-length 32768                        # script
    --num-prompts 64                                   # script
    --num-generations 16                               # script
    --num-minibatches 2                                # script: 32 prompts each
    --update-epochs 3                                  # script
    --temperature 1.0                                  # script
    --learning-rate 1e-6                               # script
    --warmup-steps 10                                  # script
    --weight-decay 0.01                                # script sets none; verl's default
    --max-grad-norm 1.0                                # script sets none; verl's default
    --clip-ratio-low 0.2                               # script
    --clip-ratio-high 0.2                              # script
    --beta 0.001                                       # script: on easy tokens
    --entropy-coef 0                                   # script
    --hard-quantile 0.8                                # script
    --hard-clip-ratio 0.5                              # script
    --hard-beta 0                                      # script
    --num-steps 500                                    # chosen here
    --eval-every 20                                    # chosen here
    --eval-problems 30                                 # all of AIME 2024
    --eval-samples 16                                  # chosen here
    --save-every 20                                    # chosen here
)
train archer "${flags[@]}" "$@"
