"""Bad input: status 2, one line that says what is wrong and how to mend it, and nothing written."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

from algos.grpo import Args
from common import InputError, loading
from common.arguments import parse_args
from tests.helpers import save_tiny

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "algos" / "grpo.py"
ROWS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(1, 6) for b in range(1, 6)]
# What to do about it: each line has one of these.
REMEDY = re.compile(
    r"\b(add|change|check|choose|convert|fetch|install|leave|mend|name|remove|save|start|try|use)\b"
    r"|\b(must|needs|needed|at most)\b|the knobs of|owner/name"
)
FAST = {
    "num-steps": 1,
    "num-prompts": 2,
    "num-generations": 2,
    "num-minibatches": 1,
    "max-response-length": 4,
    "eval-problems": 2,
    "eval-samples": 2,
    "device": "cpu",
}


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flags(options: dict) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def run_script(*argv: str) -> int | None:
    """Run the script in this process and return its exit status; any other exception is the traceback a user sees."""
    before = sys.argv, sys.path[:], {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.argv = [str(SCRIPT), *argv]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return 0
    except SystemExit as stop:
        return stop.code
    finally:
        sys.argv, sys.path[:], handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def everything_below(directory: Path) -> dict[str, tuple[int, int]]:
    """Every path with its size and time of change."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(directory.rglob("*"))}


@pytest.fixture
def refused(tmp_path: Path, tiny_checkpoint: Path, monkeypatch, capfd) -> Callable[..., str]:
    """Call it with flags that differ from a good run: it checks the refusal and returns the line."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    task = jsonl(tmp_path / "good.jsonl", ROWS)

    def check(options: dict, *words: str, base: dict | None = None) -> str:
        defaults = {"model": tiny_checkpoint, "task": task, **FAST} if base is None else base
        before = everything_below(tmp_path)
        capfd.readouterr()
        status = run_script(*flags(defaults | options))
        out, err = capfd.readouterr()
        assert status == 2, err
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in err and out == ""
        assert everything_below(tmp_path) == before, "something was written"
        assert REMEDY.search(err.partition(": ")[2]), f"it does not say what to do: {err}"
        for word in words:
            assert word.lower() in err.lower(), (word, err)
        return err

    return check


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A finished run of one step, to copy and damage."""
    directory = tmp_path_factory.mktemp("old")
    task = jsonl(directory / "good.jsonl", ROWS)
    options = {"model": tiny_checkpoint, "task": task, "output-dir": directory / "run", "eval-every": 0}
    assert run_script(*flags(FAST | options)) == 0
    return directory / "run"


# --- A run that is not refused --------------------------------------------------------------------------------------


def test_the_flags_of_these_tests_are_good(old_run):
    """Else every refusal below could be for another reason."""
    assert (old_run / "metrics.jsonl").read_text().count("\n") == 1


# --- Models ---------------------------------------------------------------------------------------------------------


def no_such_directory(model: Path) -> None:
    shutil.rmtree(model)


def a_file(model: Path) -> None:
    shutil.rmtree(model)
    model.write_text("not a model")


def an_empty_directory(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def config_is_not_json(model: Path) -> None:
    (model / "config.json").write_text("{")


def config_of_an_unknown_kind(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "no_such_kind"}))


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def truncated_weights(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def weights_without_one_tensor(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(model: Path) -> None:
    for path in model.glob("*token*"):
        path.unlink()


def damaged_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("{")


def code_of_its_own(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mystery", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text("raise SystemExit('the code was run')")


def an_adapter(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "owner/name"}')


def one_weight_is_nan(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_such_directory, ["model", "neither a directory nor a hub id", "owner/name"]),
        (a_file, ["model", "neither a directory nor a hub id", "owner/name"]),
        (an_empty_directory, ["model", "cannot be loaded", "config.json"]),
        (config_is_not_json, ["model", "cannot be loaded", "config.json"]),
        (config_of_an_unknown_kind, ["model", "cannot be loaded", "no_such_kind"]),
        (no_weights, ["model", "cannot be loaded", "model.safetensors"]),
        (truncated_weights, ["model", "cannot be loaded"]),
        (weights_without_one_tensor, ["model", "lacks weights", "model.layers.1.mlp.up_proj.weight"]),
        (no_tokenizer, ["model", "tokenizer", "save the tokenizer beside the weights"]),
        (damaged_tokenizer, ["model", "tokenizer"]),
        (code_of_its_own, ["model", "program code of its own, which is never run"]),
        (an_adapter, ["model", "is an adapter; merge it"]),
        (one_weight_is_nan, ["model", "not finite", "model.layers.1.mlp.up_proj.weight"]),
    ],
)
def test_unusable_model(damage, words, refused, tiny_checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    damage(model)
    refused({"model": model}, str(model), *words)


def test_hub_model_out_of_reach(refused):
    refused({"model": "nobody-here/no-such-model"}, "nobody-here/no-such-model", "cannot be loaded", "connect")


def test_chat_prompts_without_chat_template(refused, tmp_path):
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in ROWS]
    refused({"task": jsonl(tmp_path / "chat.jsonl", rows)}, "chat template", "use plain text")


# --- Tasks ----------------------------------------------------------------------------------------------------------

PROCEDURAL = "countdown arithmetic sums products comparison gcd sorting letter_counting reversing".split()


@pytest.mark.parametrize("flag", ["task", "eval-task"])
@pytest.mark.parametrize("name", ["countdwon", "maths", "", "countdown=3"])
def test_unknown_task_names_the_known_ones(flag, name, refused):
    if flag == "eval-task" and not name:
        pytest.skip("an empty --eval-task is the default")
    refused({flag: name}, "unknown task", repr(name), *PROCEDURAL, ".jsonl", ".parquet")


@pytest.mark.parametrize(
    "spec",
    [
        "countdown:digits=4",
        "countdown:4",
        *(f"countdown:numbers{value}" for value in ("=1", "=-3", "=3.5", "=x", "=", "", "=3,hihg=4")),
    ],
)
@pytest.mark.parametrize("flag", ["task", "eval-task"])
def test_wrong_knob_names_the_right_ones(flag, spec, refused):
    bad = spec.partition(":")[2].rpartition(",")[2]
    refused({flag: spec}, repr(bad), "knobs of countdown", "numbers=3", "high=10", "instruct=0")


def test_knob_out_of_range(refused):
    refused({"task": "letter_counting:letters=27"}, "letters", "at most 26")


def broken_line(path: Path) -> None:
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]))


def line_that_is_no_object(path: Path) -> None:
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], '["prompt", "answer"]', *lines[3:]]))


def number_too_long_for_python(path: Path) -> None:
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], '{"prompt": "1+1=", "answer": ' + "1" * 5000 + "}", *lines[3:]]))


def line_nested_too_deep(path: Path) -> None:
    lines = path.read_text().split("\n")
    path.write_text("\n".join([*lines[:2], "[" * 100_000, *lines[3:]]))


def bytes_that_are_not_utf8(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], lines[2].replace(b"=", b"\xff"), *lines[3:]]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken_line, ["is not JSON", "mend or remove that line"]),
        (line_that_is_no_object, ["is not a JSON object", "{...}"]),
        (number_too_long_for_python, ["line 3"]),
        (line_nested_too_deep, ["is not JSON", "mend or remove that line"]),
        (bytes_that_are_not_utf8, ["is not UTF-8", "convert the file to UTF-8"]),
    ],
)
@pytest.mark.parametrize("flag", ["task", "eval-task"])
def test_damaged_line_is_numbered(flag, damage, words, refused, tmp_path):
    path = jsonl(tmp_path / "bad.jsonl", ROWS)
    damage(path)
    refused({flag: path}, str(path), "line 3", *words)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "True"), (["4", "5"], "['4', '5']"), ({}, "{}"), (float("inf"), "inf"), ([["4"]], "[['4']]")],
)
def test_answer_that_is_no_text(value, shown, refused, tmp_path):
    rows = [*ROWS[:4], {"prompt": "9+9=", "answer": value}]
    refused({"task": jsonl(tmp_path / "bad.jsonl", rows)}, "row 5", "answer", "non-empty text", shown)


@pytest.mark.parametrize(
    "value",
    [42, {}, ["1+1="], [{"role": "user"}], [{"role": 1, "content": "1+1="}], [{"role": "user", "content": ["1+1="]}]],
)
def test_prompt_that_is_no_text(value, refused, tmp_path):
    rows = [*ROWS[:4], {"prompt": value, "answer": "2"}]
    refused({"task": jsonl(tmp_path / "bad.jsonl", rows)}, "row 5", "prompt", "text or a list of chat messages")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(("column", "flag"), [("prompt", "--prompt-column"), ("answer", "--answer-column")])
def test_columns_inside_a_column_are_named(column, flag, kind, refused, tmp_path):
    rows = [row | {column: {"text": row[column], "style": "rule"}} for row in ROWS]
    path = tmp_path / f"nested.{kind}"
    jsonl(path, rows) if kind == "jsonl" else pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    refused({"task": path}, f"column '{column}' has columns inside it", flag, f"{column}.text", f"{column}.style")


GATED = (
    "You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/a/b.\n"
    "401 Client Error. Access to model a/b is restricted."
)


def test_gated_model(refused, monkeypatch):
    def gated(*_, **__):
        raise OSError(GATED)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", gated)
    refused({"model": "a/b"}, "gated repo", "hf auth login")


@pytest.mark.parametrize("flag", ["task", "eval-task"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("Dataset 'a/b' is a gated dataset on the Hub. You must be authenticated to access it.", "gated"),
        ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", "doesn't exist"),
        ("Couldn't reach 'a/b' on the Hub\n(ConnectionError)", "reach"),
        ("Config name is missing. Please pick one among the available configs: ['x', 'y']", "config"),
    ],
)
@pytest.mark.parametrize("name", ["a/b", "gsm8k"])
def test_hub_data_set_that_cannot_be_had(name, error, words, flag, refused, monkeypatch):
    def fails(*_, **__):
        raise ValueError(error)

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", fails)
    monkeypatch.setattr(datasets, "get_dataset_split_names", fails)
    refused({flag: name}, name if name != "gsm8k" else "openai/gsm8k", words)


def test_hub_data_set_without_the_split(refused, monkeypatch):
    """The set is there; what it was said to hold is not."""

    def fails(repo, config, split):
        raise ValueError(f"Unknown split \"{split}\". Should be one of ['validation'].")

    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", fails)
    refused({"task": "math"}, "MATH-lighteval", "Unknown split", "split")


@pytest.mark.parametrize("text", ["\ud800", "1+1=\udfff"])
def test_prompt_with_half_a_character(text, refused, tmp_path):
    r"""JSON can say "\ud800", which is no character and which no tokenizer takes."""
    rows = [*ROWS[:4], {"prompt": text, "answer": "2"}]
    refused({"task": jsonl(tmp_path / "bad.jsonl", rows)}, "row 5", "prompt")


@pytest.mark.parametrize(
    ("rename", "options", "words"),
    [
        ({"prompt": "text"}, {}, ["prompt, question, problem", "it has text, answer", "--prompt-column"]),
        ({"answer": "gold"}, {}, ["answer, solution", "it has prompt, gold", "--answer-column"]),
        ({}, {"prompt-column": "text"}, ["no column 'text'", "it has prompt, answer", "--prompt-column"]),
        ({}, {"answer-column": "gold"}, ["no column 'gold'", "it has prompt, answer", "--answer-column"]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_missing_column_names_those_found(kind, rename, options, words, refused, tmp_path):
    rows = [{rename.get(key, key): value for key, value in row.items()} for row in ROWS]
    path = tmp_path / f"other.{kind}"
    if kind == "jsonl":
        jsonl(path, rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    refused({"task": path} | options, str(path), *words)


def test_column_missing_in_one_row_names_that_row(refused, tmp_path):
    path = jsonl(tmp_path / "bad.jsonl", [*ROWS[:4], {"prompt": "9+9="}, *ROWS[4:]])
    refused({"task": path}, "row 5", "answer", "it has prompt")


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_empty_file(content, refused, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    refused({"task": path}, str(path), "is empty", "one problem per line")


def test_empty_parquet(refused, tmp_path):
    path = tmp_path / "empty.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), path)
    refused({"task": path}, str(path), "is empty")


def test_file_too_small_to_hold_out_anything(refused, tmp_path):
    refused({"task": jsonl(tmp_path / "one.jsonl", ROWS[:1])}, "nothing to train on", "add problems")


@pytest.mark.parametrize("name", ["nowhere.jsonl", "nowhere.csv", "nowhere.parquet", "directory.jsonl"])
def test_task_file_missing(name, refused, tmp_path):
    (tmp_path / "directory.jsonl").mkdir()
    refused({"task": tmp_path / name}, str(tmp_path / name), "does not exist or is not a file")


def not_parquet(path: Path) -> None:
    path.write_text("prompt,answer\n")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damaged_in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xee" * 56
    path.write_bytes(data)


def nothing_in_it(path: Path) -> None:
    path.write_bytes(b"")


def text_that_is_not_utf8(path: Path) -> None:
    bad = pyarrow.array([b"1+1=\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": bad, "answer": ["2"]}), path)


@pytest.mark.parametrize(
    "damage", [not_parquet, cut_short, damaged_in_the_middle, nothing_in_it, text_that_is_not_utf8]
)
def test_damaged_parquet(damage, refused, tmp_path):
    path = tmp_path / "bad.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    damage(path)
    refused({"task": path}, str(path))


# --- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *((flag, value) for flag in ("num-steps", "num-prompts", "max-response-length") for value in (0, -1)),
        *((flag, 0) for flag in ("micro-batch-tokens", "num-minibatches", "update-epochs", "eval-samples")),
        *((flag, -1) for flag in ("eval-every", "save-every", "warmup-steps", "seed", "eval-problems")),
        *(("temperature", value) for value in (0, -1, "nan", "inf")),
        *(("learning-rate", value) for value in ("nan", -1, "inf", "-inf")),
        *(("beta", value) for value in (-1, "nan", "inf")),
        *((flag, "nan") for flag in ("clip-ratio-low", "clip-ratio-high", "max-grad-norm", "weight-decay")),
        *((flag, -0.1) for flag in ("clip-ratio-low", "clip-ratio-high", "max-grad-norm", "weight-decay")),
        *(("entropy-coef", value) for value in ("nan", "inf")),
        ("max-grad-norm", 0),
    ],
)
def test_number_out_of_range(flag, value, refused):
    positive = "num- max- micro- update- temperature eval-samples eval-problems".split()
    least = "greater than 0" if flag.startswith(tuple(positive)) else "0 or more"
    shown = value if isinstance(value, str) else f"{value:g}"
    refused({flag: value}, f"--{flag} is {shown}", "finite number", least)


def test_prompts_that_do_not_fill_the_minibatches(refused):
    words = "--num-prompts 4", "--num-minibatches 3", "does not divide", "change one"
    refused({"num-prompts": 4, "num-minibatches": 3}, *words)


def test_group_of_one(refused):
    refused({"num-generations": 1}, "--num-generations 1", "use 2 or more")


def test_response_longer_than_the_context(refused):
    """The tiny model reads 128 tokens; the longest prompt has 4."""
    words = "--max-response-length 125", "longest prompt (4 tokens)", "context of 128", "use at most 124"
    refused({"max-response-length": 125}, *words)


def test_prompt_longer_than_the_context(refused, tmp_path):
    rows = [*ROWS, {"prompt": "+".join("1" * 100) + "=", "answer": "100"}]
    refused({"task": jsonl(tmp_path / "long.jsonl", rows)}, "longest prompt (200 tokens)", "context of 128")


# --- Places ---------------------------------------------------------------------------------------------------------


def test_output_directory_is_a_file(refused, tmp_path):
    (tmp_path / "taken").write_text("")
    refused({"output-dir": tmp_path / "taken"}, "--output-dir", "is a file", "name a directory")


def test_output_directory_holds_a_run(refused, old_run):
    refused({"output-dir": old_run}, "already holds a run", "another name", f"--resume {old_run}")


# Even root, as whom tests may run, can write in none of these.
@pytest.mark.parametrize("place", ["/proc/run", "/dev/null/run", "/sys/run", "x" * 300])
def test_output_directory_cannot_be_written(place, refused):
    refused({"output-dir": place}, "--output-dir", "cannot be", "use another place")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_directory_without_permission(refused, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    refused({"output-dir": tmp_path / "closed" / "run"}, "--output-dir", "no permission", "use another place")


# --- Devices, backends, trackers ------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a cuda device")
def test_no_cuda(refused):
    refused({"device": "cuda"}, "device 'cuda'", "--device cpu")


@pytest.mark.parametrize("device", ["gpu", "tpu:9", "", "cuda:99", "hpu", "meta"])
def test_device_that_computes_nothing(device, refused):
    refused({"device": device}, f"device {device!r}", "--device cpu")


@pytest.mark.parametrize("backend", ["vllm", "sglang", ""])
def test_backend_not_there(backend, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    refused({"backend": backend}, f"backend {backend!r}", "--backend hf")


def test_track_without_wandb(refused, monkeypatch, capfd, tmp_path, tiny_checkpoint):
    monkeypatch.setitem(sys.modules, "wandb", None)
    before = everything_below(tmp_path)
    assert run_script("--track", *flags({"model": tiny_checkpoint, "task": tmp_path / "good.jsonl", **FAST})) == 2
    assert capfd.readouterr().err == "error: --track needs wandb; pip install wandb\n"
    assert everything_below(tmp_path) == before


# --- Resuming -------------------------------------------------------------------------------------------------------


def no_run(run: Path) -> None:
    shutil.rmtree(run)


def no_arguments(run: Path) -> None:
    (run / "args.json").unlink()


def half_the_arguments(run: Path) -> None:
    text = (run / "args.json").read_text()
    (run / "args.json").write_text(text[: len(text) // 2])


def arguments_are_a_list(run: Path) -> None:
    (run / "args.json").write_text("[]")


def arguments_of_a_wrong_type(run: Path) -> None:
    change_arguments(run, num_prompts="many")


def arguments_with_another_flag(run: Path) -> None:
    change_arguments(run, kl_cov_ratio=0.002)


def another_algorithm(run: Path) -> None:
    change_arguments(run, algorithm="opo")


def change_arguments(run: Path, **changes) -> None:
    args = json.loads((run / "args.json").read_text()) | changes
    (run / "args.json").write_text(json.dumps(args))


def no_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000001")


def only_half_a_checkpoint(run: Path) -> None:
    (run / "checkpoints" / "step-000001").rename(run / "checkpoints" / ".step-000001.partial")


def no_state(run: Path) -> None:
    (run / "checkpoints" / "step-000001" / "training_state.pt").unlink()


def cut_state(run: Path) -> None:
    state = run / "checkpoints" / "step-000001" / "training_state.pt"
    state.write_bytes(state.read_bytes()[:-1000])


def state_is_text(run: Path) -> None:
    (run / "checkpoints" / "step-000001" / "training_state.pt").write_text("cursor: 4")


def state_without_a_step(run: Path) -> None:
    torch.save({"cursor": 4}, run / "checkpoints" / "step-000001" / "training_state.pt")


def no_optimizer(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000001" / "optimizer")


def cut_optimizer(run: Path) -> None:
    [shard] = (run / "checkpoints" / "step-000001" / "optimizer").glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:1000])


def lost_shard(run: Path) -> None:
    [shard] = (run / "checkpoints" / "step-000001" / "optimizer").glob("*.distcp")
    shard.unlink()


def cut_weights(run: Path) -> None:
    truncated_weights(run / "checkpoints" / "step-000001")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_run, ["cannot resume", "args.json", "missing"]),
        (no_arguments, ["cannot resume", "args.json", "missing"]),
        (half_the_arguments, ["cannot resume", "args.json", "damaged"]),
        (arguments_are_a_list, ["cannot resume", "args.json", "damaged"]),
        (arguments_of_a_wrong_type, ["cannot resume", "args.json"]),
        (arguments_with_another_flag, ["cannot resume", "kl_cov_ratio"]),
        (another_algorithm, ["cannot resume", "run of opo", "not grpo"]),
        (no_checkpoint, ["cannot resume", "no checkpoint", "without --resume"]),
        (only_half_a_checkpoint, ["cannot resume", "no checkpoint", "without --resume"]),
        (no_state, ["cannot resume", "training_state.pt", "missing", "remove"]),
        (cut_state, ["cannot resume", "training_state.pt", "damaged", "remove"]),
        (state_is_text, ["cannot resume", "training_state.pt", "damaged", "remove"]),
        (state_without_a_step, ["cannot resume", "training_state.pt", "damaged", "remove"]),
        (no_optimizer, ["cannot resume", "optimizer", "missing", "remove"]),
        (cut_optimizer, ["cannot resume", "optimizer", "damaged", "remove"]),
        (lost_shard, ["cannot resume", "optimizer", "missing", "remove"]),
        (cut_weights, ["step-000001", "the model of step-000001 is missing or damaged"]),
    ],
)
def test_resume_from_what_cannot_be_resumed(damage, words, refused, old_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(old_run, run)
    damage(run)
    refused({"resume": run, "num-steps": 2}, str(run), *words, base={})


@pytest.mark.parametrize(
    ("flag", "value"),
    [("learning-rate", 3e-4), ("seed", 7), ("num-prompts", 4), ("task", "countdown"), ("beta", 0.1)],
)
def test_resume_with_another_flag(flag, value, refused, old_run):
    refused({"resume": old_run, flag: value}, "cannot resume", f"another --{flag}", "leave that flag out", base={})


def test_resume_into_another_directory(refused, old_run, tmp_path):
    """What the run records would name a place where nothing is."""
    words = "--resume", "--output-dir", "leave --output-dir out", "resume the copy"
    refused({"resume": old_run, "output-dir": tmp_path / "other"}, *words, base={})


@pytest.mark.parametrize("wrong", [{"a": 1}, [], 5.5, "no such word"], ids=str)
def test_resume_with_a_recorded_flag_of_another_type(wrong, old_run, tmp_path, monkeypatch):
    """Any flag of any type: a line, not a traceback from wherever it is used first."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--resume", str(tmp_path / "run")])
    good = json.loads((old_run / "args.json").read_text())
    flags = [field for field in dataclasses.fields(Args) if type(wrong).__name__ not in str(field.type)]
    assert len(flags) > 20
    for field in flags:
        (tmp_path / "run" / "args.json").write_text(json.dumps(good | {field.name: wrong}))
        with pytest.raises(InputError, match=f"args.json is damaged at {field.name}; start a new run"):
            parse_args(Args)
    (tmp_path / "run" / "args.json").write_text(json.dumps(good))
    assert parse_args(Args).task == good["task"]


def test_resume_with_another_model(refused, old_run, tmp_path, tiny_checkpoint):
    """Of the same shapes: only the content tells."""
    save_tiny(tmp_path / "other", seed=1)  # tiny_checkpoint has seed 0
    refused({"resume": old_run, "model": tmp_path / "other"}, "another --model", "leave that flag out", base={})


# --- The command line itself ----------------------------------------------------------------------------------------


def test_misspelt_flag_suggests_the_right_one(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run_script("--num-step", "3") == 2
    err = capfd.readouterr().err
    assert "--num-step" in err and "--num-steps" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_the_libraries_add_nothing_to_the_line(tmp_path, tiny_checkpoint):
    """In a process of its own, where neither pytest's capture nor an earlier import hides what a library prints."""
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    truncated_weights(model)
    command = [sys.executable, str(SCRIPT), *flags({"model": model, "task": jsonl(tmp_path / "good.jsonl", ROWS)})]
    (tmp_path / "cwd").mkdir()
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "cwd", timeout=120)
    assert result.returncode == 2 and result.stdout == "" and not list((tmp_path / "cwd").iterdir())
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
