"""The kind of link that two workers have, and the rate that such a link should give."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wire.identity import ProcessRef

ROOT = Path("/")
NETWORK_SHARE = 0.25
"""The least part of a network adapter's nominal rate that a link should give."""
UNKNOWN_NETWORK_BYTES_PER_S = 100e6


class LinkKind(enum.Enum):
    PROCESS = "one process"
    SHARED_MEMORY = "shared memory"
    LOOPBACK = "loopback network"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """The kind of a link, `why` in words for the log, and the least rate that it should give."""

    kind: LinkKind
    why: str
    least_bytes_per_s: float


def estimate_link(
    ours: ProcessRef, theirs: ProcessRef, *, direct_access: bool, root: Path = ROOT
) -> LinkEstimate:
    """Estimate a link from where the two processes are.

    `direct_access` says whether the transport may copy between processes of one host; sys/ is read
    below `root`.
    """
    if ours == theirs:
        return LinkEstimate(LinkKind.PROCESS, "both workers are this process", 500e6)
    if ours.host == theirs.host and direct_access:
        why = "both on this host, and the transport may use direct memory access"
        return LinkEstimate(LinkKind.SHARED_MEMORY, why, 500e6)
    if ours.host == theirs.host:
        why = "both on this host, but the transport is kept from direct memory access"
        return LinkEstimate(LinkKind.LOOPBACK, why, 100e6)
    rate, adapter = max(_adapters(root), default=(0.0, ""))
    if not rate:
        why = "on different hosts; no network adapter tells its rate"
        return LinkEstimate(LinkKind.NETWORK, why, UNKNOWN_NETWORK_BYTES_PER_S)
    why = f"on different hosts; the fastest adapter, {adapter}, has {rate / 1e9:.3g} GB/s"
    return LinkEstimate(LinkKind.NETWORK, why, rate * NETWORK_SHARE)


def _adapters(root: Path) -> Iterator[tuple[float, str]]:
    """(bytes per second, name) of every network adapter whose rate the kernel knows."""
    for path in root.glob("sys/class/infiniband/*/ports/*/rate"):
        with suppress(OSError, ValueError, IndexError):  # "400 Gb/sec (4X NDR)"
            yield float(path.read_text().split()[0]) * 1e9 / 8, path.parts[-4]
    for path in root.glob("sys/class/net/*/speed"):
        with suppress(OSError, ValueError):  # Mb/s, or -1; an adapter that is down has none
            yield max(0.0, float(path.read_text()) * 1e6 / 8), path.parts[-2]
