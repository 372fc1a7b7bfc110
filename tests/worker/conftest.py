"""One small random model, with grouped queries, for all tests that decode for real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.checkpoints import Recipe, llama, write
from tests.worker.models import Model, one_thread

GROUPED = Recipe(lambda: llama(num_attention_heads=8, num_key_value_heads=4, head_dim=8))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with one_thread():
        yield Model(write(GROUPED, tmp_path_factory.mktemp("grouped")))
