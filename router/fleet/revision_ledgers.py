"""The ledgers of a model's revisions, and the switch from one revision to another in an upgrade."""

from __future__ import annotations

import logging

from router.placing.ledger import Ledger
from router.placing.revisions import Revisions, RevisionView
from wire.identity import WorkerRef
from wire.messages import WorkerCard

log = logging.getLogger("tandem.router.fleet")


class RevisionLedgers:
    """One ledger for each revision that has workers; `serving` is that of new requests."""

    def __init__(self, router_id: str, model: str, index_max_entries: int) -> None:
        self.serving = Ledger(router_id, index_max_entries)
        self._router_id = router_id
        self._model = model
        self._index_max_entries = index_max_entries
        self._revisions = Revisions()
        self._ledgers: dict[str, Ledger] = {}

    @property
    def several(self) -> bool:
        """Whether workers of more than one revision are present."""
        return len(self._revisions) > 1

    def views(self) -> list[RevisionView]:
        """The revisions that have workers, oldest first."""
        return self._revisions.views()

    def add(self, card: WorkerCard) -> Ledger:
        """Add a worker to the ledger of its revision, which is returned."""
        ledger = self._ledger_for(card.model_hash)
        self._revisions.add(card.ref, card.role, card.model_hash, card.started_at)
        ledger.add(card)
        return ledger

    def set_ready(self, ref: WorkerRef, revision: str, ready: bool) -> None:
        self._revisions.set_ready(ref, revision, ready)

    def remove(self, ref: WorkerRef, revision: str) -> None:
        self._revisions.remove(ref, revision)

    def update(self, now: float) -> bool:
        """Choose the serving revision, and drop revisions without workers.

        Call after every change of workers. Returns whether `serving` is another ledger now:
        waiting requests are then to be placed again, while running ones stay.
        """
        former = self._revisions.serving
        serving = self._revisions.look(now)
        switched = serving is not None and serving != former and self._switch(former, serving)
        for revision in [it for it in self._ledgers if it not in self._revisions]:
            if self._ledgers[revision] is not self.serving:
                log.info("model %r: the last worker of revision %s has left", self._model, revision)
                del self._ledgers[revision]
        return switched

    def _ledger_for(self, revision: str) -> Ledger:
        """The ledger of a revision. With no other worker present the existing one is kept, since it
        has learned the distribution of request lengths."""
        ledger = self._ledgers.get(revision)
        if ledger is not None:
            return ledger
        if not len(self._revisions):
            self._ledgers = {revision: self.serving}
            return self.serving
        log.info("model %r: workers of another revision, %s, are joining", self._model, revision)
        ledger = Ledger(self._router_id, self._index_max_entries, self.serving.lengths)
        self._ledgers[revision] = ledger
        return ledger

    def _switch(self, former: str | None, serving: str) -> bool:
        ledger = self._ledgers[serving]
        if ledger is self.serving:
            return False  # the first workers, or another revision after all others had left
        instead = "" if former is None else f" in place of {former}"
        log.info("model %r: revision %s is serving%s", self._model, serving, instead)
        ledger.follow(self.serving)
        self.serving = ledger
        return True
