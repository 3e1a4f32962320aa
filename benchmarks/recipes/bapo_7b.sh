#!/usr/bin/env bash
# BAPO, DeepSeek-R1-Distill-Qwen-7B, on DAPO-Math-17k as a stand-in: BAPO (Xi et al.), arXiv 2510.18927, staleness 8.
# "script" is recipe/bapo/run_bapo_example.sh of WooooDyy/BAPO, one node of 8 GPUs; it names neither model nor data, and
# its README says that the paper's runs were made with another framework. The paper is known from notes on it. Here
# weights, gradients and optimiser state alone take about 122 GB.
# Bounds: the paper's. The script's: --clip-ratio-low 0.2 --clip-ratio-low-end 0.05 --clip-ratio-low-step 0.05
#       --clip-ratio-high-end 1 --clip-ratio-high-step 0.1, with a target of g/d of 0.5, which is a share of 1/3.
# Differs from the script: the upper bound is searched first, over a minibatch (there the lower, over a micro-batch); no
# dual clip (there 3); a warm-up of fixed length; evaluation takes several samples (there one).
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B  # chosen here
    --task dapo17k                                   # chosen here
    --eval-task aime25                               # script
    --prompt-template qwen_boxed                     # chosen here
    --max-prompt-length 1024                         # script: longer ones are left out there too
    --max-response-length 8192                       # script
    --num-prompts 256                                # script
    --num-generations 16                             # script
    --num-minibatches 4                              # script: 64 prompts each
    --update-epochs 2                                # script
    --temperature 1.0                                # script
    --learning-rate 1e-6                             # script
    --warmup-steps 100                               # script: a tenth of its 1,000 steps
    --weight-decay 0.1                               # script
    --max-grad-norm 1.0                              # script sets none; verl's default
    --beta 0                                         # script
    --entropy-coef 0                                 # script
    --positive-share 0.4                             # paper; README: 0.5
    --clip-ratio-low 0.4                             # paper: from 0.6
    --clip-ratio-low-end 0.1                         # paper: to 0.9
    --clip-ratio-low-step 0.02                       # paper
    --clip-ratio-high 0.2                            # paper: from 1.2
    --clip-ratio-high-end 2.0                        # paper: to 3
    --clip-ratio-high-step 0.05                      # paper
    --num-steps 1000                                 # script
    --eval-every 10                                  # script
    --eval-problems 30                               # all of AIME 2025
    --eval-samples 16                                # chosen here
    --save-every 100                                 # script
)
train bapo "${flags[@]}" "$@"
