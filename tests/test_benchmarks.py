"""The arithmetic of benchmarks.memory, scaling.py and throughput.py, and a tiny run of each."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from benchmarks import memory, scaling, throughput
from benchmarks.measure import Load
from common.passes import TokenModel, compute_in
from common.policy import bytes_kept

ROOT = Path(__file__).resolve().parents[1]


def run(module: str, *flags: str) -> str:
    """Standard output of `python -m benchmarks.<module>` with these flags."""
    env = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"benchmarks.{module}", *flags]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_expected_peak_by_hand() -> None:
    """A vocabulary of 2**20 and 4,096 tokens in 16 rows: 32 rows of logits are a buffer of 2**27 bytes."""
    tokens, vocabulary = 4096, 2**20
    norms, attention, gates = 9 * 896, 2 * 896 + 2 * 128, 4 * 4864
    kept = (tokens + 16 * 31) * (norms + attention + gates) + 2 * tokens * 896
    head = vocabulary * 896
    weights = 2 * 896 * 896 + 2 * 896 * 128 + 3 * 896 * 4864
    assert memory.floats_per_token() == norms + attention + gates
    assert memory.expected_peak("plain", tokens, vocabulary) == 4 * (kept + 3 * tokens * vocabulary)
    assert memory.expected_peak("ours", tokens, vocabulary) == 4 * (2 * head + weights)  # the end, not the head
    assert memory.expected_peak("ours", 2**20, 32_000) == 4 * (  # the layer, when tokens are many
        (2**20 + 4096 * 31) * (norms + attention + gates + 2 * 4864) + 2 * 2**20 * 896 + 32_000 * 896
    )
    assert memory.expected_peak("TRL", tokens, vocabulary) == 4 * max(
        kept + head + int(8.25 * 4096 * 32_768), 2 * head + weights
    )
    chunk = 512 * vocabulary
    assert memory.expected_peak("Liger", tokens, vocabulary) == 4 * (kept + 2 * head + max(6 * chunk, 4 * chunk + head))


def saved_bytes(model: PreTrainedModel, ids: torch.Tensor) -> int:
    """What autograd keeps of a forward pass without output head, weights apart."""
    weights, kept = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, lest its memory is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids, use_cache=False)
    return sum(size for size, _ in kept.values())


def test_saved_by_a_layer_as_expected() -> None:
    """`floats_per_token` against what autograd says that it keeps, a tenth allowed for tables and small change."""
    ids = torch.randint(512, (4, 64))
    floats = saved_bytes(memory.wide_policy(512, "cpu", 0).model, ids) / 4 / ids.numel()
    assert floats == pytest.approx(memory.floats_per_token(), rel=0.1)


@pytest.mark.parametrize("way", ["ours", "graph kept", "plain"])
def test_every_way_leaves_the_same_gradients(way: str) -> None:
    def gradients(name: str) -> dict[str, torch.Tensor]:
        policy = memory.wide_policy(512, "cpu", 0)
        memory.PASSES[name](policy, *memory.random_batch(16, 512, 0))
        return {key: p.grad for key, p in policy.model.named_parameters()}

    expected = gradients("plain")
    for key, grad in gradients(way).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-4, atol=1e-6)


def test_graph_is_kept_in_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else "graph kept" would be measured without one."""
    calls = []
    hidden_of = TokenModel.hidden
    monkeypatch.setattr(TokenModel, "hidden", lambda self, part: calls.append(part) or hidden_of(self, part))
    for way, passes in (("ours", 2), ("graph kept", 1)):
        calls.clear()
        memory.PASSES[way](memory.wide_policy(512, "cpu", 0), *memory.random_batch(16, 512, 0))
        assert len(calls) == passes


@pytest.mark.slow
def test_memory_runs(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"
    flags = "--ways ours plain --parts vocabulary share --vocabularies 600 --fixed-tokens 16 --threads 1"
    shares = "--shares 1 0.5 --share-vocabulary 600"
    printed = run("memory", *f"{flags} {shares}".split(), "--out", str(out))
    report = json.loads(out.read_text())
    assert [p["way"] for p in report["points"]] == ["ours", "plain"] and out.with_suffix(".png").exists()
    assert report["points"][0]["gradient_difference"] < 1e-4
    assert all(p["seconds"] > 0 and p["extra_bytes"] > 0 and p["expected_bytes"] > 0 for p in report["points"])
    assert report["share"]["part"]["1.0"] == 1 and "gradient difference" in printed and "50%" in printed


# --- Scaling ----------------------------------------------------------------------------------------------------------


def test_slope_is_the_exponent() -> None:
    assert scaling.slope([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)]) == pytest.approx(1.5)
    # Deviations of +-ln 2 in the middle: slope of 0, ln 2, ln 2, ln 2 over 0, ln 2, 2 ln 2, 3 ln 2 is 3/10.
    assert scaling.slope([1, 2, 4, 8], [1, 2, 2, 2]) == pytest.approx(0.3)


def test_paper_by_hand() -> None:
    """A model of one layer, 10 wide, on 2 ranks of a node, and on 16."""
    shape = scaling.Shape("toy", 1, 10, 20, heads=2, kv_heads=1, vocabulary=100, head_width=5)
    layer = 10 * (10 + 5 + 5 + 10) + (10 + 5 + 5) + 3 * 10 * 20 + 2 * 10
    count = layer + 2 * 100 * 10 + 10
    assert (shape.layer_parameters(), shape.parameters()) == (layer, count) == (940, 2950)
    job = scaling.Job(shape, ranks=2, tensor_parallel=1, rows=8, prompt=2, response=6, micro_batch_tokens=16)
    assert (job.tokens(), job.passes()) == (64, 2)  # 4 rows a rank, 2 at a time
    found = scaling.paper(job)
    # Half of the weights is another rank's; 2 bytes each for score, 2 + 2 + 4 for backward, two passes.
    assert found["moved"] == {"score": 2 * count, "backward": 8 * count, "sync": 2 * count}
    memory_parts = found["memory"]
    assert memory_parts["shards"] == 8 * count and memory_parts["engine"] == 2 * count
    assert memory_parts["layers"] == 10 * layer and memory_parts["root"] == 12 * 1000
    one_layer = 18 * 10 + 2 * (10 + 2 * 5 + 4 * 20)
    assert memory_parts["activations"] == 16 * (2 * 10 + one_layer)
    assert memory_parts["graphs"] == 1.3 * 2**32
    assert memory_parts["cache"] == 4 * 8 * (2 * 5 * 2)  # 4 rows of 8 tokens, a key and a value of 5 numbers
    assert memory_parts["sampling"] == 8 * count + 2 * count + 640
    # 10 operations per weight but the embedding's, and attention: 2 layers' worth of 10 wide over half of 8 tokens.
    flops = 10 * (count - 1000 + 2 * 10 * 4)
    assert found["seconds"]["compute"] == pytest.approx(32 * flops / (scaling.FLOPS * scaling.MFU))
    assert found["seconds"]["communicate"] == pytest.approx(10 * count / (scaling.LINK_EFFICIENCY * scaling.NVLINK))


def test_pass_of_balanced_tokens_computes_as_long_as_it_moves() -> None:
    for job in scaling.JOBS:
        tokens = scaling.balanced_tokens(job, job.link())
        moving = sum(scaling.bytes_per_pass(job.shape.parameters(), job.ranks).values()) / job.link()
        computing = tokens * scaling.flops_per_token(job.shape, job.prompt + job.response)
        assert math.isclose(moving, computing / (scaling.FLOPS * scaling.MFU))


def config_of(shape: scaling.Shape, **changes) -> Qwen2Config:
    settings = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return Qwen2Config(**settings | changes)


@pytest.mark.parametrize("shape", scaling.SIZES.values(), ids=lambda shape: shape.name)
def test_paper_counts_what_the_library_counts(shape: scaling.Shape) -> None:
    config = config_of(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters() == model.num_parameters()


@pytest.mark.parametrize("sharded", [True, False])
def test_a_layer_keeps_what_the_estimate_says(sharded: bool) -> None:
    """Two lengths and two depths, so that what does not grow with the layers' tokens falls out; in bfloat16."""
    shape, saved, reckoned = scaling.SIZES["0.5B"], {}, {}
    for layers in (1, 2):
        model = AutoModelForCausalLM.from_config(config_of(shape, vocab_size=64, num_hidden_layers=layers))
        if sharded:
            model = model.to(torch.bfloat16)
        else:
            compute_in(model.float(), torch.bfloat16)
        reckoned[layers] = bytes_kept(model, torch.bfloat16, False)
        for length in (16, 48):
            saved[layers, length] = saved_bytes(model, torch.randint(64, (2, length)))
    grown = saved[2, 48] - saved[2, 16] - saved[1, 48] + saved[1, 16]
    assert grown / (2 * 32) == pytest.approx(shape.layer_bytes(), rel=0.005)
    of_a_layer = reckoned[2] - reckoned[1]  # what a policy keeps graphs by
    assert of_a_layer < grown / (2 * 32) < scaling.RECKONED_SHORT * of_a_layer


def test_what_fits() -> None:
    small, large = scaling.fit("0.5B", 1, 1024), scaling.fit("7B", 8, 16_384)
    assert scaling.fit_flags(small) == f"--vllm-gpu-memory-utilization {small['share']:.2f}"
    assert large["job"]["gradient_checkpointing"] and "--micro-batch-tokens 16896" in scaling.fit_flags(large)
    for found in (small, large):
        engine = found["share"] * scaling.GPU_BYTES
        assert found["training"] <= scaling.USABLE * scaling.GPU_BYTES
        assert engine + found["memory"]["shards"] <= scaling.USABLE * scaling.GPU_BYTES
        assert found["at_once"] >= scaling.AT_ONCE
    with pytest.raises(ValueError, match="does not fit"):
        scaling.fit("7B", 1, 4096)


def test_offloading_takes_the_moments_away() -> None:
    shape = scaling.SIZES["3B"]
    here, away = (
        scaling.memory_per_rank(scaling.Job(shape, 2, 1, offload_optimizer=offload)) for offload in (False, True)
    )
    assert here["shards"] - away["shards"] == 8 * shape.parameters() / 2


@pytest.mark.slow
def test_scaling_runs(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    shape = "--width 64 --depth 1 --vocabulary 512 --rows 4 --length 4 --repeats 1"
    axes = "--widths 64 128 --depths 1 2 --batches 1 2 --lengths 4 8"
    prompts = "--large 64 2 --both 12 --shares 2 --groups 2"
    printed = run("scaling", *f"{shape} {axes} {prompts}".split(), "--out", str(out))
    report = json.loads(out.read_text())
    assert [point["processes"] for point in report["ranks"]["points"]] == [1, 2]
    assert [len(point["runs"]) for point in report["ranks"]["points"]] == [1, 2]
    assert all(point["strangers"] > 0 for point in report["ranks"]["points"])
    assert [point["prompt"] for point in report["prompts"]["points"]] == [8, 8]
    assert report["slopes"]["axes"].keys() == {"width", "depth", "rows", "length"}
    assert [job["job"]["ranks"] for job in report["paper"]["jobs"]] == [8, 64] and "not measured" in printed
    assert [case["job"]["ranks"] for case in report["fit"]["cases"]] == [case[1] for case in scaling.CASES]


# --- Throughput -------------------------------------------------------------------------------------------------------

STEP = {"length": 10.0, "reward": 0.5, "zero_spread": 0.0, "rollout": 1.0, "verify": 0.1, "score": 0.2, "update": 0.5}


def test_summary_of_steps_by_hand() -> None:
    found = throughput.summary([1.0, 3.0, 2.0], [STEP, STEP | {"length": 20.0, "update": 0.8}], rows=4)
    assert found["tokens_per_second"] == 4 * 15 / 2 and found["median"] == 2
    assert found["update"] == pytest.approx(0.65) and found["rollout"] == 1
    assert throughput.step_times([1.0, 2.5, 3.0, 5.0], 2) == [0.5, 2.0]


def test_side_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(seed: int) -> dict:
        raise SystemExit("error: it failed\nTraceback\nValueError: head size 24\n")

    measures = {"ours": lambda seed: {"median": 2.0}, "trl": lambda seed: {"median": 3.0}}
    args, quiet = throughput.Args(repeats=2), lambda text: None
    found = throughput.alternate(args, measures, quiet)
    assert found["median_seconds"] == {"ours": 2.0, "trl": 3.0} and found["ratios"] == {}  # of two pairs
    assert [run["seed"] for run in found["runs"]["trl"]] == [1, 2]
    found = throughput.alternate(args, measures | {"trl": broken}, quiet, may_be_missing=True)
    assert found["missing"] == {"trl": "ValueError: head size 24"} and found["ratios"] == {}
    assert len(found["runs"]["ours"]) == 2 and "trl" not in found["runs"]
    with pytest.raises(SystemExit, match="it failed"):
        throughput.alternate(args, measures | {"trl": broken}, quiet)


def runs_of(**seconds: list[float]) -> dict[str, list[dict]]:
    """Sides by name, "ours_passive" and so on, on an idle machine."""
    idle = {"load_of_others": 0.0, "tokens_per_second": 1.0} | STEP
    return {side.replace("_", ", "): [idle | {"median": value} for value in values] for side, values in seconds.items()}


def test_ratios_are_those_of_pairs() -> None:
    """Each at its fastest, by the median, and as both come: our threads sleep, TRL's spin. Busy pairs do not count."""
    runs = runs_of(ours_passive=[1.0, 2.0, 4.0], ours_spinning=[1.0, 1.0, 9.0])
    runs |= runs_of(trl_passive=[3.0, 3.0, 3.0], trl_spinning=[8.0, 4.0, 4.0])
    found = throughput.ratios(runs)
    assert found["as both come"] == {"median": 2.0, "lowest": 1.0, "highest": 8.0, "pairs": 3}
    assert found["each at its fastest"] == {"median": 3.0, "lowest": 3 / 9, "highest": 3.0, "pairs": 3}
    runs["trl, spinning"][0]["load_of_others"] = 0.3
    assert list(throughput.ratios(runs)) == ["each at its fastest"]
    more = runs_of(ours_passive=[1.0, 2.0, 4.0, 1.0], trl_spinning=[8.0, 4.0, 4.0, 5.0])
    more["ours, passive"][0]["load_of_others"] = 0.3
    assert throughput.ratios(more)["as both come"] == {"median": 2.0, "lowest": 1.0, "highest": 5.0, "pairs": 3}


@pytest.mark.parametrize(("load", "told"), [(0.01, True), (0.3, False)])
def test_no_ratio_is_told_from_a_busy_machine(load: float, told: bool) -> None:
    runs = runs_of(ours_passive=[1.0] * 3, trl_spinning=[2.0] * 3)
    for run in runs["ours, passive"]:
        run["load_of_others"] = load
    result = {"runs": runs, "load_of_others": load, "ratios": throughput.ratios(runs)}
    result |= {key: dict.fromkeys(runs, 1.0) for key in ("median_seconds", "min_seconds")}
    caption = throughput.step_table(result, "step").caption
    assert ("2.00 (2.00 to 2.00, 3 quiet pairs)" in caption) == told
    assert ("others kept up to 30% of the processors busy" in caption) != told


def test_load_is_that_of_others() -> None:
    """Not what this process does itself, nor a child that it has waited for; a share of all processors."""
    spin = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"
    with Load() as own:
        exec(spin.format(0.3))
        subprocess.run([sys.executable, "-c", spin.format(0.3)], check=True)
    with subprocess.Popen([sys.executable, "-c", spin.format(60)]) as other, Load() as load:
        time.sleep(0.7)
        other.kill()
    assert own.others is not None and 0 <= own.others <= 1 and 0 < load.others <= 1
    before, after = (10.0, 20.0, 1.0), (14.0, 28.0, 3.0)
    with patch.object(Load, "seconds", side_effect=[before, after]), Load() as load:
        pass
    assert load.others == (4 - 2) / 8


PATH_OPTIONS = {
    "model": "common/tiny",
    "device": "cpu",
    "seed": 1,
    "num_prompts": 3,
    "num_generations": 4,
    "max_response_length": 24,
    "learning_rate": 1e-3,
    "num_steps": 2,
}


@pytest.mark.parametrize("other", ["ours_fresh", "verl"])
def test_loss_paths_train_alike(other: str) -> None:
    """The norm of the gradient of the first step and, after that step, of the second; each phase takes time."""
    if other == "verl":
        pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl cannot be imported")
    found = throughput.time_paths(PATH_OPTIONS | {"sides": ["ours", other]})
    assert 0 < found["trained_rows"] < 1 and found["rows"] == 12
    norms = [[step["grad_norm"] for step in found["runs"][side]] for side in ("ours", other)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0][0] > 0 and norms[0][0] != norms[0][1]
    assert all(step["score"] > 0 and step["update"] > 0 for steps in found["runs"].values() for step in steps)


@pytest.mark.slow
def test_throughput_runs(tmp_path: Path) -> None:
    """Both sides' phases are parts of a step; another command adds to the file and takes nothing away."""
    pytest.importorskip("trl", reason="trl cannot be imported: tests/requirements-peers.txt")
    out = tmp_path / "throughput.json"
    steps = ["--num-steps", "3", "--warmup-steps", "1", "--num-prompts", "2", "--repeats", "1", "--threads", "1"]
    printed = run("throughput", *steps, "--trl-settings", "one batch", "--out", str(out))
    report = json.loads(out.read_text())
    assert list(report["runs"]) == ["ours, passive", "trl, passive", "ours, spinning", "trl, spinning"]
    for [found] in report["runs"].values():
        step = sum(found["seconds"]) / len(found["seconds"])
        # A step's end is seen in the line that the script prints, a few milliseconds after it.
        assert 0 < sum(found[phase] for phase in throughput.PHASES) <= 1.02 * step
        assert found["rollout"] > 0 and found["update"] > 0 and found["tokens_per_second"] > 0
        assert len(found["seconds"]) == 2 and found["length"] > 1
    assert "sampling" in printed and ("TRL / ours" in printed or "no ratio" in printed)
    run("throughput", "--parts", "verl", *steps, "--out", str(out))
    added = json.loads(out.read_text())
    assert "missing" in added["verl"] or added["verl"]["sides"]["verl"]["seconds"] > 0
    assert {key: value for key, value in added.items() if key != "verl"} == report
