"""The terminal, which may be closed while a cluster drains."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console


class PatientConsole(Console):
    """What cannot be written any more is no reason to stop what is under way."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As Console.print."""
        with suppress(OSError):
            super().print(*objects, **options)
