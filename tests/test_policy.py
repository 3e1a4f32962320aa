"""The policy against its definition: full logits, log_softmax and one `loss.backward()` through the model."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import common.policy
import common.vocabulary
from algos.grpo import Args, assign_credit, policy_loss
from common import InputError
from common.batch import make_batch, take_rows
from common.loading import check_exact, load_policy
from common.metrics import batch_metrics, update_metrics
from common.policy import Policy
from common.vocabulary import chunk_gradient, chunk_values, vocabulary_backward
from tests.helpers import byte_tokenizer, random_samples, save_tiny, tiny_model, tiny_policy

F64 = torch.float64
MODELS = [(kind, tied) for kind in ("qwen2", "llama", "neox") for tied in (True, False)]
MODELS += [("phi", True), ("phi", False)]  # an output head with bias
G = 3  # responses per prompt in `random_samples`


# --- The plain way ----------------------------------------------------------------------------------------------


def plain_score(policy: Policy, batch: dict) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (B, T) with their graph: each row alone, unpadded, its logits in full."""
    width = batch["mask"].shape[1]
    logprobs, entropy = [], []
    for row in range(len(batch["mask"])):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row]]
        response = batch["response_ids"][row][batch["mask"][row]]
        logits = policy.model(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        distribution = (logits / policy.temperature).log_softmax(-1)
        unused = (0, width - len(response))
        logprobs.append(torch.nn.functional.pad(distribution.gather(1, response[:, None])[:, 0], unused))
        entropy.append(torch.nn.functional.pad(-(distribution.exp() * distribution).sum(-1), unused))
    return torch.stack(logprobs), torch.stack(entropy)


def grads_of(policy: Policy) -> dict[str, Tensor]:
    """The accumulated gradient, a zero where there is none; cleared for the next call."""
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in policy.model.named_parameters()
    }
    policy.model.zero_grad()
    return grads


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Equal to a share `tolerance` of the largest gradient, parameter by parameter."""
    assert actual.keys() == expected.keys()
    scale = max(g.abs().max().item() for g in expected.values())
    assert scale > 0.01  # nothing is learned from comparing zeros
    for name, grad in expected.items():
        assert (actual[name] - grad).abs().max() <= tolerance * scale, name


def random_grads(batch: dict, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Derivatives of some loss, with rows and positions that carry none and with numbers outside the mask."""
    generator = torch.Generator().manual_seed(seed)
    shape = batch["mask"].shape
    g, h = (torch.randn(shape, generator=generator, dtype=F64) for _ in range(2))
    g[torch.rand(shape, generator=generator) < 0.4] = 0
    h[torch.rand(shape, generator=generator) < 0.4] = 0
    g[1::2] = 0
    h[1::4] = 0  # row 1: neither; row 3: entropy only
    return g, h


def grads_by_policy(policy: Policy, batch: dict, *grads: Tensor) -> dict[str, Tensor]:
    policy.backward(batch, *grads)
    return grads_of(policy)


# --- I2: the two-stage gradient is the gradient -----------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_score_is_log_softmax_and_its_entropy(kind: str, tied: bool, temperature: float) -> None:
    policy, batch = tiny_policy(kind, tied, F64, temperature=temperature), make_batch(random_samples())
    expected = plain_score(policy, batch)
    for actual, plain in zip(policy.score(batch), expected, strict=True):
        assert actual.dtype == F64 and not actual.requires_grad
        torch.testing.assert_close(actual, plain.detach(), rtol=0, atol=1e-10)
        assert (actual[~batch["mask"]] == 0).all()
    assert expected[1][batch["mask"]].std() > 0.05  # the distributions are not all alike


@pytest.mark.parametrize(("kind", "tied"), MODELS)
@pytest.mark.parametrize(
    ("terms", "temperature"), [("logprobs", 0.7), ("entropy", 0.7), ("both", 0.7), ("zero entropy", 1.0), ("both", 1.0)]
)
def test_backward_equals_autograd(kind: str, tied: bool, terms: str, temperature: float) -> None:
    policy, batch = tiny_policy(kind, tied, F64, temperature=temperature), make_batch(random_samples())
    g, h = random_grads(batch)
    g = torch.zeros_like(g) if terms == "entropy" else g
    h = torch.zeros_like(h) if terms in ("logprobs", "zero entropy") else h
    logprobs, entropy = plain_score(policy, batch)
    ((g * logprobs + h * entropy) * batch["mask"]).sum().backward()
    expected = grads_of(policy)
    actual = grads_by_policy(policy, batch, g, *([] if terms == "logprobs" else [h]))
    assert_same(actual, expected)


def test_backward_accumulates() -> None:
    # Phi is float64 throughout; the norms of Qwen2 and Llama compute in float32, where sums round.
    policy, batch = tiny_policy("phi", dtype=F64), make_batch(random_samples())
    (g, h), (g2, h2) = random_grads(batch, 0), random_grads(batch, 1)
    expected = grads_by_policy(policy, batch, g + g2, h + h2)
    policy.backward(batch, g, h)
    policy.backward(batch, g2, h2)
    assert_same(grads_of(policy), expected)


def grpo_batch(policy: Policy, args: Args, seed: int = 0) -> dict:
    """A scored batch with advantages whose policy has moved since: some ratios lie outside the clip."""
    batch = make_batch(random_samples(seed=seed))
    logprobs, batch["entropy"] = policy.score(batch)
    generator = torch.Generator().manual_seed(seed)
    for key in ("old_logprobs", "ref_logprobs"):
        noise = torch.randn(logprobs.shape, generator=generator, dtype=F64)
        batch[key] = (logprobs + 0.3 * noise) * batch["mask"]
    batch["importance"] = torch.ones_like(logprobs)
    assign_credit(batch, args, {})
    return batch


def two_stage(policy: Policy, mb: dict, args: Args) -> tuple[dict[str, Tensor], dict[str, float]]:
    """One minibatch as the algorithm files do it: gradients and metrics."""
    logprobs, entropy = (x.requires_grad_() for x in policy.score(mb))
    loss, stats = policy_loss(logprobs, entropy, mb, args)
    grads = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
    policy.backward(mb, *grads)
    return grads_of(policy), stats | {"loss": loss.item()} | update_metrics(mb, logprobs, grads, loss, 0.0)


@pytest.mark.parametrize(("kind", "tied"), [("qwen2", True), ("llama", False), ("neox", False), ("phi", False)])
@pytest.mark.parametrize(("beta", "entropy_coef"), [(0.0, 0.0), (0.04, 0.0), (0.04, 0.01)])
def test_grpo_minibatch_equals_autograd_through_the_model(
    kind: str, tied: bool, beta: float, entropy_coef: float
) -> None:
    args = Args(num_generations=G, beta=beta, entropy_coef=entropy_coef)
    policy = tiny_policy(kind, tied, F64, temperature=0.7)
    mb = grpo_batch(policy, args)
    loss, stats = policy_loss(*plain_score(policy, mb), mb, args)
    assert stats["policy/clip_high_ratio"] > 0 and stats["policy/clip_low_ratio"] > 0
    loss.backward()
    expected = grads_of(policy)
    actual, metrics = two_stage(policy, mb, args)
    assert_same(actual, expected)
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-12)


# --- I3: how the work is cut up does not matter -----------------------------------------------------------------


def pass_over(policy: Policy, batch: dict, args: Args) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor], dict]:
    """Everything an update shows: scores, gradients, metrics."""
    grads, metrics = two_stage(policy, batch, args)
    return policy.score(batch), grads, metrics | batch_metrics(batch)


def assert_same_pass(actual: tuple, expected: tuple) -> None:
    for a, b in zip(actual[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert_same(actual[1], expected[1])
    assert actual[2] == pytest.approx(expected[2], rel=1e-10, abs=1e-10)


@pytest.fixture(scope="module")
def whole() -> tuple[Policy, Args, dict, tuple]:
    """A policy, a minibatch and its pass in one piece."""
    args = Args(num_generations=G, beta=0.04, entropy_coef=0.01)
    policy = tiny_policy("phi", False, F64, temperature=0.7, micro_batch_tokens=10**9)
    batch = grpo_batch(policy, args)
    policy.chunk = 10**9
    return policy, args, batch, pass_over(policy, batch, args)


@pytest.mark.parametrize(("chunk", "vocabulary_slice"), [(1, 100), (7, 258), (7, 1), (10**9, 100)])
@pytest.mark.parametrize("micro_batch_tokens", [1, 50, 10**9])
def test_micro_batches_and_chunks_change_nothing(
    whole: tuple, micro_batch_tokens: int, chunk: int, vocabulary_slice: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, args, batch, expected = whole
    monkeypatch.setattr(common.vocabulary, "SLICE", vocabulary_slice)
    policy = copy.copy(policy)
    policy.micro_batch_tokens, policy.chunk = micro_batch_tokens, chunk
    assert_same_pass(pass_over(policy, batch, args), expected)


def test_padding_changes_nothing(whole: tuple) -> None:
    """More padding, left of the prompts and right of the responses, filled with ids that mean something."""
    policy, args, batch, expected = whole
    left, right = 4, 5
    padded = {}
    for key, value in batch.items():
        if key in ("prompt_ids", "prompt_mask"):
            padded[key] = torch.nn.functional.pad(value, (left, 0), value=0 if value.dtype == torch.bool else 256)
        elif isinstance(value, Tensor) and value.ndim == 2:
            padded[key] = torch.nn.functional.pad(value, (0, right), value=256 if key == "response_ids" else 0)
        else:
            padded[key] = value
    padded["prompt_ids"][~padded["prompt_mask"]] = 77
    padded["response_ids"][~padded["mask"]] = 78
    scores, grads, metrics = pass_over(policy, padded, args)
    assert all((x[:, -right:] == 0).all() for x in scores)
    assert_same_pass((tuple(x[:, :-right] for x in scores), grads, metrics), expected)


def test_order_of_prompts_changes_nothing(whole: tuple) -> None:
    policy, args, batch, expected = whole
    rows = torch.arange(len(batch["mask"])).view(-1, G)[torch.tensor([2, 0, 3, 1])].flatten()
    scores, grads, metrics = pass_over(policy, take_rows(batch, rows), args)
    back = rows.argsort()
    assert_same_pass((tuple(x[back] for x in scores), grads, metrics), expected)


# --- What has no gradient costs nothing -------------------------------------------------------------------------


def count_work(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Sizes of what goes through the model (rows x length of each pass) and over the vocabulary (positions)."""
    work = {"backbone": [], "vocabulary": []}

    def count_tokens(module, args, kwargs, output) -> None:
        work["backbone"].append(kwargs["input_ids"].numel())

    head_logits = common.vocabulary.head_logits

    def count_positions(hidden: Tensor, *rest) -> Tensor:
        work["vocabulary"].append(len(hidden))
        return head_logits(hidden, *rest)

    policy.model.base_model.register_forward_hook(count_tokens, with_kwargs=True)
    monkeypatch.setattr(common.vocabulary, "head_logits", count_positions)
    return work


def test_tokens_without_gradient_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the rows drop out, the others run up to their last token with gradient and no further."""
    policy, batch = tiny_policy(micro_batch_tokens=1), make_batch(random_samples())
    work = count_work(policy, monkeypatch)
    g, h = (x.float() for x in random_grads(batch))
    g[::2], h[::2] = 0, 0
    needed = ((g != 0) | (h != 0)) & batch["mask"]
    rows = needed.any(1)
    assert 0 < rows.sum() <= len(rows) / 2 and needed[rows].sum() < batch["mask"][rows].sum()
    last = torch.stack([row.nonzero()[-1, 0] for row in needed[rows]])
    policy.backward(batch, g, h)
    # Position of the last needed token t is prompt + t, and the token before it predicts it.
    assert sum(work["backbone"]) == (batch["prompt_mask"][rows].sum(1) + last).sum()
    assert len(work["backbone"]) == rows.sum()
    assert sum(work["vocabulary"]) == needed.sum()


def test_nothing_runs_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = tiny_policy(), make_batch(random_samples())
    work = count_work(policy, monkeypatch)
    outside = (~batch["mask"]).float()
    assert outside.any()
    for grads in [(0 * outside,), (0 * outside, 0 * outside), (outside, outside)]:
        policy.backward(batch, *grads)
    assert work == {"backbone": [], "vocabulary": []}
    assert all(p.grad is None for p in policy.model.parameters())


@pytest.mark.parametrize("micro_batch_tokens", [20, 40, 1000])
def test_micro_batch_tokens_bounds_a_pass(micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = tiny_policy(micro_batch_tokens=micro_batch_tokens), make_batch(random_samples())
    policy.chunk = 4
    work = count_work(policy, monkeypatch)
    policy.score(batch)
    assert max(work["backbone"]) <= micro_batch_tokens
    assert max(work["vocabulary"]) <= 4
    assert sum(work["vocabulary"]) == batch["mask"].sum()


def test_score_repeats_to_the_bit() -> None:
    """The ratio of the first update is exactly 1 only if nothing in a pass is random: dropout is off."""
    policy = tiny_policy("neox", attention_dropout=0.5, hidden_dropout=0.5)
    batch = make_batch(random_samples())
    for first, second in zip(policy.score(batch), policy.score(batch), strict=True):
        assert torch.equal(first, second)


# --- A graph kept from score to backward ------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tied"), [("qwen2", True), ("llama", False), ("phi", False), ("neox", False)])
@pytest.mark.parametrize("entropy_coef", [0.0, 0.01])
def test_a_kept_graph_changes_nothing(kind: str, tied: bool, entropy_coef: float) -> None:
    """Same scores, same gradients, and so do rows that were guessed wrong either way."""
    policy = tiny_policy(kind, tied, F64, temperature=0.7)
    batch = make_batch(random_samples())
    g, h = random_grads(batch)
    h = h * entropy_coef
    plain = policy.score(batch)
    policy.backward(batch, g, h)
    expected = grads_of(policy)
    kept = policy.score(batch, batch["likely_trained"])
    assert policy._graph is not None
    for a, b in zip(kept, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert not a.requires_grad
    policy.backward(batch, g, h)
    assert_same(grads_of(policy), expected)


@pytest.mark.parametrize("sharing", [True, False])
def test_graphs_of_several_passes_are_kept_as_far_as_there_is_room(
    sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of at most 25 tokens: with room for all, for some and for none the gradients are the same."""
    policy = tiny_policy("phi", dtype=F64, micro_batch_tokens=25, share_prompts=sharing)
    batch = make_batch(random_samples())
    rows, grads = torch.ones(12, dtype=torch.bool), random_grads(batch)
    plain = policy.score(batch)
    policy.backward(batch, *grads)
    expected = grads_of(policy)
    passes = [part.input_ids.numel() for part in policy._passes(batch, batch["mask"])]
    assert len(passes) > 2
    for room, count in ((sum(passes), len(passes)), (sum(passes[:2]), 2), (passes[0] - 1, 0)):
        monkeypatch.setattr("common.policy.GRAPH_BYTES", {"cpu": room * policy.kept_bytes})
        scores = policy.score(batch, rows)
        assert len(policy._graph.kept) == count
        for found, value in zip(scores, plain, strict=True):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-12)
        work = count_work(policy, monkeypatch)
        policy.backward(batch, *grads)
        assert_same(grads_of(policy), expected)
        assert len(work["backbone"]) < len(passes) or count == 0
        monkeypatch.undo()


def test_a_pass_keeps_what_is_reckoned() -> None:
    """Within a third of what autograd holds on to between the layers' first and last matrix."""
    saved: dict[int, int] = {}
    policy, batch = tiny_policy("llama", hidden_size=64), make_batch(random_samples())
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if (place := x.untyped_storage().data_ptr()) not in weights:
            saved[place] = x.untyped_storage().nbytes()
        return x

    [part] = policy._passes(batch, batch["mask"])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = policy.root.hidden(part)
    assert hidden.requires_grad
    assert 0.5 < policy.kept_bytes * part.input_ids.numel() / sum(saved.values()) < 1.5


def test_a_kept_graph_spares_the_second_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the rows of mixed groups; the last group is all right, and its rows run once more if they need a gradient."""
    policy, batch = tiny_policy(), make_batch(random_samples())
    mixed = torch.tensor([True] * 9 + [False] * 3)
    assert torch.equal(batch["likely_trained"], mixed)
    work = count_work(policy, monkeypatch)
    g = torch.ones(batch["mask"].shape)
    policy.score(batch, batch["likely_trained"])
    once = len(work["backbone"])
    policy.backward(batch, g * mixed[:, None])
    assert len(work["backbone"]) == once == 2
    policy.score(batch, batch["likely_trained"])
    policy.backward(batch, g)
    assert len(work["backbone"]) == 2 * once + 1


def test_only_tokens_with_gradient_cross_the_vocabulary_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = tiny_policy(), make_batch(random_samples())
    g, _ = (x.float() for x in random_grads(batch))
    g[:, 1:] = 0
    policy.score(batch, batch["likely_trained"])
    work = count_work(policy, monkeypatch)
    policy.backward(batch, g)
    assert sum(work["vocabulary"]) == ((g != 0) & batch["mask"]).sum()


def test_a_graph_of_which_little_is_wanted_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of nine rows: running those again costs less than a backward pass over all nine."""
    policy, batch = tiny_policy(), make_batch(random_samples())
    g = torch.ones(batch["mask"].shape)
    g[5:] = 0
    policy.score(batch, batch["likely_trained"])
    work = count_work(policy, monkeypatch)
    policy.backward(batch, g)
    assert len(work["backbone"]) == 1


@pytest.mark.parametrize("what", ["other batch", "parameters", "used", "step", "too large", "not asked"])
def test_a_graph_is_used_for_its_own_batch_and_parameters_alone(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, batch = tiny_policy(dtype=F64), make_batch(random_samples())
    g = torch.rand(batch["mask"].shape, dtype=F64) * batch["likely_trained"][:, None]  # all that the graph holds
    h = torch.zeros_like(g)
    if what == "too large":
        policy.micro_batch_tokens = 60
        monkeypatch.setattr("common.policy.GRAPH_BYTES", {"cpu": 1000})
    plain = policy.score(batch)
    kept = policy.score(batch, None if what == "not asked" else batch["likely_trained"])
    torch.testing.assert_close(kept, plain, rtol=0, atol=1e-10)  # other rows side by side: they may round
    asked = batch
    if what == "other batch":
        asked = take_rows(batch, torch.arange(len(batch["mask"])))
    if what == "parameters":
        policy.write([tensor + 0.1 for tensor in policy.snapshot()])
    if what == "step":
        policy.step()
    if what == "used":
        policy.backward(batch, g, h)
        grads_of(policy)
    work = count_work(policy, monkeypatch)
    policy.backward(asked, g, h)
    assert work["backbone"], "the old graph was used"
    actual = grads_of(policy)
    policy.backward(asked, g, h)
    assert_same(actual, grads_of(policy))


# --- Options that change memory and speed, not the result ----------------------------------------------------------


def gradient_of(**options) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    policy = Policy(tiny_model("llama", False, F64), byte_tokenizer(), temperature=0.7, **options)
    batch = make_batch(random_samples())
    scores = policy.score(batch)
    policy.backward(batch, *random_grads(batch))
    return scores, grads_of(policy)


def assert_equal_gradients(actual: tuple, expected: tuple) -> None:
    for a, b in zip(actual[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert_same(actual[1], expected[1])


def test_gradient_checkpointing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer runs twice in the backward pass's forward, and the gradient is the same."""
    expected, calls = gradient_of(), []
    forward = LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    assert_equal_gradients(gradient_of(), expected)
    once = len(calls)
    assert_equal_gradients(gradient_of(gradient_checkpointing=True), expected)
    assert len(calls) - once == once + 2  # two layers, again in the backward pass


def test_gradient_checkpointing_and_graphs_in_bfloat16() -> None:
    """Layers that run again are cast again: the same gradients to the bit."""
    batch = make_batch(random_samples())
    g, h = (x.float() for x in random_grads(batch))
    found = []
    for checkpointing in (False, True):
        options = {"dtype": torch.bfloat16, "gradient_checkpointing": checkpointing}
        policy = Policy(tiny_model(), byte_tokenizer(), **options)
        policy.score(batch, batch["likely_trained"] if checkpointing else None)
        policy.backward(batch, g, h)
        found.append(grads_of(policy))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=0.03 * gradient.abs().max().item())


def test_a_bias_of_the_head_is_summed_in_float32() -> None:
    """As its weight is: bfloat16 has no numbers between 3,056 and 3,072."""
    hidden, weight = torch.zeros(4095, 8, dtype=torch.bfloat16), torch.zeros(4, 8, dtype=torch.bfloat16)
    targets, ones = torch.zeros(4095, dtype=torch.long), torch.ones(4095)
    grad_weight, grad_bias = torch.zeros(4, 8), torch.zeros(4)
    shared = (hidden, weight, torch.zeros(4), targets, ones, None, 1.0)
    vocabulary_backward(*shared, 4095, False, grad_weight, grad_bias)
    torch.testing.assert_close(grad_bias, torch.tensor([3071.25, *[-1023.75] * 3]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bodies_to_be_compiled_take_a_bias(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, beside factors in either dtype; run as they are, without a compiler."""
    for name, made in (("compiled_chunks", lambda: (chunk_values, chunk_gradient)), ("can_compile", lambda _: True)):
        monkeypatch.setattr(common.vocabulary, name, made)
    monkeypatch.setattr(common.vocabulary, "FEWEST", 1)
    batch, found = make_batch(random_samples()), []
    g, h = (x.float() for x in random_grads(batch))
    for compiled in (False, True):
        policy = Policy(tiny_model("phi", False), byte_tokenizer(), dtype=dtype)
        policy.compiled = compiled
        scores = policy.score(batch)
        policy.backward(batch, g, h)
        found.append((*scores, *grads_of(policy).values()))
    for plain, fused in zip(*found, strict=True):
        tolerance = (0.05 if dtype == torch.bfloat16 else 1e-4) * max(1.0, plain.abs().max().item())
        torch.testing.assert_close(fused, plain, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_layers_in_bfloat16() -> None:
    """Parameters that are cast while a layer runs do not stop it from being compiled."""
    batch, found = make_batch(random_samples(2, 2)), []
    for compiled in (False, True):
        policy = Policy(tiny_model("phi", False), byte_tokenizer(), dtype=torch.bfloat16, compiled=compiled)
        scores = policy.score(batch)
        policy.backward(batch, batch["mask"].float())
        found.append((*scores, torch.cat([g.flatten() for g in grads_of(policy).values()])))
    for plain, fused in zip(*found, strict=True):
        assert (plain - fused).norm() < 0.05 * plain.norm()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiling_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's norms round to float32, in compiled code at other places."""
    monkeypatch.setattr(common.vocabulary, "FEWEST", 1)
    for actual, expected in zip(gradient_of(compiled=True), gradient_of(), strict=True):
        actual, expected = (list(x.values()) if isinstance(x, dict) else list(x) for x in (actual, expected))
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_chunk_bodies_for_compiling_equal_those_in_place() -> None:
    """Without a compiler: the same functions, run as they are."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 40, generator=generator, dtype=F64) * 3
    targets = torch.randint(40, (5, 1), generator=generator)
    g, h = (torch.randn(5, 1, generator=generator, dtype=F64) for _ in range(2))
    z = (logits / 0.7).requires_grad_()
    logprobs = z.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    values = chunk_values(logits, targets, 0.7)
    torch.testing.assert_close(values, (logprobs.gather(1, targets)[:, 0], entropy))
    for grad_entropy in (None, h):
        loss = (logprobs.gather(1, targets) * g).sum() + (0 if grad_entropy is None else (entropy[:, None] * h).sum())
        [expected] = torch.autograd.grad(loss, z, retain_graph=True)
        torch.testing.assert_close(chunk_gradient(logits, targets, g, grad_entropy, 0.7), expected / 0.7)


def test_offloading_the_optimiser_changes_nothing() -> None:
    moved, batch = [], make_batch(random_samples())
    plain, parked = (
        Policy(tiny_model(), byte_tokenizer(), learning_rate=1e-2, offload_optimizer=offload)
        for offload in (False, True)
    )
    move = parked._move_optimizer
    parked._move_optimizer = lambda device: (moved.append(str(device)), move(device))
    for policy in (plain, parked):
        train(policy, batch, 3)
    assert equal(parameters_of(plain), parameters_of(parked)) and equal(state_of(plain), state_of(parked))
    assert moved == ["cpu"] * 6  # there and back for each step; here both are the CPU


# --- step() -----------------------------------------------------------------------------------------------------


def set_grads(policy: Policy, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(p.shape, generator=generator) for p in policy.model.parameters()]
    for parameter, grad in zip(policy.model.parameters(), grads, strict=True):
        parameter.grad = grad.clone()
    return grads


def parameters_of(policy: Policy) -> list[Tensor]:
    return [p.detach().clone() for p in policy.model.parameters()]


def state_of(policy: Policy) -> list[Tensor]:
    return [value.clone() for state in policy.optimizer.state.values() for value in state.values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(map(torch.equal, first, second)) and len(first) == len(second)


@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6])
def test_step_is_adamw_on_the_clipped_gradient(max_grad_norm: float) -> None:
    policy = tiny_policy(max_grad_norm=max_grad_norm, learning_rate=1.0, weight_decay=0.1)
    policy.learning_rate = 3e-3  # a schedule sets it between steps
    twin = copy.deepcopy(policy.model)
    adam = torch.optim.AdamW(twin.parameters(), lr=3e-3, weight_decay=0.1)
    for seed in range(2):  # Adam's first step does not depend on the gradient's size, the second does
        grads = [g * (1 + 4 * seed) for g in set_grads(policy, seed)]
        for parameter, grad in zip(policy.model.parameters(), grads, strict=True):
            parameter.grad.copy_(grad)
        norm = torch.cat([g.flatten() for g in grads]).norm().item()
        for parameter, grad in zip(twin.parameters(), grads, strict=True):
            parameter.grad = grad * min(1.0, max_grad_norm / (norm + 1e-6))
        adam.step()
        assert policy.step() == pytest.approx(norm, rel=1e-5)  # the norm before clipping
        assert all(p.grad is None or not p.grad.any() for p in policy.model.parameters())
    for actual, expected in zip(policy.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_step_with_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    policy = tiny_policy(learning_rate=1e-2)
    set_grads(policy)
    policy.step()
    parameters, state = parameters_of(policy), state_of(policy)
    set_grads(policy, 1)
    next(policy.model.parameters()).grad[0, 0] = bad
    norm = policy.step()
    assert not torch.tensor(norm).isfinite()
    assert equal(parameters_of(policy), parameters) and equal(state_of(policy), state)
    assert all(p.grad is None or not p.grad.any() for p in policy.model.parameters())
    set_grads(policy, 2)  # and it can go on
    assert policy.step() > 0 and not equal(parameters_of(policy), parameters)


def test_step_without_gradient_moves_by_momentum() -> None:
    """No gradient at all is a gradient of zero: what a minibatch of groups without spread must do."""
    policies = [tiny_policy(learning_rate=1e-2) for _ in range(2)]
    for policy in policies:
        set_grads(policy)
        policy.step()
    before = parameters_of(policies[0])
    for parameter in policies[1].model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert [policy.step() for policy in policies] == [0.0, 0.0]
    assert equal(parameters_of(policies[0]), parameters_of(policies[1]))
    assert equal(state_of(policies[0]), state_of(policies[1]))
    assert not equal(parameters_of(policies[0]), before)


# --- Copies on disk and in memory -------------------------------------------------------------------------------


def train(policy: Policy, batch: dict, steps: int, seed: int = 0) -> None:
    for step in range(steps):
        policy.backward(batch, *(x.float() for x in random_grads(batch, seed + step)))
        policy.step()


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_copy_stays_as_it_was(tied: bool) -> None:
    policy, batch = tiny_policy(tied=tied, learning_rate=1e-2), make_batch(random_samples())
    before = policy.score(batch)
    reference = policy.frozen_copy()
    train(policy, batch, 2)
    assert equal(list(reference.score(batch)), list(before))
    assert not torch.equal(policy.score(batch)[0], before[0])
    assert not any(p.requires_grad or p.grad is not None for p in reference.model.parameters())
    ours = {p.data_ptr() for p in policy.model.parameters()}
    assert not ours & {p.data_ptr() for p in reference.model.parameters()}
    # A copy made later is of the later policy, and the policy still learns.
    assert equal(list(policy.frozen_copy().score(batch)), list(policy.score(batch)))
    assert all(p.requires_grad for p in policy.model.parameters())


@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_save_and_load_keep_every_bit(kind: str, tied: bool, tmp_path: Path) -> None:
    policy, batch = tiny_policy(kind, tied, learning_rate=1e-2), make_batch(random_samples())
    train(policy, batch, 1)
    policy.save(tmp_path / "model")
    loaded = load_policy(str(tmp_path / "model"), device="cpu")
    assert equal(parameters_of(loaded), parameters_of(policy))
    torch.testing.assert_close(loaded.score(batch), policy.score(batch), rtol=0, atol=1e-5)
    assert (loaded.head.weight is loaded.model.get_input_embeddings().weight) == tied
    assert loaded.encode("a 1=é") == policy.encode("a 1=é") and loaded.end_ids == policy.end_ids == [256]
    assert loaded.decode([[64, 220, 65, 256]]) == ["a b"]  # bytes have the ids of the sorted alphabet
    assert next(loaded.model.parameters()).dtype == torch.float32


def test_weights_without_a_place_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A reward model whose output matrix is tied loads as a language model, without the score that it was made for."""
    directory = save_tiny(tmp_path / "model")
    weights = load_file(directory / "model.safetensors") | {"score.weight": torch.zeros(1, 32)}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    load_policy(str(directory), device="cpu")
    assert "1 weights of its files have no place in it: score.weight" in capsys.readouterr().err


@pytest.mark.parametrize("tied", [True, False])
def test_restore_goes_on_to_the_bit(tied: bool, tmp_path: Path) -> None:
    batch = make_batch(random_samples())
    policy = tiny_policy(tied=tied, learning_rate=1e-2)
    train(policy, batch, 2)
    policy.save(tmp_path / "model")
    policy.save_optimizer(tmp_path / "model")
    train(policy, batch, 2, seed=2)
    other = tiny_policy(tied=tied, seed=5, learning_rate=1e-2)
    other.restore(tmp_path / "model")
    train(other, batch, 2, seed=2)
    assert equal(parameters_of(other), parameters_of(policy)) and equal(state_of(other), state_of(policy))
    assert (other.head.weight is other.model.get_input_embeddings().weight) == tied


# --- bfloat16 passes over float32 parameters --------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tied"), [("qwen2", True), ("llama", False), ("neox", False), ("phi", False)])
def test_bfloat16_compute_keeps_float32_parameters(kind: str, tied: bool) -> None:
    batch = make_batch(random_samples())
    g, h = (x.float() for x in random_grads(batch))
    exact = tiny_policy(kind, tied, temperature=0.7)
    policy = Policy(
        tiny_model(kind, tied), byte_tokenizer(), dtype=torch.bfloat16, temperature=0.7, micro_batch_tokens=40
    )
    scores = policy.score(batch)
    assert scores[0].dtype == scores[1].dtype == torch.float32
    # 8 bits of mantissa: logits of some 3 / 0.7 are known to about 0.02, and the errors of two layers add.
    for low, full in zip(scores, exact.score(batch), strict=True):
        assert 0 < (low - full).abs().max() < 0.2
    policy.backward(batch, g, h)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in policy.model.parameters())
    actual = grads_of(policy)

    # Autograd through the same precision: the model by itself computes in it, whoever calls it.
    logprobs, entropy = plain_score(policy, batch)
    torch.testing.assert_close(scores, (logprobs.detach(), entropy.detach()), rtol=0, atol=0.03)
    ((g * logprobs + h * entropy) * batch["mask"]).sum().backward()
    expected = grads_of(policy)
    actual, expected = (torch.cat([x.flatten() for x in grads.values()]) for grads in (actual, expected))
    assert (actual - expected).norm() < 0.03 * expected.norm()


# --- What load() and check_exact() refuse -----------------------------------------------------------------------


def bert(is_decoder: bool) -> transformers.PreTrainedModel:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.2,
        is_decoder=is_decoder,
    )
    return transformers.BertLMHeadModel(config)


def t5() -> transformers.PreTrainedModel:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def gemma2(softcap: float | None) -> transformers.PreTrainedModel:
    config = transformers.Gemma2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.5,
        final_logit_softcapping=softcap,
    )
    return transformers.Gemma2ForCausalLM(config)


def granite() -> transformers.PreTrainedModel:
    config = transformers.GraniteConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
        logits_scaling=8.0,
    )
    return transformers.GraniteForCausalLM(config)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: bert(is_decoder=False), "not causal"),
        (lambda: bert(is_decoder=True), "logits"),  # causal, but layers stand between the decoder and the head
        (t5, "output head"),
        (lambda: gemma2(softcap=5.0), "soft-capping"),
        (granite, "scaling"),
        (lambda: tiny_model().base_model, "output head"),
    ],
    ids=["bidirectional", "transformed", "encoder-decoder", "soft-capped", "scaled", "headless"],
)
def test_check_exact_refuses(build, problem: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=problem) as caught:
        check_exact(build(), "some/model")
    assert "some/model" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "neox", "phi"])
def test_check_exact_accepts(kind: str) -> None:
    check_exact(tiny_model(kind), kind)
    check_exact(gemma2(softcap=None), "gemma2 without capping")


def truncate(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def drop_tokenizer(directory: Path) -> None:
    for path in directory.iterdir():
        if "token" in path.name or path.name in ("vocab.json", "merges.txt"):
            path.unlink()


def only_base_model(directory: Path) -> None:
    shutil.rmtree(directory)
    tiny_model(tied=False).base_model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)


def smaller_vocabulary(directory: Path) -> None:
    tiny_model(vocab_size=200).save_pretrained(directory)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (shutil.rmtree, "neither a directory nor a hub id"),
        (drop_tokenizer, "tokenizer"),
        (lambda d: truncate(d / "model.safetensors", 0.5), "cannot be loaded"),
        (lambda d: truncate(d / "model.safetensors", 0.001), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "cannot be loaded"),
        (lambda d: (d / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda d: (d / "config.json").unlink(), "cannot be loaded"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be loaded"),
        (only_base_model, r"lacks weights.*lm_head\.weight"),
        (smaller_vocabulary, "more tokens than the model"),
    ],
    ids=[
        "missing",
        "no tokenizer",
        "half the weights",
        "torn header",
        "empty weights",
        "no weights",
        "no config",
        "bad config",
        "no head",
        "vocabulary",
    ],
)
def test_load_refuses(damage, problem: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, directory)
    damage(directory)
    with pytest.raises(InputError, match=problem) as caught:
        load_policy(str(directory), device="cpu")
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


def test_load_refuses_a_file(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="neither a directory nor a hub id"):
        load_policy(str(tiny_checkpoint / "config.json"), device="cpu")


def test_load_refuses_an_unknown_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="--device cpu") as caught:
        load_policy(str(tiny_checkpoint), device="cpux")
    assert "\n" not in str(caught.value)


def test_load_accepts_a_base_model_whose_head_is_its_embedding(tmp_path: Path) -> None:
    model = tiny_model(tied=True)
    model.base_model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    batch = make_batch(random_samples())
    expected = Policy(model, byte_tokenizer()).score(batch)
    torch.testing.assert_close(load_policy(str(tmp_path), device="cpu").score(batch), expected, rtol=0, atol=1e-5)


def test_load_takes_every_end_token(tmp_path: Path) -> None:
    """Chat models end a turn with a token that only the generation config names."""
    save_tiny(tmp_path, eos_token_id=[7, 256])
    assert load_policy(str(tmp_path), device="cpu").end_ids == [7, 256]


# --- Text -------------------------------------------------------------------------------------------------------

CHAT = [{"role": "user", "content": "1+1"}]
TEMPLATE = (
    "{{ bos_token or '' }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_encode_text() -> None:
    policy = tiny_policy()
    for text in ("6 8 3=144:", "é\n", ""):
        assert policy.decode([policy.encode(text)]) == [text]
    assert len(policy.encode("6 8 3=144:")) == 10  # nothing is added


def test_encode_chat() -> None:
    policy = tiny_policy()
    with pytest.raises(InputError, match="chat template") as caught:
        policy.encode(CHAT)
    assert "\n" not in str(caught.value)
    policy.tokenizer.chat_template = TEMPLATE
    assert policy.encode(CHAT) == policy.encode("user:1+1;assistant:")


def test_encode_keeps_one_beginning_token() -> None:
    """Some tokenizers add it to a text, and some chat templates write it: either way there is one."""
    policy = tiny_policy()
    tokenizer = policy.tokenizer
    plain = policy.encode("user:1+1;assistant:")
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = tokenizer.bos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    tokenizer.chat_template = TEMPLATE
    assert policy.encode("user:1+1;assistant:") == [bos, *plain]
    assert policy.encode(CHAT) == [bos, *plain]
