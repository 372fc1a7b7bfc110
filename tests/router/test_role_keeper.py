"""Several routers keep one assignment of roles: the one with the lowest id decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from router.fleet.fleet import Fleet
from router.placing.ledger import Ledger
from router.roles.role_keeper import RoleKeeper
from runtime.session import SessionClosed
from tests.router.ledgers import Scene
from tests.router.test_roles import TPOT_S, fleet, load
from wire.identity import Role, WorkerRef
from wire.messages import Message, SetRole

pytestmark = pytest.mark.quick

REFS = [WorkerRef("prefill-0", 1), *(WorkerRef(f"decode-{number}", 1) for number in range(7))]


@dataclass(slots=True)
class FakeMember:
    """A worker's session: keeps what is sent."""

    ref: WorkerRef
    ledger: Ledger
    sent: list[Message] = field(default_factory=list)
    closed: bool = False

    def send(self, message: Message) -> None:
        if self.closed:
            raise SessionClosed("the worker is gone")
        self.sent.append(message)


class FakeFleet:
    """What the keeper asks of `router.fleet.fleet.Fleet`; under load at `time_s`."""

    model = "m"
    router_id = "router"

    def __init__(self) -> None:
        self.made: Scene = fleet(1, 7)
        self.ledger = self.made.ledger
        self.clock = self
        self.time_s = load(self.made, 2048, 128, 30, TPOT_S)
        self.members = {ref: FakeMember(ref, self.ledger) for ref in REFS}

    def now(self) -> float:
        return self.time_s

    def member(self, ref: WorkerRef) -> FakeMember | None:
        return self.members.get(ref)

    def workers_know(self, *router_ids: str) -> None:
        """All workers report that these routers have submitted requests."""
        for ref in REFS:
            self.made.tell(ref, seen_submits=dict.fromkeys(router_ids, 1))

    @property
    def sent(self) -> list[Message]:
        return [message for member in self.members.values() for message in member.sent]


def keeper(of: FakeFleet) -> RoleKeeper:
    return RoleKeeper(cast(Fleet, of), follows=True)


@pytest.mark.parametrize(
    ("other", "sent"), [("z-router", [SetRole(role=Role.PREFILL)]), ("a-router", [])]
)
def test_of_two_routers_the_one_with_the_lower_id_decides(other: str, sent: list[Message]) -> None:
    made = FakeFleet()
    made.workers_know("router", other)
    keeper(made).decide()
    assert made.sent == sent


def test_when_the_deciding_router_dies_the_next_one_goes_on_from_the_present_roles() -> None:
    made = FakeFleet()
    roles = keeper(made)
    made.workers_know("a-router", "router")
    made.made.tell(REFS[1], role=Role.PREFILL, seen_submits={"a-router": 1})
    roles.decide()
    assert not made.sent
    made.workers_know("router")
    for _ in range(20):
        roles.decide()
    changes = [decision.change.ref for decision in roles.controller.history]
    assert changes
    assert REFS[1] not in changes, "it prefills already, as the router that died has told it"
    assert len(made.sent) == len(changes)


def test_a_worker_that_is_gone_is_not_counted_in_its_new_role() -> None:
    made = FakeFleet()
    for member in made.members.values():
        member.closed = True
    keeper(made).decide()
    assert made.ledger.table.prefills.sum() == 1
