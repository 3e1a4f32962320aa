"""Crossing the vocabulary on a GPU: bytes that each logit costs, and the compiled bodies or their lack."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common import vocabulary
from common.basics import warn_once
from common.batch import make_batch
from common.policy import Policy
from common.sharding import VocabularyGradient
from common.vocabulary import chunk_gradient, chunk_values, vocabulary_backward, vocabulary_score
from tests.helpers import byte_tokenizer, random_samples, tiny_model
from tests.pretend import PretendedCuda

HALF = torch.bfloat16
TOKENS, WORDS = 8, 1000


# --- Bytes ------------------------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Bytes per logit that operators read and write, each of them a kernel of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if not function.is_view and name not in ("new_empty", "new_zeros", "gather", "scatter_add_"):
            read = [] if name == "mm" else args  # its `out` is overwritten
            tensors = [x for x in tree_leaves((read, result)) if isinstance(x, Tensor)]
            wide = [x for x in tensors if x.shape[:1] == (TOKENS,) and x.numel() > 16 * TOKENS]
            self.bytes += sum(x.nbytes for x in wide) / (TOKENS * WORDS)
        return result


def eager_bytes(grad_logprobs: bool, grad_entropy: bool) -> float:
    """Of a chunk in bfloat16 on the pretended GPU; what products read is left out, in `fused_bytes` too."""
    hidden, weight = torch.randn(TOKENS, 1, dtype=HALF), torch.randn(WORDS, 1, dtype=HALF)
    targets, ones = torch.zeros(TOKENS, dtype=torch.long), torch.ones(TOKENS)
    with PretendedCuda():
        there = [x.to("cuda:0") for x in (hidden, weight, targets, ones, torch.zeros(WORDS, 1))]
        hidden, weight, targets, ones, grad_weight = there
        with Traffic() as traffic:
            if grad_logprobs:
                how = (1.0, TOKENS, False, grad_weight)
                vocabulary_backward(hidden, weight, None, targets, ones, ones if grad_entropy else None, *how)
            else:
                vocabulary_score(hidden, weight, None, targets, 1.0, TOKENS)
    return traffic.bytes


# What a kernel makes of words as it reads them, and of all words of a row.
ONE_BY_ONE = set("add arange div eq exp gather log mul scalar_tensor select sub where _to_copy".split())
SUMS = {"amax", "sum"}


def name_of(node: fx.Node) -> str:
    return node.target.overloadpacket.__name__ if node.op == "call_function" else node.op


def is_sum_of_shifted(node: fx.Node) -> bool:
    """The sum of exp(x - max x), which torch.compile makes for CUDA together with the maximum: where that changes, what
    was summed so far is rescaled."""
    path = [node]
    for name in ("sum", "exp", "sub"):
        if name_of(path[-1]) != name:
            return False
        path.append(path[-1].args[0])
    return name_of(path[2].args[1]) == "amax" and path[2].args[1].args[0] is path[3]


def fused_bytes(graph: fx.Graph) -> int:
    """Bytes per logit of one kernel that does a traced chunk body, and of the product that writes its float32 logits.

    It reads them once for all sums that it can make at the same time, once more for sums that need those, and again for
    what is as wide as they are and is written.
    """
    behind: dict[fx.Node, int] = {}  # how often they have been read before a value is known
    reads, written = set(), 0
    for node in graph.nodes:
        before = max((behind[source] for source in node.all_input_nodes), default=0)
        if name_of(node) in SUMS:
            before += not is_sum_of_shifted(node)
            reads.add(before)
        elif name_of(node) == "output":
            wide = [x for x in node.all_input_nodes if x.meta["val"].numel() > 16 * TOKENS]
            reads |= {behind[source] + 1 for source in wide}
            written += sum(source.meta["val"].element_size() for source in wide)
        else:
            assert name_of(node) in ONE_BY_ONE | {"placeholder", "get_attr"}, f"{node} takes a kernel of its own"
        behind[node] = before
    return 4 + 4 * len(reads) + written


def test_bytes_of_a_logit() -> None:
    """As the head of common/vocabulary.py has them; of the kernels' code with a compiler for CUDA, the same."""
    logits, targets, g = torch.randn(TOKENS, WORDS), torch.zeros(TOKENS, 1, dtype=torch.long), torch.ones(TOKENS, 1)
    divisor = torch.ones(())
    bodies = [make_fx(partial(chunk_values, temperature=divisor))(logits, targets)]
    for h in (None, g.clone()):
        body = partial(chunk_gradient, grad_entropy=h, temperature=divisor, dtype=HALF)
        bodies.append(make_fx(body)(logits, targets, g))
    assert [fused_bytes(body.graph) for body in bodies] == [12, 14, 18]
    assert [eager_bytes(*which) for which in ((False, False), (True, False), (True, True))] == [44, 42, 102]


# --- Compiled or not --------------------------------------------------------------------------------------------------


@pytest.fixture
def every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is used for chunks of any length, and whether there can be any is asked anew."""
    monkeypatch.setattr(vocabulary, "FEWEST", 1)
    vocabulary.can_compile.cache_clear()
    warn_once.cache_clear()
    yield
    vocabulary.can_compile.cache_clear()


def crossing(policy: Policy, batch: dict) -> list[Tensor]:
    """Scores, and the gradients of a loss of both, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(2, *batch["mask"].shape, generator=generator)
    scores = policy.score(batch)
    policy.backward(batch, *gradients)
    return [*scores, *(p.grad.to("cpu") for p in policy.model.parameters())]


@pytest.mark.parametrize(("fewest", "bodies"), [(1, True), (7, True), (8, False)])
def test_cuda_uses_what_is_compiled(fewest: int, bodies: bool, every_chunk: None, monkeypatch: MonkeyPatch) -> None:
    """Without a flag, in chunks that are long enough; the CPU does not, and the numbers are its."""
    used, batch = [], make_batch(random_samples(num_prompts=3, n=2))
    monkeypatch.setattr(vocabulary, "FEWEST", fewest)
    for name in ("chunk_values", "chunk_gradient"):
        body = getattr(vocabulary, name)
        monkeypatch.setattr(vocabulary, name, lambda *x, body=body, name=name: (used.append(name), body(*x))[1])
    options = {"dtype": torch.float32, "temperature": 0.7}
    expected = crossing(Policy(tiny_model(), byte_tokenizer(), **options), batch)
    assert not used
    with PretendedCuda():
        policy = Policy(tiny_model(), byte_tokenizer(), device="cuda:0", **options)
        policy.chunk = 7
        found = crossing(policy, batch)
    assert set(used) == ({"chunk_values", "chunk_gradient"} if bodies else set())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_slower_kernels_do_it(
    every_chunk: None, monkeypatch: MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Said once, in one line; the numbers are those of a policy that does not ask for it."""
    batch = make_batch(random_samples(num_prompts=3, n=2))

    def broken(*_: object, **__: object) -> Callable:
        def call(*_: object) -> None:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

        return call

    expected = crossing(Policy(tiny_model(), byte_tokenizer()), batch)
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(Policy, "_prepare_layers", lambda *_: None)
    found = crossing(Policy(tiny_model(), byte_tokenizer(), compiled=True), batch)
    assert all(map(torch.equal, found, expected))
    [line] = capsys.readouterr().err.splitlines()
    reason = "Failed to find C compiler. Please specify via CC"
    assert line.startswith(f"warning: torch.compile does not work on cpu ({reason}); ")


def test_compiled_once(monkeypatch: MonkeyPatch) -> None:
    """Not again for other numbers of tokens, chunks or temperatures: it takes long, and torch gives up after eight. And
    nothing is in float64."""
    made = []

    def compiler(graph: fx.GraphModule, inputs: list) -> Callable:
        made.extend(x.dtype for x in inputs if isinstance(x, Tensor))
        return graph.forward

    bodies = [torch.compile(body, dynamic=True, backend=compiler) for body in (chunk_values, chunk_gradient)]
    for name, value in (("compiled_chunks", lambda: bodies), ("can_compile", lambda _: True), ("FEWEST", 3)):
        monkeypatch.setattr(vocabulary, name, value)
    generator = torch.Generator().manual_seed(0)
    for tokens in (8, 20, 7, 29, 1):
        hidden, weight = (torch.randn(size, 4, generator=generator) for size in (tokens, 50))
        targets, g = torch.randint(50, (tokens,), generator=generator), torch.randn(tokens, generator=generator)
        for temperature in (1.0, 0.7):
            found = []
            for compiled in (True, False):
                how = (temperature, 8, compiled)
                with torch.no_grad():
                    values = vocabulary_score(hidden, weight, None, targets, *how)
                    grads = [
                        vocabulary_backward(hidden, weight, None, targets, g, h, *how, weight * 0) for h in (None, g)
                    ]
                found.append([*values, *grads])
            for ours, theirs in zip(*found, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert made.count(torch.long) == 3  # values, and gradients without and with that of the entropy
    assert set(made) == {torch.long, torch.float32}


# --- Over several ranks -----------------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """Counts operators whose result is a new matrix of the head's size."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sized = isinstance(result, Tensor) and result.shape == (WORDS, 4)
        if sized and not function.is_view and not function._schema.is_mutable:
            self.names.append(function.overloadpacket.__name__)
        return result


def test_the_heads_gradient_is_not_copied() -> None:
    """It is summed up in float32 and rounded, once each; backward hands it on, and autograd takes it as it is."""
    hidden = torch.randn(TOKENS, 4).to(HALF).requires_grad_()
    weight = torch.randn(WORDS, 4).to(HALF).requires_grad_()
    targets, g = torch.zeros(TOKENS, dtype=torch.long), torch.randn(TOKENS)
    with Made() as made:
        loss = VocabularyGradient.apply(hidden, weight, None, targets, g, None, 1.0, TOKENS, False)
        forward = list(made.names)
        loss.backward()
    assert forward == ["zeros_like", "mm", "_to_copy"] and made.names == forward  # CPUs have no product in float32
    assert weight.grad.dtype == HALF and hidden.grad.abs().max() > 0
    logprobs = (hidden.detach().float() @ weight.detach().float().t()).requires_grad_()
    (logprobs.log_softmax(-1)[:, 0] * g).sum().backward()
    torch.testing.assert_close(weight.grad.float(), logprobs.grad.t() @ hidden.detach().float(), rtol=0.02, atol=0.01)
