"""The sampler against a slow loop without cache, padding or batch, and against exact probabilities."""

import math
import sys
import types
from collections import Counter

import pytest
import torch
import transformers
from torch import Tensor

import common.hf
import common.rollout
from common import InputError
from common.basics import Timer
from common.batch import Response, Sample, make_batch, take_rows
from common.hf import TopP, TransformersSampler, draw, uniform_noise
from common.metrics import batch_metrics
from common.policy import Policy
from common.problems import Problem
from common.rollout import fit_prompts, make_sampler, sample_groups
from common.verifier import Verdict, Verifier
from tests.helpers import byte_tokenizer, random_samples, tiny_policy

FAMILIES = [("qwen2", True), ("llama", False), ("neox", False)]
# Ragged, not sorted by length; with id 0, which also fills padding, and with end tokens of the model below.
PROMPTS = [[7, 1, 9], [4], [0, 0, 3, 2, 12, 5, 0], [11, 5], [1, 2, 3, 4, 6, 8, 10, 12, 14, 15, 13]]
LIMIT = 20


def small(kind: str = "qwen2", tied: bool = True, **config) -> Policy:
    """16 tokens, two of which end a response: most responses end, at very different lengths."""
    return tiny_policy(kind, tied, **{"vocab_size": 16, "eos_token_id": [3, 5], "initializer_range": 0.1, **config})


def generate(policy: Policy, prompts=PROMPTS, n=4, temperature=1.0, max_new_tokens=LIMIT, seed=7) -> list[Response]:
    return make_sampler("hf", policy).generate(prompts, n, temperature, max_new_tokens, seed)


def ids_of(responses: list[Response]) -> list[list[int]]:
    return [response.token_ids.tolist() for response in responses]


@torch.no_grad()
def slow_generate(policy: Policy, prompts: list[list[int]], noise: Tensor, temperature: float) -> list[Response]:
    """One row at a time, the whole sequence read anew for every token; noise (rows, max_new_tokens)."""
    responses = []
    rows, limit = noise.shape
    for row in range(rows):
        ids, logprobs = list(prompts[row * len(prompts) // rows]), []
        for t in range(limit):
            logits = policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
            distribution = (logits / temperature).softmax(-1).tolist()
            token, reached = 0, distribution[0]
            while reached <= noise[row, t]:
                token += 1
                reached += distribution[token]
            ids.append(token)
            logprobs.append(math.log(distribution[token]))
            if token in policy.end_ids:
                break
        responses.append(Response(ids[-len(logprobs) :], logprobs, ids[-1] not in policy.end_ids))
    return responses


def assert_same_responses(actual: list[Response], expected: list[Response]) -> None:
    assert ids_of(actual) == ids_of(expected)
    assert [r.truncated for r in actual] == [r.truncated for r in expected]
    for a, e in zip(actual, expected, strict=True):
        assert a.logprobs == pytest.approx(e.logprobs, abs=1e-4)


# --- Sampler and trainer agree (I9) -----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("kind", "tied"), [*FAMILIES, ("phi", False)])
def test_rollout_logprobs_are_those_of_score(kind: str, tied: bool, temperature: float) -> None:
    """From problems to metrics, prompts of different lengths side by side."""
    policy = tiny_policy(kind, tied, temperature=temperature)
    prompts = ["1+1=", "a", "12 " * 7, "é", "3*4="]
    problems = [Problem(prompt, "2", str(i), "math") for i, prompt in enumerate(prompts)]
    samples = sample_groups(
        problems, make_sampler("auto", policy), Verifier(), Timer(), 3, temperature, max_new_tokens=12, seed=1
    )
    assert [s.problem.prompt for s in samples] == [prompt for prompt in prompts for _ in range(3)]
    assert [s.prompt_ids for s in samples] == [policy.encode(s.problem.prompt) for s in samples]
    assert [s.text for s in samples] == policy.decode([s.response.token_ids for s in samples])
    batch = make_batch(samples)
    batch["old_logprobs"], batch["entropy"] = policy.score(batch)
    batch["importance"] = torch.ones_like(batch["entropy"])
    torch.testing.assert_close(batch["rollout_logprobs"], batch["old_logprobs"], rtol=0, atol=1e-4)
    metrics = batch_metrics(batch)
    assert metrics["rollout/sampler_gap_mean"] <= metrics["rollout/sampler_gap_max"] < 1e-4
    # At another temperature they would be far apart.
    policy.temperature = 0.8
    assert (policy.score(batch)[0] - batch["rollout_logprobs"]).abs().max() > 0.1


def drawn(dtype: torch.dtype = torch.float32, **options) -> tuple[TransformersSampler, dict]:
    policy = tiny_policy(dtype=dtype, temperature=0.7, learning_rate=0.1)
    sampler = TransformersSampler(policy)
    problems = [Problem(prompt, "2", str(i), "math") for i, prompt in enumerate(("1+1=", "a", "12 " * 7))]
    samples = sample_groups(problems, sampler, Verifier(), Timer(), 3, 0.7, 12, seed=1, **options)
    return sampler, make_batch(samples)


@pytest.mark.parametrize("options", [{}, {"prefixes": [[65, 66], [], [70]]}, {"transform": TopP(0.5)}])
def test_nothing_is_scored_twice(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a token was drawn with is what the trainer finds, entropy too, and no pass is made for it."""
    sampler, batch = drawn(**options)
    expected = sampler.policy.score(batch)
    monkeypatch.setattr(sampler.policy, "score", lambda *_: pytest.fail("scored again"))
    for found, value in zip(sampler.score(batch), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["updated", "temperature", "changed distribution", "float64", "bfloat16"])
def test_what_the_trainer_may_find_otherwise_is_scored(case: str) -> None:
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(case, torch.float32)
    changed = {"transform": TopP(0.5), "transformed_logprobs": True} if case == "changed distribution" else {}
    sampler, batch = drawn(dtype, **changed)
    policy = sampler.policy
    if case == "updated":
        policy.backward(batch, torch.ones_like(batch["rollout_logprobs"]))
        policy.step()
        sampler.sync()
    if case == "temperature":
        policy.temperature = 1.5
    found, expected = sampler.score(batch), policy.score(batch)
    assert all(map(torch.equal, found, expected)) and not torch.equal(found[0], batch["rollout_logprobs"])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("kind", "tied"), FAMILIES)
def test_generate_equals_the_slow_loop(kind: str, tied: bool, temperature: float) -> None:
    """Left padding, the repeated cache and dropped rows leave every token as a lone row would have it."""
    policy = small(kind, tied)
    noise = uniform_noise(7, range(len(PROMPTS)), 4, LIMIT)
    actual = generate(policy, temperature=temperature)
    assert_same_responses(actual, slow_generate(policy, PROMPTS, noise, temperature))
    lengths = {len(r.token_ids) for r in actual}
    assert 1 in lengths and len(lengths) > 5  # rows ended all along the way


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
GROUPED = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2}
NARROW_VALUES = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 2,
}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (transformers.MistralConfig, GROUPED | {"sliding_window": 4}),
        (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),  # learned positions
        (transformers.BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),  # ALiBi
        (transformers.FalconConfig, SHAPE),  # one key for all heads; calls the attention kernels itself
        (transformers.FalconConfig, SHAPE | {"alibi": True}),
        (transformers.DeepseekV3Config, GROUPED | NARROW_VALUES),  # values narrower than keys
    ],
    ids=["sliding window", "gpt2", "bloom", "falcon", "falcon alibi", "deepseek"],
)
def test_other_architectures(config: type, options: dict) -> None:
    """What differs between causal models lies in the attention: sampler, slow loop and trainer still agree."""
    small = {"vocab_size": 16, "initializer_range": 0.2, "eos_token_id": [3, 5], "pad_token_id": None}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**small, bos_token_id=None, **options))
    policy = Policy(model, byte_tokenizer(), temperature=0.7)
    prompts, n = PROMPTS[1:], 2
    responses = generate(policy, prompts, n, 0.7, max_new_tokens=10)
    assert_same_responses(responses, slow_generate(policy, prompts, uniform_noise(7, range(len(prompts)), n, 10), 0.7))
    rows = zip([p for p in prompts for _ in range(n)], responses, strict=True)
    batch = make_batch([sample_of(prompt, r.token_ids, r.logprobs) for prompt, r in rows])
    torch.testing.assert_close(policy.score(batch)[0], batch["rollout_logprobs"], rtol=0, atol=1e-4)


def test_each_prompt_alone_gives_the_same() -> None:
    policy = small()
    sampler = TransformersSampler(policy)
    together = generate(policy)
    noise = uniform_noise(7, range(len(PROMPTS)), 4, LIMIT).view(len(PROMPTS), 4, LIMIT)
    alone = [r for prompt, own in zip(PROMPTS, noise, strict=True) for r in sampler._generate_batch([prompt], own, 1.0)]
    assert_same_responses(together, alone)


def test_small_cache_budget_cuts_the_batch_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small()
    sampler = TransformersSampler(policy)
    whole = sampler.generate(PROMPTS, 4, 1.0, LIMIT, seed=7)
    assert sampler.cache_bytes_per_token == 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, width, float32
    prefills = []

    def note_prefill(module, args, kwargs, output) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            prefills.append(len(kwargs["input_ids"]))

    policy.model.base_model.register_forward_hook(note_prefill, with_kwargs=True)
    # Room for two of the longest prompts with 4 responses each, and a budget below one prompt, which still works.
    for budget, batches in [(2 * 4 * (11 + LIMIT), [2, 2]), (1, [1, 1, 1, 1])]:
        monkeypatch.setattr(common.hf, "CACHE_BYTES", {"cpu": budget * sampler.cache_bytes_per_token})
        prefills.clear()
        assert_same_responses(sampler.generate(PROMPTS, 4, 1.0, LIMIT, seed=7), whole)
        assert prefills == batches  # and a last one, of the prompt of one token


def test_bfloat16_sampler_agrees_with_bfloat16_trainer() -> None:
    """Both round, not alike: the gap is of bfloat16's size and no larger."""
    base = tiny_policy()
    policy = Policy(base.model, base.tokenizer, dtype=torch.bfloat16)
    responses = generate(policy, max_new_tokens=12)
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    batch = make_batch([sample_of(p, r.token_ids, r.logprobs) for p, r in zip(prompts, responses, strict=True)])
    gap = (policy.score(batch)[0] - batch["rollout_logprobs"]).abs()
    assert gap[batch["mask"]].mean() < 0.03 and gap.max() < 0.3


# --- The distribution -------------------------------------------------------------------------------------------


def chi_square(counts: Counter, probabilities: dict, total: int) -> tuple[float, float]:
    """Pearson's statistic and its critical value at p = 1e-4 (Wilson and Hilferty); cells below 5 are one cell."""
    large = {key: total * p for key, p in probabilities.items() if total * p >= 5}
    statistic = sum((counts[key] - expected) ** 2 / expected for key, expected in large.items())
    rest, seen = total - sum(large.values()), total - sum(counts[key] for key in large)
    if rest > 0:
        statistic += (seen - rest) ** 2 / rest
    df = len(large) - (rest <= 0)
    return statistic, df * (1 - 2 / (9 * df) + 3.719 * math.sqrt(2 / (9 * df))) ** 3


@pytest.mark.parametrize(("copies", "n"), [(1, 6000), (300, 20)])
def test_sampled_frequencies_are_the_exact_probabilities(copies: int, n: int) -> None:
    """First tokens, and pairs of the first two, from one prompt's large group and from many prompts' small ones."""
    temperature, prompt = 0.7, [7, 1, 9]
    policy = small(initializer_range=0.2)
    with torch.no_grad():
        first = (policy.model(input_ids=torch.tensor([prompt])).logits[0, -1] / temperature).softmax(-1).tolist()
        second = policy.model(input_ids=torch.tensor([[*prompt, token] for token in range(16)])).logits[:, -1]
        second = (second / temperature).softmax(-1).tolist()
    # After an end token there is no second one.
    pairs = {(a,): first[a] for a in policy.end_ids if a < 16}
    pairs |= {(a, b): first[a] * second[a][b] for a in range(16) if (a,) not in pairs for b in range(16)}
    assert sum(pairs.values()) == pytest.approx(1, abs=1e-5) and max(first) > 3 / 16 > 1 / 30 > min(first)
    total = copies * n
    drawn = ids_of(generate(policy, [prompt] * copies, n, temperature, max_new_tokens=2, seed=3))
    assert len(drawn) == total
    for counts, probabilities in [
        (Counter(ids[0] for ids in drawn), dict(enumerate(first))),
        (Counter(map(tuple, drawn)), pairs),
    ]:
        assert counts.keys() <= probabilities.keys()
        statistic, critical = chi_square(counts, probabilities, total)
        assert statistic < critical
        # The test has teeth: the same counts are not those of temperature 1.
        other = {key: p**temperature for key, p in probabilities.items()}
        scale = sum(other.values())
        statistic, critical = chi_square(counts, {key: p / scale for key, p in other.items()}, total)
        assert statistic > critical


def test_members_of_a_group_are_independent() -> None:
    """Pairs (response g, response g + 1) of one prompt occur as often as the product of their probabilities."""
    policy, n = small(initializer_range=0.2), 6000
    tokens = [ids[0] for ids in ids_of(generate(policy, [[7, 1, 9]], n, 1.0, 1, seed=5))]
    with torch.no_grad():
        p = policy.model(input_ids=torch.tensor([[7, 1, 9]])).logits[0, -1].softmax(-1).tolist()
    counts = Counter(zip(tokens[::2], tokens[1::2], strict=True))
    statistic, critical = chi_square(counts, {(a, b): p[a] * p[b] for a in range(16) for b in range(16)}, n // 2)
    assert statistic < critical


LARGEST_NOISE = 1 - 2**-53  # of a float64 in [0, 1)


def test_draw_inverts_the_cumulative_distribution() -> None:
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0, 0.0])
    cases = {0.0: 1, 0.2499: 1, 0.25: 3, 0.7499: 3, 0.75: 4, LARGEST_NOISE: 4}
    noise = torch.tensor(list(cases), dtype=torch.float64)
    assert draw(probabilities.expand(len(cases), -1), noise).tolist() == list(cases.values())


@pytest.mark.parametrize("total", [1.0, 0.9999, 1.0001, 3.0])
def test_draw_never_picks_what_has_no_probability(total: float) -> None:
    """A wide vocabulary, half of it impossible, whose float32 probabilities do not add up to 1."""
    torch.manual_seed(0)
    probabilities = torch.randn(64, 150_001).mul(4).softmax(-1) * total
    probabilities[:, ::2] = 0  # both ends are even
    noise = torch.rand(64, dtype=torch.float64)
    noise[:16], noise[16:32] = 0.0, LARGEST_NOISE
    tokens = draw(probabilities, noise)
    assert (probabilities.gather(1, tokens[:, None]) > 0).all()
    assert (tokens[:16] == 1).all() and (tokens[16:32] == 149_999).all()


@pytest.mark.parametrize("words", [2 * common.hf.BLOCK + 1, 3 * common.hf.BLOCK, 5 * common.hf.BLOCK - 1])
def test_draw_of_many_words_is_that_of_one_cumulative_distribution(words: int) -> None:
    """By blocks: the same tokens in float64, and in float32 but for noise that lies on the edge between two."""
    generator = torch.Generator().manual_seed(words)
    probabilities = torch.randn(4000, words, generator=generator, dtype=torch.float64).mul(2).softmax(-1)
    noise = torch.rand(4000, generator=generator, dtype=torch.float64)
    whole = common.hf.pick(probabilities.cumsum(-1), noise)[:, 0]
    assert torch.equal(draw(probabilities, noise), whole) and len(whole.unique()) > words / 3
    assert (draw(probabilities.float(), noise) != whole).sum() <= 2


def test_draw_of_a_certain_token() -> None:
    for token in range(3):
        noise = torch.tensor([0.0, 0.5, LARGEST_NOISE], dtype=torch.float64)
        certain = torch.nn.functional.one_hot(torch.tensor(token), 3).float().expand(3, -1)
        assert draw(certain, noise).tolist() == [token] * 3


def test_generation_config_does_not_shape_the_distribution() -> None:
    """Hub models ship with top_p, top_k and penalties: a policy gradient needs the plain softmax."""
    policy = small()
    plain = generate(policy)
    settings = {
        "do_sample": True,
        "top_k": 1,
        "top_p": 0.1,
        "temperature": 0.1,
        "repetition_penalty": 5.0,
        "min_new_tokens": 15,
        "max_new_tokens": 2,
        "suppress_tokens": [1, 2],
    }
    for key, value in settings.items():
        setattr(policy.model.generation_config, key, value)
    assert generate(policy) == plain


# --- Seeds ------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_to_the_bit() -> None:
    policy = small()
    first = generate(policy, seed=7)
    torch.manual_seed(99)  # the global generator has no part in it
    assert generate(policy, seed=7) == first
    others = [generate(policy, seed=seed) for seed in (8, 2**62 + 7, 0)]
    assert all(ids_of(other) != ids_of(first) for other in others)


def test_group_members_and_prompts_differ() -> None:
    """Equal prompts must not get equal groups, nor a group equal members."""
    responses = ids_of(generate(tiny_policy(), [[1, 2, 3]] * 3, n=4, max_new_tokens=8))
    assert len({tuple(ids) for ids in responses}) == 12


def test_a_prompt_does_not_depend_on_its_neighbours() -> None:
    policy = small()
    expected = ids_of(generate(policy))
    others = [[9], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], PROMPTS[2], [2]]
    assert ids_of(generate(policy, others))[8:12] == expected[8:12]
    assert ids_of(generate(policy, PROMPTS[:3]))[:12] == expected[:12]
    # In a larger group the first members stay.
    assert [g[:4] for g in grouped(ids_of(generate(policy, n=6)), 6)] == grouped(expected, 4)


def grouped(responses: list[list[int]], n: int) -> list[list[list[int]]]:
    return [responses[i : i + n] for i in range(0, len(responses), n)]


def test_uniform_noise() -> None:
    noise = uniform_noise(7, range(50), 8, 100)
    assert noise.shape == (400, 100) and noise.dtype == torch.float64
    assert noise.min() >= 0 and noise.max() < 1
    assert noise.mean().item() == pytest.approx(0.5, abs=0.01) and noise.unique().numel() == noise.numel()
    # Another rank's share of the prompts has the noise that it has with one process.
    assert torch.equal(uniform_noise(7, range(20, 30), 8, 100), noise[160:240])


# --- Ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen2", "neox"])
def test_end_tokens(kind: str) -> None:
    """An end token is the last of its response and belongs to it; only the length limit truncates."""
    policy = small(kind)
    assert policy.end_ids == [3, 5, 256]
    responses = generate(policy, n=16)
    for response in responses:
        *before, last = response.token_ids
        assert not {3, 5} & set(before)
        assert len(response.logprobs) == len(response.token_ids) <= LIMIT
        assert response.truncated == (last not in (3, 5))
        assert not response.truncated or len(response.token_ids) == LIMIT
    assert {3, 5} < {response.token_ids[-1] for response in responses}  # both end, and some were cut
    # What ends exactly at the limit is not cut.
    ended = next(r for r in responses if not r.truncated and 1 < len(r.token_ids) < LIMIT)
    index, length = responses.index(ended), len(ended.token_ids)
    noise = uniform_noise(7, range(len(PROMPTS)), 16, LIMIT)[index : index + 1, :length]
    assert_same_responses(TransformersSampler(policy)._generate_batch([PROMPTS[index // 16]], noise, 1.0), [ended])


def test_padding_that_is_the_end_token_shortens_nothing() -> None:
    """Many tokenizers pad with their end token; masks go by length, so a response that is one end token counts it."""
    policy = tiny_policy("phi", pad_token_id=256, eos_token_id=256)
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    with torch.no_grad():
        policy.head.bias[256] = 5.0  # about every third token is the end
    problems = [Problem("1+1", "2", "0", "math"), Problem("<|endoftext|>1", "2", "1", "math")]
    samples = sample_groups(problems, make_sampler("hf", policy), Verifier(), Timer(), 16, 1.0, 6, seed=0)
    batch = make_batch(samples)
    single = [i for i, s in enumerate(samples) if s.response.token_ids.tolist() == [256]]
    several = [i for i, s in enumerate(samples) if len(s.response.token_ids) > 1]
    assert single and several
    assert (batch["mask"][single].sum(1) == 1).all() and not batch["truncated"][single].any()
    assert batch["mask"].sum(1).tolist() == [len(s.response.token_ids) for s in samples]
    assert batch["prompt_mask"].sum(1).tolist() == [3] * 16 + [2] * 16  # an end token in a prompt is read
    logprobs, _ = policy.score(batch)
    assert (logprobs[single, 0] < 0).all()
    torch.testing.assert_close(logprobs, batch["rollout_logprobs"], rtol=0, atol=1e-4)


def test_limit_of_one_token() -> None:
    responses = generate(small(), max_new_tokens=1)
    assert [len(r.token_ids) for r in responses] == [1] * 20
    assert [r.truncated for r in responses] == [r.token_ids[0] not in (3, 5) for r in responses]


def test_generate_fills_the_context_and_scores_it() -> None:
    policy = tiny_policy(max_position_embeddings=24)
    problem = Problem("x" * 14, "2", "0", "math")
    assert fit_prompts(policy, [problem], 0, 10) == ([problem], 24)
    response = generate(policy, [policy.encode(problem.prompt)], n=1, max_new_tokens=10)[0]
    batch = make_batch([sample_of(policy.encode(problem.prompt), response.token_ids, response.logprobs)])
    torch.testing.assert_close(policy.score(batch)[0], batch["rollout_logprobs"], rtol=0, atol=1e-4)


def test_token_beyond_the_tokenizer_decodes() -> None:
    """Models round their vocabulary up: the extra tokens can be sampled and have no text."""
    policy = tiny_policy(vocab_size=320, tied=False)
    with torch.no_grad():
        policy.head.weight[258:] *= 3
    problems = [Problem("1+1", "2", "0", "math")]
    samples = sample_groups(problems, make_sampler("hf", policy), Verifier(), Timer(), 8, 1.0, 8, seed=0)
    assert any(token >= 258 for s in samples for token in s.response.token_ids)
    assert policy.decode([[64, 300, 65], [319]]) == ["ab", ""]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (transformers.MambaConfig, {}),
        (transformers.Lfm2Config, {"layer_types": ["conv", "full_attention"]}),
        (transformers.FalconH1Config, {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1}),
    ],
)
def test_models_with_a_recurrent_state_are_refused(config: type, options: dict) -> None:
    """Left padding would flow into their state, and their caches cannot be repeated and thinned out like keys."""
    options |= {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    if config is not transformers.MambaConfig:
        options |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = transformers.AutoModelForCausalLM.from_config(config(**options))
    with pytest.raises(InputError, match="key-value cache") as caught:
        make_sampler("hf", Policy(model, byte_tokenizer()))
    assert "\n" not in str(caught.value)


def test_auto_is_vllm_on_cuda_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, vllm = tiny_policy(), types.ModuleType("common.vllm")
    vllm.VllmSampler = lambda *arguments: arguments
    monkeypatch.setitem(sys.modules, "common.vllm", vllm)
    monkeypatch.setattr(common.rollout, "find_spec", lambda name: name == "vllm")
    assert type(make_sampler("auto", policy, 64)) is TransformersSampler  # on a CPU
    assert make_sampler("vllm", policy, 64, 2, 0.5) == (policy, 64, 2, 0.5)
    monkeypatch.setattr(policy, "device", torch.device("cuda"))
    assert make_sampler("auto", policy, 64, 2, 0.5) == (policy, 64, 2, 0.5)


def test_vllm_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.rollout, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"requirements-gpu.txt.*--backend hf"):
        make_sampler("vllm", tiny_policy())


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="--backend hf"):
        make_sampler("tgi", tiny_policy())


# --- The batch --------------------------------------------------------------------------------------------------


def sample_of(prompt: list[int], response: list[int], logprobs: list[float], reward: float = 0.0) -> Sample:
    verdict = Verdict(reward, "mismatch", None)
    return Sample(Problem("?", "1", "0", "math"), prompt, Response(response, logprobs, False), "text", verdict)


def test_make_batch() -> None:
    samples = [
        Sample(
            Problem("p", "1", "a", "math"),
            [5, 6],
            Response([0, 9, 256], [-0.5, -1.0, -0.25], False),
            "x",
            Verdict(1.0, "match", "1"),
        ),
        Sample(
            Problem("p", "1", "a", "math"), [5, 6], Response([0], [-2.0], True), "y", Verdict(0.0, "no_answer", None)
        ),
        Sample(
            Problem("q", "2", "b", "math"),
            [0, 7, 8],
            Response([256, 256], [-0.1, -0.2], True),
            "z",
            Verdict(0.0, "mismatch", "3"),
        ),
    ]
    batch = make_batch(samples)
    yes, no = True, False
    expected = {
        "prompt_ids": torch.tensor([[0, 5, 6], [0, 5, 6], [0, 7, 8]]),
        "prompt_mask": torch.tensor([[no, yes, yes], [no, yes, yes], [yes, yes, yes]]),
        "response_ids": torch.tensor([[0, 9, 256], [0, 0, 0], [256, 256, 0]]),
        "mask": torch.tensor([[yes, yes, yes], [yes, no, no], [yes, yes, no]]),
        "rewards": torch.tensor([1.0, 0.0, 0.0]),
        "likely_trained": torch.tensor([yes, yes, no]),
        "truncated": torch.tensor([no, yes, yes]),
        "rollout_logprobs": torch.tensor([[-0.5, -1.0, -0.25], [-2.0, 0, 0], [-0.1, -0.2, 0]]),
        "problems": [sample.problem for sample in samples],
        "responses": ["x", "y", "z"],
        "answers": ["1", None, "3"],
    }
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert batch[key].dtype == value.dtype and torch.equal(batch[key], value), key
        else:
            assert batch[key] == value, key


def test_take_rows() -> None:
    batch = make_batch(random_samples())
    rows = torch.tensor([7, 6, 8, 0])
    part = take_rows(batch, rows)
    assert part.keys() == batch.keys()
    for key, value in batch.items():
        if isinstance(value, Tensor):
            assert torch.equal(part[key], value[rows])
        else:
            assert part[key] == [value[7], value[6], value[8], value[0]]
    part["rewards"][0] = 9.0  # a copy: what a loss writes into its minibatch stays there
    assert batch["rewards"][7] != 9.0


def test_fit_prompts(capsys: pytest.CaptureFixture) -> None:
    policy = tiny_policy(max_position_embeddings=24)
    short, long, empty = (Problem(text, "1", name, "math") for text, name in [("ab", "s"), ("x" * 14, "l"), ("", "e")])
    assert fit_prompts(policy, [short, long], 0, 10) == ([short, long], 24)  # exactly full
    assert fit_prompts(policy, [short, long], 14, 10) == ([short, long], 24)
    assert capsys.readouterr().err == ""
    assert fit_prompts(policy, [short, long], 13, 22) == ([short], 24)
    assert capsys.readouterr().err == "warning: 1 of 2 problems left out: prompts over 13 tokens\n"
    with pytest.raises(InputError, match=r"longest prompt \(14 tokens\).*context of 24; use at most 10"):
        fit_prompts(policy, [short, long], 0, 11)
    with pytest.raises(InputError, match="shortest prompt has 2 tokens"):
        fit_prompts(policy, [short, long], 1, 4)
    with pytest.raises(InputError, match="problem e has no tokens"):
        fit_prompts(policy, [short, empty], 0, 4)
    policy.end_ids = []
    with pytest.raises(InputError, match="end token"):
        fit_prompts(policy, [short], 0, 4)
