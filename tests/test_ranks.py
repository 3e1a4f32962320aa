# ruff: noqa: F811  (the fixture `run` is imported)
"""Several processes by torchrun, gloo on a CPU: the numbers of one process, checkpoints for any world size, ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_leaves

from common import InputError, ranks, sharding
from common.batch import make_batch
from common.critic import ValueModel
from common.loading import load_policy
from common.policy import Policy
from common.sharding import ShardedPolicy
from tests import sync
from tests.helpers import random_samples, save_tiny
from tests.test_resume import optimizer_of
from tests.test_scripts import CHOSEN, OWN, RECIPE, run  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[1]


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
    switches = {True: "--", False: "--no-"}
    return [
        text
        for key, value in flags.items()
        for text in ([switches[value] + key] if isinstance(value, bool) else [f"--{key}", str(value)])
    ]


def records(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose files hold two matrices where its configuration promises one: a rank without them has to know."""
    directory = save_tiny(tmp_path_factory.mktemp("untied") / "model", "llama", tied=False)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return directory


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, untied: Path) -> Path:
    """The chosen scripts on two ranks, and grpo.py in other settings: another model, packed rows, one prompt."""
    directory = tmp_path_factory.mktemp("two")
    commands = [
        [name, *flags_of(name, model=tiny_checkpoint, output_dir=directory / name, eval_every=2, **CHOSEN[name])]
        for name in CHOSEN
    ]
    commands += [
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "untied", beta=0.1, entropy_coef=0.01)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "passes", micro_batch_tokens=24)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "few", num_prompts=1, num_minibatches=1)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "packed", beta=0.1, packing=True)],
        ["grpo", *flags_of("grpo", model=untied, output_dir=directory / "apart", share_prompts=False)],
    ]
    (directory / "commands.json").write_text(json.dumps(commands))
    process = torchrun(str(ROOT / "tests" / "several_ranks.py"), str(directory / "commands.json"))
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    (directory / "out").write_text(out)
    return directory


def assert_same(one: Path, two: Path) -> None:
    """Same parameters, and same metrics but for times and rounding.

    Sums over ranks round otherwise, and where a gradient is hardly more than that, Adam makes a step of it: a few
    elements in 10,000 may be off by one step.
    """
    for step in ("step-000002", "step-000004"):
        a, b = (load_file(path / "checkpoints" / step / "model.safetensors") for path in (one, two))
        assert a.keys() == b.keys()
        off = torch.cat([(b[key] - a[key]).abs().flatten() for key in a])
        assert off.max() < RATE and (off > 1e-6).double().mean() < 5e-4
    for ours, theirs in zip(records(two), records(one), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {key for key in ours if key.startswith("time/")}:
            assert ours[key] == theirs[key] or ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", CHOSEN)
def test_two_ranks_learn_what_one_process_learns(name: str, two_ranks: Path, run: Callable, tmp_path: Path) -> None:
    """I4."""
    run(name, "one", eval_every=2, learning_rate=RATE, **CHOSEN[name])
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
        ("packed", {"beta": 0.1}),  # next to one process that does not pack all rows
        ("apart", {}),
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
    assert (two_ranks / "out").read_text().count("step 4/4") == len(CHOSEN) + 5
    checkpoint = two_ranks / "grpo" / "checkpoints" / "step-000004"
    assert sorted(path.name for path in (checkpoint / "optimizer").glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    assert load_policy(str(checkpoint), device="cpu").end_ids == [256]


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
from common import ranks, sharding
from common.batch import make_batch
from common.critic import ValueModel
from common.loading import load_policy
from tests.helpers import random_samples
from tests.test_ranks import half_precision

ranks.start()
found = half_precision(load_policy(sys.argv[1], device="cpu", dtype=torch.bfloat16), torch.load(sys.argv[2]))
if ranks.rank() == 0:
    torch.save(found, sys.argv[3])
ranks.leave()
"""


def half_precision(policy: Policy, given: tuple) -> dict:
    """Dtypes inside of a pass, scores, a critic's values and gradients."""
    batch, dtypes = make_batch(random_samples()), {}
    layer = policy.model.base_model.layers[1]
    watched = {"layer": layer, "norm": layer.input_layernorm, "attention": layer.self_attn, "rest": layer.mlp}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, options, output, name=name: dtypes.update(
                {
                    (name, i): x.dtype
                    for i, x in enumerate(tree_leaves((inputs, options, output)))
                    if isinstance(x, torch.Tensor) and x.is_floating_point()
                }
            ),
            with_kwargs=True,
        )
        for name, module in watched.items()
    ]
    scores = policy.score(batch)
    for hook in hooks:
        hook.remove()
    policy.backward(batch, *given)
    grads = {name: p.grad for name, p in policy.model.named_parameters()}
    critic = policy.twin(ValueModel)
    with torch.no_grad():
        for p in critic.root.value.parameters():
            whole = torch.linspace(-1, 1, p.numel()).view(p.shape)
            p.copy_(distribute_tensor(whole, p.device_mesh, p.placements) if isinstance(p, DTensor) else whole)
    values = critic.score(batch)
    critic.backward(batch, given[0])
    grads |= {f"value.{name}": p.grad for name, p in critic.root.value.named_parameters()}
    assert all(grad.dtype == torch.float32 for grad in grads.values())
    grads = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in grads.items()}
    return {"dtypes": dtypes, "scores": [*scores, *values], "grads": grads}


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_bfloat16_is_one_arithmetic_for_one_process_and_two(kind: str, untied: Path, tmp_path: Path) -> None:
    """Every tensor inside has the same dtype, and numbers differ by far less than bfloat16 is off float32."""
    model = untied if kind == "llama" else save_tiny(tmp_path / "model", kind)
    batch = make_batch(random_samples())
    generator = torch.Generator().manual_seed(0)
    given = tuple(torch.randn(batch["mask"].shape, generator=generator) * scale for scale in (1.0, 0.1))
    torch.save(given, tmp_path / "given.pt")
    (tmp_path / "rank.py").write_text(BFLOAT16_SCRIPT)
    process = torchrun(*map(str, (tmp_path / "rank.py", model, tmp_path / "given.pt", tmp_path / "got.pt")))
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    two = torch.load(tmp_path / "got.pt")
    one, exact = (
        half_precision(load_policy(str(model), device="cpu", dtype=dtype), given)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert one["dtypes"] == two["dtypes"] and set(one["dtypes"].values()) == {torch.bfloat16}

    def distance(a: dict, b: dict) -> tuple[float, ...]:
        scores = (max((x - y).abs().max().item() for x, y in zip(a["scores"], b["scores"], strict=True)),)
        off = sum((a["grads"][k] - b["grads"][k]).square().sum() for k in b["grads"])
        return *scores, (off / sum(g.square().sum() for g in b["grads"].values())).sqrt().item()

    for between, rounding in zip(distance(two, one), distance(one, exact), strict=True):
        assert between < 0.2 * rounding and 0 < rounding < 0.5


MACHINES_SCRIPT = """
import os
import sys
from pathlib import Path

os.environ["LOCAL_WORLD_SIZE"] = "2"
import torch
from torch.distributed.fsdp._fully_shard import _fsdp_param_group
from torch.distributed.tensor import DTensor

from common import ranks
from common.critic import ValueModel
from common.loading import load_policy
from tests.test_ranks import three_updates

ranks.start()
model, given, out = sys.argv[1], torch.load(sys.argv[2]), Path(sys.argv[3])
gathered, dtypes = [], []
gather, whole = _fsdp_param_group.foreach_all_gather, DTensor.full_tensor
_fsdp_param_group.foreach_all_gather = lambda params, *rest: (
    gathered.append(sum(p._orig_size.numel() for p in params)), gather(params, *rest)
)[1]
policy = load_policy(model, device="cpu", learning_rate=1e-3)
found = three_updates(policy, given)
found["gathered"] = list(gathered)
critic = policy.twin(ValueModel, learning_rate=1e-3)
found["critic"] = three_updates(critic, given[:1])
DTensor.full_tensor = lambda self: (dtypes.append(self.dtype), whole(self))[1]
found["sent"] = dict(policy.weights(torch.bfloat16))
DTensor.full_tensor = whole
found |= {"sent dtypes": dtypes, "mesh": policy.mesh.shape, "one mesh": critic.mesh is policy.mesh}
policy.save(out)
policy.save_optimizer(out)
if ranks.rank() == 0:
    torch.save(found, out / "found.pt")
ranks.leave()
"""


def three_updates(policy: Policy, given: tuple) -> dict:
    """Scores, gradients of the last update and parameters, whole."""
    batch = make_batch(random_samples())
    for _ in range(3):
        scores = policy.score(batch)
        policy.backward(batch, *given)
        grads = {name: p.grad for name, p in policy.root.named_parameters() if p.grad is not None}
        policy.step()
    tensors = {"grads": grads, "parameters": {name: p.detach() for name, p in policy.root.named_parameters()}}
    for named in tensors.values():
        named |= {name: t.full_tensor() if isinstance(t, DTensor) else t.clone() for name, t in named.items()}
    return {"scores": list(scores)} | tensors


def assert_close(ours: dict, theirs: dict) -> None:
    for kind in ("scores", "grads", "parameters"):
        assert len(ours[kind]) == len(theirs[kind])
        pairs = (
            zip(ours[kind], theirs[kind], strict=True)
            if kind == "scores"
            else ((ours[kind][name], tensor) for name, tensor in theirs[kind].items())
        )
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_machines(untied: Path, tmp_path: Path) -> None:
    """Four ranks that are told that they are on two machines, each with all shards, learn what one process learns.

    A pass with a backward gathers layers twice, embedding and head once; what goes to an engine is rounded before.
    """
    generator = torch.Generator().manual_seed(0)
    shape = make_batch(random_samples())["mask"].shape
    given = tuple(torch.randn(shape, generator=generator) * scale for scale in (1.0, 0.1))
    torch.save(given, tmp_path / "given.pt")
    (tmp_path / "rank.py").write_text(MACHINES_SCRIPT)
    process = torchrun(*map(str, (tmp_path / "rank.py", untied, tmp_path / "given.pt", tmp_path)), processes=4)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    found = torch.load(tmp_path / "found.pt")
    assert found["mesh"] == (2, 2) and found["one mesh"]
    policy = load_policy(str(untied), device="cpu", learning_rate=1e-3)
    assert_close(found, three_updates(policy, given))
    assert_close(found["critic"], three_updates(policy.twin(ValueModel, learning_rate=1e-3), given[:1]))
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in policy.model.base_model.layers]
    norm, head = policy.model.base_model.norm.weight.numel(), policy.head.weight.numel()
    forward = [2 * head, *sizes, norm]
    assert found["gathered"] == 3 * (2 * forward + [norm, *reversed(sizes)])
    assert set(found["sent dtypes"]) == {torch.bfloat16}
    policy.restore(tmp_path)  # by one process, what four have written
    for name, tensor in policy.model.state_dict().items():
        torch.testing.assert_close(found["parameters"][f"model.{name}"], tensor, rtol=0, atol=0)
        assert torch.equal(found["sent"][name], tensor.to(torch.bfloat16))


DISAGREEING_SCRIPT = """
import sys
import torch
from common import ranks, sharding
from common.batch import make_batch
from common.loading import load_policy
from tests.helpers import random_samples

ranks.start()
policy = load_policy(sys.argv[1], device="cpu", micro_batch_tokens=24)
batch = make_batch(random_samples())
given = torch.load(sys.argv[2])
own = given.clone()
own[ranks.rank() :: 2] = 0  # other rows, and so other passes, on each rank
policy.backward(batch, own)
if ranks.rank() == 0:
    print("norm", policy.step())
else:
    policy.step()
batch["prompt_mask"] = batch["prompt_mask"].roll(ranks.rank(), 0)
policy.score(batch)
"""


def test_ranks_that_disagree_do_not_wait_for_each_other(untied: Path, tmp_path: Path) -> None:
    """About what is needed the first one decides; about the batch itself nobody does."""
    batch = make_batch(random_samples())
    given = torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(0))
    torch.save(given, tmp_path / "given.pt")
    (tmp_path / "rank.py").write_text(DISAGREEING_SCRIPT)
    process = torchrun(*map(str, (tmp_path / "rank.py", untied, tmp_path / "given.pt")))
    out, _ = process.communicate(timeout=200)
    assert process.returncode != 0 and "norm " in out and "error: the ranks hold different batches" in out, out
    assert "Traceback" not in out.partition("error: the ranks")[0]


SAMPLER_SCRIPT = """
import sys
import types
from common import InputError, ranks, rollout
from tests.helpers import tiny_policy

def engine(policy, *_):
    if ranks.rank() == int(sys.argv[1]):
        raise InputError("no memory on this GPU")
    return "vllm"

ranks.start()
vllm = types.ModuleType("common.vllm")
vllm.VllmSampler = engine
sys.modules["common.vllm"] = vllm
rollout.find_spec = lambda name: True
policy = tiny_policy()
policy.device = types.SimpleNamespace(type="cuda")
rollout.TransformersSampler = lambda policy: "hf"
made = ranks.gather([rollout.make_sampler("auto", policy)])
try:
    rollout.make_sampler("vllm", policy)
except InputError as error:
    made += ranks.gather([str(error)])
else:
    made += ranks.gather(["no error"])
if ranks.rank() == 0:
    print(made)
ranks.leave()
"""


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_ranks_agree_on_their_sampler(failing: int, tmp_path: Path) -> None:
    """An engine that fails on one of two ranks fails on both; on neither, both have it."""
    (tmp_path / "rank.py").write_text(SAMPLER_SCRIPT)
    process = torchrun(str(tmp_path / "rank.py"), str(failing))
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    expected = ["hf"] * 2 + ["no memory on this GPU"] * 2 if failing < 2 else ["vllm"] * 2 + ["no error"] * 2
    assert str(expected) in out


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
    policy = load_policy(str(newest), device="cpu")
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


def test_ctrl_c_reaches_every_rank_twice(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the terminal, and milliseconds later from torchrun: one request, and the step in hand is saved."""
    out = tmp_path / "run"
    words = flags_of("grpo", model=tiny_checkpoint, output_dir=out, num_steps=10_000, save_every=0)
    process = torchrun(str(sync.ALGOS / "grpo.py"), *words, start_new_session=True)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(records(out)) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    [checkpoint] = (out / "checkpoints").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) == records(out)[-1]["step"]
    assert "--shutdown-timeout" in said and not (out / ".lock").exists()


REFUSED = """
from pathlib import Path
import sys
import torch.distributed as dist
from common import InputError, lock, ranks
from common.arguments import exit_on_bad_input
from common.run import Run

ranks.start()
run = Run.__new__(Run)

def refuse(text, *which):
    if ranks.rank() in which:
        raise InputError(text)

for act in (
    lambda: refuse("only one has it", 1),
    lambda: refuse("both have it", 0, 1),
    lambda: refuse(f"each has another {ranks.rank()}", 0, 1),
    lambda: run._on_first_rank(lambda: refuse("the first one has it", 0)),
):
    status = 0
    try:
        with exit_on_bad_input():
            act()
    except SystemExit as stop:
        status = stop.code
    print(f"rank {ranks.rank()} status {status}", flush=True)
    dist.barrier()
ranks.leave()
"""


def test_what_one_rank_refuses_is_said(tmp_path: Path) -> None:
    """And what all of them do once; what only the first can see ends the others too."""
    (tmp_path / "refused.py").write_text(REFUSED)
    process = torchrun(str(tmp_path / "refused.py"))
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert out.count("error: only one has it (rank 1)") == 1
    for text in ("both have it", "each has another 0", "each has another 1 (rank 1)", "the first one has it"):
        assert out.count(f"error: {text}") == 1, out
    for number, statuses in ((0, [0, 2, 2, 2]), (1, [2, 2, 2, 2])):
        assert [int(status) for status in re.findall(rf"rank {number} status (\d)", out)] == statuses


ENDING_SCRIPT = """
import atexit
import os
import sys

from common import ranks


class Last:
    def __del__(self, write=os.write):
        write(1, b"taken apart\\n")


last = Last()
atexit.register(print, "done at the end")
ranks.start()
ranks.gather([1])
ranks.leave(int(sys.argv[1]))
print("still here")
"""


@pytest.mark.parametrize("status", [0, 3])
def test_ranks_end_before_the_interpreter_is_taken_apart(tmp_path: Path, status: int) -> None:
    """gloo's threads may abort a process that is."""
    (tmp_path / "rank.py").write_text(ENDING_SCRIPT)
    process = torchrun(str(tmp_path / "rank.py"), str(status))
    out, _ = process.communicate(timeout=90)
    assert (process.returncode == 0) == (status == 0), out
    assert "taken apart" not in out and "still here" not in out
    if status == 0:  # torchrun ends the others when one fails
        assert out.count("done at the end") == 2
    else:
        assert re.search(r"exitcode *: 3 ", out), out


def test_bad_input_is_said_once(tmp_path: Path) -> None:
    process = torchrun(str(sync.ALGOS / "grpo.py"), "--model", "no/such/model", "--output-dir", str(tmp_path / "run"))
    out, _ = process.communicate(timeout=90)
    assert process.returncode != 0 and not (tmp_path / "run").exists()
    assert out.count("error: model 'no/such/model'") == 1


READING_SCRIPT = """
import json
import sys
from pathlib import Path

from common import InputError, ranks, rollout, tasks, verifier
from common.basics import Timer
from common.problems import Problem
from tests.helpers import tiny_policy

ranks.start()
task, out = sys.argv[1], Path(sys.argv[2])
if ranks.rank() == 1:  # a loaded machine: one comparison there runs out of time
    real = verifier.Verifier.verifiable
    verifier.Verifier.verifiable = lambda self, given: [i != 3 and good for i, good in enumerate(real(self, given))]


def seen(path):
    train, evaluation = tasks.load_problems(path, None, 4)
    return [[p.prompt for p in problems] for problems in (train, evaluation, tasks.ProblemStream(train, 1).take(70))]


record = {"timeout": seen(task), "missing": seen(task if ranks.rank() == 0 else "nowhere.jsonl")}
for name, path in (("refused", "nowhere.jsonl" if ranks.rank() == 0 else task), ("refused_by_all", "nowhere.jsonl")):
    try:
        record[name] = seen(path)
    except InputError as error:
        record[name] = str(error)
policy = tiny_policy()
sizes = {"n": 2, "temperature": 1.0, "max_new_tokens": 3, "seed": 1}
sampler = rollout.make_sampler("hf", policy)
asked = {"same": ["a", "b"], "other": ["a", f"b{ranks.rank()}"], "more": ["a"] * (2 - ranks.rank())}
for name, questions in asked.items():
    problems = [Problem(text, "1", "0", "exact") for text in questions]
    try:
        rollout.sample_groups(problems, sampler, verifier.Verifier(), Timer(), **sizes)
        record[name] = "sampled"
    except SystemExit as stop:
        record[name] = stop.code
(out / f"{ranks.rank()}.json").write_text(json.dumps(record))
ranks.leave()
"""


def test_ranks_that_see_other_files_or_clocks_train_on_the_same(tmp_path: Path) -> None:
    """The first rank reads and verifies for all, and its refusal is that of all; other prompts end the run."""
    rows = [json.dumps({"prompt": f"question {i}", "answer": str(i)}) + "\n" for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(rows))
    (tmp_path / "rank.py").write_text(READING_SCRIPT)
    process = torchrun(*map(str, (tmp_path / "rank.py", tmp_path / "t.jsonl", tmp_path)))
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert [len(problems) for problems in first["timeout"]] == [54, 4, 70] and first["missing"] == first["timeout"]
    assert "nowhere.jsonl does not exist" in first["refused"] and first["refused"] == first["refused_by_all"]
    assert (first["same"], first["other"], first["more"]) == ("sampled", 1, 1)
    assert out.count("error: rank 1 has other prompts than rank 0; use the same") == 2


# --- Pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "3"}, {"LOCAL_RANK": ""}, {"LOCAL_RANK": "a"}])
@pytest.mark.parametrize("more", [{}, {"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}])
def test_a_stray_variable_is_said(stray: dict, more: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler, or an old shell, may leave some of a launcher's variables behind."""
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (stray | more).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"it lacks .*MASTER_PORT.*; start with torchrun, or remove LOCAL_RANK"):
        ranks.start()
    assert ranks.first_to_say("an error")


def test_alone_nothing_is_exchanged() -> None:
    assert (ranks.rank(), ranks.world_size(), ranks.share_of(5)) == (0, 1, range(5))
    items = [object()]
    assert ranks.gather(items) is items and ranks.agree(items) is items and ranks.largest(3) == 3
    assert ranks.from_first(lambda: items) is items


def test_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """None if the thing was done everywhere; what stopped another rank stops this one too."""
    done = []
    assert ranks.first_error(lambda: done.append(1)) is None and done == [1]
    assert ranks.first_error(lambda: 1 / 0) == "ZeroDivisionError: division by zero"
    monkeypatch.setattr(ranks, "gather", lambda items: [*items, "OSError: disk full", None])
    assert ranks.first_error(lambda: None) == "OSError: disk full"
    with pytest.raises(KeyboardInterrupt):  # asked to stop, not a failure of the writer
        ranks.first_error(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_every_thing_is_some_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for world in (1, 2, 3, 8):
        for count in (0, 1, 2, 7, 64):
            monkeypatch.setattr(ranks, "world_size", lambda world=world: world)
            parts = []
            for number in range(world):
                monkeypatch.setattr(ranks, "rank", lambda number=number: number)
                parts.append(list(ranks.share_of(count)))
            assert [i for part in parts for i in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert parts[0] or count == 0  # the first rank has something where there is anything


@pytest.mark.parametrize("packing", [True, False])
def test_rows_are_dealt_out_by_their_tokens(packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once; tokens nearly even; as many passes on every rank."""
    policy = ShardedPolicy.__new__(ShardedPolicy)
    policy.micro_batch_tokens, policy.packing, policy.share_prompts = 64, packing, False
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


@pytest.mark.parametrize(
    ("world", "together", "alike", "room", "shape"),
    [
        (4, 2, True, 0.25, (2, 2)),
        (4, 4, True, 0.25, (4,)),  # one machine
        (4, 2, False, 0.25, (4,)),  # three ranks on the other one
        (4, 2, True, 1e-12, (4,)),  # too large a model
    ],
)
def test_a_machine_holds_all_shards_where_it_can(
    world: int, together: int, alike: bool, room: float, shape: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: world)
    monkeypatch.setattr(ranks, "on_this_machine", lambda: together)
    monkeypatch.setattr(ranks, "gather", lambda items: items + ([] if alike else [(3, True)]))
    monkeypatch.setattr(sharding, "ROOM", room)
    monkeypatch.setattr(sharding, "init_device_mesh", lambda device, shape, **_: shape)
    assert sharding.mesh_for(torch.nn.Linear(3, 4), torch.device("cpu")) == shape
