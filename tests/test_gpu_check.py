"""benchmarks.gpu_check on a CPU: its arithmetic, every part in small, and that a mistake does not pass."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Args, Load, Shape
from common import passes, policy

ROOT = Path(__file__).resolve().parents[1]
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def no_compiler() -> Iterator[None]:
    """torch.compile gives the function back as it is."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def check(out: Path, *parts: str) -> tuple[int, dict]:
    """Exit status and file of these parts, quick, in this process."""
    status = gpu_check.main(Args(parts=parts, device="cpu", quick=True, isolate=False, threads=1, out=out))
    return status, json.loads(out.read_text())


# --- Arithmetic -------------------------------------------------------------------------------------------------------


def test_useful_operations_by_hand() -> None:
    """Two rows that read 4 tokens each: 3 + 2 and 1 + 4 tokens, the last of which is not read."""
    shape = Shape("toy", layers=1, hidden=4, intermediate=8, heads=2, kv_heads=1, vocabulary=10, head_width=2)
    attention_weights = 2 * 4 * (4 + 2) + (4 + 2 + 2)
    weights = 8 * (attention_weights + 3 * 4 * 8 + 2 * 4)
    attention = 2 * (4 * 4 * 4)  # per row: 4 x 4 positions, 4 wide, two products, half of each
    head = (2 + 4) * 4 * 10
    flops = gpu_check.useful_flops(shape, torch.tensor([3, 1]), torch.tensor([2, 4]), passes=4)
    assert flops == 4 * 2 * (weights + attention + head) == 13_184
    assert gpu_check.mfu(flops, 2.0, H100) == pytest.approx(13_184 / 2 / 989e12)


def test_shapes_are_qwens() -> None:
    """0.49 and 1.54 billion parameters, by their model cards; the embedding is the head."""
    for name, billions in (("0.5B", 0.49), ("1.5B", 1.54)):
        shape = gpu_check.SHAPES[name]
        assert shape.tied and shape.parameters() / 1e9 == pytest.approx(billions, abs=0.006)
        assert gpu_check.random_model(shape, device="meta").num_parameters() == shape.parameters()


@pytest.mark.parametrize(
    ("name", "peak"),
    [(H100, 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("Tesla T4", None), (None, None)],
)
def test_peak_by_name(name: str | None, peak: float | None) -> None:
    assert gpu_check.peak_flops(name) == peak
    assert (gpu_check.mfu(1e12, 1.0, name) is None) == (peak is None)


def test_row_lengths() -> None:
    assert gpu_check.row_lengths("even", 4096, 1024).tolist() == [1024] * 4
    ragged = gpu_check.row_lengths("ragged", 32_768, 1024)
    assert 30_000 < ragged.sum() <= 32_768
    assert 128 <= ragged.min() < 256 and 1024 < ragged.max() <= 2048
    prompt = Load().prompt
    assert (ragged - prompt).min() > 0


def test_verdict_on_speed() -> None:
    def part(*mfus: float | None) -> dict:
        return {"rows": [{"variant": str(i), "mfu": value} for i, value in enumerate(mfus)]}

    found = gpu_check.verdict({"0.5B": part(0.2, 0.31, None), "1.5B": part(0.29)})
    assert found["0.5B"] == {"mfu": 0.31, "variant": "1", "target": 0.3, "passed": True}
    assert not found["1.5B"]["passed"] and not found["unequal"]


# --- Parts ------------------------------------------------------------------------------------------------------------


def test_parts_complete(tmp_path: Path, no_compiler: None) -> None:
    status, report = check(tmp_path / "gpu.json", "equality", "compiled", "0.5B", "1.5B", "memory", "verl")
    parts = report["parts"]
    assert status == 0 and not any("stopped" in part for part in parts.values())
    assert report["verdict"] == {"equal": 28, "unequal": [], "skipped": []}
    checks = parts["equality"]["rows"]
    assert len(checks) == 2 * len(gpu_check.CASES) + 1 and all(row["passed"] for row in checks)
    assert {row["dtype"] for row in checks} == {"float32", "bfloat16", "default"}
    assert checks[0]["error"].keys() == {"logprobs", "entropy", "gradient", "worst parameter"}
    for row in parts["0.5B"]["rows"] + parts["1.5B"]["rows"]:
        assert row["mfu"] is None and row["useful_flops"] > 0 and row["tokens_per_second"] > 0
        assert row["phases"].keys() == set(gpu_check.PHASES)
        assert sum(row["phases"].values()) == pytest.approx(row["seconds"])  # medians of two runs are means
    assert len({row["variant"] for row in parts["0.5B"]["rows"]}) == 4
    assert [row["way"] for row in parts["memory"]["rows"][:2]] == ["ours", "graph kept"]
    assert [row["share"] for row in parts["memory"]["rows"][2:]] == [1, 0.5, 0.2, 0.05]
    assert report["commands"][0]["packages"]["torch"] == torch.__version__
    # Another command measures one part again and leaves the others.
    status, report = check(tmp_path / "gpu.json", "0.5B")
    assert report["parts"].keys() == parts.keys() and len(report["commands"]) == 2
    assert [report["parts"][name]["command"] for name in ("equality", "0.5B")] == [0, 1]


def test_wrong_gradient_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = passes.vocabulary_backward
    monkeypatch.setattr(passes, "vocabulary_backward", lambda *args: 1.01 * right(*args))
    status, report = check(tmp_path / "gpu.json", "equality")
    unequal = report["verdict"]["unequal"]
    assert status == 1
    assert {f"{case.name}, float32" for case in gpu_check.CASES} <= set(unequal)


def test_wrong_entropy_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = passes.vocabulary_score
    monkeypatch.setattr(passes, "vocabulary_score", lambda *args: (right(*args)[0], right(*args)[1] + 1e-4))
    status, report = check(tmp_path / "gpu.json", "equality")
    assert status == 1 and "packed, float32" in report["verdict"]["unequal"]


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

    monkeypatch.setitem(gpu_check.PARTS, "compiled", broken)
    status, report = check(tmp_path / "gpu.json", "compiled", "verl")
    assert report["parts"]["compiled"]["stopped"] == "CUDA error: device-side assert"
    assert len(report["parts"]["compiled"]["rows"]) == 1 and "stopped" not in report["parts"]["verl"]
    assert status == 1 and report["verdict"]["unequal"] == ["compiled: CUDA error: device-side assert"]


def test_flag_that_policy_lacks_is_skipped() -> None:
    case = gpu_check.Case("new", {"quantum": True})
    options = {"device": "cpu", "quick": True, "seed": 1}
    [row] = gpu_check.check_equality((case,), options, (torch.float32,))
    assert row["skipped"] == "Policy has no quantum" and "passed" not in row


def test_no_time_left(tmp_path: Path) -> None:
    args = Args(parts=("verl", "0.5B"), device="cpu", quick=True, isolate=False, limit=0.0, out=tmp_path / "gpu.json")
    assert gpu_check.main(args) == 0
    parts = json.loads(args.out.read_text())["parts"]
    assert [part["stopped"] for part in parts.values()] == ["no time left"] * 2


@pytest.mark.slow
def test_in_processes_of_their_own(tmp_path: Path) -> None:
    """A part that trains, and one that is stopped in the middle and keeps what it has."""
    out = tmp_path / "gpu.json"

    def run(*flags: str) -> dict:
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--quick", "--threads", "1"]
        done = subprocess.run([*command, "--out", str(out), *flags], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    report = run("--parts", "learning", "verl")
    assert report == json.loads(out.read_text())
    for row, name in zip(report["parts"]["learning"]["rows"], ("grpo", "kl_cov"), strict=True):
        assert row["algorithm"] == name and row["steps"] == 3 and len(row["eval/pass@1"]) == 2
        assert row["rollout/sampler_gap_mean"][1] < 1e-4 and row["policy/entropy"][1] > 0
    found = run("--parts", "verl", "--part-limit", "0.1")["parts"]["verl"]
    assert found["stopped"] == "stopped after 0 s" and found["rows"] == []


def test_no_gpu_is_said(capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu_check.main(Args())
    with pytest.raises(SystemExit, match="--parts knows equality"):
        gpu_check.main(Args(parts=("everything",)))
