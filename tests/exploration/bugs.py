"""Six seeded bugs, one for each invariant: what the exploration must find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kv_transfer.destination import DestinationHandoff, DestinationState
from kv_transfer.effects import Effect, FreePages, HandedOver, NotHandedOver
from kv_transfer.source import SourceHandoff
from tests.exploration.machines import Code
from wire.handoff import Commit, Handoff, Refuse


@dataclass(frozen=True)
class Bug:
    invariant: int
    what: str
    code: Code


class FreesWithoutQuiet(DestinationHandoff):
    def _fence(self, cause: str) -> list[Effect]:
        lost = super()._fence(cause)
        self.state = DestinationState.CLOSED
        return [*lost, FreePages(self._held + self._pages)]


class ForgetsItsPages(DestinationHandoff):
    def _quiesced(self) -> list[Effect]:
        return [e for e in super()._quiesced() if not isinstance(e, FreePages)]


class GoesOnAfterAnAmbiguousEnd(SourceHandoff):
    def peer_lost(self, cause: str) -> list[Effect]:
        return _certain(super().peer_lost(cause))

    def tick(self, now: float) -> list[Effect]:
        return _certain(super().tick(now))


class BelievesEveryCommit(DestinationHandoff):
    def _problem(self, commit: Commit) -> str | None:
        return None


class HasNoDeadline(DestinationHandoff):
    def tick(self, now: float) -> list[Effect]:
        return []


class DropsItsBlocksOnRefuse(SourceHandoff):
    def receive(self, message: Handoff, now: float) -> list[Effect]:
        effects = super().receive(message, now)
        if not isinstance(message, Refuse):
            return effects
        return [HandedOver() if isinstance(e, NotHandedOver) else e for e in effects]


def _certain(effects: Sequence[Effect]) -> list[Effect]:
    return [replace(e, ambiguous=False) if isinstance(e, NotHandedOver) else e for e in effects]


BUGS = (
    Bug(
        1,
        "an aborting destination frees its pages before the source is quiet",
        Code(destination=FreesWithoutQuiet),
    ),
    Bug(
        2,
        "a destination forgets its pages when the source is quiet",
        Code(destination=ForgetsItsPages),
    ),
    Bug(
        3,
        "a source goes on by itself although its commit may have been accepted",
        Code(source=GoesOnAfterAnAmbiguousEnd),
    ),
    Bug(
        4,
        "a destination believes every commit",
        Code(destination=BelievesEveryCommit),
    ),
    Bug(
        5,
        "a destination waits for its commit without a deadline",
        Code(destination=HasNoDeadline),
    ),
    Bug(
        6,
        "a source gives its blocks away when it is refused",
        Code(source=DropsItsBlocksOnRefuse),
    ),
)
