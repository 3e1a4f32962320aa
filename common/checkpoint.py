"""The parts of a checkpoint that all ranks write together, and what is said of one that cannot be read."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException

from common import InputError


@contextmanager
def resumable(checkpoint: Path, part: str) -> Iterator[None]:
    """What cannot be read of a checkpoint, as an InputError."""
    try:
        yield
    except Exception as error:  # whatever missing or damaged files make the libraries raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"cannot resume {checkpoint.parents[1]}: {part} of {checkpoint.name} is missing or damaged ({reason}); "
            f"remove {checkpoint} to resume from the one before"
        ) from None


def write_parts(directory: Path, state: dict) -> None:
    with whole_failures():
        dcp.save(state, checkpoint_id=directory)


def read_parts(directory: Path, state: dict) -> None:
    """Overwrite the tensors of `state` with what was written under the same names."""
    if not (directory / ".metadata").exists():  # the library would print tracebacks first
        raise FileNotFoundError(directory)
    with whole_failures():
        dcp.load(state, checkpoint_id=directory)


@contextmanager
def whole_failures() -> Iterator[None]:
    """torch.distributed.checkpoint without its warning that there is one process; its failures as an OSError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except CheckpointException as error:  # not an Exception
            raise OSError("; ".join(str(failure) for failure, _ in error.failures.values())) from None
