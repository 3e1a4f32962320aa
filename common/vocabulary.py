"""Crossing the vocabulary: from hidden states to log-probabilities and entropies, and from their gradients back.

The vocabulary is often 150,000 wide, and a (tokens, vocabulary) tensor is what training runs out of memory with. Here a
chunk of C tokens meets all V words at once, and nothing wider than a chunk exists. Because the incoming gradient is
known before `vocabulary_backward` is called, it crosses the vocabulary once: logits, their gradient and both products
with it, a chunk at a time. Softmax and sums are in float32 at least, and so is what adds up over chunks. On CUDA the
logits of bfloat16 factors are too: rounded to bfloat16 they would move log-probabilities by 0.02 nats and more.

One buffer is reused for every chunk, and without `compiled` overwritten in place: on a CPU fresh memory of that size
costs more than the arithmetic on it. On CUDA the element-wise work costs as much as the products unless torch.compile
fuses it: a logit is then written once by its product and read twice, 12 bytes to score, and 14 to be turned into its
gradient in bfloat16 (18 with the entropy's, which needs one more sum first), where eager code moves 44 and 42 (102).
tests/test_vocabulary.py counts.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from common.basics import warn_once

SLICE = 8192  # of the vocabulary, where a second buffer of a chunk's size would be needed otherwise
# Tokens of a chunk that compiled code is used for. It is made for about as many as it first meets: rows fewer than two
# to each of a GPU's processors would be cut into parts, which is slow for many, and a single one compiled by itself.
FEWEST = 300

# A further number for each token, out of its whole distribution: log-probabilities (C, V), targets (C, 1) -> (C,).
Statistic = Callable[[Tensor, Tensor], Tensor]


def logits_dtype(hidden: Tensor) -> torch.dtype:
    """What products with the head are rounded to: on CUDA float32 at least, which CPUs cannot make of bfloat16."""
    return torch.promote_types(hidden.dtype, torch.float32) if hidden.is_cuda else hidden.dtype


def raw_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """The head's product with hidden states (C, D), (C, V) in `logits_dtype`; written into `out` if it is given."""
    dtype = logits_dtype(hidden)
    if dtype != hidden.dtype:
        logits = torch.mm(hidden, weight.t(), out_dtype=dtype, out=out)
        return logits if bias is None else logits.add_(bias.to(weight.dtype))
    if bias is None:
        return torch.mm(hidden, weight.t(), out=out)
    return torch.addmm(bias.to(weight.dtype), hidden, weight.t(), out=out)


def chunk_buffer(hidden: Tensor, chunk: int, words: int) -> Tensor:
    return hidden.new_empty(min(chunk, len(hidden)), words, dtype=logits_dtype(hidden))


def head_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, buffer: Tensor) -> Tensor:
    """Logits / temperature, (C, V), in float32 at least, shifted so that each row's maximum is 0."""
    logits = raw_logits(hidden, weight, bias, buffer[: len(hidden)])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1:
        logits.div_(temperature)
    return logits.sub_(logits.amax(-1, keepdim=True))


def softmax_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """sum_v exp(z_v) and the mean of z under softmax(z), (C, 1) each."""
    total, weighted = logits.new_zeros(2, len(logits), 1)
    for z in logits.split(SLICE, dim=1):
        exp = z.exp()
        total += exp.sum(-1, keepdim=True)
        weighted += torch.linalg.vecdot(exp, z)[:, None]
    return total, weighted / total


def log_softmax(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Log-probabilities (C, V) from raw logits, in float32 at least."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    return z - z.logsumexp(-1, keepdim=True)


def shifted_softmax(logits: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Raw logits (C, V) -> logits / temperature less their maximum, their exponentials (C, V), and the sums of those.

    Spelled out, because torch.compile knows these steps and finds maximum and sum while it reads the logits once.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    z = z - z.amax(-1, keepdim=True)
    exp = z.exp()
    return z, exp, exp.sum(-1, keepdim=True)


def chunk_values(logits: Tensor, targets: Tensor, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy: raw logits (C, V), targets (C, 1) -> two (C,). To be compiled."""
    z, exp, total = shifted_softmax(logits, temperature)
    log_total, mean = total.log(), (exp * z).sum(-1, keepdim=True) / total
    return (z.gather(1, targets) - log_total)[:, 0], (log_total - mean)[:, 0]


def chunk_gradient(
    logits: Tensor,
    targets: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
    temperature: float | Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Gradient by the raw logits (C, V), in `dtype` or theirs; both gradients (C, 1). To be compiled.

    The target is compared with every column: to scatter its part would take two more passes over the gradient.
    """
    z, exp, total = shifted_softmax(logits, temperature)
    weight = grad_logprobs
    if grad_entropy is not None:
        weight = weight + grad_entropy * (z - (exp * z).sum(-1, keepdim=True) / total)
    drawn = torch.arange(z.shape[1], device=z.device) == targets
    grad = torch.where(drawn, grad_logprobs, 0.0) - exp / total * weight
    return (grad / temperature).to(dtype or logits.dtype)


@cache
def compiled_chunks() -> tuple[Callable, Callable]:
    """The two chunk bodies, each fused into one kernel."""
    return torch.compile(chunk_values, dynamic=True), torch.compile(chunk_gradient, dynamic=True)


@cache
def can_compile(device: torch.device) -> bool:
    """Whether torch.compile works here. If not, why is said once."""
    try:
        torch.compile(lambda x: x.exp().sum())(torch.ones(2, device=device))
    except Exception as error:  # no C compiler, no Triton, a GPU that it does not know: each raises its own
        reason = " ".join(str(error).split())[:200]
        warn_once(f"torch.compile does not work on {device} ({reason}); the vocabulary is crossed by slower kernels")
        return False
    return True


def to_compiled(temperature: float, logits: Tensor, *columns: Tensor | None) -> tuple[Tensor | None, ...]:
    """What a compiled body takes, in its order, as it should see it: one code for all chunks and temperatures.

    It knows the width, and so reads several words at a time; the number of rows it does not. Without `detach` it would
    be compiled anew for another length of the tensors that these are views of; a number would be one in float64.
    """
    logits = logits.detach()
    torch._dynamo.mark_static(logits, 1)
    exact = torch.promote_types(logits.dtype, torch.float32)
    divisor = torch.full((), temperature, dtype=exact, device=logits.device)
    return logits, *(column if column is None else column.detach() for column in columns), divisor


def vocabulary_score(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk: int,
    compiled: bool = False,
    also: Sequence[Statistic] = (),
) -> tuple[Tensor, ...]:
    """Log-probability of each target and entropy (nats) of each distribution: hidden (N, D) -> (N,) tensors.

    Each function of `also` adds a tensor: it is called with a chunk's log-probabilities, in float32 at least, which it
    must leave as they are.
    """
    found = []
    buffer, compiled = chunk_buffer(hidden, chunk, len(weight)), compiled and can_compile(hidden.device)
    for h, y in zip(hidden.split(chunk), targets[:, None].split(chunk), strict=True):
        fused = compiled and len(h) >= FEWEST
        if fused:
            logits = raw_logits(h, weight, bias, buffer[: len(h)])
            values = compiled_chunks()[0](*to_compiled(temperature, logits, y))
        else:
            logits = head_logits(h, weight, bias, temperature, buffer)  # (C, V)
            total, mean_logit = softmax_moments(logits)
            log_total = total.log()
            values = (logits.gather(1, y) - log_total)[:, 0], (log_total - mean_logit)[:, 0]  # H = log sum exp(z) - E z
        if also:
            distribution = log_softmax(logits, temperature) if fused else logits.sub_(log_total)
            values += tuple(statistic(distribution, y) for statistic in also)
        found.append(values)
    return tuple(map(torch.cat, zip(*found, strict=True)))


def vocabulary_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
    temperature: float,
    chunk: int,
    compiled: bool,
    grad_weight: Tensor,
    grad_bias: Tensor | None = None,
) -> Tensor:
    """Gradient with respect to `hidden` (N, D); those of the head are added to `grad_weight` (V, D), `grad_bias` (V,).

    d logp(y)/dz = onehot(y) - p and dH/dz = -p (log p + H) = -p (z - E z), z the logits after temperature. `weight` is
    in the dtype that the forward pass computes in; the sums are in the dtype of `grad_weight`.
    """
    grad_hidden = torch.empty_like(hidden)
    buffer, compiled = chunk_buffer(hidden, chunk, len(weight)), compiled and can_compile(hidden.device)
    for start in range(0, len(hidden), chunk):
        part = slice(start, start + chunk)
        h, y, g = hidden[part], targets[part, None], grad_logprobs[part, None]
        g_entropy = None if grad_entropy is None else grad_entropy[part, None]
        if compiled and len(h) >= FEWEST:
            logits = raw_logits(h, weight, bias, buffer[: len(h)])
            grad = compiled_chunks()[1](*to_compiled(temperature, logits, y, g, g_entropy), h.dtype)
        else:
            grad = gradient_in_place(head_logits(h, weight, bias, temperature, buffer), y, g, g_entropy, temperature)
            grad = grad.to(h.dtype)
        torch.mm(grad, weight, out=grad_hidden[part])
        if h.dtype == grad_weight.dtype:
            grad_weight.addmm_(grad.t(), h)
        elif h.is_cuda:  # bfloat16 factors, float32 product and sum
            torch.addmm(grad_weight, grad.t(), h, out_dtype=grad_weight.dtype, out=grad_weight)
        else:
            grad_weight += grad.t() @ h
        if grad_bias is not None:
            grad_bias += grad.sum(0, dtype=grad_bias.dtype)
    return grad_hidden


def gradient_in_place(
    logits: Tensor, targets: Tensor, grad_logprobs: Tensor, grad_entropy: Tensor | None, temperature: float
) -> Tensor:
    """Overwrite what `head_logits` gives (C, V) with the gradient by the raw logits; both gradients (C, 1)."""
    if grad_entropy is None:
        grad = logits.exp_()
        grad.mul_(-grad_logprobs / grad.sum(-1, keepdim=True))
    else:
        total, mean_logit = softmax_moments(logits)
        for z in logits.split(SLICE, dim=1):
            p = z.exp().div_(-total)
            z.sub_(mean_logit).mul_(grad_entropy).add_(grad_logprobs).mul_(p)
        grad = logits
    grad.scatter_add_(1, targets, grad_logprobs)
    if temperature != 1:
        grad.div_(temperature)
    return grad
