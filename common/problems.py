"""What a problem is, when two problems are the same, and which are held out.

The ground on which the sources of problems stand: common/procedural.py, files.py, hub.py and gym.py.
"""

import json
import zlib
from dataclasses import dataclass

EVAL_SHARE = 10  # one problem in ten is held out, chosen by a hash of its content


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer; `kind` names the checker in `common.verifier` that compares answers.

    `trace` is a worked solution, where one is known; `source` the task that the problem came from, as it was named.
    """

    prompt: str | list[dict]
    answer: str
    id: str
    kind: str
    trace: str | None = None
    source: str = ""


def content_of(prompt: str | list[dict]) -> str:
    """All that a prompt says, white space at the ends left out, whoever says it."""
    contents = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return "\n".join(content.strip() for content in contents)


def prompt_key(prompt: str | list[dict]) -> str:
    """Equal for prompts that ask the same: white space at the ends, and text or one chat message, do not matter."""
    if isinstance(prompt, str) or len(prompt) == 1:
        return content_of(prompt)
    return json.dumps([(message["role"], message["content"].strip()) for message in prompt])


def loose_key(prompt: str | list[dict]) -> str | None:
    """Equal for texts that differ in case, spacing or punctuation alone; None for one with too few words to tell."""
    letters = "".join(filter(str.isalnum, content_of(prompt).lower()))
    return letters if sum(map(str.isalpha, letters)) >= 20 else None


def split_problems(problems: list[Problem], split: str) -> list[Problem]:
    """A fixed tenth of a file (at least one problem) for "eval", the others for "train", everything for "all".

    The tenth comes in the order of its hashes: a part of it is fair even where the file is sorted by difficulty.
    """
    if split == "all":
        return problems
    ranked = sorted(problems, key=lambda p: zlib.crc32(content_of(p.prompt).encode()))
    held = ranked[: max(1, len(ranked) // EVAL_SHARE)]
    held_ids = {p.id for p in held}
    return held if split == "eval" else [p for p in problems if p.id not in held_ids]
