"""Whether blocks are written from where they lie, or gathered in a staging buffer first."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kv_transfer.exchange import needs_conversion
from kv_transfer.reshard import plan, staging_layout
from wire.layout import KvLayout


class Way(enum.Enum):
    DESCRIPTORS = "descriptors"
    STAGING = "staging"


@dataclass(frozen=True, slots=True)
class LinkCost:
    """What a pair of workers measured. The defaults are those of shared memory."""

    descriptor_s: float = 2.5e-6
    """Each further descriptor of a transfer."""
    link_bytes_per_s: float = 12e9
    copy_bytes_per_s: float = 12e9
    """Into staging, on the source."""

    @property
    def threshold_bytes(self) -> float:
        """Pieces of this size cost as much written one by one as gathered first."""
        return self.descriptor_s * self.copy_bytes_per_s

    def write_s(self, num_spans: int, num_bytes: int) -> float:
        """Duration of writing `num_bytes` as so many descriptors."""
        return num_spans * self.descriptor_s + num_bytes / self.link_bytes_per_s

    def copy_s(self, num_bytes: int) -> float:
        """Duration of gathering them in staging."""
        return num_bytes / self.copy_bytes_per_s


def choose_way(
    source: KvLayout, destination: KvLayout, heads: range, num_tokens: int, cost: LinkCost
) -> Way:
    """The faster way; staging wherever values must be converted. Raises CannotExchange."""
    if needs_conversion(source, destination):
        return Way.STAGING
    direct = plan(source, destination, heads)
    staged = plan(staging_layout(destination, heads), destination, heads)
    num_bytes = direct.num_bytes(num_tokens)
    direct_s = cost.write_s(direct.num_pieces(num_tokens), num_bytes)
    staged_s = cost.write_s(staged.num_pieces(num_tokens), num_bytes) + cost.copy_s(num_bytes)
    return Way.DESCRIPTORS if direct_s <= staged_s else Way.STAGING
