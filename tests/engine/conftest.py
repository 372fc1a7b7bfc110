"""Checkpoints on disk, loaded runners and reference answers, each made once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from engine.runners.torch_loading import load_torch_runner
from engine.runners.torch_runner import TorchRunner
from tests.engine.checkpoints import write_checkpoint
from tests.engine.reference import Reference


@pytest.fixture(autouse=True, scope="session")
def _one_quiet_thread() -> Iterator[None]:
    """Tiny products lose more by waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a checkpoint by its recipe's name."""
    return cache(lambda name: write_checkpoint(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def runner(checkpoint: Callable[[str], Path]) -> Callable[[str], TorchRunner]:
    """A float32 runner with blocks of 4 tokens. Tests share it, and each overwrites its cache."""

    def load(name: str) -> TorchRunner:
        loaded = load_torch_runner(checkpoint(name), device="cpu", block_size=4)
        loaded.allocate(128)
        return loaded

    return cache(load)


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], Reference]:
    """What transformers says about a checkpoint."""
    return cache(lambda name: Reference(checkpoint(name)))
