"""What went over a link, where its transport can tell."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from wire.messages import Traffic


@runtime_checkable
class CountsTraffic(Protocol):
    """What a `kv_transfer.transport.Transport` may implement besides."""

    def traffic(self, peer: str) -> Traffic | None:
        """Since the link was made, its measuring included; None for a link that is not there.

        May be called from any thread.
        """
        ...
