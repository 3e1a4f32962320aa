"""Chat templates, first and last tokens, thinking switches: four families of tokenizers, built here.

Each is a byte-level tokenizer with the special tokens of its family and a template that behaves as the family's does:
who writes the first token, what ends a turn, what happens to a system message, what the thinking switch writes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common import InputError
from common.basics import Timer
from common.batch import Response, Sample, make_batch
from common.loading import check_thinking
from common.policy import Policy
from common.problems import Problem
from common.rollout import make_sampler, sample_groups
from common.templates import render
from common.text import turn_end_id
from common.verifier import Verdict, Verifier
from tests.helpers import save_tiny, tiny_model

ROOT = Path(__file__).resolve().parents[1]

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ SYSTEM }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{{ THINKING }}{% endif %}"
)
QWEN_SYSTEM = "'<|im_start|>system\nYou are a helper.<|im_end|>\n'"
QWEN3_THINKING = "('<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false else '')"
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

# family: first token, end token, padding, further special tokens, further plain tokens, template, what a turn ends with
FAMILIES = {
    "qwen2.5": (
        None,
        "<|endoftext|>",
        "<|endoftext|>",  # pad = eos
        ["<|im_start|>", "<|im_end|>"],
        [],
        CHATML.replace("SYSTEM", QWEN_SYSTEM).replace("THINKING", "''"),
        "<|im_end|>",
    ),
    "qwen3": (
        None,
        "<|im_end|>",
        "<|endoftext|>",
        ["<|im_start|>", "<|endoftext|>"],
        ["<think>", "</think>"],  # added tokens, but not special: they stay in decoded text
        CHATML.replace("SYSTEM", "''").replace("THINKING", QWEN3_THINKING),
        "<|im_end|>",
    ),
    "llama3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|end_of_text|>",
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        [],
        LLAMA3,
        "<|eot_id|>",
    ),
    "mistral": ("<s>", "</s>", "</s>", ["[INST]", "[/INST]"], [], MISTRAL, "</s>"),
}
QUESTION = [{"role": "user", "content": "1+1?"}]


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    bos, eos, pad, special, plain, template, _ = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in [*filter(None, [bos, eos, pad]), *special]])
    tokenizer.add_tokens([AddedToken(t, special=False) for t in plain])
    if bos:  # as Llama-3 and Mistral do: the tokenizer puts it before every text
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad)
    fast.chat_template = template
    return fast


def policy_of(family: str, **options) -> Policy:
    tokenizer = tokenizer_of(family)
    return Policy(tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id), tokenizer, **options)


PROMPTS = {
    "qwen2.5": "<|im_start|>system\nYou are a helper.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "qwen3": "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] 1+1? [/INST]",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_messages_are_read_as_the_template_writes_them(family: str) -> None:
    policy = policy_of(family)
    assert policy.tokenizer.decode(policy.encode(QUESTION)) == PROMPTS[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_comes_once(family: str) -> None:
    """Before messages, before plain text, and before a text that a template has made already."""
    policy = policy_of(family)
    bos = policy.tokenizer.bos_token_id
    for prompt in (QUESTION, "1+1?", PROMPTS[family], render("r1", "1+1?")):
        ids = policy.encode(prompt)
        assert ids.count(bos) == (bos is not None)
        assert ids[0] == bos or bos is None
    assert policy.encode(PROMPTS[family]) == policy.encode(QUESTION)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_response_ends_where_a_turn_ends(family: str) -> None:
    """The tokenizer's end token ends it, and so does the template's: base models name only the first."""
    policy = policy_of(family)
    names = {policy.tokenizer.convert_ids_to_tokens(i) for i in policy.end_ids}
    assert names == {FAMILIES[family][1], FAMILIES[family][-1]}
    turns = [*QUESTION, {"role": "assistant", "content": "2"}]
    ids = policy.tokenizer.apply_chat_template(turns, return_dict=False)
    two = policy.tokenizer("2", add_special_tokens=False).input_ids[0]
    after = ids[len(ids) - 1 - ids[::-1].index(two) + 1]
    assert after == turn_end_id(policy.tokenizer)


@pytest.mark.parametrize("begun", ["The sum is", "<think>\nLet me see.\n1+1", "\\boxed{", "2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_assistants_turn_is_continued(family: str, begun: str) -> None:
    """A prompt that ends with one is the beginning of a response: its turn is not closed, and no second one opened."""
    policy = policy_of(family)
    answered = [*QUESTION, {"role": "assistant", "content": begun}]
    assert policy.tokenizer.decode(policy.encode(answered)) == PROMPTS[family] + begun
    again = policy.tokenizer.decode(policy.encode([*answered, *QUESTION]))  # a turn before the last is closed
    assert again.count(begun) == 1 and again.partition(begun)[2].lstrip("\n").startswith(FAMILIES[family][-1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("begun", ["", " \n"])
def test_a_turn_without_a_word_is_opened(family: str, begun: str) -> None:
    prompt = [*QUESTION, {"role": "assistant", "content": begun}]
    assert policy_of(family).encode(prompt) == policy_of(family).encode(QUESTION)


def test_a_turn_that_a_template_drops_is_one_line() -> None:
    policy = policy_of("llama3")
    policy.tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match="template refuses") as error:
        policy.encode([*QUESTION, {"role": "assistant", "content": "The sum is"}])
    assert "\n" not in str(error.value)


def test_templates_that_end_no_turn() -> None:
    tokenizer = tokenizer_of("qwen2.5")
    for template in (None, "{% for m in messages %}{{ m.content }}\n{% endfor %}", "{{ raise_exception('no') }}"):
        tokenizer.chat_template = template
        assert turn_end_id(tokenizer) is None


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "mistral"])
def test_padding_that_is_the_end_token_hides_nothing(family: str) -> None:
    """pad = eos: the end token is trained on, the padding after a shorter response is not."""
    policy = policy_of(family)
    end = policy.tokenizer.eos_token_id
    assert policy.tokenizer.pad_token_id == end
    samples = [
        Sample(Problem("?", "2", "0", "math"), [1, 2], Response(ids, [-1.0] * len(ids), False), "", verdict)
        for verdict in [Verdict(1.0, "match", "2")]
        for ids in ([5, end], [5, 6, 7, end])
    ]
    batch = make_batch(samples)
    assert batch["mask"].tolist() == [[True, True, False, False], [True] * 4]
    logprobs, _ = policy.score(batch)
    assert (logprobs[0, 1] != 0) and (logprobs[1, 3] != 0) and (logprobs[0, 2:] == 0).all()


def test_the_sampler_stops_at_every_end_token() -> None:
    policy = policy_of("qwen2.5")
    responses = make_sampler("hf", policy).generate([policy.encode(QUESTION)], 400, 1.0, 40, seed=0)
    last = {r.token_ids[-1] for r in responses if not r.truncated}
    assert last == set(policy.end_ids) and len(last) == 2
    assert not any(set(r.token_ids[:-1]) & last for r in responses)


# --- Thinking -------------------------------------------------------------------------------------------------------


def test_thinking_switch() -> None:
    """Unset, the template decides (Qwen3 thinks); off writes an empty thought into the prompt, never the response."""
    unset, on, off = (policy_of("qwen3", enable_thinking=switch).encode(QUESTION) for switch in (None, True, False))
    assert unset == on == off[: len(on)]
    decoded = policy_of("qwen3").tokenizer.decode(off[len(on) :])
    assert decoded == "<think>\n\n</think>\n\n"


@pytest.mark.parametrize("family", ["qwen2.5", "llama3", "mistral"])
def test_a_switch_that_does_nothing_is_refused(family: str) -> None:
    with pytest.raises(InputError, match="no thinking switch"):
        check_thinking(tokenizer_of(family), family)


def test_the_switch_of_a_template_is_found() -> None:
    check_thinking(tokenizer_of("qwen3"), "qwen3")
    plain = tokenizer_of("qwen3")
    plain.chat_template = None
    with pytest.raises(InputError, match="no thinking switch"):
        check_thinking(plain, "qwen3")


def test_thoughts_stay_in_the_text() -> None:
    """The verifier reads what comes after </think>: decoding must not take the mark away."""
    policy = policy_of("qwen3")
    text = "<think>\\boxed{1}</think> \\boxed{2}"
    ids = [*policy.tokenizer(text).input_ids, policy.tokenizer.eos_token_id]
    assert policy.decode([ids]) == [text]


def test_marks_that_are_special_tokens_stay_in_the_text() -> None:
    """Else "3</think>4" would read "34"; other special tokens go."""
    tokenizer = tokenizer_of("llama3")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]})
    policy = Policy(tiny_model(vocab_size=len(tokenizer)), tokenizer)
    text = "<think>3</think><answer>4</answer>"
    assert policy.decode([tokenizer(text + "<|eot_id|><|start_header_id|>").input_ids]) == [text]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_end_token_that_the_tokenizer_adds_is_not_part_of_the_prompt(family: str) -> None:
    policy = policy_of(family)
    plain, eos = policy.encode("1+1?"), policy.tokenizer.eos_token
    before = [(policy.tokenizer.bos_token, policy.tokenizer.bos_token_id)] if policy.tokenizer.bos_token else []
    policy.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before[0][0]} $A {eos}" if before else f"$A {eos}",
        special_tokens=[*before, (eos, policy.tokenizer.eos_token_id)],
    )
    assert policy.tokenizer("1+1?").input_ids == [*plain, policy.tokenizer.eos_token_id]
    assert policy.encode("1+1?") == plain
    written = policy.encode("1+1?" + eos)  # one that the prompt has itself is the user's
    assert written == [*plain, policy.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("prompt", "text", "truncated", "reason"),
    [
        (render("r1", "1+1?"), "It is \\boxed{2}, no, wait", True, "no_answer"),
        (render("r1", "1+1?"), "It is 3. </think> \\boxed{2}, I", True, "match"),
        (render("r1", "1+1?"), "It is \\boxed{2}.", False, "match"),  # it has said all it had to say
        ("Think. <think> </think> 1+1?", "It is \\boxed{2}, no", True, "match"),
        ("1+1?", "It is \\boxed{2}, no", True, "match"),
    ],
)
def test_reasoning_that_the_prompt_opens_holds_no_answer(
    prompt: str, text: str, truncated: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that was cut off in it has none yet, however many boxes it has written."""
    policy = policy_of("qwen3")
    ids = policy.tokenizer(text, add_special_tokens=False).input_ids
    sampler = make_sampler("hf", policy)
    monkeypatch.setattr(sampler, "generate", lambda *_, **__: [Response(ids, [0.0] * len(ids), truncated)])
    with Verifier() as verifier:
        [sample] = sample_groups([Problem(prompt, "2", "0", "math")], sampler, verifier, Timer(), 1, 1.0, 99, seed=0)
    assert (sample.verdict.reason, sample.text) == (reason, text)


def test_a_role_that_the_template_refuses_is_one_line() -> None:
    with pytest.raises(InputError, match=r"template refuses.*Only user and assistant"):
        policy_of("mistral").encode(render("qwen_boxed", "1+1?"))


# --- From the shell -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_with_a_chat_model(family: str, tmp_path: Path) -> None:
    """Loaded from files, trained one step: the first lines show prompt, response and end tokens as they are."""
    tokenizer = tokenizer_of(family)
    kind = "qwen2" if family.startswith("qwen") else "llama"  # the library chooses a tokenizer's class by it
    save_tiny(tmp_path / "model", kind, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    tokenizer.save_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == tokenizer.chat_template
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"prompt": f"{i}?", "answer": "1"}) + "\n" for i in range(20)))
    flags = "--model model --task t.jsonl --prompt-template chat --num-steps 1 --num-prompts 2 --num-generations 2 "
    flags += "--num-minibatches 1 --max-response-length 4 --eval-every 0 --device cpu --output-dir out"
    if family == "qwen3":
        flags += " --enable-thinking False"
    done = subprocess.run(
        [sys.executable, str(ROOT / "algos" / "grpo.py"), *flags.split()],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = next(line for line in done.stdout.splitlines() if line.startswith("prompt ("))
    expected = PROMPTS[family] + ("<think>\n\n</think>\n\n" if family == "qwen3" else "")
    before, _, after = expected.partition("1+1?")
    assert repr(before)[1:-1] in shown and shown.endswith(repr(after)[1:])
    ends = next(line for line in done.stdout.splitlines() if line.startswith("a response ends with"))
    assert FAMILIES[family][1] in ends and FAMILIES[family][-1] in ends
    assert torch.load(tmp_path / "out/checkpoints/step-000001/training_state.pt", weights_only=True)["step"] == 1
