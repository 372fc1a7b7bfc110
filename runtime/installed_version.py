"""The version of this program."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "tandem-serve"


def installed_version() -> str:
    """The installed distribution's version; a directory uploaded by a Ray job has none."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "(not installed)"
