"""A configuration file that may change while the cluster runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.config import ClusterConfig, load_config
from cluster.errors import BadConfig


class WatchedFile:
    """Detects changes by polling. `overrides` apply to each reading of the file."""

    def __init__(self, path: str, overrides: dict[str, Any]) -> None:
        self._path = path
        self._overrides = overrides
        self._used = self._seen = self._content()

    def changed(self) -> ClusterConfig | None:
        """The new configuration, once; None while there is none.

        A change counts when two polls in a row read the same content. Raises BadConfig, once for
        each content.
        """
        content = self._content()
        if content is None or content == self._used:
            return None
        if content != self._seen:
            self._seen = content
            return None
        self._used = content
        if not content.strip():
            raise BadConfig(f"{self._path} is empty")
        return load_config(self._path, self._overrides)

    def _content(self) -> bytes | None:
        """The file's content; None while it is being replaced."""
        try:
            return Path(self._path).read_bytes()
        except OSError:
            return None
