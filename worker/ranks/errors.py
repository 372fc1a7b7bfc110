"""Errors between the ranks of a worker.

EngineError
├── RankLost        a rank's process has ended, and with it the worker
└── RankRefused     a rank could not do what it was asked to do; it goes on
"""

from __future__ import annotations

from engine.errors import EngineError


class RankLost(EngineError):
    """Names the rank, its process, and how that ended."""


class RankRefused(EngineError):
    """Names the rank and what it said."""
