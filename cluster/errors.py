"""The cluster's error tree.

ClusterError
├── BadConfig       a configuration file or override; names the key's path
├── CannotPlan      what is planned for cannot be served, or a file cannot be written; says why
├── CannotSimulate  a trace, device, model or option of a simulation; says what was wrong with it
├── NoStatus        a router's status cannot be read; names the address, the cause and what to do
├── NameTaken       another cluster of this name runs; names its process and how to end it
└── StartFailed     a process could not be placed or did not start; names it and the cause
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of all errors that keep a cluster from running."""


class BadConfig(ClusterError):
    """The configuration cannot be used."""


class CannotPlan(ClusterError):
    """There is no plan, or it cannot be written."""


class CannotSimulate(ClusterError):
    """The simulation that is asked for cannot be run."""


class NoStatus(ClusterError):
    """A router's status cannot be read."""


class NameTaken(ClusterError):
    """A cluster of this name runs on the same Ray."""


class StartFailed(ClusterError):
    """A process could not be placed, or ended before it was ready."""
