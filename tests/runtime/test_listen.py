"""Ports that are held for somebody else."""

from __future__ import annotations

import socket

import pytest

from runtime.listen import PortTaken, reserve_port


def test_a_reserved_port_can_be_listened_at_and_then_be_reserved_by_nobody() -> None:
    with reserve_port("127.0.0.1", 0, "port") as reserved, socket.socket() as listener:
        port = reserved.getsockname()[1]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}: the port is taken.*set port to"):
            reserve_port("127.0.0.1", port, "port")
