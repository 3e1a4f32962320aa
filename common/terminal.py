"""The one place that writes to the terminal. What cannot be written is lost; nothing that writing raises leaves here.

    terminal.say("a line")                  # standard output
    terminal.warn("warning: a line")        # standard error
    Console(file=terminal.out)              # rich, through the same place

A reader that went away (`| head`, a `tee` that Ctrl-C ended, a closed terminal), a full disk behind `> log` and an
encoding without the character cost lines, never the run. Importing this puts the same guard under what libraries print,
and gives a process that was started without one of its three standard streams (`>&-`) an empty one, so that no file of
the run takes its number.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESTALE}  # no one will ever read this again


class Stream:
    """Standard output or standard error, whichever object that is when something is written."""

    def __init__(self, name: str):
        self.name = name
        self._abandoned: object = None
        self._below: io.TextIOBase | None = None  # what this object stands in for, while it does

    @property
    def _target(self) -> io.TextIOBase | None:
        stream = getattr(sys, self.name)
        if self.name == "stdout" and stream is not self:
            # While a bar is shown, rich stands in for standard output and writes to this very object.
            stream = getattr(stream, "rich_proxied_file", stream)
        return self._below if stream is self else stream

    @property
    def encoding(self) -> str:
        return getattr(self._target, "encoding", None) or "utf-8"

    @property
    def lost(self) -> bool:
        """Whether the reader is gone."""
        return self._abandoned is not None and self._abandoned is self._target

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            return self._target.isatty()
        return False

    def fileno(self) -> int:
        return self._target.fileno()

    def write(self, text: str) -> int:
        with self._survive():
            self._target.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        with self._survive():
            self._target.flush()

    @contextmanager
    def _survive(self) -> Iterator[None]:
        """ValueError: a closed file; RuntimeError: a signal inside another write; AttributeError: no stream at all."""
        try:
            yield
        except (OSError, ValueError, RuntimeError, AttributeError, LookupError) as error:
            if getattr(error, "errno", None) in GONE:
                self.abandon()

    def __getattr__(self, name: str) -> object:
        """What else a library wants of a stream."""
        if name.startswith("_") or name == "rich_proxied_file":
            raise AttributeError(name)
        return getattr(self._target, name)

    def stand_in(self) -> None:
        """Take the place of the process's own stream, so that what libraries print comes through here too."""
        if getattr(sys, self.name) is getattr(sys, f"__{self.name}__"):
            self._below = getattr(sys, self.name)
            setattr(sys, self.name, self)

    def abandon(self) -> None:
        """Let what is still in the stream's buffer, and all that libraries write to it, go nowhere."""
        self._abandoned = self._target
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._target.fileno())
            os.close(nowhere)


out, err = Stream("stdout"), Stream("stderr")


def say(text: str) -> None:
    """A line on standard output."""
    out.write(f"{text}\n")
    out.flush()


def warn(text: str) -> None:
    """A line on standard error."""
    err.write(f"{text}\n")
    err.flush()


def say_aside(text: str) -> None:
    """A line on the terminal itself, past a pipe whose reader is gone; only from its foreground."""
    with suppress(OSError, AttributeError):  # no terminal, or a system without
        terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
        try:
            if os.tcgetpgrp(terminal) == os.getpgrp():
                os.write(terminal, f"{text}\n".encode("utf-8", "backslashreplace"))
        finally:
            os.close(terminal)


def open_missing_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115  (for good)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


open_missing_streams()
for stream in (out, err):
    stream.stand_in()
