"""Logs refused workers, once per incarnation and reason."""

from __future__ import annotations

import logging
from collections import OrderedDict

from wire.identity import WorkerRef
from wire.messages import WorkerCard

MOST_REMEMBERED = 4096
log = logging.getLogger("tandem.router.fleet")


class Refusals:
    """The reasons logged so far, since refused workers announce themselves every few seconds."""

    def __init__(self) -> None:
        self._told: OrderedDict[WorkerRef, str] = OrderedDict()

    def note(self, card: WorkerCard, why: str | None) -> None:
        """Log a refusal if it is new; `why` is None for an accepted worker."""
        if why is None:
            self._told.pop(card.ref, None)
            return
        if self._told.get(card.ref) == why:
            return
        self._told[card.ref] = why
        self._told.move_to_end(card.ref)
        if len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)
        log.warning("worker %s at %s is refused: %s", card.ref, card.address, why)
