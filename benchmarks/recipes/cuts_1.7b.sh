#!/usr/bin/env bash
# Mixed-CUTS, Qwen3-1.7B without thinking, on MATH: Too Correct to Learn (Liang et al.), arXiv 2604.18493.
# A reconstruction: the paper's text was not at hand and its authors have published no code. "paper" is Table 3 as a
# replication quotes it (dumbkin31/exploration-in-grpo, configs/train/base_grpo.yaml).
# Sampling is with the trained model itself: vLLM takes no such distribution. At 5,000 tokens that is slow.
# Evaluation samples as in training (paper: top-p 0.8, top-k 20).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen3-1.7B         # paper; also 4B, with 12,000 tokens
    --task math                     # paper: MATH
    --eval-task math500             # paper: one of its sets
    --prompt-template qwen_boxed    # chosen here
    --enable-thinking False         # paper
    --backend hf                    # see above
    --max-prompt-length 1024        # replication
    --max-response-length 5000      # paper
    --num-prompts 128               # paper
    --num-generations 16            # paper
    --cuts-ratio 0.5                # paper: 8 and 8
    --cuts-top-k 5                  # paper
    --cuts-min-prob 0.03            # paper
    --cuts-warmup 5                 # paper
    --num-minibatches 4             # paper: 32 prompts each
    --temperature 1.0               # paper
    --learning-rate 1e-6            # paper
    --warmup-steps 0                # chosen here: verl's default
    --weight-decay 0.01             # replication: verl's default
    --max-grad-norm 1.0             # replication: verl's default
    --clip-ratio-low 0.2            # replication
    --clip-ratio-high 0.2           # replication
    --beta 0.001                    # paper
    --num-steps 100                 # replication
    --eval-every 10                 # replication
    --eval-problems 500             # all of MATH-500
    --eval-samples 4                # replication
    --save-every 20                 # chosen here
)
train cuts "${flags[@]}" "$@"
