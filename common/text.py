"""Between text and tokens: prompts as a model reads them, and the tokens that end a response."""

import re
from bisect import bisect_right
from itertools import accumulate

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common import InputError
from common.maths import CLOSED_ANSWER, CLOSED_THOUGHT, OPEN_ANSWER, OPEN_THOUGHT

MARKS = (OPEN_THOUGHT, CLOSED_THOUGHT, OPEN_ANSWER, CLOSED_ANSWER)  # that part a response into reasoning and answer


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict], **template_options: object) -> list[int]:
    """Token ids of a text, or of chat messages through the tokenizer's chat template.

    The tokenizer's own first token (BOS) comes once: a template writes it itself, and so does a text that was made with
    one. An end token that the tokenizer puts behind a text goes: the response is to follow. Messages that end with the
    assistant's are a beginning of the response: its turn stays open and no other is begun. Raises InputError for
    messages without a template, or that it refuses.
    """
    bos = tokenizer.bos_token
    if isinstance(prompt, str):
        if bos and prompt.startswith(bos):
            return tokenizer(prompt, add_special_tokens=False).input_ids
        adds_end = tokenizer("a").input_ids[-1] == tokenizer.eos_token_id
        return tokenizer(prompt).input_ids[: -1 if adds_end else None]
    if not tokenizer.chat_template:
        raise InputError(
            "the prompts are chat messages but this model's tokenizer has no chat template; use plain text"
        )
    if prompt[-1]["role"] == "assistant" and not prompt[-1]["content"].strip():
        prompt = prompt[:-1]  # no beginning: the turn is opened as after a question
    begun = prompt[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            prompt,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            return_dict=False,
            **template_options,
        )
    except Exception as error:  # templates refuse roles that they do not know, each in its own words
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"this model's chat template refuses the prompt {prompt!r:.100} ({reason})") from None


def separators_before(texts: list[str], separator: str) -> list[int]:
    """Of each of the texts, that follow on each other, how many separators end before it; one may lie across two."""
    ends = [found.end() for found in re.finditer(re.escape(separator), "".join(texts))]
    starts = accumulate(map(len, texts[:-1]), initial=0)
    return [bisect_right(ends, start) for start in starts]


def silent_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that are no part of a response's text: all but the marks that the verifier reads.

    Some tokenizers have <think> and </think> as special tokens, and would decode "3</think>4" to "34".
    """
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {i for i, content in special.items() if not any(mark.fullmatch(content) for mark in MARKS)}


def opens_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int]) -> bool:
    """Whether the prompt ends inside the response's reasoning, as templates of reasoning models do it."""
    return re.search(rf"(?:{OPEN_THOUGHT.pattern})\s*$", tokenizer.decode(prompt_ids[-8:]), re.IGNORECASE) is not None


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a response: the tokenizer's, the generation config's and that of the chat template.

    A base model with a chat template (Qwen2.5) names another end token than the one its template puts after a turn.
    """
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    return sorted({i for i in [*ids, tokenizer.eos_token_id, turn_end_id(tokenizer)] if i is not None})


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an answer; None without such a template or token."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "response"}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template for other things than two turns
        return None
    after = tokenizer(rendered.rpartition("response")[2], add_special_tokens=False).input_ids[:1]
    is_special = after and getattr(tokenizer.added_tokens_decoder.get(after[0]), "special", False)
    return after[0] if is_special else None
