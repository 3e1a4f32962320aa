"""Weights & Biases: its rules, kept before anything is written, and its failures, which end the tracking alone.

tracker = Tracker("my-project", directory)     # raises InputError
tracker.start(config)                          # raises InputError
tracker.log(step, metrics)
tracker.finish()
"""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from common import InputError

LONGEST_PROJECT, LONGEST_ID = 128, 64
NOT_IN_PROJECT = "/\\#?%:"


def check_project(name: str) -> None:
    if found := [c for c in name if c in NOT_IN_PROJECT or not c.isprintable()]:
        wrong = f"{found[0]!r} in it, which Weights & Biases does not take"
    elif len(name) > LONGEST_PROJECT:
        wrong = f"{len(name)} characters, and Weights & Biases takes {LONGEST_PROJECT}"
    elif not name.strip() or name != name.strip():
        wrong = "nothing but spaces in it, or spaces around it"
    else:
        return
    raise InputError(
        f"--wandb-project-name {name!r:.80} has {wrong}; use letters, digits, - and _ (the team: WANDB_ENTITY)"
    )


def run_id(name: str) -> str:
    """The id of a run of this name: the name itself, or what it may have of it and a digest of the whole.

    Letters, digits, `.`, `-`, `_` and `=`: more is allowed here or there, these everywhere.
    """
    clean = re.sub(r"[^A-Za-z0-9._=-]+", "-", name)
    if clean == name and 0 < len(name) <= LONGEST_ID:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{clean[: LONGEST_ID - 9]}-{digest}"


class Tracker:
    """One run at Weights & Biases, known by the name of its directory.

    Raises InputError if the library is not installed or would refuse the project's name. `say` gets words of warning.
    """

    def __init__(self, project: str, directory: Path, say: Callable[[str], None]):
        try:
            import wandb
        except ImportError:
            raise InputError("--track needs wandb; pip install wandb") from None
        check_project(project)
        self.wandb, self.project, self.directory, self.say = wandb, project, directory, say
        self.run = None

    def start(self, config: dict) -> None:
        """Begin, or go on with, the run; offline without an account. Raises InputError for whatever hinders it."""
        name = self.directory.absolute().name
        chosen = run_id(name)
        shown = name.encode("utf-8", "backslashreplace").decode()[:LONGEST_PROJECT]
        try:
            # Without an account wandb would stop to ask for one: record offline then, for `wandb sync` later.
            known = os.environ.get("WANDB_MODE") or self.wandb.login(prompt=False)
            self.run = self.wandb.init(
                project=self.project,
                name=shown,
                id=chosen,
                resume="allow",
                dir=str(self.directory),
                config=config,
                mode=None if known else "offline",
            )
        except Exception as error:  # wandb has some twenty types
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(
                f"--track: Weights & Biases cannot start ({reason}); mend that, or leave --track out"
            ) from None
        if chosen != name:
            self.say(f"at Weights & Biases this run has the id {chosen}: it does not take {shown!r}")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._try(lambda: self.run.log(metrics, step=step))

    def finish(self) -> None:
        self._try(lambda: self.run.finish())

    def _try(self, act: Callable[[], object]) -> None:
        if self.run is None:
            return
        try:
            act()
        except Exception as error:
            self.run = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            self.say(f"warning: Weights & Biases gets nothing more ({reason}); metrics.jsonl has everything")
