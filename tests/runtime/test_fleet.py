"""Announcements to routers that are not there yet."""

from __future__ import annotations

import asyncio
import socket

import pytest

from runtime.fleet import ANNOUNCE_EVERY_S, FIRST_RETRY_S, MAX_QUIET_FAILURES, announce
from tests.runtime.cards import CARD


async def test_a_router_that_starts_beside_its_workers_is_soon_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == MAX_QUIET_FAILURES:
            assert not caplog.records, "it may be about to listen"
        if len(waits) == MAX_QUIET_FAILURES + 3:
            raise asyncio.CancelledError

    heard: list[bool] = []
    monkeypatch.setattr("runtime.fleet.asyncio.sleep", note)
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        with pytest.raises(asyncio.CancelledError):
            await announce(address, lambda: CARD, heard.append)
    assert heard == [False] * (MAX_QUIET_FAILURES + 3)
    assert waits[0] == FIRST_RETRY_S
    assert waits == sorted(waits)
    assert waits[-2:] == [ANNOUNCE_EVERY_S] * 2
    (warning,) = caplog.messages
    assert f"router {address} cannot be reached" in warning
