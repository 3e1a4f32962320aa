# ruff: noqa: F811  (the fixture `run` is imported)
"""Several processes by torchrun, gloo on a CPU: the numbers of one process, checkpoints for any world size, ends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common import ranks
from common.policy import Policy
from common.rollout import make_batch
from common.sharding import ShardedPolicy
from tests import sync
from tests.helpers import random_samples, save_tiny
from tests.test_resume import optimizer_of
from tests.test_scripts import OWN, RECIPE, run  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in sync.ALGOS.glob("*.py"))


def torchrun(*words: str, processes: int = 2, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


RATE = 1e-4  # Adam makes full steps of gradients that are mere rounding: ten times less of it than in RECIPE


def flags_of(name: str, **changes) -> list[str]:
    flags = (
        RECIPE
        | OWN.get(name, {})
        | {"learning-rate": RATE}
        | {key.replace("_", "-"): value for key, value in changes.items()}
    )
    if name == "opo":
        del flags["num-minibatches"]
    return [text for key, value in flags.items() for text in (f"--{key}", *([] if value is True else [str(value)]))]


def records(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("untied") / "model", "llama", tied=False)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, untied: Path) -> Path:
    """Every script on two ranks, and some once more: another model, a reference policy, one prompt for two ranks."""
    directory = tmp_path_factory.mktemp("two")
    commands = [
        [name, *flags_of(name, model=tiny_checkpoint, output_dir=directory / name, eval_every=2)] for name in NAMES
    ]
    commands += [
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "untied", beta=0.1, entropy_coef=0.01)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "passes", micro_batch_tokens=24)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "few", num_prompts=1, num_minibatches=1)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "packed", beta=0.1, packing=True)],
    ]
    (directory / "commands.json").write_text(json.dumps(commands))
    process = torchrun(str(ROOT / "tests" / "several_ranks.py"), str(directory / "commands.json"))
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    (directory / "out").write_text(out)
    return directory


def assert_same(one: Path, two: Path) -> None:
    """Same parameters, and same metrics but for times and rounding."""
    for step in ("step-000002", "step-000004"):
        a, b = (load_file(path / "checkpoints" / step / "model.safetensors") for path in (one, two))
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(b[key], a[key], rtol=0, atol=1e-6)
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {key for key in ours if key.startswith("time/")}:
            assert ours[key] == theirs[key] or ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_learn_what_one_process_learns(name: str, two_ranks: Path, run: Callable, tmp_path: Path) -> None:
    """I4."""
    run(name, "one", eval_every=2, learning_rate=RATE)
    assert_same(tmp_path / "one", two_ranks / name)
    assert (tmp_path / "one" / "samples.jsonl").read_text().count("\n") == (
        (two_ranks / name / "samples.jsonl").read_text().count("\n")
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("untied", {"beta": 0.1, "entropy_coef": 0.01}),
        ("passes", {"micro_batch_tokens": 24}),  # many passes, not the same number of rows on both
        ("few", {"num_prompts": 1, "num_minibatches": 1}),  # one rank has nothing to sample
        ("packed", {"beta": 0.1}),  # next to one process that pads
    ],
)
def test_other_settings(
    name: str,
    changes: dict,
    two_ranks: Path,
    untied: Path,
    run: Callable,
    tmp_path: Path,
) -> None:
    run("grpo", "one", model=untied, learning_rate=RATE, **changes)
    assert_same(tmp_path / "one", two_ranks / name)


def test_one_rank_writes(two_ranks: Path) -> None:
    """Each line once, and a checkpoint that any program of the library loads."""
    assert (two_ranks / "out").read_text().count("step 4/4") == len(NAMES) + 4
    checkpoint = two_ranks / "grpo" / "checkpoints" / "step-000004"
    assert sorted(path.name for path in (checkpoint / "optimizer").glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    assert Policy.load(str(checkpoint), device="cpu").name == str(checkpoint)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(
    first: int,
    second: int,
    two_ranks: Path,
    run: Callable,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Two steps with one, two with the other: parameters and moments of four steps."""
    part = tmp_path / "part"
    start = flags_of("grpo", model=tiny_checkpoint, output_dir=part, num_steps=2, eval_every=0)
    more = ["--resume", str(part), "--num-steps", "4"]
    for processes, words in ((first, start), (second, more)):
        process = torchrun(str(sync.ALGOS / "grpo.py"), *words, processes=processes)
        out, _ = process.communicate(timeout=200)
        assert process.returncode == 0, out
    run("grpo", "one", eval_every=0, learning_rate=RATE)
    assert_same(tmp_path / "one", part)
    ours, theirs = (optimizer_of(path / "checkpoints" / "step-000004") for path in (part, tmp_path / "one"))
    for name, state in theirs["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(ours["state"][name][key], value, rtol=1e-4, atol=1e-6)


BFLOAT16_SCRIPT = """
import sys
import torch
from common import ranks
from common.policy import Policy
from common.rollout import make_batch
from tests.helpers import random_samples

ranks.start()
policy = Policy.load(sys.argv[1], device="cpu", dtype=torch.bfloat16)
batch = make_batch(random_samples())
scores = policy.score(batch)
policy.backward(batch, *torch.load(sys.argv[2]))
shards = {name: p.grad for name, p in policy.model.named_parameters()}
assert all(grad.dtype == torch.float32 for grad in shards.values())
grads = {name: grad.full_tensor() for name, grad in shards.items()}
if ranks.rank() == 0:
    torch.save((scores, grads), sys.argv[3])
ranks.stop()
"""


def test_bfloat16_passes_over_float32_shards(untied: Path, tmp_path: Path) -> None:
    """As far from float32 as one process in bfloat16 is, and summed over ranks in float32."""
    batch = make_batch(random_samples())
    generator = torch.Generator().manual_seed(0)
    given = tuple(torch.randn(batch["mask"].shape, generator=generator) * scale for scale in (1.0, 0.1))
    torch.save(given, tmp_path / "given.pt")
    (tmp_path / "rank.py").write_text(BFLOAT16_SCRIPT)
    process = torchrun(*map(str, (tmp_path / "rank.py", untied, tmp_path / "given.pt", tmp_path / "got.pt")))
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    found = {"sharded": torch.load(tmp_path / "got.pt")}
    for name, dtype in (("half", torch.bfloat16), ("exact", torch.float32)):
        policy = Policy.load(str(untied), device="cpu", dtype=dtype)
        scores = policy.score(batch)
        policy.backward(batch, *given)
        found[name] = scores, {name: p.grad for name, p in policy.model.named_parameters()}

    def error(name: str) -> tuple[float, float]:
        (scores, grads), (true_scores, true_grads) = found[name], found["exact"]
        score = max((a - b).abs().max().item() for a, b in zip(scores, true_scores, strict=True))
        distance = sum((grads[k] - true_grads[k]).square().sum() for k in true_grads)
        return score, (distance / sum(g.square().sum() for g in true_grads.values())).sqrt().item()

    for ours, plain in zip(error("sharded"), error("half"), strict=True):
        assert 0 < ours < 2 * plain < 1


# --- Ends -----------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


def children_of(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_ends_the_run(rank: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The others do not wait for it; the last checkpoint is whole."""
    out = tmp_path / "run"
    words = flags_of("grpo", model=tiny_checkpoint, output_dir=out, num_steps=10_000, save_every=3)
    process = torchrun(str(sync.ALGOS / "grpo.py"), *words)
    wait_for(lambda: len(list((out / "checkpoints").glob("step-*"))) == 2, process)
    os.kill(children_of(process)[rank], signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode != 0
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    policy = Policy.load(str(newest), device="cpu")
    policy.restore(newest)


def test_a_signal_to_one_rank_stops_all_after_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = flags_of("grpo", model=tiny_checkpoint, output_dir=out, num_steps=10_000, save_every=0)
    process = torchrun(str(sync.ALGOS / "grpo.py"), *words)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(records(out)) >= 3, process)
    os.kill(children_of(process)[1], signal.SIGTERM)
    process.communicate(timeout=90)
    assert process.returncode != 0
    [checkpoint] = (out / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) == records(out)[-1]["step"]


def test_bad_input_is_said_once(tmp_path: Path) -> None:
    process = torchrun(str(sync.ALGOS / "grpo.py"), "--model", "no/such/model", "--output-dir", str(tmp_path / "run"))
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0 and not (tmp_path / "run").exists()
    assert out.count("error: model 'no/such/model'") == 1


# --- Pieces ---------------------------------------------------------------------------------------------------------


def test_alone_nothing_is_exchanged() -> None:
    assert (ranks.rank(), ranks.world_size(), ranks.mine(5)) == (0, 1, range(5))
    items = [object()]
    assert ranks.gather(items) is items and ranks.agree(items) is items and ranks.most(3) == 3


def test_every_thing_is_some_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3, 8):
        for count in (0, 1, 2, 7, 64):
            monkeypatch.setattr(ranks, "world_size", lambda world=world: world)
            parts = []
            for number in range(world):
                monkeypatch.setattr(ranks, "rank", lambda number=number: number)
                parts.append(list(ranks.mine(count)))
            assert [i for part in parts for i in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("packing", [True, False])
def test_rows_are_dealt_out_by_their_tokens(packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once; tokens nearly even; as many passes on every rank."""
    policy = ShardedPolicy.__new__(ShardedPolicy)
    policy.micro_batch_tokens, policy.packing = 64, packing
    sizes = [3, 50, 7, 0, 21, 22, 40, 9, 1, 30, 0, 12, 5]
    monkeypatch.setattr(ranks, "world_size", lambda: 3)
    dealt = []
    for number in range(3):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        dealt.append(policy._cut(sizes))
    rows = sorted(row for passes in dealt for chosen in passes for row in chosen)
    assert rows == [row for row, size in enumerate(sizes) if size]
    assert len({len(passes) for passes in dealt}) == 1
    loads = [sum(sizes[row] for chosen in passes for row in chosen) for passes in dealt]
    assert max(loads) - min(loads) <= max(sizes) // 4
