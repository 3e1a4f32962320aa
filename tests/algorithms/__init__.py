"""The equations of every algorithm.

A method's file, test_<name>.py, holds what is its own: a slow loop written from the paper's equations, the settings
under which it is compared with the code, the settings that make it its parent, numbers worked out by hand, and tests of
what only it does. What holds for all of them stands once, in test_all.py, which finds these files; oracle.py is what
both are written with. `pytest tests/algorithms -k kl_cov` runs all there is about one method.

    FLAGS           flags that are not the skeleton's: names and defaults
    METRICS         the algo/* that assign_credit and policy_loss return, without that prefix
    SCRIPT_METRICS  those that another part of its script adds; none if left out
    SCRIPT_FLAGS    flags that make the script act in the few small steps of tests/test_scripts.py; none if left out
    CASES           settings under which every part of the method acts; nothing in them may be a matter of chance
    NEUTRAL         settings that make it another file's loss and gradient, bit for bit
    ON_POLICY       settings that give another file's gradient where the policy is the one that sampled
    UNMIXED         rewards that a group may share and still be trained on, by definition; none if left out
    NEEDS_TOKENS    True if a minibatch without a token cannot come about and is an error
    slow            (batch, logprobs, entropy, args) -> loss, in Python floats; the batch is as assign_credit finds it,
                    its tensors lists; batch["sg_logprobs"] and batch["sg_entropy"] are the arguments, held constant
                    while the gradient is measured: what the method detaches
    extra           (batch, generator) -> keys that the batch needs besides, drawn with this generator
"""

import pytest

pytest.register_assert_rewrite("tests.algorithms.oracle")
