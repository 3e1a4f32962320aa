"""Packed rows: the numbers of padded ones, no row sees another, and models that cannot take them are refused."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from common import InputError, packing
from common.batch import make_batch
from common.loading import check_packed, load_policy
from common.packing import first_fit, pack
from common.policy import Policy
from tests.helpers import byte_tokenizer, random_samples, save_tiny, tiny_model, tiny_policy
from tests.test_policy import F64, MODELS, assert_same, grads_of, random_grads

SMALL = {"vocab_size": 258, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


def results(policy: Policy, graph: bool = False) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    batch = make_batch(random_samples())
    scores = policy.score(batch, batch["likely_trained"] if graph else None)
    policy.backward(batch, *random_grads(batch))
    return scores, grads_of(policy)


def assert_equal(actual: tuple, expected: tuple, tolerance: float = 1e-10) -> None:
    for a, b in zip(actual[0], expected[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    assert_same(actual[1], expected[1], tolerance)


@pytest.mark.parametrize("budget", [20, 60, 10_000])
@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_packed_rows_give_what_padded_ones_give(kind: str, tied: bool, budget: int) -> None:
    options = {"dtype": F64, "temperature": 0.7, "micro_batch_tokens": budget}
    assert_equal(*(results(tiny_policy(kind, tied, packing=packed, **options)) for packed in (True, False)))


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_packing_goes_with_the_other_options(checkpointing: bool, graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers run again in the backward pass, and a graph kept since `score`, are packed too: else a mask is made."""
    expected, calls, plain = results(tiny_policy("llama", dtype=F64)), [], packing.row_by_row
    monkeypatch.setattr(packing, "row_by_row", lambda *a: (calls.append(1), plain(*a))[1])
    policy = tiny_policy("llama", dtype=F64, packing=True, gradient_checkpointing=checkpointing)
    assert_equal(results(policy, graph), expected)
    layers, score, backward = 2, 1 + graph, 1 + checkpointing  # kept: its rows and the others apart
    assert len(calls) == layers * (score + backward)


def test_sampling_in_between_is_not_packed() -> None:
    policy = tiny_policy(packing=True)
    policy.score(make_batch(random_samples()))
    assert policy.model.config._attn_implementation != "packed"


def test_passes_hold_as_many_tokens_as_they_may() -> None:
    policy, batch = tiny_policy(packing=True, micro_batch_tokens=40), make_batch(random_samples())
    padded = tiny_policy(micro_batch_tokens=40)
    sizes = [part.input_ids.numel() for part in policy._passes(batch, batch["mask"])]
    lengths = batch["prompt_mask"].sum(1) + batch["mask"].sum(1) - 1
    assert sum(sizes) == lengths.sum() and max(sizes) <= 40
    assert len(sizes) < len(list(padded._passes(batch, batch["mask"])))


def test_first_fit() -> None:
    assert first_fit([0, 1, 2, 3, 4], [9, 6, 4, 3, 1], 10) == [[0, 4], [1, 2], [3]]
    assert first_fit([1, 0], [3, 20], 10) == [[1], [0]]  # a row that is longer than that runs alone
    assert first_fit([], [], 10) == []


def test_pack() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 0, 0], [5, 6, 0]])
    at = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    packed, (row, column), layout = pack(ids, [3, 1, 2], at)
    assert packed.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert (packed[row, column] == ids[at]).all()
    assert layout["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert layout["cu_seq_lens_q"].tolist() == [0, 3, 4, 6] and layout["max_length_q"] == 3
    assert layout["cu_seq_lens_q"].dtype == torch.int32  # as the kernel wants them


def reference(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *others, **options) -> Tensor:
    """What torch's variable-length attention is documented to do: (N, H, d), (N, K, d) twice -> (N, H, d)."""
    bound = inspect.signature(varlen_attn).bind(q, k, v, starts, *others, **options).arguments  # its own names
    assert bound["window_size"] == (-1, 0) and starts.dtype == torch.int32
    assert bound["max_q"] == bound["max_k"] == starts.diff().max() and starts is bound["cu_seq_k"]
    assert q.shape[1] == k.shape[1] or bound["enable_gqa"]
    out = []
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        rows = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
        row = scaled_dot_product_attention(*rows, is_causal=True, scale=bound["scale"], enable_gqa=True)
        out.append(row[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("shares_keys", [True, False])
def test_the_kernel_is_called_as_documented(shares_keys: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with a stand-in for the kernel; torch 2.11 has it without shared keys."""
    if shares_keys and not packing.SHARES_KEYS:
        pytest.skip("this torch's kernel takes no shared keys")
    calls = []
    monkeypatch.setattr(packing, "SHARES_KEYS", shares_keys)
    monkeypatch.setattr(packing, "has_kernel", lambda query: True)
    monkeypatch.setattr(packing, "varlen_attn", lambda *a, **k: (calls.append(1), reference(*a, **k))[1])
    actual = results(tiny_policy("llama", dtype=F64, packing=True))
    assert calls
    assert_equal(actual, results(tiny_policy("llama", dtype=F64)))


def mistral(**config) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, **config))


def test_models_that_packing_would_change_are_refused() -> None:
    torch.manual_seed(0)
    check_packed(mistral(sliding_window=None), "m")
    check_packed(tiny_model("qwen2"), "q")
    with pytest.raises(InputError, match=r"sliding_window.*leave --packing out"):
        check_packed(mistral(sliding_window=4096), "m")
    windows = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1}
    with pytest.raises(InputError, match=r"cannot take packed rows.*sliding"):
        check_packed(tiny_model("qwen2", **windows), "q")
    with pytest.raises(InputError, match="cannot take packed rows"):
        check_packed(BloomForCausalLM(BloomConfig(**SMALL)), "b")  # positions and attention of its own


def test_load_asks(tmp_path: Path) -> None:
    windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    directory = save_tiny(tmp_path / "model", "qwen2", **windows)
    assert load_policy(str(directory), device="cpu").packing is False
    with pytest.raises(InputError, match="leave --packing out"):
        load_policy(str(directory), device="cpu", packing=True)


def test_attention_is_put_back_after_an_error() -> None:
    policy = Policy(tiny_model(), byte_tokenizer(), packing=True)
    usual = policy.model.config._attn_implementation
    with pytest.raises(KeyError):
        policy.score({"mask": torch.ones(1, 1, dtype=torch.bool)})
    assert policy.model.config._attn_implementation == usual
