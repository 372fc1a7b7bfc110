"""A terminal that may be closed while a cluster drains."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console


class TolerantConsole(Console):
    """A console that ignores write errors: a closed terminal must not interrupt draining."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print like Console.print, and ignore a closed terminal."""
        with suppress(OSError):
            super().print(*objects, **options)
