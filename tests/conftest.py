"""What must be settled before torch is imported, how tests share the cores, and a saved tiny checkpoint."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve other processes on the machine
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the scripts that tests start
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.signals import NAMES
from tests.helpers import save_tiny

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core; none besides this one for one file, which is done before they have started."""
    one = len(config.args) == 1 and config.args[0].partition("::")[0].endswith(".py")
    return 0 if one else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share something costly run in one process: a fixture of their file, or the gallery."""
    for item in items:
        scopes = {name: found[-1].scope for name, found in item._fixtureinfo.name2fixturedefs.items()}
        if "gallery" in scopes:
            item.add_marker(pytest.mark.xdist_group("gallery"))
        elif "module" in scopes.values():
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def ordinary_signals() -> Iterator[None]:
    """What a test starts hears every signal, also where nohup, a shell or the end of a run had it ignored."""
    numbers = [getattr(signal, name) for name in NAMES]
    ignored = [number for number in numbers if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 with tied embeddings and the byte tokenizer, saved. Read only: copy it before changing it."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole gallery, from the committed results. Read only."""
    from benchmarks.gallery.__main__ import Args, build

    out = tmp_path_factory.mktemp("gallery")
    build(out, Args().results)
    return out
