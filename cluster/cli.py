"""The command `tandem`, also as `python -m cluster`: hears signals before it loads anything."""

from __future__ import annotations

import sys

from cluster.shadowing import find_shadowed
from cluster.stop_signal import interrupt, leave_at_once, on_stop_signals


def main() -> None:
    """Loading takes a good part of a second, in which an interruption would be a traceback."""
    on_stop_signals(leave_at_once)
    if (shadowed := find_shadowed()) is not None:
        sys.stderr.write(f"error: {shadowed}\n")
        sys.exit(2)
    from cluster.commands import app

    on_stop_signals(interrupt)
    app()
