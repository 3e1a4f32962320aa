"""What every algorithm shares: problems, answers, text generation, the model and the run directory.

Nothing here decides what is learned; that is in `algos/`. Two things must be settled before torch is imported,
so they are settled here.
"""

import os

# libgomp threads spin at barriers by default; with a second busy process on the machine that makes two threads
# some 25 times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The fast tokenizers' own threads and forked workers do not mix, and prompts are short.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, and how to mend it, in one line."""
