"""Ways to serve that are compared: the router's own, splitting always or never, and round robin."""

from __future__ import annotations

import enum
from itertools import count

from router.config import Roles
from router.placing.cost_model import Hits
from router.placing.placement_request import Placement, PlacementRequest, Split
from sim.journeys import Choose
from sim.router import PRODUCTION, RouterSettings
from wire.identity import Role
from wire.messages import WorkerCard


class ServingPolicy(enum.Enum):
    """Where requests are computed, and whether workers change their roles."""

    AUTO = "auto"
    """The router decides; roles follow the load."""
    ALWAYS = "always"
    """Every request is split, roles are fixed."""
    NEVER = "never"
    """None is, roles are fixed; every worker computes prompts and answers."""
    ROUND_ROBIN = "round-robin"
    """Pairs of workers in turn, whatever they have to do; nobody is refused."""

    def router_settings(self, max_queued: int | None = PRODUCTION.max_queued) -> RouterSettings:
        """A router of this policy; `max_queued` is the length of its admission queue, None admits
        every request at once."""
        match self:
            case ServingPolicy.AUTO:
                return RouterSettings(max_queued=max_queued, roles=Roles.FOLLOW)
            case ServingPolicy.ROUND_ROBIN:
                return RouterSettings(max_queued=None, choose=in_turn)
            case _:
                return RouterSettings(max_queued=max_queued, split=Split(self.value))


def in_turn(workers: list[WorkerCard]) -> Choose:
    """Round robin over pairs; over single workers where there is no pair."""
    turn = count()
    firsts = [card.ref for card in workers if card.role is Role.PREFILL]
    others = [card.ref for card in workers if card.role is Role.DECODE]

    def choose(need: PlacementRequest, hits: Hits, now: float) -> Placement:
        number = next(turn)
        if not firsts or not others:
            alone = firsts or others
            return Placement(alone[number % len(alone)], None)
        destination = None if need.single_token else others[number % len(others)]
        return Placement(firsts[number % len(firsts)], destination)

    return choose
