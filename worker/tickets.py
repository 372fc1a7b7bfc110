"""What a worker remembers of a leg that it serves for a router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.sequence import Sequence
from kv_transfer.source import SourceHandoff
from wire.handoff import Handoff
from wire.messages import Destination, Message
from wire.sampling import TokenLogprob


@dataclass(slots=True)
class Ticket:
    """One leg. `num_sent` tokens of the sequence have been sent to the router, or came from it."""

    sequence: Sequence
    router_id: str
    num_sent: int
    submitted_at: float
    deadline: float | None = None
    destination: Destination | None = None
    started_at: float | None = None
    prefilled: bool = False
    handoff: SourceHandoff | None = None
    kept: bool = False
    """True once its handoff has failed and this worker decodes the sequence itself."""
    wanted: bool = True
    """False once cancelled or handed over: only the end of its transfer is still awaited."""
    last_logprob: TokenLogprob | None = None
    """Of the sequence's last token, where the request asked for it."""
    unsent_logprobs: tuple[TokenLogprob, ...] = ()


class Outbox(Protocol):
    """How the step loop's thread speaks to the rest of the world; never blocks."""

    def to_router(self, router_id: str, message: Message) -> None: ...

    def to_routers(self, message: Message) -> None: ...

    def to_peer(self, peer: Destination, message: Handoff) -> None: ...

    def flush(self) -> None:
        """Let everything go that was said since the last flush."""
        ...
