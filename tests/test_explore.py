"""The explorer: what it says of each token against slow arithmetic, its statistics, its errors, and its page."""

import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import explore
from benchmarks.explore import LETTERS, NUMBERS, STATUSES
from benchmarks.gallery import explorer, site
from benchmarks.methods import method
from common import InputError
from common.batch import make_batch
from common.metrics import entropy_slopes
from tests import sync
from tests.algorithms.oracle import load, methods, random_batch, tokens_of
from tests.helpers import random_samples, tiny_policy

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Settings under which a batch of some forty tokens has tokens of every kind that the algorithm knows.
SETTINGS = {
    "grpo": {},
    "dapo": {},
    "clip_cov": {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2},
    "kl_cov": {"kl_cov_ratio": 0.2},
    "forking_tokens": {},
    "nsr": {"positive_weight": 0.0},
    "entropic": {"target_entropy": 0.5, "high_prob_threshold": 0.3},
    "opo": {},
    "steer": {"damping": 0.5},
    "vapo": {"nll_coef": 0.5},
    "aepo": {"entropy_weight": 0.5},
    "reinforce_rej": {},
}
KINDS = {  # the statuses that they then have
    "grpo": "tcn",
    "dapo": "tcn",
    "clip_cov": "tcon",
    "kl_cov": "thn",
    "forking_tokens": "tcon",
    "nsr": "tcn",
    "entropic": "tcln",
    "opo": "tn",
    "steer": "tcn",
    "vapo": "tc",  # a critic leaves no advantage at 0
    "aepo": "tcn",
    "reinforce_rej": "tcn",
}
# Weights of the gradient's parts by hand: ratio * advantage and no gradient beyond the clip, where there is one.
CLIPPED = ("grpo", "dapo", "clip_cov", "forking_tokens", "nsr", "entropic", "steer", "vapo", "aepo", "reinforce_rej")
BEYOND = ("vapo", "aepo")  # may have a gradient beyond the clip


def credited(name: str, seed: int = 0) -> tuple:
    """Module, arguments and a float64 batch of the algorithm with its credit, log-probabilities and entropies."""
    module, args = load(name, **SETTINGS[name])
    batch, logprobs, entropy = random_batch(seed, extra=getattr(methods()[name], "extra", None))
    batch["entropy"] = entropy.detach()
    generator = torch.Generator().manual_seed(seed)
    for key in ("entropy_slope", "entropy_square", "importance"):
        batch[key] = torch.rand(batch["mask"].shape, generator=generator, dtype=torch.float64) - 0.5
    module.assign_credit(batch, args, {})
    return module, args, batch, logprobs.detach().requires_grad_(), entropy.detach().requires_grad_()


def by_hand(
    name: str, args, batch: dict, logprobs: Tensor, entropy: Tensor
) -> dict[str, dict[tuple[int, int], object]]:
    """Gradient, covariance and status of each token, in Python floats."""
    tokens = [(i, t) for i, t in tokens_of(batch) if batch["loss_mask"][i, t]]
    log, a, h = ({k: x[k].item() for k in tokens} for x in (logprobs, batch["advantages"], entropy))
    ratio = {k: math.exp(log[k] - batch["old_logprobs"][k].item()) for k in tokens}
    mean_log, mean_a = (sum(x.values()) / len(tokens) for x in (log, a))
    cov = {k: (log[k] - mean_log) * (a[k] - mean_a) for k in tokens}
    bound = set()
    if name in CLIPPED:
        beyond = {
            k: (1 if ratio[k] > 1 + args.clip_ratio_high else -1 if ratio[k] < 1 - args.clip_ratio_low else 0)
            for k in tokens
        }
        bound = {k for k in tokens if beyond[k] * a[k] > 0}
    gradient = {k: 0.0 if k in bound else -a[k] * (1.0 if name == "opo" else ratio[k]) for k in tokens}
    status = {k: "c" if k in bound else "t" if a[k] else "n" for k in tokens}
    divisor = dict.fromkeys(tokens, len(tokens))
    if name == "grpo":
        divisor = {(i, t): batch["mask"][i].sum().item() * len(batch["mask"]) for i, t in tokens}
    elif name == "clip_cov":
        for k in tokens:
            if args.clip_cov_lb < cov[k] < args.clip_cov_ub and k not in bound:
                gradient[k], status[k] = 0.0, "o" if a[k] else "n"
    elif name == "kl_cov":
        for k in sorted(tokens, key=cov.get)[-int(args.kl_cov_ratio * len(tokens)) :]:
            gradient[k] += args.kl_cov_coef * math.copysign(1, ratio[k] - 1)
            status[k] = "h"
    elif name == "forking_tokens":
        quota = math.ceil(args.top_entropy_ratio * len(tokens))
        top = set(sorted(tokens, key=lambda k: entropy[k].item())[-quota:])
        divisor = dict.fromkeys(tokens, quota)
        for k in set(tokens) - top:
            gradient[k], status[k] = 0.0, "o" if a[k] else "n"
    elif name == "steer":
        old, p = ({k: math.exp(x[k].item()) for k in tokens} for x in (batch["old_logprobs"], logprobs))
        omega = {k: abs(a[k] / old[k] * p[k] * (1 - p[k]) * (log[k] + h[k])) for k in tokens}
        gradient = {k: gradient[k] * (1 - args.damping) ** (omega[k] / max(0.02, *omega.values())) for k in tokens}
    elif name == "vapo":
        right = {k for k in tokens if batch["rewards"][k[0]] == 1}
        gradient = {k: gradient[k] - args.nll_coef * len(tokens) / len(right) * (k in right) for k in tokens}
    elif name == "aepo":
        mean, deviation = statistics.mean(h.values()), statistics.stdev(h.values())
        kept = {k for k in bound if a[k] > 0}
        gradient = {k: -(1 + args.clip_ratio_high) * a[k] if k in kept else gradient[k] for k in tokens}
        gradient = {k: gradient[k] * (1 + args.entropy_weight * (h[k] - mean) / deviation) for k in tokens}
    gradient = {k: gradient[k] / divisor[k] for k in tokens}
    if name == "entropic":
        likely = [k for k in tokens if math.exp(log[k]) > args.high_prob_threshold]
        for k in likely:
            gradient[k] -= batch["alpha"] * ratio[k] * abs(a[k]) / len(likely)
            status[k] = "l" if a[k] else "n"
    slope, count = batch["importance"] * batch["entropy_slope"], batch["mask"].sum().item()
    polarity = {k: -gradient[k] * slope[k].item() * count for k in tokens}  # no loss here reads the entropy
    return {"gradient": gradient, "covariance": cov, "status": status, "ratio": ratio, "polarity": polarity}


# --- Tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("seed", [0, 3])
def test_tokens_by_hand(name: str, seed: int) -> None:
    module, args, batch, logprobs, entropy = credited(name, seed)
    _, _, found = explore.token_values(module, logprobs, entropy, batch, args)
    expected = by_hand(name, args, batch, logprobs, entropy)
    for key in ("gradient", "covariance", "ratio", "polarity"):
        for k, value in expected[key].items():
            assert found[key][k].item() == pytest.approx(value, rel=1e-9, abs=1e-12), (key, k)
    letters = {k: LETTERS[found["status"][k]] for k in expected["status"]}
    assert letters == expected["status"]
    outside = [k for k in tokens_of(batch) if k not in letters]
    assert all(LETTERS[found["status"][k]] == "n" and found["gradient"][k] == 0 for k in outside)
    assert found["entropy"] is not entropy and found["entropy"].equal(entropy) and found["logprob"].equal(logprobs)


@pytest.mark.parametrize("name", SETTINGS)
def test_kinds_of_tokens(name: str) -> None:
    """The settings above show every kind, and what is said to have no gradient has none."""
    seen = set()
    for seed in range(6):
        module, args, batch, logprobs, entropy = credited(name, seed)
        _, (gradient, _), found = explore.token_values(module, logprobs, entropy, batch, args)
        letters = [LETTERS[i] for i in found["status"][batch["mask"]].tolist()]
        seen |= set(letters)
        for letter, value in zip(letters, gradient[batch["mask"]].tolist(), strict=True):
            if letter != "c" or name not in BEYOND:
                assert (value == 0) == (letter in "con"), (letter, value)
    assert seen == set(KINDS[name])


def test_covariance_quota_is_topk() -> None:
    module, args, batch, logprobs, entropy = credited("kl_cov")
    _, _, found = explore.token_values(module, logprobs, entropy, batch, args)
    cov = found["covariance"].masked_fill(~batch["mask"], -torch.inf).flatten()
    chosen = (found["status"] == LETTERS.index("h")).flatten().nonzero()[:, 0]
    assert len(chosen) > 3
    assert sorted(cov.topk(len(chosen)).indices.tolist()) == chosen.tolist()


def test_chosen_at_ratio_one_too() -> None:
    """In a step's first minibatch KL-Cov's penalty has no slope: the gradient alone would not show its choice."""
    module, args, batch, logprobs, entropy = credited("kl_cov")
    batch["old_logprobs"] = logprobs.detach()
    _, (gradient, _), found = explore.token_values(module, logprobs, entropy, batch, args)
    held = found["status"] == LETTERS.index("h")
    assert held.sum() == int(args.kl_cov_ratio * batch["mask"].sum())
    assert torch.allclose(gradient, -batch["advantages"] / batch["mask"].sum())


def test_a_file_without_names_is_judged_by_its_gradient() -> None:
    """A loss that keeps its masks to itself: left out is what has an advantage and no gradient."""
    _, args, batch, logprobs, entropy = credited("opo")

    def policy_loss(logprobs: Tensor, entropy: Tensor, mb: dict, args) -> tuple[Tensor, dict]:
        return -(mb["advantages"] * logprobs * (entropy > 1)).sum(), {}

    own = type(sys)("own")
    own.policy_loss = policy_loss
    _, _, found = explore.token_values(own, logprobs, entropy, batch, args)
    signal = batch["mask"] & (batch["advantages"] != 0)
    assert (found["status"] == LETTERS.index("o")).equal(signal & (entropy <= 1))
    assert (found["status"] == LETTERS.index("t")).equal(signal & (entropy > 1))


def test_locals_are_those_of_the_call() -> None:
    def draw(n: int) -> Tensor:
        drawn = torch.randperm(n)
        return drawn.flip(0)

    torch.manual_seed(1)
    result, seen = explore.with_locals(draw, 9)
    torch.manual_seed(1)
    assert seen["drawn"].equal(torch.randperm(9)) and result.equal(seen["drawn"].flip(0))
    assert sys.getprofile() is None


def walked(name: str, **options) -> tuple:
    """Batch and values of a step over a random tiny model that moves fast enough to leave its clip."""
    module, args = load(name, **options)
    args.num_generations = 3
    samples = random_samples(8)
    names = explore.scene(module, args, tiny_policy(learning_rate=0.03), 1, {}, [sample.problem for sample in samples])
    explore.play("setup", names)
    batch, names["samples"] = make_batch(samples), samples
    names["batch"] = batch
    batch |= entropy_slopes(names["policy"], batch)
    explore.play("score", names)
    batch["importance"] = torch.ones_like(batch["old_logprobs"])
    module.assign_credit(batch, args, {})
    torch.manual_seed(0)
    return args, batch, explore.walk(module, names, batch)


@pytest.mark.parametrize("name", sync.algorithms())
def test_walk(name: str) -> None:
    """Ratios are 1 in the first minibatch and not after it; groups stay together; a group without spread is silent."""
    options = {} if method(name).one_update else {"num_minibatches": 4}
    own = {"vapo": {"value_warmup": 0}, "passk": {"pass_k": 2}}
    own |= {"luffy": {"num_expert": 0}, "gxpo": {"extrapolation": 0.0}}  # no traces here; its loss is seen after a leap
    options |= own.get(name, {})
    args, batch, values = walked(name, **options)
    mask, update = batch["mask"], values["update"]
    assert sorted(set(update.tolist())) == list(range(1, args.num_minibatches + 1))
    assert (update.view(-1, 3) == update.view(-1, 3)[:, :1]).all()
    assert set(values) == {"update", "status", *NUMBERS}
    for number in range(1, args.num_minibatches + 1):
        ratio = values["ratio"][update == number][mask[update == number]]
        assert (ratio == 1).all() if number == 1 else (ratio - 1).abs().mean() > 0.01
    first = update == 1
    assert values["entropy"][first].equal(batch["entropy"][first])
    # Not where a group of equal rewards is trained on, by its baseline or by a penalty that is on by default.
    if not getattr(methods()[name], "UNMIXED", ()) and name not in (
        "archer",
        "bcpg_nsa",
        "mcpo",
        "prorl",
        "sent",
        "still3",
    ):
        assert (values["gradient"][-3:] == 0).all()


def test_walk_keeps_the_last_pass() -> None:
    _, _, values = walked("grpo", num_minibatches=2, update_epochs=3)
    assert sorted(set(values["update"].tolist())) == [5, 6]


def test_forking_tokens_are_the_largest_entropies_of_each_minibatch() -> None:
    args, batch, values = walked("forking_tokens", num_minibatches=4)
    for number in range(1, 5):
        rows = values["update"] == number
        mask, entropy = batch["mask"][rows], values["entropy"][rows]
        quota = math.ceil(args.top_entropy_ratio * mask.sum().item())
        top = torch.zeros_like(mask).flatten()
        top[entropy.masked_fill(~mask, -1).flatten().topk(quota).indices] = True
        signal = mask & (values["advantage"][rows] != 0)
        left_out = values["status"][rows] == LETTERS.index("o")
        assert left_out.equal(signal & ~top.view(mask.shape))


# --- Statistics -------------------------------------------------------------------------------------------------------


def test_entropy_statistics() -> None:
    entropy = np.random.default_rng(0).exponential(size=1000)
    found = explore.entropy_statistics(entropy)
    line = np.percentile(entropy, 80)
    assert found["percentile_80"] == pytest.approx(line, rel=1e-3)
    assert found["share_above"] == pytest.approx(np.sort(entropy)[800:].sum() / entropy.sum(), rel=1e-3)
    counts, edges = np.histogram(entropy, 40, (0, entropy.max()))
    assert found["counts"] == counts.tolist() and np.allclose(found["edges"], edges, rtol=1e-3)
    assert explore.entropy_statistics(np.zeros(5))["share_above"] is None


def test_covariance_tail() -> None:
    values = np.random.default_rng(0).normal(size=500)
    found = explore.covariance_tail(values)
    assert (
        found["shares"][0] == 1 / 500 and found["shares"][-1] == 1 and found["values"][0] == explore.short(values.max())
    )
    for share, value in zip(found["shares"], found["values"], strict=True):
        assert (values >= value - 1e-3 * abs(value)).mean() == pytest.approx(share, abs=0.005)


def test_law_and_line() -> None:
    rng = np.random.default_rng(0)
    entropy = np.linspace(0.6, 0.1, 30)
    noisy = 0.9 - 0.4 * np.exp(entropy) + 0.01 * rng.normal(size=30)
    records = [{"step": 0, "eval/pass@1": 0.5}]
    records += [
        {"step": i, "rollout/reward": r, "rollout/entropy": h}
        for i, (r, h) in enumerate(zip(noisy, entropy, strict=True), 1)
    ]
    found = explore.reward_and_entropy([*records, {"step": 31, "rollout/reward": None, "rollout/entropy": 0.1}])
    assert found["steps"] == list(range(1, 31))
    for x, fit in zip((np.exp(entropy), entropy), found["fits"].values(), strict=True):
        assert fit["r2"] == pytest.approx(np.corrcoef(x, noisy)[0, 1] ** 2, abs=1e-3)
        slope, offset = np.polyfit(x, noisy, 1)
        assert fit["slope"] == pytest.approx(slope, rel=1e-3) and fit["offset"] == pytest.approx(offset, rel=1e-3)
    assert found["fits"]["R = -a exp(H) + b"]["slope"] == pytest.approx(-0.4, abs=0.05)
    assert explore.reward_and_entropy(records[:3])["fits"] == {}  # two points fit anything
    assert explore.reward_and_entropy([])["steps"] == []


def test_text_has_a_line_for_each_list() -> None:
    record = {"a": [1, 2.5, None], "b": [{"tokens": ["[", "\n", "x, y", '"', "   "]}], "c": []}
    text = explore.as_text(record)
    assert json.loads(text) == record and '"a": [1,2.5,null]' in text


# --- A run from beginning to end --------------------------------------------------------------------------------------


def command(*words: object) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of KL-Cov."""
    directory = tmp_path_factory.mktemp("runs") / "kl"
    flags = "--num-steps 3 --num-prompts 4 --num-generations 4 --num-minibatches 2 --eval-every 0 --kl-cov-ratio 0.1"
    done = command("algos/kl_cov.py", *flags.split(), "--output-dir", directory)
    assert done.returncode == 0, done.stderr
    return directory


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_explores_a_run(run: Path) -> None:
    before = files_of(run)
    done = command("-m", "benchmarks.explore", run, "--prompts", "6", "--responses", "9")
    assert done.returncode == 0, done.stderr
    after = files_of(run)
    record = json.loads(after.pop("explorer.json"))
    assert after == before  # the run is as it was
    (run / "explorer.json").unlink()
    assert (record["algorithm"], record["model"], record["task"], record["step"]) == (
        "kl_cov",
        "embedded model",
        "countdown",
        3,
    )
    batch = record["batch"]
    assert batch["prompts"] == 6 and batch["responses"] == 24 and batch["updates"] == 2
    assert sum(batch["statuses"].values()) == batch["tokens"] and batch["statuses"]["h"] > 0
    assert [len(group["responses"]) for group in record["groups"]] == [4, 4]  # nine responses hold two whole groups
    for group in record["groups"]:
        assert 0 < sum(one["reward"] for one in group["responses"]) < 4  # of mixed groups, as in training
        for one in group["responses"]:
            assert {len(one[key]) for key in ("tokens", "ids", "status", *NUMBERS)} == {len(one["ids"])}
            assert set(one["status"]) <= set(STATUSES)
            assert len(set(one["advantage"])) == 1 and all(value == explore.short(value) for value in one["entropy"])
    made = record["provenance"]
    assert made["command"] == "python -m benchmarks.explore kl --prompts 6 --responses 9"  # no path of this machine
    assert made["training"]["command"].startswith("python algos/kl_cov.py --num-steps 3")
    assert str(ROOT) not in json.dumps(record) and str(run.parent) not in json.dumps(record)
    again = explore.explore(explore.Args(run, prompts=6, responses=9, device="cpu"))
    for key in ("groups", "history", "entropy", "covariance"):  # a function of the seed
        assert again[key] == record[key]


def test_explores_the_initial_model(run: Path) -> None:
    record = explore.explore(explore.Args(run, prompts=2, base=True, device="cpu"))
    assert record["step"] == 0 and record["provenance"]["checkpoint"] is None
    trained = explore.explore(explore.Args(run, prompts=2, device="cpu"))
    assert trained["step"] == 3 and trained["provenance"]["checkpoint"].endswith("step-000003")
    assert trained["groups"][0]["responses"][0]["entropy"] != record["groups"][0]["responses"][0]["entropy"]


FLAGS = "--num-prompts 4 --num-generations 4 --num-minibatches 2 --eval-every 0".split()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("vapo", ["--num-steps", "2", "--value-warmup", "1"]),  # a critic
        ("steer", ["--num-steps", "1", "--omega", "exact"]),  # a further number of each distribution
        ("aepo", ["--num-steps", "1", "--beta", "0.1"]),  # branches, and a reference
    ],
)
def test_regions_of_a_file_make_the_step(tmp_path: Path, name: str, flags: list[str]) -> None:
    done = command(f"algos/{name}.py", *FLAGS, *flags, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    record = explore.explore(explore.Args(tmp_path / "run", prompts=4, device="cpu"))
    assert record["batch"]["responses"] == 16 and record["batch"]["updates"] == 2
    responses = [one for group in record["groups"] for one in group["responses"]]
    assert any(value for one in responses for value in one["gradient"])
    if name == "aepo":  # the last one begins as the first one does
        for group in record["groups"]:
            first, *_, last = (one["ids"] for one in group["responses"])
            assert first[0] == last[0]
    if name == "vapo":  # what it expects differs from token to token
        assert any(len(set(one["advantage"])) > 1 for one in responses)
        shutil.rmtree(next((tmp_path / "run" / "checkpoints").iterdir()) / "extra")
        with pytest.raises(InputError, match=r"extra/critic of step-000002 is missing"):
            explore.explore(explore.Args(tmp_path / "run", prompts=4, device="cpu"))
        record = explore.explore(explore.Args(tmp_path / "run", prompts=4, device="cpu", base=True))
        assert record["batch"]["responses"] == 16  # with a critic that knows nothing yet


def test_what_regions_lack_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text('"""Own."""\n    # [algo: score]\n    batch["x"] = replay.draw()\n    # [/algo]\n')
    words = r"algos/own.py cannot be explored: its score region needs more \(NameError: name 'replay' is not defined\)"
    with pytest.raises(InputError, match=words):
        explore.play("score", {"__file__": str(path)})


def test_long_responses_are_cut(run: Path) -> None:
    record = explore.explore(explore.Args(run, prompts=2, tokens=8 * 5 + 7, device="cpu"))
    responses = [one for group in record["groups"] for one in group["responses"]]
    assert {len(one["ids"]) for one in responses} == {5} == {len(one[key]) for one in responses for key in NUMBERS}
    assert sum(one["length"] for one in responses) == record["batch"]["tokens"]
    page = site.render("explorer.html", **explorer.context("kl", record, ["kl"]), root="../")
    assert f"5 of {responses[0]['length']} tokens</span>" in page


def damaged(run: Path, copy: Path, what: str) -> Path:
    shutil.copytree(run, copy)
    if what == "no run":
        (copy / "args.json").unlink()
    elif what == "no checkpoint":
        shutil.rmtree(copy / "checkpoints")
    elif what == "half a checkpoint":
        (copy / "checkpoints" / "step-000003" / "training_state.pt").write_bytes(b"")
    else:
        args = json.loads((copy / "args.json").read_text())
        changes = {"unknown algorithm": {"algorithm": "../evil"}, "unknown flag": {"surprise": 1}}
        args |= changes.get(what, {"learning_rate": "1e-4"})
        (copy / "args.json").write_text(json.dumps([args] if what == "a list" else args))
    return copy


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no run", "is not a run that can be read"),
        ("no checkpoint", "has no checkpoint to load"),
        ("half a checkpoint", "training_state.pt is missing or damaged"),
        ("unknown algorithm", "algorithm '../evil' has no file in algos/"),
        ("unknown flag", r"flags that algos/kl_cov.py lacks \(surprise\)"),
        ("wrong type", "args.json is damaged at learning_rate"),
        ("a list", "is not a run that can be read"),
    ],
)
def test_bad_runs(run: Path, tmp_path: Path, what: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        explore.explore(explore.Args(damaged(run, tmp_path / "copy", what), device="cpu"))


def test_a_torn_last_line_is_left_out(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rollout/rew')
    *_, records, _ = explore.load_run(explore.Args(copy))
    assert [record["step"] for record in records][-1] == 3


def test_a_place_that_cannot_be_written_is_said_first(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(explore, "explore", lambda *_: pytest.fail("it has sampled"))
    for place in (run / "args.json" / "x.json", run, Path("/dev/null/x.json")):
        with pytest.raises(InputError, match="cannot be written"):
            explore.main(explore.Args(run, out=place, device="cpu"))
    with pytest.raises(InputError, match="not a run"):
        explore.main(explore.Args(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = command("-m", "benchmarks.explore", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    with pytest.raises(InputError, match="must be 1 or more"):
        explore.explore(explore.Args(tmp_path, prompts=0))


# --- What is committed ------------------------------------------------------------------------------------------------

RECORDS = sorted((RESULTS / "explorer").glob("*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_committed_records(path: Path) -> None:
    record = explorer.read_record(path)
    method, _, step = path.stem.partition("-")
    assert method == record["algorithm"] and int(step or 40) == record["step"] and path.stat().st_size < 250_000
    assert record["provenance"]["command"].startswith("python -m benchmarks.explore runs/")
    assert record["provenance"]["training"]["command"].startswith(f"python algos/{method}.py ")
    assert "/tmp" not in path.read_text() and "/home" not in path.read_text()


# --- Page -------------------------------------------------------------------------------------------------------------


class Tokens(HTMLParser):
    """Attributes of the elements of class t inside div.tokens, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tokens: list[dict] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "span" and "title" in attributes:
            self.tokens.append(attributes)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The explorer's pages alone."""
    out = tmp_path_factory.mktemp("site")
    pages = {name: site.Page("explorer.html", "explorer", made) for name, made in explorer.pages(RESULTS).items()}
    site.write(out, pages, sync.algorithms())
    return out


def css() -> str:
    return (site.STATIC / "style.css").read_text() + (site.STATIC / "explorer.css").read_text()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_page_has_every_token(built: Path, path: Path) -> None:
    record = explorer.read_record(path)
    text = (built / "explorer" / f"{path.stem}.html").read_text()
    page = Tokens(text)
    responses = [one for group in record["groups"] for one in group["responses"]]
    assert len(responses) <= explorer.MOST
    expected = [(one, i) for one in responses for i in range(len(one["tokens"]))]
    assert len(page.tokens) == len(expected) > 500
    for attributes, (one, i) in zip(page.tokens, expected, strict=True):
        lines = attributes["title"].split("\n")
        assert f"entropy {explorer.number(one['entropy'][i])} nats" in lines
        assert f"covariance {explorer.number(one['covariance'][i])}" in lines
        assert f"status {STATUSES[one['status'][i]]}" in lines
        assert attributes["tabindex"] == "0"
    assert len(page.ids) == len(set(page.ids))  # three charts on one page
    assert f"The first {len(responses)} of {record['batch']['responses']} responses" in text
    assert (
        text.count("<svg") == 3 and text.count("<desc") == 3 and not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", text)
    )
    assert "80th percentile" in text and "R²" in text
    assert ">quota<" in text if record["algorithm"] in ("kl_cov", "clip_cov") else ">quota<" not in text


def test_every_colour_is_defined(built: Path) -> None:
    rules = css()
    neutral = {"e0", "a0", "g0", "c0", "p0"}
    for page in (built / "explorer").glob("*.html"):
        for attributes in Tokens(page.read_text()).tokens:
            for name in attributes["class"].split()[1:]:
                assert name in neutral or f":checked) .{name} " in rules or f":checked) .{name}," in rules, name
    for letter in STATUSES:
        assert f"#by-status:checked) .s-{letter} " in rules
    for key, _, _ in explorer.CHANNELS:
        assert f"#by-{key}:checked) .legend.by-{key}" in rules


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_legible_on_every_shade() -> None:
    """4.5:1 for text in both themes; a scale's ends lie on either side of blue and orange."""
    found = dict(re.findall(r"--([\w-]+): light-dark\(([^)]*)\)", css()))
    colors = {name: pair.split(", ") for name, pair in found.items()}
    for theme in (0, 1):
        for name, pair in colors.items():
            if name.startswith(("cool-", "warm-")):
                assert contrast(pair[theme], colors["ink"][theme]) >= 4.5, (name, theme)
            if name.startswith("chart-"):
                assert contrast(pair[theme], colors["paper"][theme]) >= 4.5, (name, theme)
        for i in (1, 2, 3):
            cool, warm = colors[f"cool-{i}"][theme], colors[f"warm-{i}"][theme]
            assert int(cool[5:], 16) > int(cool[1:3], 16) and int(warm[1:3], 16) > int(warm[5:], 16)


def test_shades() -> None:
    assert [explorer.shade(x, 6.0) for x in (0, 0.99, 1.0, 5.0, 6.0, 99.0)] == [0, 0, 1, 5, 5, 5]
    assert [explorer.level(x, 3.0) for x in (-9, -3, -1.0, -1e-9, 0.0, 1e-9, 1.5, 3.0, 4)] == [
        -3,
        -3,
        -1,
        -1,
        0,
        1,
        2,
        3,
        3,
    ]


def test_classes_of_a_token() -> None:
    """Orange is what makes a token likelier: a positive advantage, a negative gradient."""
    one = {"tokens": ["7"], "ids": [26], "status": "h"}
    one |= {key: [value] for key, value in zip(NUMBERS, (3.5, -0.5, 2.0, 1.1, -1.5, -0.1, 0.4), strict=True)}
    made = explorer.token(
        one, 0, {"entropy": 6.0, "advantage": 3.0, "gradient": 3.0, "covariance": 3.0, "polarity": 3.0}
    )
    assert made["classes"] == "e3 a2 g2 c-1 p-1 s-h"
    words = made["title"].replace("\u2212", "-").split("\n")
    assert words[:4] == ["token '7', id 26", "entropy 3.5 nats", "log p -0.5", "advantage 2"]
    assert words[4:7] == ["ratio 1.1", "gradient -1.5: likelier", "covariance -0.1"]
    assert words[7:] == ["polarity 0.4", "status held back"]
    assert explore.short(-0.0) == 0 and math.copysign(1, explore.short(-0.0)) == 1  # never "-0"


def test_legend_says_what_level_means() -> None:
    """Each class of a legend holds the numbers that its words name, ends and signs."""
    record = explorer.read_record(RESULTS / "explorer" / "kl_cov.json")
    ends = {"entropy": 6.0, "advantage": 3.0, "gradient": 3.0, "covariance": 3.0, "polarity": 3.0}
    legends = {key: dict(rows) for key, rows in explorer.legends(record, ends).items()}
    legends = {key: {k: v.replace("\u2212", "-") for k, v in rows.items()} for key, rows in legends.items()}
    assert legends["entropy"]["e0"] == "0 to 1" and legends["entropy"]["e5"] == "above 5"
    assert legends["advantage"]["a-3"] == "beyond -2" and legends["advantage"]["a2"] == "1 to 2"
    assert legends["gradient"]["g2"] == "-2 to -1" and legends["gradient"]["g-3"] == "beyond 2"
    assert legends["gradient"]["g1"] == "-1 to 0" and legends["gradient"]["g-1"] == "0 to 1"
    assert legends["covariance"]["c-1"] == "-1 to 0" and legends["covariance"]["c0"] == "0"
    assert legends["polarity"]["p-1"] == "0 to 1" and legends["polarity"]["p3"] == "beyond -2"
    assert set(legends["status"]) == {"s-t", "s-h"}


def test_shown_text() -> None:
    assert explorer.shown_text("<|endoftext|>") == '<span class="mark">end</span>'
    assert explorer.shown_text("</s>") == '<span class="mark">end</span>'
    assert explorer.shown_text("<b>&\n") == "&lt;b&gt;&amp;↵<br>"


def test_pages_of_runs(run: Path, tmp_path: Path) -> None:
    """A run that has not been explored is; most responses are kept in whole groups."""
    (tmp_path / "explorer").mkdir()
    (tmp_path / "explorer" / "grpo.json").write_text((RESULTS / "explorer" / "grpo.json").read_text())
    made = explorer.pages(tmp_path, runs=[run], most=10)
    assert list(made) == ["explorer/grpo.html", "explorer/kl.html"]
    assert made["explorer/grpo.html"]["shown"] == 8 and made["explorer/kl.html"]["shown"] == 8
    assert made["explorer/kl.html"]["names"] == ["grpo", "kl"]
    assert (run / "explorer.json").exists()
    for name, context in made.items():
        assert "One step, token by token" in site.render("explorer.html", **context, root="../", page=name)
    (run / "explorer.json").unlink()
    (tmp_path / "explorer" / "grpo.json").write_text("{}")
    with pytest.raises(InputError, match=r"grpo.json is no record"):
        explorer.pages(tmp_path)


# --- In a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def opened(browser, built: Path, **options):
    page = browser.new_context(**options).new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto((built / "explorer" / "kl_cov.html").as_uri())
    return page


def test_hover_and_keyboard_show_the_numbers(browser, built: Path) -> None:
    page = opened(browser, built, viewport={"width": 1280, "height": 900})
    first = explorer.read_record(RESULTS / "explorer" / "kl_cov.json")["groups"][0]["responses"]
    tooltip = page.locator("[role=tooltip]")
    assert not tooltip.is_visible()
    tokens = page.locator(".tokens").nth(0).locator(".t")
    for i in (0, 2):
        tokens.nth(i).hover()
        assert tooltip.is_visible() and explorer.number(first[0]["entropy"][i]) in tooltip.inner_text()
    page.mouse.move(0, 0)
    assert not tooltip.is_visible() and tokens.nth(2).get_attribute("title").startswith("token ")
    page.focus("#by-status")
    page.keyboard.press("Tab")  # the filter
    page.keyboard.press("Tab")
    assert tokens.nth(0).evaluate("token => token === document.activeElement")
    assert explorer.number(first[0]["entropy"][0]) in tooltip.inner_text()
    page.keyboard.press("ArrowRight")
    assert explorer.number(first[0]["entropy"][1]) in tooltip.inner_text()
    assert tokens.nth(1).get_attribute("aria-describedby") == tooltip.get_attribute("id")
    page.keyboard.press("Escape")
    assert not tooltip.is_visible()
    page.keyboard.press("Tab")  # the next response
    assert explorer.number(first[1]["entropy"][0]) in tooltip.inner_text()
    assert page.faults == []


def test_filter(browser, built: Path) -> None:
    page = opened(browser, built)
    responses = [
        r for g in explorer.read_record(RESULTS / "explorer" / "kl_cov.json")["groups"] for r in g["responses"]
    ]
    right = sum(one["reward"] > 0 for one in responses)
    page.select_option(".filter select", label=f"right responses ({right})")
    visible = page.locator(".response:visible")
    assert visible.count() == right == page.locator(".response.right:visible").count()
    page.select_option(".filter select", label=f"all responses ({len(responses)})")
    assert visible.count() == len(responses)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_switch_without_javascript(browser, built: Path, theme: str) -> None:
    page = opened(browser, built, java_script_enabled=False, color_scheme=theme)
    token = page.locator(".groups .t.s-t.e5").first
    seen = []
    for key, _, text in explorer.CHANNELS:
        page.check(f"#by-{key}")
        assert page.locator(".legend:visible").count() == 1 and text in page.locator(".legend:visible").inner_text()
        seen.append(token.evaluate("token => getComputedStyle(token).backgroundColor"))
    assert len(set(seen)) >= 3 and page.locator(".filter").count() == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_screen(browser, built: Path, width: int) -> None:
    page = opened(browser, built, viewport={"width": width, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".groups .t").nth(10).hover()
    box = page.locator("[role=tooltip]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
