"""Which workers this router does not take, said once for each life of each of them."""

from __future__ import annotations

import logging
from collections import OrderedDict

from wire.identity import WorkerRef
from wire.messages import WorkerCard

MOST_REMEMBERED = 4096
log = logging.getLogger("tandem.router.fleet")


class Refusals:
    """Workers announce themselves every few seconds; a reason is worth a line when it is new."""

    def __init__(self) -> None:
        self._told: OrderedDict[WorkerRef, str] = OrderedDict()

    def note(self, card: WorkerCard, why: str | None) -> None:
        """`why` is None for a worker that is taken."""
        if why is None:
            self._told.pop(card.ref, None)
            return
        if self._told.get(card.ref) == why:
            return
        self._told[card.ref] = why
        self._told.move_to_end(card.ref)
        if len(self._told) > MOST_REMEMBERED:
            self._told.popitem(last=False)
        log.warning("worker %s at %s is not taken: %s", card.ref, card.address, why)
