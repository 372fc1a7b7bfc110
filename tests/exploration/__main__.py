"""`python -m tests.exploration`: the complete exploration, then the seeded bugs; prints figures."""

from __future__ import annotations

import sys

from tests.exploration.bugs import BUGS
from tests.exploration.explorer import explore
from tests.exploration.scopes import COMPLETE
from tests.exploration.trace import figures, story


def main() -> int:
    num_violations = num_states = 0
    for scope in COMPLETE:
        report = explore(scope)
        print(figures(report), flush=True)
        num_states += report.num_states
        if report.violation is not None:
            num_violations += 1
            print(story(report))
    print(f"{num_states:,} states in all, {num_violations} violations\n")
    for bug in BUGS:
        report = explore(bug.scope, bug.code)
        print(f"seeded bug {bug.invariant}: {bug.what}")
        print(story(report) if report.violation else "  not found")
        num_violations += report.violation is None
    return 1 if num_violations else 0


if __name__ == "__main__":
    sys.exit(main())
