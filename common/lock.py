"""One process at a time writes to a run directory.

    lock.check(directory)     # raises InputError if another process has it; writes nothing
    lock.take(directory)      # this process has it until it ends, however it ends
    lock.release()

The lock is the kernel's (flock) on a file .lock, which also names its owner: process, host, and when the process began.
It goes with its process, also on a network file system when a host is lost. On a file system without such locks the
name decides: a process of this host is asked after, one of another host cannot be and counts as running.
"""

import atexit
import errno
import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from common import InputError, ranks

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

NAME = ".lock"
held: dict[Path, int] = {}  # directory -> descriptor


def take(directory: Path) -> None:
    """Raises InputError if another process has it, or if it cannot be written."""
    place = directory.resolve()
    if place in held:
        return
    path = place / NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"{directory} cannot be written ({error.strerror}); use another place") from None
        try:
            refuse_if_held(directory, descriptor)
            # The one before may have taken the file away between the two lines above.
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        except InputError:
            os.close(descriptor)
            raise
        os.close(descriptor)
    owner = read_owner(descriptor)
    if owner and owner["host"] != platform.node():
        ranks.say(
            f"warning: process {owner['pid']} on {owner['host']} has not closed {directory}; its lock is free, going on"
        )
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(this_process()).encode(), 0)
    held[place] = descriptor


def check(directory: Path) -> None:
    """Raises InputError if another process has it."""
    if directory.resolve() in held:
        return
    try:
        descriptor = os.open(directory / NAME, os.O_RDWR)
    except OSError:  # there is none, or it cannot be written, which `take` will say
        return
    try:
        refuse_if_held(directory, descriptor)
    finally:
        os.close(descriptor)


def release() -> None:
    """Give back all that this process has."""
    while held:
        place, descriptor = held.popitem()
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.stat(place / NAME)):
                os.unlink(place / NAME)
        with suppress(OSError):
            os.close(descriptor)


def refuse_if_held(directory: Path, descriptor: int) -> None:
    owner = read_owner(descriptor)
    try:
        if fcntl is None:
            raise OSError(errno.ENOLCK, "no locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        remedy = "wait for it, stop it, or use another --output-dir"
    except OSError:
        if owner is None or has_ended(owner):
            return
        remedy = f"stop it, or remove {directory / NAME} if it is gone"
    who = f"process {owner['pid']} on {owner['host']}" if owner else "another process"
    raise InputError(f"{directory} is being written by {who}; {remedy}")


def this_process() -> dict:
    return {"pid": os.getpid(), "host": platform.node(), "began": began(os.getpid())}


def read_owner(descriptor: int) -> dict | None:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return owner if {"pid", "host", "began"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def has_ended(owner: dict) -> bool:
    """Of a process of this host, by number and beginning: numbers are used again."""
    return owner["host"] == platform.node() and began(owner["pid"]) != owner["began"]


def began(pid: int) -> str | None:
    """When a process of this host started, in ticks since the machine's own start; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + " " + fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)  # asks whether there is one
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "running"


atexit.register(release)
