"""What went over a link, where its transport can tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from kv_transfer.transport import Transport
from wire.messages import Traffic


@runtime_checkable
class CountsTraffic(Protocol):
    """What a `kv_transfer.transport.Transport` may implement besides."""

    def traffic(self, peer: str) -> Traffic | None:
        """Since the link was made, its measuring included; None for a link that is not there.

        May be called from any thread.
        """
        ...


def traffic_of(transport: Transport, names: Sequence[str]) -> Traffic | None:
    """Over all these parts of a link; None where the transport does not count it."""
    if not isinstance(transport, CountsTraffic):
        return None
    return together(transport.traffic(name) for name in names)


def together(parts: Iterable[Traffic | None]) -> Traffic | None:
    """All parts of a link as one; None where one of them is unknown, or there is none."""
    counted = list(parts)
    known = [part for part in counted if part is not None]
    if len(known) < max(1, len(counted)):
        return None
    return Traffic(
        num_writes=sum(part.num_writes for part in known),
        num_bytes=sum(part.num_bytes for part in known),
        num_descriptors=sum(part.num_descriptors for part in known),
        post_s=sum(part.post_s for part in known),
        fabric_s=sum(part.fabric_s for part in known),
    )
