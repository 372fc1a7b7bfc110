"""What goes wrong between the ranks of a worker.

EngineError
├── RankLost        a rank's process is gone, and with it the worker
└── RankRefused     a rank could not do what it was asked for; it lives
"""

from __future__ import annotations

from engine.errors import EngineError


class RankLost(EngineError):
    """Names the rank, its process, and how that ended."""


class RankRefused(EngineError):
    """Names the rank and what it said."""
