"""What a user sees of an error: one readable line on stderr, and an exit status."""

from __future__ import annotations

import os
import sys

from cluster.console import TolerantConsole
from cluster.errors import ClusterError
from cluster.stop_signal import INTERRUPTED


class reporting_errors:  # used like a function
    """Turns errors that a user can fix into one readable line and exit status 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ClusterError):
            _print_error(str(error))
            sys.exit(2)
        if isinstance(error, KeyboardInterrupt):
            _print_error("interrupted")
            sys.stdout.flush()
            os._exit(INTERRUPTED)  # a pending call into Ray would block a normal exit


def _print_error(message: str) -> None:
    TolerantConsole(stderr=True, highlight=False, soft_wrap=True).print(
        f"error: {message}", markup=False
    )
