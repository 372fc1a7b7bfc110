"""Explores all states of small worlds over the real machines, and finds all seeded bugs."""

from __future__ import annotations

import pytest

from kv_transfer.handoff.destination import DestinationState
from kv_transfer.handoff.source import SourceState
from tests.exploration.bugs import BUGS, Bug
from tests.exploration.explorer import explore
from tests.exploration.scopes import QUICK
from tests.exploration.state import Scope
from tests.exploration.trace import story


@pytest.mark.parametrize("scope", QUICK, ids=lambda scope: scope.name)
def test_the_six_invariants_hold_in_every_state(scope: Scope) -> None:
    report = explore(scope)
    assert report.violation is None, "\n" + story(report)
    assert report.machines.states == {*SourceState, *DestinationState}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_a_seeded_bug_is_found(bug: Bug) -> None:
    report = explore(bug.scope, bug.code)
    assert report.violation is not None
    assert report.violation.startswith(f"invariant {bug.invariant}:"), story(report)
    assert story(report).count("\n") == len(report.trace)
