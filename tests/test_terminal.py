"""The terminal may go, and signals may come in any number and order: lines are lost, never a run."""

import contextlib
import ctypes
import io
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import common.signals
from common import terminal
from common.signals import StopSignals

ROOT = Path(__file__).resolve().parents[1]


# --- What cannot be written -------------------------------------------------------------------------------------------


class Failing(io.StringIO):
    """A stream of which everything raises."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    flush = isatty = lambda self: self.write("")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stream",
    [
        *(Failing(OSError(number, os.strerror(number))) for number in (5, 9, 11, 27, 28, 32, 116, 122)),
        Failing(RuntimeError("reentrant call inside")),
        closed(),
        None,
    ],
    ids=lambda stream: repr(getattr(stream, "error", type(stream).__name__)),
)
def test_a_line_that_cannot_be_written_is_lost(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    terminal.say("a")
    terminal.warn("b")
    assert not terminal.out.isatty()


def test_a_reader_that_is_gone_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library writes past this place must not fail either."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert not terminal.out.lost
        terminal.say("a")
        assert terminal.out.lost
        os.write(writer, b"from a library")
        print("from another", flush=True)
    monkeypatch.undo()
    assert not terminal.out.lost


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "koi8-r"])
def test_what_an_encoding_lacks_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    terminal.say("a \ud800 \udcff é ∑ 🙂 z")
    assert raw.getvalue().decode(encoding).startswith("a \\ud800 \\udcff ")
    assert raw.getvalue().decode(encoding).endswith(" z\n")


SPEAKER = """
import os, sys
from common import terminal
for number in range(2000):
    terminal.say(f"line {number} \\ud800 é ∑")
    terminal.warn(f"warning {number} ∑")
    print("from a library ∑")
with open(sys.argv[1], "w") as file:  # of a number of its own
    terminal.say("last")
    file.write("done")
"""


@pytest.mark.parametrize(
    "shell",
    [
        "{} | head -1; exit ${{PIPESTATUS[0]}}",
        "{} 2>&1 | head -c 10; exit ${{PIPESTATUS[0]}}",
        "{} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
        "{} > /dev/full",
        "{} > /dev/full 2>&1",
        "{} >&-",
        "{} 2>&-",
        "{} <&- >&- 2>&-",
        "PYTHONIOENCODING=ascii {}",
        "PYTHONIOENCODING=ascii:strict {} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}",
        "LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 {}",
        "ulimit -f 1; {} > {}.log",
    ],
)
def test_a_process_outlives_its_terminal(shell: str, tmp_path: Path) -> None:
    (tmp_path / "speak.py").write_text(SPEAKER)
    end = tmp_path / "end"
    command = shell.format(f"{sys.executable} {tmp_path}/speak.py {end}", tmp_path)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert end.read_text() == "done"
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_process_outlives_a_closed_pseudo_terminal(tmp_path: Path) -> None:
    (tmp_path / "speak.py").write_text(f"import signal, time\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{SPEAKER}")
    master, slave = pty.openpty()
    command = [sys.executable, str(tmp_path / "speak.py"), str(tmp_path / "end")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    os.read(master, 100)
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "end").read_text() == "done"


# --- Signals ----------------------------------------------------------------------------------------------------------

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[StopSignals]:
    """Whose first word is noted in `said`; two signals are one request for 0.3 s."""
    monkeypatch.setattr(common.signals, "SAME", 0.3)
    said: list[int] = []
    watching = StopSignals(said.append)
    watching.said = said
    yield watching
    watching.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_asks(name: str, signals: StopSignals) -> None:
    number = getattr(signal, name)
    os.kill(os.getpid(), number)
    assert signals.number == number and signals.said == [number]


@pytest.mark.parametrize("again", NAMES)
def test_what_comes_together_is_one_request(again: str, signals: StopSignals) -> None:
    """As a terminal's and torchrun's."""
    for number in (signal.SIGINT, *[getattr(signal, again)] * 5):
        os.kill(os.getpid(), number)
    assert signals.number == signal.SIGINT and signals.said == [signal.SIGINT]


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize(("again", "stops"), [*(dict.fromkeys(NAMES, 0) | {"SIGINT": 130, "SIGTERM": 143}).items()])
def test_what_comes_later_stops_at_once(first: str, again: str, stops: int, signals: StopSignals) -> None:
    """If a person or a scheduler insists; not what a closed terminal sends."""
    os.kill(os.getpid(), getattr(signal, first))
    signals.asked -= 1
    with pytest.raises(SystemExit) if stops else contextlib.nullcontext() as stopped:
        os.kill(os.getpid(), getattr(signal, again))
        time.sleep(0.01)
    assert not stops or stopped.value.code == stops


def test_a_pair_of_signals_during_a_long_operation_is_one_request(signals: StopSignals) -> None:
    """The handler cannot run before the operation ends, which is long after both: when they came counts."""
    os.kill(os.getpid(), signal.SIGTERM)
    libc = ctypes.CDLL(None)  # lets go of the interpreter's lock, as a kernel of torch does

    def kill() -> None:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    libc.sched_yield()
    mutex = (ctypes.c_char * 64)()
    deadline = (ctypes.c_long * 2)(int(time.time()) + 1, 999_000_000)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_timedlock(mutex, deadline)  # one to two seconds, which no signal ends early
    killer.join()
    assert signals.number == signal.SIGTERM and signals.again is None


@pytest.mark.parametrize("wait", [0, 1])
def test_a_library_that_reads_the_numbers_itself(wait: int, signals: StopSignals) -> None:
    """As asyncio may: what counts then is when the handler runs."""
    before = signal.set_wakeup_fd(-1)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signals.asked -= wait
        with pytest.raises(SystemExit) if wait else contextlib.nullcontext():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.set_wakeup_fd(before)
    assert signals.number == signal.SIGTERM


def test_nohup_keeps_ignoring(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        watching = StopSignals(lambda number: None)
        os.kill(os.getpid(), signal.SIGHUP)
        assert watching.number is None
        watching.close()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_closing_restores_all() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
    descriptor = signal.set_wakeup_fd(-1)
    StopSignals(lambda number: None).close()
    assert [signal.getsignal(getattr(signal, name)) for name in NAMES] == before
    assert signal.set_wakeup_fd(descriptor) == -1


@pytest.mark.parametrize("more", [0, 2])
def test_a_forked_process_does_not_speak_for_the_run(more: int, signals: StopSignals) -> None:
    """A pool's workers are ended by SIGTERM, and share every file with the run, and with `more` that are open too."""
    others = [StopSignals(signals.said.append) for _ in range(more)]
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        time.sleep(5)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    for other in reversed(others):
        other.close()
    assert os.WTERMSIG(status) == signal.SIGTERM
    time.sleep(0.05)
    assert signals.number is None and not signals.said


# --- Whole runs -------------------------------------------------------------------------------------------------------

SLOW = """
import os, runpy, sys, time
from common.policy import Policy
step = Policy.step
def slow(self, *loss):
    open(os.environ["IN_STEP"], "a").close()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        time.sleep(0.05)
    return step(self, *loss)
Policy.step = slow
sys.argv[0] = os.environ["SCRIPT"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FLAGS = """--num-steps 9 --num-prompts 2 --num-generations 2 --num-minibatches 2 --max-response-length 6 --eval-every 0
--save-every 0 --eval-problems 2 --device cpu --reward-mode random""".split()


@pytest.fixture
def slow(tmp_path: Path, tiny_checkpoint: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a shell's command around a run of steps of two seconds; it returns in the middle of the first one."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "task.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(30))
    )
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "IN_STEP": str(tmp_path / "in-step"),
        "SCRIPT": str(ROOT / "algos" / "grpo.py"),
    }
    started: list[subprocess.Popen] = []

    def start(shell: str, **options) -> subprocess.Popen:
        words = [sys.executable, tmp_path / "slow.py", *FLAGS, "--model", tiny_checkpoint]
        words += ["--task", tmp_path / "task.jsonl", "--output-dir", tmp_path / "run"]
        command = shell.format(" ".join(map(str, words)), log=tmp_path / "log")
        started.append(subprocess.Popen(["bash", "-c", command], env=env, start_new_session=True, **options))
        end = time.monotonic() + 120
        while not (tmp_path / "in-step").exists():
            assert started[0].poll() is None and time.monotonic() < end
            time.sleep(0.05)
        return started[0]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def checkpoint_of(run: Path) -> str:
    """The one checkpoint, which is of the last step that was recorded."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    [checkpoint] = (run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{json.loads(lines[-1])['step']:06d}"
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == []  # no lock left
    return checkpoint.name


def test_ctrl_c_ends_tee_first(slow: Callable, tmp_path: Path) -> None:
    """A terminal sends it to all processes of the pipe; the run then writes to nobody."""
    process = slow("{} 2>&1 | tee {log}; exit ${{PIPESTATUS[0]}}", stdout=subprocess.DEVNULL)
    # bash waits for the pipe, and would end by the signal: the run and tee alone get it.
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert checkpoint_of(tmp_path / "run") == "step-000001"
    assert "step 1/9" not in (tmp_path / "log").read_text()  # it was gone


def test_a_closed_terminal(slow: Callable, tmp_path: Path) -> None:
    """The kernel's own SIGHUP, and a terminal that takes nothing any more."""
    master, slave = pty.openpty()
    take_it = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    process = slow(f"exec {sys.executable} -c '{take_it}' {{}}", stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.close(master)
    assert process.wait(timeout=60) == 129
    assert checkpoint_of(tmp_path / "run") == "step-000001"


def test_nohup_and_slurms_warning(slow: Callable, tmp_path: Path) -> None:
    process = slow("exec nohup {} > {log}")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 138
    log = (tmp_path / "log").read_text()
    assert "SIGHUP" not in log and "SIGUSR1: finishing this step" in log
    assert checkpoint_of(tmp_path / "run") == "step-000001"


def test_a_limit_of_cpu_time(slow: Callable, tmp_path: Path) -> None:
    """The kernel's own SIGXCPU, which comes again with every second of work."""
    process = slow("exec {} > {log}")
    hard = resource.prlimit(process.pid, resource.RLIMIT_CPU)[1]
    resource.prlimit(process.pid, resource.RLIMIT_CPU, (1, hard))  # it has used more
    assert process.wait(timeout=60) == 128 + signal.SIGXCPU
    assert "SIGXCPU: finishing this step" in (tmp_path / "log").read_text()
    assert checkpoint_of(tmp_path / "run") == "step-000001"
