# Sourced by the recipes: where they run, how they start, and the flags that all recipes of one paper share, with their
# sources. A recipe adds its own flags, and what is appended to its command wins.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# train NAME FLAGS...: algos/NAME.py with these flags, started by $LAUNCH (torchrun ...), else python.
train() {
    exec ${LAUNCH:-python} "algos/$1.py" "${@:2}"
}

# The Entropy Mechanism (Cui et al.), arXiv 2505.22617, Section 4.3. "script" is one of recipe/dapo/ of
# PRIME-RL/Entropy-Mechanism-of-RL, which the recipe names, on 4 nodes of 8 GPUs.
# Differs from the scripts: long prompts are left out (there: cut on the left); where ten rounds do not fill the batch,
# the step trains on what there is (there: error); answers go through our verifier.
# Steps end where Fig. 11 does, whose unit is not named; read as rollouts, as verl counts.
# Evaluation samples as in training. The paper's: python -m benchmarks.evaluate CHECKPOINT --preset entropy \
#       --tasks aime24 aime25 amc23 --prompt-template qwen_boxed --max-response-length 8192
entropy_mechanism=(
    --task dapo17k                # paper; the copy that holds each problem once
    --eval-task aime24            # paper: one of its seven sets
    --prompt-template qwen_boxed  # authors' data: a system prompt that asks for a boxed answer
    --max-prompt-length 2048      # script
    --max-response-length 8192    # paper
    --num-prompts 256             # paper
    --num-generations 8           # paper
    --num-minibatches 8           # paper: 8 updates a rollout; script: 32 prompts each
    --max-resample 9              # paper drops groups without spread; script: at most 10 rounds
    --temperature 1.0             # paper
    --warmup-steps 0              # script: constant
    --weight-decay 0              # script
    --max-grad-norm 1.0           # script
    --eval-every 4                # paper and script
    --eval-problems 30            # all of AIME 2024
    --eval-samples 32             # paper: avg@32
    --save-every 32               # script
)

# Beyond the 80/20 Rule, arXiv 2506.01939 v2, Section 5.2. "script" is
# run_only_top20_high_entropy_tokens_dapo_qwen3_14b.sh of Shenzhi-Wang/Beyond-the-80-20-Rule-RLVR (14B, 16 nodes of 8
# GPUs; before 2025-11-29 it applied no mask).
# Prompt: no template here is the paper's, "User:\n[question]\nPlease reason step by step, and put your final answer
# within \boxed{}.\n\nAssistant:\n" as plain text; qwen_boxed has its sentence as system message. Exact: a .jsonl in
# those words with --prompt-template raw.
# Also differs: the top 20 % are a minibatch's (script: a GPU's micro-batch); no dual clip (script: 10); long prompts
# are left out (script: cut on the left). Paper and script disagree on warm-up, on data (script: 54,400 problems of
# LLM360/guru-RL-92k) and on evaluation (16 samples, as here; 32 with top-p 0.7).
forking_tokens=(
    --task dapo17k                 # paper; the copy that holds each problem once
    --eval-task aime24             # paper: one of its six sets
    --prompt-template qwen_boxed   # nearest to the paper's, see above
    --max-prompt-length 2048       # script
    --max-response-length 20480    # paper, with a buffer of 4,096
    --num-prompts 512              # paper
    --num-generations 16           # script
    --num-minibatches 16           # paper: 16 updates a rollout, 32 prompts each
    --max-resample 9               # script: at most 10 rounds
    --temperature 1.0              # script
    --learning-rate 1e-6           # paper
    --warmup-steps 0               # paper: none; script: 10
    --weight-decay 0.1             # script
    --max-grad-norm 1.0            # script
    --clip-ratio-low 0.2           # paper
    --clip-ratio-high 0.28         # paper
    --overlong-buffer-length 4096  # paper
    --overlong-penalty-factor 1.0  # script
    --top-entropy-ratio 0.2        # paper
    --normalize-by selected        # paper v2 and script; v1 and TRL: all
    --eval-every 5                 # script
    --eval-problems 30             # all of AIME 2024
    --eval-samples 16              # paper; script: 32
    --save-every 20                # chosen here; script: 5
)

# Negative Reinforcement (Zhu et al.), arXiv 2506.01347 v2. "script" is one of TianHongZXY/RLVR-Decomposed, which the
# recipe names, on one node of 8 GPUs. The paper's text was not at hand, only notes on it.
# NSR: append --positive-weight 0. PSR: --positive-weight 1 --negative-weight 0. REINFORCE: --positive-weight 1. For PSR
# and NSR the authors drop the other responses before cutting minibatches, which makes fewer updates.
# Prompt: the authors put the boxed-answer sentence behind the question; qwen_boxed makes it the system message.
# Entropy bonus: 1e-4 in the paper, 1e-3 in the code (a default that no script overrides). 0 leaves the method alone.
# Evaluation samples as in training.
negative_reinforcement=(
    --task math                   # paper and script: the 7,500 training problems of MATH
    --eval-task math500           # chosen here; script: the MATH test set, AIME 2025 and AMC 2023
    --prompt-template qwen_boxed  # nearest to the authors' code, see above
    --max-prompt-length 1024      # script: longer ones are left out there too
    --num-prompts 1024            # script
    --num-generations 8           # script
    --num-minibatches 4           # script: 256 prompts each
    --temperature 1.0             # script sets none; verl's default
    --learning-rate 1e-6          # script
    --warmup-steps 0              # script sets none; verl's default
    --weight-decay 0.01           # script sets none; verl's default
    --max-grad-norm 1.0           # script sets none; verl's default
    --clip-ratio-low 0.2          # authors' code
    --clip-ratio-high 0.2         # authors' code
    --positive-weight 0.1         # paper: lambda; script: positive_advantage_weight
    --negative-weight 1.0         # paper
    --entropy-coef 1e-4           # paper's appendix, from notes on it; authors' code: 1e-3
    --num-steps 140               # script: 20 epochs, each 7 full batches of the 7,500
    --eval-every 7                # script: once an epoch
    --eval-problems 500           # all of MATH-500
    --eval-samples 8              # chosen here
    --save-every 7                # script: once an epoch
)
