"""The cluster's error tree.

ClusterError
├── BadConfig       a configuration file or override; names the key's path
├── NameTaken       another cluster of this name runs; says who runs it and how to end it
└── StartFailed     a process that could not be placed or did not start; names it and the cause
"""

from __future__ import annotations


class ClusterError(Exception):
    """Anything that keeps a cluster from running."""


class BadConfig(ClusterError):
    """The configuration cannot be used."""


class NameTaken(ClusterError):
    """A cluster of this name runs on the same Ray."""


class StartFailed(ClusterError):
    """A process could not be placed, or ended before it was ready."""
