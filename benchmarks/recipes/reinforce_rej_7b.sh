#!/usr/bin/env bash
# Reinforce-Rej, Qwen2.5-Math-7B, on NuminaMath: A Minimalist Approach (Xiong et al.), arXiv 2504.11343.
# "script" is scripts/run_reinforce_rej.sh of RLHFlow/Minimal-RL, for Qwen2.5-Math-1.5B on 8 GPUs, "config" what its
# ppo_trainer.yaml sets and the script does not. The paper's text was not at hand, only notes on it.
# Rewards: the script's are 1 and 0; for it append --wrong-reward 0. Minibatches: 512 prompts each by the notes, that is
# --num-minibatches 2.
# Prompt: the authors' system message is that of qwen_boxed; theirs repeats its sentence behind the question.
# Data: named in the authors' scripts/data_preprocess/numina_math.py; it was not loaded when this was written. There
# problems over 700 tokens are left out first.
# Differs from the script: no dual clip (there 3); evaluation samples as in training (there greedy).
source "$(dirname "$0")/common.sh"
flags=(
    --model Qwen/Qwen2.5-Math-7B    # paper; script: 1.5B
    --task ScaleML-RLHF/numina_math # script, see above
    --eval-task math500             # script
    --prompt-template qwen_boxed    # nearest to the authors' data, see above
    --max-prompt-length 1024        # script: longer ones are left out there too
    --max-response-length 3072      # script
    --num-prompts 1024              # script
    --num-generations 4             # script
    --num-minibatches 4             # script: 256 prompts each
    --temperature 1.0               # config
    --learning-rate 1e-6            # script
    --warmup-steps 0                # config
    --weight-decay 0.01             # config
    --max-grad-norm 1.0             # config
    --clip-ratio-low 0.2            # config
    --clip-ratio-high 0.2           # config
    --beta 1e-3                     # script
    --entropy-coef 1e-3             # config
    --reject both                   # paper and script
    --wrong-reward -1               # paper; script: 0
    --num-steps 300                 # chosen here; script: one epoch
    --eval-every 5                  # script
    --eval-problems 500             # all of MATH-500
    --eval-samples 16               # paper: avg@16
    --save-every 5                  # script
)
train reinforce_rej "${flags[@]}" "$@"
