"""What every algorithm shares: problems, answers, text generation, the model and the run directory.

Nothing here decides what is learned; that is in `algos/`.
"""

import os

# The fast tokenizers' own threads and forked workers do not mix, and prompts are short.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, and how to mend it, in one line."""
