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


def describe(decision: Decision) -> str:
    """The decision and its reason in one sentence, for people."""
    change, view = decision.change, decision.outlook
    return (
        f"{change.ref.worker_id} becomes a {change.role.value} worker: "
        f"{view.requests_per_s:.1f} requests/s come, the present roles serve {view.present:.1f}, "
        f"{view.num_prefill} prefill workers would serve {view.best:.1f}"
    )
