"""Sessions of the routers that send this worker attempts, one for each router."""

from __future__ import annotations

import logging
from collections.abc import Callable

from runtime.session import Session
from wire.messages import Cancel, CopyPrefix, Message, Move, SetRole, Submit, WantSnapshot
from worker.sessions.links import Links
from worker.sessions.outbox import SessionOutbox
from worker.steps.step_loop import StepLoop

log = logging.getLogger(__name__)


class Routers:
    """The sessions with routers: passes their requests on to the step loop.

    Lives on the event loop; the step loop's thread acts on the messages.
    `on_joined()` is called when a router has taken this worker into its fleet.
    """

    def __init__(
        self, steps: StepLoop, outbox: SessionOutbox, links: Links, on_joined: Callable[[], None]
    ) -> None:
        self._steps = steps
        self._sessions = outbox.routers
        self._links = links
        self._on_joined = on_joined

    async def serve(self, router_id: str, session: Session) -> None:
        """Receive a router's messages until its session ends, or it has opened another."""
        former = self._sessions.get(router_id)
        if former is not None:
            former.close("the same router has opened another session")
            self._lost(router_id)
        self._sessions[router_id] = session
        async for message in session.messages():
            self._receive(router_id, message)
        if self._sessions.get(router_id) is session:
            del self._sessions[router_id]
            self._lost(router_id)

    def _receive(self, router_id: str, message: Message) -> None:
        steps, attempts = self._steps, self._steps.attempts
        match message:
            case Submit():
                steps.call(lambda: attempts.submit(router_id, message))
            case Cancel():
                steps.call(lambda: attempts.cancel(message.attempt_id))
            case Move():
                steps.call(lambda: attempts.move(message.attempt_id, message.destination))
            case SetRole():
                steps.call(lambda: steps.set_role(message.role))
            case CopyPrefix():
                steps.call(lambda: attempts.copy_prefix(router_id, message))
            case WantSnapshot():
                self._on_joined()
                links = self._links.measured
                steps.call(lambda: steps.send_snapshot(router_id, links))
            case _:
                log.warning("router %s sent %s", router_id, type(message).__name__)

    def _lost(self, router_id: str) -> None:
        self._steps.call(lambda: self._steps.attempts.router_lost(router_id))
