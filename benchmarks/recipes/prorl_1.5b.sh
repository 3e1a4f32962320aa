#!/usr/bin/env bash
# ProRL, DeepSeek-R1-Distill-Qwen-1.5B: ProRL: Prolonged Reinforcement Learning (Liu et al.), arXiv 2505.24864, Section
# 3.2. No training code was published. "v2" is train_prorlv2_math_hybrid_engine.sh of OpenRLHF/OpenRLHF, a recipe of the
# second version without its resets. Here weights, gradients and optimiser state alone take about 28 GB.
# Data: the paper's are 136,000 problems of mathematics, code, science, puzzles and instructions, as eight runs in a row
# with changes between them; its own mixture is not to be had. One set of mathematics stands in, and one run.
# Not published: weight and estimator of the KL, and what makes a reset due besides a validation that stalls; v2 has
# 1e-4, the squared log-ratio, and 200 to 500 steps. As in the paper, the optimiser is cleared too; v2 does not
# (--no-reset-optimizer).
source "$(dirname "$0")/common.sh"
flags=(
    --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B  # paper
    --task deepscaler                                  # a stand-in, see above
    --eval-task aime24                                 # paper: one of its sets
    --prompt-template qwen_boxed                       # chosen here: the set does not ask for a form of answer
    --max-prompt-length 1024                           # v2
    --max-response-length 8096                         # paper: a context of 8,096, of 16,000 in the last 200 steps
    --num-prompts 256                                  # paper
    --num-generations 16                               # paper
    --num-minibatches 4                                # paper: 64 prompts each
    --max-resample 9                                   # chosen here; the paper replaces unmixed groups
    --temperature 1.2                                  # paper
    --learning-rate 2e-6                               # paper
    --warmup-steps 0                                   # paper: constant
    --weight-decay 0.01                                # not published; verl's default
    --max-grad-norm 1.0                                # not published; verl's default
    --clip-ratio-low 0.2                               # paper
    --clip-ratio-high 0.4                              # paper; v2: 0.27
    --beta 1e-4                                        # v2; not published for this one
    --reset-every 300                                  # v2: 200 to 500, see above
    --num-steps 2000                                   # paper: more than 2,000
    --eval-every 20                                    # chosen here
    --eval-problems 30                                 # all of AIME 2024
    --eval-samples 16                                  # paper, at temperature 0.6 and top-p 0.95
    --save-every 20                                    # chosen here
)
train prorl "${flags[@]}" "$@"
