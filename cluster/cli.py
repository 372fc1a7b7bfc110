"""The command `tandem`, also `python -m cluster`. Installs signal handlers before heavy imports."""

from __future__ import annotations

import sys

from cluster.shadowing import find_shadowed
from cluster.stop_signal import interrupt, leave_at_once, on_stop_signals


def main() -> None:
    """Check for shadowed packages, import the commands and run one.

    Imports take most of a second; until they are done, a signal ends the process without a
    traceback.
    """
    on_stop_signals(leave_at_once)
    if (shadowed := find_shadowed()) is not None:
        sys.stderr.write(f"error: {shadowed}\n")
        sys.exit(2)
    from cluster.commands import app

    on_stop_signals(interrupt)
    app()
