"""A worker's policy in the role that it has now: roles change while it serves."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq

from engine.runner import Slice
from engine.schedule.policy import FreeCapacity, Policy, ScheduledTokens
from engine.sequence import Sequence
from wire.identity import Role
from wire.policy_traits import PolicyTraits


class RolePolicy:
    """Implements `engine.schedule.policy.Policy` by the policy of the present role.

    A change of role takes effect with the next step: sequences, cache and links stay. The policies
    share one `StepTimes`, so that a step which one of them observes has taught both.
    """

    def __init__(self, policies: Mapping[Role, Policy], role: Role) -> None:
        self._policies = dict(policies)
        self.role = role

    @property
    def traits(self) -> PolicyTraits:
        return self._policies[self.role].traits

    @property
    def traits_by_role(self) -> dict[Role, PolicyTraits]:
        return {role: policy.traits for role, policy in self._policies.items()}

    def admits(self, free: FreeCapacity, num_new_blocks: int) -> bool:
        return self._policies[self.role].admits(free, num_new_blocks)

    def plan(self, running: Seq[Sequence]) -> list[ScheduledTokens]:
        return self._policies[self.role].plan(running)

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        self._policies[self.role].observe(slices, seconds)
