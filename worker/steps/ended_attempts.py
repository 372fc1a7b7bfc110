"""Remembers which attempts have ended, so that their late messages start nothing."""

from __future__ import annotations

from collections import OrderedDict

from wire.identity import AttemptId

MAX_REMEMBERED = 4096


class EndedAttempts:
    """A set of the last MAX_REMEMBERED attempts that were added."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[AttemptId, None] = OrderedDict()

    def __contains__(self, attempt_id: AttemptId) -> bool:
        return attempt_id in self._attempts

    def add(self, attempt_id: AttemptId) -> None:
        self._attempts[attempt_id] = None
        if len(self._attempts) > MAX_REMEMBERED:
            self._attempts.popitem(last=False)
