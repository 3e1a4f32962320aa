"""Small things for any room: a warning that is said once, seeds, seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from common import ranks


@cache
def warn_once(text: str) -> None:
    """Say something on standard error, the first time it is said."""
    ranks.say(f"warning: {text}")


def random_seed(*parts: int) -> int:
    """A seed that is a function of a few integers, such as (run seed, step)."""
    return hash(parts) % 2**63


class Timer:
    """Seconds per part of a step: `with timer("rollout"): ...`, then `timer.pop()` for {"time/rollout": seconds}."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def pop(self) -> dict[str, float]:
        """The parts and the whole ("time/step") since the last call."""
        now = time.perf_counter()
        times = {f"time/{part}": seconds for part, seconds in self.seconds.items()} | {"time/step": now - self.started}
        self.started, self.seconds = now, {}
        return times
