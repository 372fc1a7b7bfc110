"""The limit of open files: raised at the start, and told when it is reached."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator

import pytest

from runtime.descriptors import has_free_descriptor, raise_descriptor_limit, watch_descriptors

pytestmark = pytest.mark.quick


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_becomes_the_hard_one(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    raised = raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == raised > 256
    assert raise_descriptor_limit() == raised
    assert has_free_descriptor()


async def test_it_is_told_once_when_it_is_reached_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = iter([True, False, False, True, True])

    def has_one() -> bool:
        try:
            return next(answers)
        except StopIteration:
            raise asyncio.CancelledError from None

    with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
        await watch_descriptors(has_one, every_s=0)
    reached, over = (record.getMessage() for record in caplog.records)
    assert "descriptors are in use, and new connections are refused: raise the hard" in reached
    assert "free again" in over
