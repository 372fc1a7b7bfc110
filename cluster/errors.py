"""The cluster's error tree.

ClusterError
├── BadConfig       a configuration file or override; names the key's path
└── StartFailed     a process that could not be placed or did not start; names it and the cause
"""

from __future__ import annotations


class ClusterError(Exception):
    """Anything that keeps a cluster from running."""


class BadConfig(ClusterError):
    """The configuration cannot be used."""


class StartFailed(ClusterError):
    """A process could not be placed, or ended before it was ready."""
