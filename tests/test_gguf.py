"""--model FILE.gguf: made-up files of a few kilobytes, read as the model that they were written from."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import InputError, loading
from common.identity import absolute_paths, digest_model
from common.loading import check_gguf, check_model_name, load_model, load_policy, load_tokenizer
from common.plan import describe_model
from tests.helpers import byte_tokenizer, tiny_model
from tests.test_bad_input import FAST, flags, run_script

CHAT = "{% for m in messages %}{{ m.role + ':' + m.content + '<|end|>' }}{% endfor %}"
LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def llama(seed: int = 0) -> torch.nn.Module:
    return tiny_model("llama", intermediate_size=64, vocab_size=259, seed=seed)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key matrix in the order of the file format: pairs that turn together stand together."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, packed: str | None = None, seed: int = 0) -> torch.nn.Module:
    """A tiny Llama with the byte tokenizer, its matrices packed as, for example, "Q4_1"; returns the model."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: requirements-gguf.txt")
    pytest.importorskip("accelerate", reason="accelerate is not installed: requirements-gguf.txt")
    model, tokenizer = llama(seed), byte_tokenizer()
    config, state = model.config, {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokenizer.convert_ids_to_tokens(list(range(258))), "zz"])
    writer.add_token_types([1] * 256 + [3, 3, 1])  # 3: special
    writer.add_token_merges(["z z"])  # the library takes a list without any for another kind of tokenizer
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(CHAT)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{short}": f"model.layers.{layer}.{long}" for short, long in LAYER.items()}
    for short, long in names.items():
        weight = state[f"{long}.weight"]
        if long.endswith(("q_proj", "k_proj")):
            weight = interleaved(weight, config.num_attention_heads if "q_proj" in long else config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType[packed if packed and weight.ndim == 2 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(weight), kind)
        writer.add_tensor(f"{short}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_a_gguf_is_the_model_it_was_made_from(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Weights to the bit, tokens, template; and what is loaded is plain: it can be scored, copied and saved."""
    model = write_gguf(tmp_path / "m.gguf")
    policy = load_policy(str(tmp_path / "m.gguf"))
    expected = model.state_dict()
    assert policy.model.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in policy.model.state_dict().items())
    text = "3*7=21, \u00e9\n"
    assert policy.encode(text) == byte_tokenizer()(text).input_ids and policy.end_ids == [256]
    chat = policy.encode([{"role": "user", "content": "1+1?"}])
    assert policy.tokenizer.decode(chat) == "user:1+1?<|end|>"
    assert policy.frozen_copy().model.config.to_dict() == policy.model.config.to_dict()
    assert policy.model.config.architectures == ["LlamaForCausalLM"]  # which an engine beside the trainer asks for
    policy.save(tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert all(torch.equal(tensor, expected[key]) for key, tensor in again.state_dict().items())
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert "quantization_config" not in config
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template == CHAT
    assert capfd.readouterr() == ("", "")  # no bar of the library's


@pytest.mark.parametrize("packed", ["Q8_0", "Q4_1"])
def test_packed_weights_are_unpacked(packed: str, tmp_path: Path) -> None:
    """By the format's own rule, in blocks of 32, and into float32."""
    model = write_gguf(tmp_path / "m.gguf", packed)
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[packed]
    loaded = load_model(str(tmp_path / "m.gguf"))
    for name, parameter in loaded.named_parameters():
        weight = model.get_parameter(name).detach().numpy()
        if weight.ndim == 2:
            heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
            stored = interleaved(weight, heads) if heads else weight
            weight = gguf.quants.dequantize(gguf.quants.quantize(np.ascontiguousarray(stored), kind), kind)
            if heads:
                weight = weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        assert parameter.dtype == torch.float32 and parameter.requires_grad
        torch.testing.assert_close(parameter.detach(), torch.from_numpy(weight), rtol=0, atol=0)


def test_a_run_on_a_gguf_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """From another working directory, and with no other file in its place."""
    write_gguf(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    options = {"model": "m.gguf", "task": "sums:high=3", "output-dir": "run", "eval-every": 0}
    assert run_script(*flags(FAST | options)) == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["model"] == str(tmp_path / "m.gguf")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_script("--resume", str(tmp_path / "run"), "--num-steps", "2") == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    write_gguf(tmp_path / "m.gguf", seed=1)
    capfd.readouterr()
    assert run_script("--resume", str(tmp_path / "run"), "--num-steps", "3") == 2
    assert "its configuration, tokenizer or weights" in capfd.readouterr().err


def test_what_is_known_of_a_gguf_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_gguf(tmp_path / "m.gguf", "Q8_0")
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert describe_model(str(tmp_path / "m.gguf")).startswith(f"{tmp_path}/m.gguf: {count:,.1f} million parameters")
    digest = digest_model(str(tmp_path / "m.gguf"))
    assert digest["dtype"] is None and digest == digest_model(str(tmp_path / "m.gguf"))
    write_gguf(tmp_path / "other.gguf", "Q8_0", seed=1)
    assert digest_model(str(tmp_path / "other.gguf"))["sha256"] != digest["sha256"]
    assert digest_model(str(tmp_path / "none.gguf")) is None
    monkeypatch.chdir(tmp_path)
    assert absolute_paths({"model": "m.gguf"})["model"] == str(tmp_path / "m.gguf")
    assert absolute_paths({"model": "owner/name"})["model"] == "owner/name"


# --- Refusing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no/such/place/m.gguf", "owner/name/m-Q4_1.gguf", "owner/m.gguf"])
def test_a_gguf_that_is_not_here(name: str) -> None:
    """Nor is one looked for on the hub, of which two of these could be files."""
    with pytest.raises(InputError, match=r"cannot be read \(No such file.*download it first"):
        check_model_name(name)


def test_no_gguf_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGML and more")
    with pytest.raises(InputError, match="is no GGUF file"):
        check_gguf(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_packages_that_are_not_installed(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == missing else object())
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=f"with the help of {missing}; pip install -r requirements-gguf.txt"):
        load_model(str(tmp_path / "m.gguf"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def without_weights(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


@pytest.mark.parametrize("damage", [cut_off, without_weights])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_damaged_gguf(damage: Callable, load: Callable, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write_gguf(tmp_path / "m.gguf")
    damage(tmp_path / "m.gguf")
    if load is load_tokenizer and damage is without_weights:
        pytest.skip("the tokenizer is whole")
    with pytest.raises(InputError, match=r"m.gguf") as error:
        load(str(tmp_path / "m.gguf"))
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")
