"""What a router says of settings that leave something open."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from router.access.exposure import warnings
from router.config import RouterConfig
from router.server import RouterServer
from runtime.address import split_address
from runtime.tls import MutualTls, ServerTls
from tests.router.tiny_model import one_model

TLS = MutualTls(ca="ca", cert="cert", key="key")
DOOR = ServerTls(cert="cert", key="key")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"host": "127.0.0.1"}, []),
        ({"host": "::1"}, []),
        ({"host": "localhost", "admin_port": 0}, []),
        ({"host": "0.0.0.0"}, ["keys_file", "tls"]),
        ({"host": "10.0.0.3", "tls": TLS}, ["keys_file"]),
        ({"host": "router.example", "tls": TLS, "keys_file": "k"}, ["door_tls"]),
        ({"host": "::", "tls": TLS, "keys_file": "k", "door_tls": DOOR}, []),
        ({"admin_port": 0, "admin_host": "10.0.0.3"}, ["keys_file"]),
        ({"admin_port": 0, "admin_host": "10.0.0.3", "keys_file": "k"}, ["door_tls"]),
        ({"admin_port": 0, "admin_host": "::", "keys_file": "k", "door_tls": DOOR}, []),
    ],
)
def test_each_danger_is_one_warning(settings: dict[str, Any], named: list[str]) -> None:
    said = list(warnings(RouterConfig(models=one_model(Path("m")), **settings)))
    assert len(said) == len(named)
    assert all(word in line for word, line in zip(named, said, strict=True))


async def test_the_router_logs_them(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RouterServer(RouterConfig(models=one_model(model_dir), host="0.0.0.0"))
    with caplog.at_level(logging.WARNING):
        await server.start()
    await server.stop()
    assert "anyone who can reach 0.0.0.0 may use this model: set keys_file" in caplog.text


async def test_the_ipv6_wildcard_serves_both_families(model_dir: Path) -> None:
    server = RouterServer(RouterConfig(models=one_model(model_dir), host="::"))
    addresses = await server.start()
    try:
        for door in (addresses.http, addresses.grpc, addresses.fleet):
            host, port = split_address(door)
            assert host == "::"
            for each in ("127.0.0.1", "::1"):
                _, writer = await asyncio.open_connection(each, port)
                writer.close()
    finally:
        await server.stop()
