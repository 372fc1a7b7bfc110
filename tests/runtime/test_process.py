"""A process about to serve: what the garbage collector still looks at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from runtime.process import freeze_loaded_objects

pytestmark = pytest.mark.quick


class Cycle:
    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def everything_is_looked_at_again() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_loaded_is_not_looked_at_again() -> None:
    loaded = Cycle()
    freeze_loaded_objects()
    assert gc.get_freeze_count() > 1000
    assert not any(each is loaded for each in gc.get_objects())


def test_what_comes_later_is_still_collected() -> None:
    freeze_loaded_objects()
    later = weakref.ref(Cycle())
    gc.collect()
    assert later() is None


def test_garbage_of_the_start_is_not_kept() -> None:
    before = weakref.ref(Cycle())
    freeze_loaded_objects()
    assert before() is None
