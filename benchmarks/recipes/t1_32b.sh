#!/usr/bin/env bash
# T1, Qwen2.5-32B: T1: Advancing Language Model Reasoning through Reinforcement Learning and Inference Scaling (Hou et
# al.), arXiv 2501.11651. A reconstruction: no training code was published (THUDM/T1 is a README and data of the first
# stage), and the constants marked "notes" are those that notes on the paper give. Here weights, gradients and optimiser
# state alone take about 525 GB, the reference 131.
# Model: the paper first trains Qwen2.5-32B on its own trial-and-error solutions; from the base model, as here, it is
# another run. Data: MATH and NuminaMath, of which problems are kept that 16 samples solve at most three times in ten;
# MATH stands in, unfiltered.
# Not published: the weight of the bonus, the anchor's share, the lengths, the number of steps. What counts as
# repetition is ours: eight tokens in a row, the default, come back three times in any long solution.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-32B      # a stand-in, see above; README: also Qwen2.5-14B and GLM-4-9B
    --task math                   # a stand-in, see above
    --eval-task aime24            # README: one of its sets
    --prompt-template qwen_boxed  # chosen here
    --max-prompt-length 1024      # chosen here
    --max-response-length 8192    # chosen here
    --num-prompts 32              # notes
    --num-generations 64          # notes
    --num-minibatches 1           # notes: 32 prompts an update
    --temperature 1.2             # notes: the best in its ablation
    --learning-rate 1.5e-6        # notes
    --warmup-steps 0              # chosen here
    --weight-decay 0.01           # chosen here: verl's default
    --max-grad-norm 1.0           # chosen here: verl's default
    --clip-ratio-low 0.2          # chosen here; no ratio leaves 1 with one update
    --clip-ratio-high 0.2         # chosen here; no ratio leaves 1 with one update
    --beta 2e-4                   # notes
    --entropy-coef 1e-3           # chosen here
    --reference-share 0.01        # chosen here
    --bad-reward -1.0             # notes
    --repeat-ngram 40             # chosen here, see above
    --num-steps 500               # chosen here
    --eval-every 20               # chosen here
    --eval-problems 30            # all of AIME 2024
    --eval-samples 16             # chosen here
    --save-every 20               # chosen here
)
train t1 "${flags[@]}" "$@"
