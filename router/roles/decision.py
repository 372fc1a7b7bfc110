"""A decision about roles, and its reason in words and numbers."""

from __future__ import annotations

import msgspec

from wire.identity import Role, WorkerRef


class RoleChange(msgspec.Struct, frozen=True):
    """A worker takes another role."""

    ref: WorkerRef
    role: Role


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a second that come, and that the present and the best assignment serve."""

    requests_per_s: float
    present: float
    best: float
    num_prefill: int
    """Prefill workers of the best assignment."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A change of roles, when it was made, and the comparison that asked for it."""

    time_s: float
    """On the controller's clock."""
    change: RoleChange
    outlook: Outlook
    undoes: bool = False
    """Whether it goes back to former roles, which served more than the model predicted."""


def describe(decision: Decision) -> str:
    """The decision and its reason in one sentence, for people."""
    change, view = decision.change, decision.outlook
    becomes = f"{change.ref.worker_id} becomes a {change.role.value} worker"
    if decision.undoes:
        return f"{becomes} again: fewer requests were in time than the model promised"
    return (
        f"{becomes}: {view.requests_per_s:.1f} requests/s come, "
        f"the present roles serve {view.present:.1f}, "
        f"{view.num_prefill} prefill workers would serve {view.best:.1f}"
    )
