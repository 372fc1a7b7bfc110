"""What a request brings from the lobby to its journey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.placing.ledger import Ledger, PromptHashes
from router.placing.need import Placement


@dataclass(frozen=True, slots=True)
class Entry:
    """Let in. Times are the event loop's."""

    hashes: PromptHashes
    arrived_s: float
    """When it came to the lobby; its target for the first token counts from then."""
    found: Placement | None = None
    judged_by: Ledger | None = None
    """Who found that."""
    version: int = 0
    """Of this ledger, when that was the best."""
    came: Callable[[float], None] = lambda now: None
    """To be told when its first token has come."""

    def placement(self, ledger: Ledger) -> Placement | None:
        """Where it was judged to be served best, if nothing has changed since."""
        same = self.judged_by is ledger and self.version == ledger.version
        return self.found if same else None
