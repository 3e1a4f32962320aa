"""What must be settled before torch is imported, and a saved tiny checkpoint."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve other processes on the machine
os.environ["OMP_NUM_THREADS"] = "1"  # also for the scripts that tests start
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the network

from pathlib import Path

import pytest
import torch

from tests.helpers import save_tiny

torch.set_num_threads(1)


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
