"""Addresses as text: an IPv6 host has brackets there, and none where it is alone."""

from __future__ import annotations

import pytest

from runtime.address import (
    is_address,
    is_loopback,
    is_wildcard,
    join_address,
    reachable,
    split_address,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("gpu-1", "gpu-1:80"),
    ],
)
def test_host_and_port_are_one_text_and_apart_again(host: str, text: str) -> None:
    assert join_address(host, 80) == text
    assert join_address(*split_address(text)) == text


@pytest.mark.parametrize(
    "text", ["::1:80", "host", "host:", ":80", "host:port", "host:65536", "[]:1"]
)
def test_a_text_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|in brackets"):
        split_address(text)


def test_addresses_of_both_families_are_known_in_either_notation() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("10.0.0.1", "::", "0.0.0.0", "gpu-1")))
    assert all(map(is_wildcard, ("0.0.0.0", "::", "[::]")))
    assert not any(map(is_wildcard, ("127.0.0.1", "::1", "gpu-1")))
    assert is_address("[fd00::2]")
    assert not is_address("gpu-1")


def test_who_listens_everywhere_is_reached_at_an_address_of_its_own() -> None:
    assert reachable("0.0.0.0", "10.0.0.1") == "10.0.0.1"
    assert reachable("10.0.0.2", "10.0.0.1") == "10.0.0.2"
