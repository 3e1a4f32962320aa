"""Several processes, one per GPU, started by torchrun: which one this is, and how they exchange what each has made.

    torchrun --nproc-per-node 8 algos/grpo.py ...

Every rank runs the same script and sees the same batch; it samples, checks and scores its own part of it. With plain
`python` there is one rank and every function here does nothing.
"""

import atexit
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from common import InputError, terminal

if TYPE_CHECKING:  # the verifier's workers import this file, and torch takes seconds
    import torch

Value = TypeVar("Value")
TIMEOUT = timedelta(hours=2)  # of one exchange: a rank may wait long for another's responses or verdicts


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def start() -> None:
    """Join the other ranks, once; raises InputError for a process that a launcher has told half of what it needs."""
    import torch
    import torch.distributed as dist

    if not launched() or dist.is_initialized():
        return
    if lacks := what_the_launcher_left_out():
        raise InputError(
            f"LOCAL_RANK says that a launcher started this, but it lacks {', '.join(lacks)} in its environment; start "
            "with torchrun, or remove LOCAL_RANK from there"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def stop() -> None:
    """Leave the other ranks, at the end of a run."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()


def leave(status: int = 0) -> None:
    """The last thing that a rank does: end its process with this exit status; without torchrun, returns if that is 0.

    What was registered for the end is done, but the interpreter is not taken apart. Threads of gloo outlive their
    group, and one that then lets go of a tensor of the last exchange aborts the process, and with it a run that had
    ended well (pytorch#179291).
    """
    stop()
    if launched():
        atexit._run_exitfuncs()
        terminal.out.flush()
        terminal.err.flush()
        os._exit(status)
    if status:
        raise SystemExit(status)


def what_the_launcher_left_out() -> list[str]:
    """The variables that a launched process lacks, or has without a number: a stray one launches nothing."""
    numbers = "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT"
    lacks = [name for name in numbers if not os.environ.get(name, "").isdecimal()]
    return lacks + [name for name in ("MASTER_ADDR",) if not os.environ.get(name)]


def number(name: str, otherwise: int) -> int:
    """A variable of the environment, or the other number where it has none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else otherwise


def rank() -> int:
    return number("RANK", 0) if launched() else 0


def local_rank() -> int:
    """The rank on this machine, which is the number of its GPU."""
    return number("LOCAL_RANK", 0)


def on_this_machine() -> int:
    """How many ranks share it."""
    return number("LOCAL_WORLD_SIZE", 1) if launched() else 1


def world_size() -> int:
    dist = sys.modules.get("torch.distributed")
    return dist.get_world_size() if dist and dist.is_initialized() else 1


def say(text: str) -> None:
    """A line on standard error, from the first rank alone."""
    if rank() == 0:
        terminal.warn(text)


def first_to_say(text: str) -> bool:
    """Whether no other rank has said this before; asked without waiting for any of them, which may be busy elsewhere.

    Before the ranks have met, the first one of each machine may speak.
    """
    if world_size() == 1:
        return local_rank() == 0 or bool(what_the_launcher_left_out())
    import torch.distributed as dist

    try:
        return dist.distributed_c10d._get_default_store().add(f"said: {text}", 1) == 1
    except RuntimeError:  # the process that keeps the count is gone
        return True


def share_of(count: int, together: int = 1) -> range:
    """Which of `count` things are this rank's: each is some rank's, or that of `together` neighbouring ones."""
    number, parts = rank() // together, world_size() // together
    return range(-(-number * count // parts), -(-(number + 1) * count // parts))  # rounded up: the first ranks' if few


def gather(items: list) -> list:
    """What all ranks have, in the order of their ranks, on all of them."""
    if world_size() == 1:
        return items
    import torch.distributed as dist

    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def agree(value: object) -> object:
    """The first rank's value, on all of them."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` gives on the first rank, on all of them; an InputError there is raised on all of them.

    For what ranks could see differently, such as files, and whatever runs against the clock.
    """
    if world_size() == 1:
        return make()
    value = error = None
    if rank() == 0:
        try:
            value = make()
        except InputError as caught:
            error = caught
    value, error = agree((value, error))
    if error:
        raise error
    return value


def largest(value: int) -> int:
    """The largest value of all ranks."""
    return max(gather([value]))


def first_error(write: Callable[[], object]) -> str | None:
    """Call `write` on all ranks and wait for all of them; what went wrong on the first rank where something did.

    So a thing that several ranks write, one part after another, ends on all of them or is given up by all.
    """
    error = None
    try:
        write()
    except Exception as caught:  # writers raise different types when a disk is full
        error = f"{type(caught).__name__}: {caught}"
    return next(filter(None, gather([error])), None)


def sum_of(tensor: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """The sum of all ranks' tensors, on the CPU; added up on `device`, where the connection is fastest."""
    if world_size() == 1:
        return tensor
    import torch.distributed as dist

    total = tensor.to(device)
    dist.all_reduce(total)
    return total.cpu()
