#!/usr/bin/env bash
# The GRPO baseline, Qwen2.5-7B, on DAPO-Math-17k: The Entropy Mechanism (Cui et al.), arXiv 2505.22617, Section 4.3.
# "script" is 7b_baseline.sh. Here weights, gradients and optimiser state alone take about 122 GB.
# It runs dapo.py, not grpo.py: this baseline drops groups without spread and averages over tokens, and grpo.py does
# neither. DAPO's other parts are off: equal clips, no charge. Rewards of -1 and 1 for 0 and 1 change no advantage by
# more than the 1e-6 in its divisor.
# Learning rate: none in the paper (5e-7 is its Section 2's); 1e-6 in the script before 2025-06-10 and in verl-recipe's
# copy (entropy). Steps, read as updates: 350.
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-7B     # paper
    --learning-rate 5e-7        # script; the paper has none, verl-recipe has 1e-6
    --clip-ratio-low 0.2        # script (clip-higher baseline: the same)
    --clip-ratio-high 0.2       # script (clip-higher baseline: 0.28)
    --overlong-buffer-length 0  # script: no charge for length
    --num-steps 2800            # Fig. 11, see common.sh; script: 1,000 epochs, that is until stopped
)
train dapo "${entropy_mechanism[@]}" "${flags[@]}" "$@"
