"""The routers of a cluster: started behind the same ports, and restarted when one dies."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cluster.backoff import Backoff
from cluster.config import with_host
from cluster.launcher import Launcher
from cluster.process_slots import RouterSlot
from router.access.exposure import warnings
from router.config import RouterAddresses, RouterConfig
from runtime.address import split_address

SHARED_METRICS = (
    "the routers share a port, where /metrics is answered by any one of them: set router.admin_port"
)


class RouterGroup:
    """Router processes with the same settings. `report(line)` shows a line to the user."""

    def __init__(
        self, launcher: Launcher, report: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self.slots: list[RouterSlot] = []
        self._launcher = launcher
        self._report = report
        self._clock = clock

    @property
    def addresses(self) -> RouterAddresses:
        """The addresses of the first router; the others share its ports."""
        return self.slots[0].router.addresses

    @property
    def fleet_addresses(self) -> list[str]:
        """host:port of each router for workers."""
        return [slot.router.fleet for slot in self.slots]

    def start(self, config: RouterConfig, num_routers: int) -> None:
        """Start the routers. The first one chooses ports that are not configured.

        With several routers, each has an admin port of its own. Raises StartFailed.
        """
        admin_port = config.admin_port
        if num_routers > 1:
            config = msgspec.structs.replace(config, share_ports=True)
        for index in range(num_routers):
            name = f"router-{index}"
            config = msgspec.structs.replace(config, admin_port=_nth_port(admin_port, index))
            router = self._launcher.start_router(name, config)
            self.slots.append(RouterSlot(name, Backoff(self._clock()), router=router))
            if index + 1 < num_routers:
                config = msgspec.structs.replace(
                    _with_ports(config, router.addresses), fleet_port=0, join_ports=True
                )

    def report_ready(self) -> None:
        for slot in self.slots:
            at = slot.router.addresses
            admin = "" if at.admin is None else f"   admin {at.admin}"
            self._report(f"{slot.name}   ready   grpc {at.grpc}   http {at.http}{admin}")

    def replace_dead(self, config: RouterConfig) -> None:
        """Restart dead routers at their ports, so that clients and workers find them again."""
        for slot in self.slots:
            self._replace_if_dead(slot, config)

    def warnings(self, config: RouterConfig) -> list[str]:
        """Warnings about the routers' settings."""
        host, _ = split_address(self.addresses.http)
        addresses = [slot.router.addresses.http for slot in self.slots]
        shared = len(addresses) > len(set(addresses)) and config.admin_port is None
        return [*warnings(with_host(config, host)), *([SHARED_METRICS] if shared else [])]

    def _replace_if_dead(self, slot: RouterSlot, config: RouterConfig) -> None:
        if not slot.empty and (error := slot.router.error()) is not None:
            slot.router.wait_stopped(0)
            slot.record_death(error, self._clock(), self._report)

        def start(num_starts: int) -> None:
            shared = len(self.slots) > 1
            again = _with_ports(config, slot.router.addresses)
            again = msgspec.structs.replace(again, share_ports=shared, join_ports=shared)
            router = self._launcher.start_router(slot.name, again)
            self._report(f"{slot.name}   ready   again   http {router.addresses.http}")
            slot.router = router

        slot.restart_when_due(start, self._clock(), self._report)


def _nth_port(first: int | None, index: int) -> int | None:
    """A router's port: consecutive from a configured one, else 0 or None as given."""
    return first + index if first else first


def _with_ports(config: RouterConfig, addresses: RouterAddresses) -> RouterConfig:
    """The settings with the ports that a router has."""
    ports = (split_address(at)[1] for at in (addresses.grpc, addresses.http, addresses.fleet))
    keys = ("grpc_port", "http_port", "fleet_port")
    config = msgspec.structs.replace(config, **dict(zip(keys, ports, strict=True)))
    if addresses.admin is None:
        return config
    return msgspec.structs.replace(config, admin_port=split_address(addresses.admin)[1])
