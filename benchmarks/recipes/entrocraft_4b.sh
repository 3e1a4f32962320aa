#!/usr/bin/env bash
# Entrocraft, Qwen3-4B-Base, on NuminaMath: Addressing Performance Saturation for LLM RL via Precise Entropy Curve
# Control (Li et al.), arXiv 2604.26326. "script" is scripts/grpo/grpo_range_linear/
# qwen3-4b-base_numina_math_full_grpo_range_linear_n8.slurm of lblaoke/entrocraft, on 8 GPUs, "config" what its verl
# sets by default. The paper's text was not at hand.
# Band: the commit whose formulas are used here has 0.6 to 0.4 and 0.7 to 0.5; another has 0.6 to 0.1 and 0.7 to 0.2.
# Data: ScaleML-RLHF/numina_math stands in for the authors' files, which are prepared from NuminaMath; it was not loaded
# when this was written.
# Differs from the script: evaluation samples as in training (there at temperature 0.6, with top-p 0.95 and top-k 20),
# on one of its five sets.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-4B-Base      # script
    --task ScaleML-RLHF/numina_math # a stand-in, see above
    --eval-task aime24              # script: one of its five sets
    --prompt-template qwen_boxed    # chosen here
    --max-prompt-length 1024        # script: longer ones are left out there too
    --max-response-length 3072      # script
    --num-prompts 1024              # script
    --num-generations 8             # script
    --num-minibatches 4             # script: 32 prompts for each of 8 GPUs
    --temperature 1.0               # config
    --learning-rate 1e-6            # script
    --warmup-steps 0                # config
    --weight-decay 0.01             # config
    --max-grad-norm 1.0             # config
    --clip-ratio-low 0.2            # config
    --clip-ratio-high 0.2           # config
    --beta 1e-3                     # script
    --entropy-coef 0                # script
    --band linear                   # script: grpo_range_linear
    --band-low-start 0.6            # script
    --band-low-end 0.4              # script, see above
    --band-high-start 0.7           # script
    --band-high-end 0.5             # script, see above
    --num-steps 100                 # chosen here; script: one epoch
    --eval-every 5                  # script
    --eval-problems 30              # all of AIME 2024
    --eval-samples 32               # script
    --save-every 20                 # script
)
train entrocraft "${flags[@]}" "$@"
