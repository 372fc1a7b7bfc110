"""Logs refused workers, once per incarnation and reason."""

from __future__ import annotations

import logging
from collections import OrderedDict

from wire.identity import WorkerRef
from wire.messages import WorkerCard

MAX_REMEMBERED = 4096
log = logging.getLogger("tandem.router.fleet")


class Refusals:
    """The reasons logged so far, since refused workers announce themselves every few seconds."""

    def __init__(self) -> None:
        self._logged: OrderedDict[WorkerRef, str] = OrderedDict()

    def record(self, card: WorkerCard, reason: str | None) -> None:
        """Log a refusal if it is new; `reason` is None for an accepted worker."""
        if reason is None:
            self._logged.pop(card.ref, None)
            return
        if self._logged.get(card.ref) == reason:
            return
        self._logged[card.ref] = reason
        self._logged.move_to_end(card.ref)
        if len(self._logged) > MAX_REMEMBERED:
            self._logged.popitem(last=False)
        log.warning("worker %s at %s is refused: %s", card.ref, card.address, reason)
