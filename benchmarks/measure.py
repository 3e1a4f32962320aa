"""What the benchmarks share: a process for each measurement, runs of the scripts, peak memory, random models, and what
one needs to run it again.
"""

import ctypes
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import transformers

from benchmarks import ROOT
from common import ranks

# --- Processes --------------------------------------------------------------------------------------------------------


def worker_environment(threads: int, passive: bool = True) -> dict[str, str]:
    """Environment of a measured process. `passive`: threads that wait sleep instead of spinning."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE" if passive else "ACTIVE",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_worker(
    script: str,
    name: str,
    options: dict,
    threads: int,
    passive: bool = True,
    limit: float | None = None,
    launcher: tuple[str, ...] = (),
) -> dict | None:
    """What the function `name` of a script's WORKERS returns in a new process; None if it takes over `limit` seconds.

    `launcher`: words between python and the script, such as those of torchrun.
    """
    with tempfile.TemporaryDirectory() as directory:
        spec = {"name": name, "options": options | {"directory": directory}}
        command = [sys.executable, *launcher, str(Path(script).resolve()), "worker", json.dumps(spec)]
        settings = {"env": worker_environment(threads, passive), "capture_output": True, "text": True}
        try:
            done = subprocess.run(command, **settings, timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(f"error: measuring {name} failed\n{done.stderr}")
        return json.loads((Path(directory) / "result.json").read_text())


def serve(workers: dict[str, Callable[[dict], dict | None]]) -> None:
    """In a process that `run_worker` started: do what is asked and end. Only what is not None is written."""
    if sys.argv[1:2] != ["worker"]:
        return
    spec = json.loads(sys.argv[2])
    result = workers[spec["name"]](spec["options"])
    if result is not None:
        (Path(spec["options"]["directory"]) / "result.json").write_text(json.dumps(result))
    ranks.leave()
    raise SystemExit


def check_known(flag: str, given: Iterable[str], known: Iterable[str]) -> None:
    """End with a line that names what a flag does not know."""
    if unknown := set(given) - set(known):
        raise SystemExit(f"error: --{flag} knows {', '.join(known)}, not {', '.join(sorted(unknown))}")


# --- Runs of the scripts ----------------------------------------------------------------------------------------------


def as_flags(settings: dict[str, object]) -> list[str]:
    """Settings as the words of a command line."""
    words = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return words


def run_script(algorithm: str, flags: list[str], directory: Path, threads: int = 1, quiet: bool = True) -> float:
    """Train with algos/<algorithm>.py in a process of its own; the seconds that it took."""
    command = [sys.executable, f"algos/{algorithm}.py", "--output-dir", str(directory), *flags]
    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": str(threads)}, "capture_output": quiet}
    started = time.perf_counter()
    done = subprocess.run(command, **settings, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {shlex.join(command)} ended with {done.returncode}\n{done.stderr or ''}")
    return time.perf_counter() - started


def read_metrics(directory: Path) -> list[dict]:
    """The records of a run, one a step; none where there is no run yet."""
    path = directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- Memory -----------------------------------------------------------------------------------------------------------


def memory_of_process(kind: str) -> int:
    """Bytes of this process in memory now ("VmRSS") or at most since the last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def reset_peak_memory(device: str) -> int:
    """Forget the peak; returns the bytes in use now."""
    if device == "cpu":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before must not hide what is needed next
        Path("/proc/self/clear_refs").write_text("5")
        return memory_of_process("VmRSS")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_memory(device: str) -> int:
    """Most bytes in use since `reset_peak_memory`, after what a GPU still has to do."""
    if device == "cpu":
        return memory_of_process("VmHWM")
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


class CardMemory:
    """Most bytes of a GPU that all processes together hold while a block runs, beyond those before: `peak`.

    Read ten times a second; what a process has asked the driver for stays its own, so that little is missed. None on a
    CPU.
    """

    def __init__(self, device: str):
        self.on_gpu, self.peak, self.over = device != "cpu", None, threading.Event()

    def __enter__(self) -> "CardMemory":
        if self.on_gpu:
            self.before, self.peak = self.used(), 0
            self.thread = threading.Thread(target=self.watch, daemon=True)
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_gpu:
            self.over.set()
            self.thread.join()

    def watch(self) -> None:
        while not self.over.wait(0.1):
            self.peak = max(self.peak, self.used() - self.before)

    @staticmethod
    def used() -> int:
        free, total = torch.cuda.mem_get_info()
        return total - free


# --- Models -----------------------------------------------------------------------------------------------------------


def random_qwen(seed: int, device: str = "cpu", tied: bool = True, **sizes: object) -> transformers.PreTrainedModel:
    """A Qwen2 of these sizes, named as in its config, with random weights in float32, made on the device."""
    special = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.Qwen2Config(**sizes, tie_word_embeddings=tied, **special)
    torch.manual_seed(seed)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


# --- Load -----------------------------------------------------------------------------------------------------------


class Load:
    """How busy other processes keep this machine's processors while a block runs: `others`, a share of all of them.

        with Load() as load:
            ...
        load.others    # None where there is no /proc/stat to tell

    What this process and the children that it has waited for did is not counted.
    """

    def __enter__(self) -> "Load":
        self.before = self.seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.others = None
        if self.before:
            busy, total, own = (after - before for after, before in zip(self.seconds(), self.before, strict=True))
            self.others = max(0.0, (busy - own) / total) if total else 0.0  # over before a clock has ticked

    @staticmethod
    def seconds() -> tuple[float, float, float] | None:
        """Of all processors: busy and in all, since the machine started; of this process and its children: busy."""
        path = Path("/proc/stat")
        if not path.exists():
            return None
        # user, nice, system, idle, waiting for a disk, two kinds of interrupts, taken away by the host
        times = [int(word) / os.sysconf("SC_CLK_TCK") for word in path.read_text().split("\n")[0].split()[1:9]]
        return sum(times) - times[3] - times[4], sum(times), sum(os.times()[:4])


# --- Provenance -------------------------------------------------------------------------------------------------------


def environment(module: str, args: object, packages: tuple[str, ...] = ("torch", "transformers")) -> dict:
    """What one needs to run this again."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": versions,
        "cpu": cpu[0].partition(":")[2].strip() if cpu else platform.processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "arguments": {name: str(value).removeprefix(f"{ROOT}/") for name, value in asdict(args).items()},
    }
