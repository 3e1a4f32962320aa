"""Packed rows: the numbers of padded ones, no row sees another, and models that cannot take them are refused."""

import inspect
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from common import InputError, packing, policy
from common.batch import make_batch, take_rows
from common.loading import load_policy, packing_fault
from common.packing import Unit, first_fit, pack, segments_of, similar
from common.passes import Packed, units_of
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


def norms_in_float64(policy: Policy) -> Policy:
    """The library's RMSNorm rounds to float32, once for a prompt or once for each of its rows."""
    for module in list(policy.model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return policy


@pytest.mark.parametrize("budget", [20, 60, 10_000])
@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_packed_rows_give_what_padded_ones_give(kind: str, tied: bool, budget: int) -> None:
    options = {"dtype": F64, "temperature": 0.7, "micro_batch_tokens": budget}
    for how in ({"packing": True}, {"share_prompts": True}):
        policies = (norms_in_float64(tiny_policy(kind, tied, **options, **more)) for more in (how, {}))
        assert_equal(*map(results, policies))


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_packing_goes_with_the_other_options(
    checkpointing: bool, graph: bool, sharing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers run again in the backward pass, and a graph kept since `score`, are packed too: else a mask is made."""
    expected, calls, plain = results(norms_in_float64(tiny_policy("llama", dtype=F64))), [], packing.in_blocks
    monkeypatch.setattr(packing, "in_blocks", lambda *a, **k: (calls.append(1), plain(*a, **k))[1])
    options = {"packing": not sharing, "share_prompts": sharing, "gradient_checkpointing": checkpointing}
    assert_equal(results(norms_in_float64(tiny_policy("llama", dtype=F64, **options)), graph), expected)
    layers, score, backward = 2, 1 + graph, 1 + checkpointing  # kept: its rows and the others apart
    assert len(calls) == layers * (score + backward)


def test_a_prompt_is_read_once() -> None:
    """By all of its rows in a pass, wherever in the batch they stand; and again where a pass has no room for them."""
    batch = make_batch(random_samples(num_prompts=4, n=3))
    prompts, lengths = batch["prompt_mask"].sum(1), batch["mask"].sum(1)
    policy = tiny_policy(share_prompts=True)
    # A prompt's last token predicts the first of each response, whose last token nobody reads.
    once = prompts[::3].sum() + (lengths - 1).sum()
    for rows in (torch.arange(12), torch.randperm(12)):
        some = take_rows(batch, rows)
        (part,) = policy._passes(some, some["mask"])
        assert part.input_ids.numel() == once
        assert (some["response_ids"][part.in_batch] == part.targets).all() and len(part.targets) == lengths.sum()
    policy.micro_batch_tokens = 12
    parts = list(policy._passes(batch, batch["mask"]))
    assert once < sum(part.input_ids.numel() for part in parts) < (prompts + lengths - 1).sum()
    assert all(part.input_ids.numel() <= 12 or len(part.in_batch[0].unique()) == 1 for part in parts)
    needed = batch["mask"].clone()
    needed[:3] = False  # a group of which nothing is wanted is not read
    needed[3:6, 1:] = False  # nor are responses after the last wanted token
    read = sum(part.input_ids.numel() for part in tiny_policy(share_prompts=True)._passes(batch, needed))
    assert read == once - prompts[0] - (lengths[:6] - 1).sum()


def test_groups_are_taken_apart_for_more_ranks_than_groups() -> None:
    ids, packed = torch.zeros(8, 20, dtype=torch.long), Packed(True, False, 1000, 4)
    sizes = [14] * 8  # prompts of 10
    one = units_of(ids, [10] * 8, sizes, packed)
    assert [len(unit.rows) for unit in one] == [2, 2, 2, 2] and {unit.size for unit in one} == {18}
    ids[4:, 0] = 1
    assert [len(unit.rows) for unit in units_of(ids, [10] * 8, sizes, packed)] == [2, 2, 2, 2]
    assert [len(unit.rows) for unit in units_of(ids, [10] * 8, sizes, packed._replace(parts=2))] == [4, 4]
    assert [len(unit.rows) for unit in units_of(ids, [10] * 8, sizes, packed._replace(parts=1, most=19))] == [2] * 4
    assert [unit.size for unit in units_of(ids, [10] * 8, sizes, packed._replace(sharing=False))] == sizes


def test_blocks_hold_segments_of_similar_lengths() -> None:
    assert similar([3, 10, 5, 4, 1]) == [[1, 2], [3, 0], [4]] and similar([]) == []
    blocks = segments_of([Unit([0, 1], 9, [40, 3]), Unit([2], 2, [0]), Unit([3, 4], 8, [0, 30])])
    lengths = [[segment.length for segment in block] for block in blocks]
    assert lengths == [[9, 8], [40, 30], [3], [2]]  # a row that ends with its prompt has no branch
    assert [[segment.stem for segment in block] for block in blocks] == [[0, 1], [0, 1], [0], [5]]


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
    """A stem of two rows with their branches, and a row by itself; the longest first."""
    ids = torch.tensor([[4, 7, 0, 0], [1, 2, 3, 5], [1, 2, 6, 0]])
    units = [Unit([0], 2, [0]), Unit([1, 2], 2, [2, 1])]
    at = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([1, 1, 3, 1, 2])
    packed, (row, column), layout = pack(ids, units, at, kernel=True)
    assert packed.tolist() == [[4, 7, 1, 2, 3, 5, 6]]
    assert (packed[row, column] == ids[at]).all()
    assert layout["position_ids"].tolist() == [[0, 1, 0, 1, 2, 3, 2]]
    assert layout["cu_seq_lens_q"].tolist() == [0, 2, 4, 6, 7] and layout["max_length_q"] == 2
    assert layout["cu_seq_lens_k"].tolist() == [0, 2, 4, 8, 11] and layout["max_length_k"] == 4
    assert packed[0, layout["keys"]].tolist() == [4, 7, 1, 2, 1, 2, 3, 5, 1, 2, 6]
    assert layout["cu_seq_lens_q"].dtype == layout["cu_seq_lens_k"].dtype == torch.int32  # as the kernel wants them
    apart = pack(ids, [Unit([0], 2, [0]), Unit([1], 4, [0])], at, kernel=True)[2]
    assert apart["cu_seq_lens_q"].tolist() == [0, 4, 6] and "keys" not in apart


def reference(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *others, **options) -> Tensor:
    """What torch's variable-length attention is documented to do: (N, H, d), (N, K, d) twice -> (N, H, d).

    The last query of a segment sees its last key: so the kernel counts, which torch's page leaves out.
    """
    bound = inspect.signature(varlen_attn).bind(q, k, v, starts, *others, **options).arguments  # its own names
    assert bound["window_size"] == (-1, 0) and starts.dtype == torch.int32
    assert bound["max_q"] == starts.diff().max() and bound["max_k"] == bound["cu_seq_k"].diff().max()
    assert q.shape[1] == k.shape[1] or bound["enable_gqa"]
    out = []
    queries, seen = (pairwise(bound[name].tolist()) for name in ("cu_seq_q", "cu_seq_k"))
    for (start, end), (first, last) in zip(queries, seen, strict=True):
        row, keys, values = (x.transpose(0, 1)[None] for x in (q[start:end], k[first:last], v[first:last]))
        mask = torch.ones(end - start, last - first, dtype=torch.bool).tril(last - first - end + start)
        row = scaled_dot_product_attention(row, keys, values, attn_mask=mask, scale=bound["scale"], enable_gqa=True)
        out.append(row[0].transpose(0, 1))
    return torch.cat(out)


@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("shares_keys", [True, False])
def test_the_kernel_is_called_as_documented(shares_keys: bool, sharing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with a stand-in for the kernel; torch 2.11 has it without shared keys."""
    if shares_keys and not packing.SHARES_KEYS:
        pytest.skip("this torch's kernel takes no shared keys")
    calls = []
    monkeypatch.setattr(packing, "SHARES_KEYS", shares_keys)
    monkeypatch.setattr(policy, "has_kernel", lambda device, dtype: True)
    monkeypatch.setattr(packing, "varlen_attn", lambda *a, **k: (calls.append(1), reference(*a, **k))[1])
    actual = results(norms_in_float64(tiny_policy("llama", dtype=F64, packing=not sharing, share_prompts=sharing)))
    assert calls
    assert_equal(actual, results(norms_in_float64(tiny_policy("llama", dtype=F64))))


def mistral(**config) -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, intermediate_size=48, num_key_value_heads=2, **config))


def test_models_that_packing_would_change_are_known() -> None:
    torch.manual_seed(0)
    windows = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1}
    assert packing_fault(mistral(sliding_window=None)) == packing_fault(tiny_model("qwen2")) == ""
    assert "sliding_window" in packing_fault(mistral(sliding_window=4096))
    assert "sliding" in packing_fault(tiny_model("qwen2", **windows))
    assert packing_fault(BloomForCausalLM(BloomConfig(**SMALL)))  # positions and attention of its own


def test_load_asks(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Packing is refused, and prompts are read anew with a word about it."""
    windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    directory = save_tiny(tmp_path / "model", "qwen2", **windows)
    assert load_policy(str(directory), device="cpu").packing is False
    assert "read anew" not in "".join(capsys.readouterr())
    with pytest.raises(InputError, match="leave --packing out"):
        load_policy(str(directory), device="cpu", packing=True)
    assert load_policy(str(directory), device="cpu", share_prompts=True).share_prompts is False
    said = " ".join("".join(capsys.readouterr()).split())
    assert "prompts are read anew for each response" in said and "sliding" in said
    assert load_policy(None, device="cpu", share_prompts=True).share_prompts is True


def test_attention_is_put_back_after_an_error() -> None:
    policy = Policy(tiny_model(), byte_tokenizer(), packing=True)
    usual = policy.model.config._attn_implementation
    with pytest.raises(KeyError):
        policy.score({"mask": torch.ones(1, 1, dtype=torch.bool)})
    assert policy.model.config._attn_implementation == usual
