"""Seeded bugs, at least one for each invariant, which the exploration must find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kv_transfer.handoff.destination import DestinationHandoff
from kv_transfer.handoff.effects import Effect, FreeBlocks, HandedOver, NotHandedOver, Write
from kv_transfer.handoff.source import SourceHandoff
from tests.exploration.machines import Code
from tests.exploration.scopes import BY_LAYERS, DIRECT_ACCESS, ONE_ATTEMPT
from tests.exploration.state import Scope
from wire.handoff import Commit, Handoff, Refuse


@dataclass(frozen=True)
class Bug:
    invariant: int
    what: str
    code: Code
    scope: Scope = ONE_ATTEMPT


class FreesBeforeItsReceiveEndIsClosed(DestinationHandoff):
    def source_lost(self, cause: str) -> list[Effect]:
        return [*super().source_lost(cause), *self.source_fenced()]


class SaysQuietAfterAFailedWrite(SourceHandoff):
    def write_failed(self, write_id: int, cause: str) -> list[Effect]:
        if not self._live:
            self._outstanding.pop(write_id, None)
            return self._try_close()
        self._outstanding.pop(write_id, None)
        return self._end(NotHandedOver(f"write failed: {cause}"))


class DoesNotWaitForItsFirstLayers(SourceHandoff):
    def computed_layers(self, blocks: Sequence[int], num_layers: int) -> list[Effect]:
        effects = super().computed_layers(blocks, num_layers)
        for effect in effects:
            assert isinstance(effect, Write)
            del self._outstanding[effect.write_id]
        return effects


class ForgetsItsBlocks(DestinationHandoff):
    def _quiesced(self) -> list[Effect]:
        return [e for e in super()._quiesced() if not isinstance(e, FreeBlocks)]


class GoesOnAfterAnAmbiguousEnd(SourceHandoff):
    def peer_lost(self, cause: str) -> list[Effect]:
        return _certain(super().peer_lost(cause))

    def tick(self, now: float) -> list[Effect]:
        return _certain(super().tick(now))


class BelievesEveryCommit(DestinationHandoff):
    def checksummed(self, checksum: int) -> list[Effect]:
        assert self._commit is not None
        return super().checksummed(self._commit.checksum)


class RunsUnverified(DestinationHandoff):
    def _verify(self, commit: Commit) -> list[Effect]:
        super()._verify(commit)
        return self.checksummed(commit.checksum)


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
        "a destination frees its blocks when the session ends, before its receive end is closed",
        Code(destination=FreesBeforeItsReceiveEndIsClosed),
    ),
    Bug(
        1,
        "a worker hangs up late, and calls an attempt quiet that it forgot after a failed write",
        Code(hangs_up_first=False),
    ),
    Bug(
        1,
        "a worker hangs up late, and its source says that it is quiet after a failed write",
        Code(source=SaysQuietAfterAFailedWrite, hangs_up_first=False),
    ),
    Bug(
        1,
        "a worker closes its receive end to a process with direct access, and does not wait",
        Code(waits_for_the_process=False),
        DIRECT_ACCESS,
    ),
    Bug(
        1,
        "a source does not wait for layers that left before the last",
        Code(source=DoesNotWaitForItsFirstLayers),
        BY_LAYERS,
    ),
    Bug(
        2,
        "a destination forgets its blocks when the source is quiet",
        Code(destination=ForgetsItsBlocks),
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
        4,
        "a destination runs what it has not verified",
        Code(destination=RunsUnverified),
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
