"""benchmarks.gpu_check on a CPU: its arithmetic, every part in small, and that a mistake does not pass."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, throughput
from benchmarks.gpu_check import STEPS, Args, Shape
from benchmarks.measure import CardMemory
from common import passes, policy

ROOT = Path(__file__).resolve().parents[1]
H100 = "NVIDIA H100 80GB HBM3"

BEGIN, END = "<!-- gpu -->", "<!-- /gpu -->"


@pytest.fixture
def no_compiler() -> Iterator[None]:
    """torch.compile gives the function back as it is."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def arguments(folder: Path, *parts: str, **changes) -> Args:
    """On a CPU, in this process, with files of their own."""
    readme = folder / "README.md"
    if not readme.exists():
        readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    settings = {"device": "cpu", "isolate": False, "threads": 1, "out": folder, "readme": readme} | changes
    return Args(parts=parts, **settings)


def check(folder: Path, *parts: str, **changes) -> tuple[int, dict]:
    """Exit status and the device's file after these parts."""
    status = gpu_check.main(arguments(folder, *parts, **changes))
    return status, json.loads((folder / "cpu.json").read_text())


def shown(folder: Path) -> str:
    """What stands between the comments; the text around them is as it was."""
    text = (folder / "README.md").read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"\n{END}\nafter\n")
    return text.partition(BEGIN)[2].partition(END)[0].strip()


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def test_useful_operations_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of 3 + 2 tokens, the last of which is not read; 2 operations per weight forward and 4 backward."""
    shape = Shape("toy", layers=1, hidden=4, intermediate=8, heads=2, kv_heads=1, vocabulary=10, head_width=2)
    attention_weights = 2 * 4 * (4 + 2) + (4 + 2 + 2)
    weights = 2 * 4 * (attention_weights + 3 * 4 * 8 + 2 * 4)
    attention = 2 * (4 * 4 * 4)  # per row: 4 x 4 positions, 4 wide, two products, half of each
    head = 2 * 2 * 4 * 10
    flops = gpu_check.useful_flops(shape, 2, 3, 2)
    assert flops == 6 * (weights + attention + head) == 9_408
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: H100)
    assert gpu_check.mfu(flops, 2.0, "cuda") == pytest.approx(9_408 / 2 / 989e12)
    assert gpu_check.mfu(flops, 2.0, "cpu") is None


def test_shapes_are_qwens() -> None:
    """0.49 and 1.54 billion parameters, by their model cards; the embedding is the head."""
    for name, billions in (("0.5B", 0.49), ("1.5B", 1.54)):
        shape = gpu_check.SHAPES[name]
        assert shape.tied and shape.parameters() / 1e9 == pytest.approx(billions, abs=0.006)
        assert gpu_check.random_model(shape, device="meta").num_parameters() == shape.parameters()


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        (H100, 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Tesla T4", None),
        (None, None),
    ],
)
def test_peak_by_name(name: str | None, peak: float | None) -> None:
    assert gpu_check.peak_flops(name) == peak


def test_memory_of_the_card_is_what_came_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([70, 40, 55])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (next(free, 60), 80))
    with CardMemory("cuda") as card:
        time.sleep(0.5)
    assert card.peak == 30 and not card.thread.is_alive()
    with CardMemory("cpu") as card:
        pass
    assert card.peak is None


# --- Parts ------------------------------------------------------------------------------------------------------------


def test_parts_complete_and_are_not_repeated(
    tmp_path: Path, no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, report = check(tmp_path, "passes-0.5B", "equality", "compiled")
    parts = report["parts"]
    assert status == 0 and list(parts) == ["equality", "compiled", "passes-0.5B"]
    assert not any("stopped" in part for part in parts.values())
    assert gpu_check.checks(report) == (28, [])
    rows = parts["equality"]["rows"]
    assert len(rows) == 2 * len(gpu_check.CASES) + 1 and {r["dtype"] for r in rows} == {
        "float32",
        "bfloat16",
        "default",
    }
    assert rows[0]["error"].keys() == {"logprobs", "entropy", "gradient", "worst parameter"}
    timed = parts["passes-0.5B"]["rows"]
    assert len({row["what"] for row in timed}) == 4 and all(row["mfu"] is None for row in timed)
    for row in timed:
        seconds = row["rows"] * 32 / row["tokens_per_second"]
        assert row["score"] + row["update"] == pytest.approx(seconds) and row["peak_bytes"] > 0
    assert [row["rows"] for row in timed] == [4, 2, 2, 4]
    about = report["commands"][0]
    assert about["packages"]["torch"] == torch.__version__ and {"commit", "driver", "cuda"} <= about.keys()
    assert "Equality checks: 28 pass." in shown(tmp_path) and shown(tmp_path).count("| 0.5B | 4k | passes, ") == 4

    monkeypatch.setattr(gpu_check, "PARTS", gpu_check.PARTS | {"passes-1.5B": lambda options: iter([{"new": 1}])})
    _, more = check(tmp_path, "passes-0.5B", "passes-1.5B")
    assert more["parts"].items() > parts.items() and more["parts"]["passes-1.5B"]["rows"] == [{"new": 1}]
    assert len(more["commands"]) == 2 and more["parts"]["passes-1.5B"]["command"] == 1
    assert check(tmp_path, "passes-1.5B")[1] == more
    _, again = check(tmp_path, "passes-1.5B", again=True)
    assert len(again["commands"]) == 3 and again["parts"]["passes-1.5B"]["command"] == 2


def test_each_part_is_written_as_soon_as_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that may not end in time is left to the next call, unless it is the first."""

    def second(options: dict) -> Iterator[dict]:
        assert list(json.loads((tmp_path / "cpu.json").read_text())["parts"]) == ["equality"]
        assert "Equality checks: 1 pass." in shown(tmp_path)
        yield {"passed": True}

    fake = {"equality": lambda options: iter([{"passed": True}]), "compiled": second}
    monkeypatch.setattr(gpu_check, "PARTS", fake)
    _, report = check(tmp_path, "equality", "compiled", limit=1.0, part_limit=2.0)
    assert list(report["parts"]) == ["equality"]
    (tmp_path / "cpu.json").unlink()
    _, report = check(tmp_path, "equality", "compiled")
    assert list(report["parts"]) == ["equality", "compiled"] and "stopped" not in report["parts"]["compiled"]


def test_steps_of_our_side(tmp_path: Path) -> None:
    """The script as a user starts it, on a random model made on the spot; coin tosses, so that most groups train."""
    _, report = check(tmp_path, "ours-0.5B-4k")
    [row] = report["parts"]["ours-0.5B-4k"]["rows"]
    assert row["what"] == "algos/grpo.py, transformers samples" and (row["model"], row["tokens"]) == ("0.5B", "4k")
    assert all(row[phase] > 0 for phase in ("rollout", "verify", "update")) and row["tokens_per_second"] > 0
    assert row["length"] > 1 and 0 < row["reward"] < 1 and row["load_of_others"] >= 0
    assert "| 0.5B | 4k | algos/grpo.py, transformers samples | " in shown(tmp_path)


def test_what_a_side_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL with vLLM where it is installed, as many tokens in its passes as in ours, and the same otherwise."""
    asked = {}

    def ours(args: throughput.Args, seed: int, passive: bool, backend: str) -> dict:
        asked["ours"] = args, {"backend": backend}
        return {"median": 1.0, "zero_spread": 0.5, "score": 1.0, "update": 3.0, "length": 4096.0}

    def trl(args: throughput.Args, setting: dict, passive: bool, seed: int) -> dict:
        asked["trl"] = args, setting
        raise SystemExit("error: it failed\ntorch.OutOfMemoryError: CUDA out of memory.\nleaked semaphores\n")

    monkeypatch.setattr(throughput, "our_steps", ours)
    monkeypatch.setattr(throughput, "measure_trl", trl)
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: name)
    monkeypatch.setattr(gpu_check, "random_model", lambda *_: gpu_check.random_qwen(0, **TOY))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1, 2))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: H100)
    options = {"device": "cuda", "quick": False, "seed": 1, "threads": 1}
    [good], [bad] = (list(gpu_check.steps(part, options)) for part in ("ours-1.5B-4k", "trl-1.5B-4k"))
    assert good["what"] == "algos/grpo.py, vLLM samples" and asked["ours"][1] == {"backend": "vllm"}
    flops = gpu_check.useful_flops(gpu_check.SHAPES["1.5B"], 8, 0, 4096)  # half of 16 rows had no advantage
    assert good["mfu"] == pytest.approx(flops / 4 / 989e12) and good["peak_bytes"] == 0
    assert bad["missing"] == "torch.OutOfMemoryError: CUDA out of memory." and "mfu" not in bad
    args, setting = asked["trl"]
    assert setting == throughput.TRL_VLLM | {"micro_batches": 4} and args.gradient_checkpointing
    assert {**vars(args), "model": 0} == {**vars(asked["ours"][0]), "model": 0} and args.max_response_length == 4096


TOY = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}


def test_sides_that_cannot_run_and_memory_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the manual")

    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_check, "time_variant", full)
    status, report = check(tmp_path, "trl-1.5B-16k", "passes-1.5B")
    assert status == 0 and list(report["parts"]) == ["passes-1.5B", "trl-1.5B-16k"]
    said = "OutOfMemoryError: CUDA out of memory. Tried to allocate 9 GiB."
    assert [row["missing"] for row in report["parts"]["passes-1.5B"]["rows"]] == [said] * 4
    assert report["parts"]["trl-1.5B-16k"]["rows"][0]["missing"] == "trl is not installed"
    assert f"| 1.5B | 4k | passes, packing, graph kept: {said} | " in shown(tmp_path)
    assert "| 1.5B | 16k | TRL, transformers samples: trl is not installed | " in shown(tmp_path)


def test_trl_runs_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="trl cannot be imported: tests/requirements-peers.txt")
    _, report = check(tmp_path, "trl-0.5B-4k")
    [row] = report["parts"]["trl-0.5B-4k"]["rows"]
    assert row["rollout"] > 0 and row["update"] > 0 and 0 < row["reward"] < 1


def test_wrong_gradient_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = passes.vocabulary_backward
    monkeypatch.setattr(passes, "vocabulary_backward", lambda *args: 1.01 * right(*args))
    status, report = check(tmp_path, "equality")
    unequal = gpu_check.checks(report)[1]
    assert status == 1
    assert {f"{case.name}, float32" for case in gpu_check.CASES} <= set(unequal)


def test_wrong_entropy_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = passes.vocabulary_score
    monkeypatch.setattr(passes, "vocabulary_score", lambda *args: (right(*args)[0], right(*args)[1] + 1e-4))
    status, report = check(tmp_path, "equality")
    assert status == 1 and "packed, float32" in gpu_check.checks(report)[1]


def test_optimiser_that_stays_on_the_cpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    step = policy.Policy.step

    def lazy(self: policy.Policy, *loss: torch.Tensor) -> float:
        self.learning_rate *= 0.5 if self.offload_optimizer else 1.0
        return step(self, *loss)

    options = {"device": "cpu", "quick": True, "seed": 1}
    assert [row["passed"] for row in gpu_check.check_offloading(options)] == [True]
    monkeypatch.setattr(policy.Policy, "step", lazy)
    assert [row["passed"] for row in gpu_check.check_offloading(options)] == [False]


def test_part_that_fails_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: dict) -> Iterator[dict]:
        yield {"case": "one", "dtype": "float32", "passed": True}
        raise RuntimeError("first line\nCUDA error: device-side assert")

    fake = {"compiled": broken, STEPS[0]: broken, "passes-0.5B": lambda options: iter([])}
    monkeypatch.setattr(gpu_check, "PARTS", fake)
    status, report = check(tmp_path, *fake)
    assert report["parts"]["compiled"]["stopped"] == "CUDA error: device-side assert"
    assert len(report["parts"]["compiled"]["rows"]) == 1 and "stopped" not in report["parts"]["passes-0.5B"]
    assert status == 1 and gpu_check.checks(report) == (1, ["compiled: CUDA error: device-side assert"])
    assert f"| {STEPS[0]}: CUDA error: device-side assert | " in shown(tmp_path)


def test_flag_that_policy_lacks_is_skipped() -> None:
    case = gpu_check.Case("new", {"quantum": True})
    options = {"device": "cpu", "quick": True, "seed": 1}
    [row] = gpu_check.check_equality((case,), options, (torch.float32,))
    assert row["skipped"] == "Policy has no quantum" and "passed" not in row


@pytest.mark.slow
def test_in_processes_of_their_own(tmp_path: Path) -> None:
    """A part that ends, and one that is stopped in the middle and keeps what it has."""
    arguments(tmp_path)
    places = ["--out", str(tmp_path), "--readme", str(tmp_path / "README.md")]

    def run(*flags: str) -> dict:
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--threads", "1", *places]
        done = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "cpu.json").read_text())["parts"]

    assert len(run("--parts", "passes-0.5B")["passes-0.5B"]["rows"]) == 4
    found = run("--parts", "ours-0.5B-4k", "--part-limit", "0.1")["ours-0.5B-4k"]
    assert found["stopped"] == "stopped after 0 s" and found["rows"] == []


# --- Table ------------------------------------------------------------------------------------------------------------


def test_readme_shows_what_the_files_hold() -> None:
    found = [json.loads(path.read_text()) for path in sorted(Args.out.glob("*.json"))]
    text = Args.readme.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == gpu_check.table(found)


def test_the_table_alone(tmp_path: Path) -> None:
    """Empty, which it says, until there is a file; one table a device. A file without the comments is left alone."""
    assert gpu_check.main(arguments(tmp_path, table=True)) == 0 and shown(tmp_path) == "No GPU has been measured yet."
    check(tmp_path, "passes-0.5B")
    report = json.loads((tmp_path / "cpu.json").read_text())
    row = report["parts"]["passes-0.5B"]["rows"][0] | {"mfu": 0.256, "peak_bytes": 3 * 2**30, "score": 0.5}
    report["parts"]["passes-0.5B"]["rows"] = [row]
    (tmp_path / "other.json").write_text(json.dumps(report | {"device": H100}))
    assert gpu_check.main(arguments(tmp_path, table=True)) == 0
    assert shown(tmp_path).index("**cpu.**") < shown(tmp_path).index(f"**{H100}.**")
    [line] = [line for line in shown(tmp_path).splitlines() if "25.6%" in line]
    assert line.startswith("| 0.5B | 4k | passes, no flags | - | - | 0.50 | ") and line.endswith(" | 25.6% | 3.0 |")
    (tmp_path / "README.md").write_text("no place")
    with pytest.raises(SystemExit, match="has no <!-- gpu -->"):
        gpu_check.main(arguments(tmp_path, table=True))
    assert (tmp_path / "README.md").read_text() == "no place"


def test_no_gpu_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu_check.main(Args())
    with pytest.raises(SystemExit, match="--parts knows equality"):
        gpu_check.main(Args(parts=("everything",)))
    for place in ({"out": tmp_path}, {"readme": tmp_path / "x"}):
        with pytest.raises(SystemExit, match="name --out and --readme"):
            gpu_check.main(Args(device="cpu", **place))
