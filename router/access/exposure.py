"""Warnings about what a router's settings expose to the network."""

from __future__ import annotations

from collections.abc import Iterator

from router.config import RouterConfig
from runtime.address import is_loopback


def warnings(config: RouterConfig) -> Iterator[str]:
    """One line for each risk, with the setting that removes it; none on loopback."""
    if not is_loopback(config.host):
        if config.keys_file is None:
            yield f"anyone who can reach {config.host} may use this model: set keys_file"
        if config.keys_file is not None and config.door_tls is None:
            yield f"API keys and prompts are sent unencrypted to {config.host}: set door_tls"
        if config.tls is None:
            yield f"anyone who can reach {config.host} may join the fleet and read prompts: set tls"
    if config.admin_port is not None and not is_loopback(config.admin_host):
        if config.keys_file is None:
            yield f"anyone who can reach {config.admin_host} sees all metrics: set keys_file"
        elif config.door_tls is None:
            yield f"keys are sent unencrypted to {config.admin_host}: set door_tls"
