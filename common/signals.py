"""A request to stop: one of the signals in `NAMES`, taken down when it comes, whatever the process is doing.

    signals = StopSignals(say=print)
    signals.number        # the signal that asked, or None
    signals.close()       # as it was before

SIGHUP comes when a terminal is closed. Schedulers warn before a job's end with SIGUSR1 (Slurm is usually told so) or
SIGUSR2 (Grid Engine, LSF), and the kernel sends SIGXCPU, once a second, when a limit of CPU time is reached. Under
`nohup` SIGHUP stays ignored. Ctrl-C reaches every process of a terminal, and launchers send it on to their children:
what comes within `SAME` seconds of the first signal is the same request. After that SIGINT or SIGTERM stops at once;
the others never do, for a closed terminal sends several, and a scheduler that warned sends SIGTERM to some.

Python runs a handler only between two steps of its own. After a long operation of a library it would not tell when a
signal came, and two that came together would look seconds apart: a thread therefore reads from a socket, into which
Python writes each signal as it comes.
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
AT_ONCE = (signal.SIGINT, signal.SIGTERM)  # when they come again
SAME = 1.0  # seconds within which two signals are one request


class StopSignals:
    """Watches for the signals that ask a run to stop; `say` is called with the number of the first one.

    A second request raises SystemExit in the main thread, with 128 and the number of the signal as status. Made in the
    main thread.
    """

    def __init__(self, say: Callable[[int], None]):
        global watching
        self.say = say
        self.number: int | None = None
        self.asked = 0.0  # when, on the monotonic clock
        self.again: int | None = None
        self._lock = threading.RLock()
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        self._before = {}
        for number in (getattr(signal, name) for name in NAMES if hasattr(signal, name)):
            if number in AT_ONCE or signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's trap ''
                self._before[number] = signal.signal(number, self._handle)
        self._fd_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        watching = self

    def ask(self, number: int) -> None:
        """Take down a request: a signal of this process, or one that came to another rank."""
        with self._lock:
            first = self._note(number)
        if first:  # outside the lock: the main thread may have been interrupted inside a print
            self.say(number)

    def _note(self, number: int) -> bool:
        """Whether it is the first request."""
        now = time.monotonic()
        if self.number is None:
            self.number, self.asked = number, now
            return True
        if number in AT_ONCE and now - self.asked > SAME:
            self.again = number
        return False

    def close(self, at_end: bool = False) -> None:
        """Restore the handlers, and end the thread.

        `at_end` of a process that was asked to stop, what comes again and never stops at once is ignored: its exit
        status would be lost.
        """
        if self._write.fileno() >= 0:
            self.restore()
            self._write.close()
            if at_end and self.number is not None:
                for number in self._before.keys() - {*AT_ONCE}:
                    signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _watch(self) -> None:
        while True:
            select.select([self._read], [], [])
            if not self._collect():
                self._read.close()
                return

    def _collect(self) -> bool:
        """Take down what has come; False once the other end is closed."""
        with self._lock:
            try:
                came = self._read.recv(4096)
            except BlockingIOError:  # the other thread was faster
                return True
            first = [number for number in came if number in self._before and self._note(number)]
        for number in first:
            self.say(number)
        return bool(came)

    def _handle(self, number: int, frame: object) -> None:
        ours = self._write.fileno()
        if (reader := signal.set_wakeup_fd(ours)) == ours:
            self._collect()
        else:  # a library reads the numbers now
            signal.set_wakeup_fd(reader)
            self.ask(number)
        if self.again is not None:
            raise SystemExit(128 + self.again)


watching: StopSignals | None = None


def forget_in_child() -> None:
    """A forked process shares the socket: a signal to it would stop this run, or another that was never closed."""
    if watching is not None and watching._write.fileno() >= 0:
        watching.restore()
        signal.set_wakeup_fd(-1)
        for number in watching._before:
            while isinstance(other := getattr(signal.getsignal(number), "__self__", None), StopSignals):
                signal.signal(number, other._before.get(number) or signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_in_child)
