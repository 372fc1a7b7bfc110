"""Both engines, started once. Without Helm nothing here may pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helm.engines import HELM3, Helm3, Helm4


@pytest.fixture(scope="session")
def helm3() -> Helm3:
    assert HELM3.is_file(), "helm is not installed: pip install -e '.[dev]'"
    return Helm3()


@pytest.fixture(scope="session")
def helm4() -> Iterator[Helm4]:
    engine = Helm4()
    yield engine
    engine.close()
