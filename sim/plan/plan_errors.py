"""The errors of planning.

PlanError
├── BadNeeds       a rate, a target or a count that makes no sense
├── NothingFits    no device can hold the model, or keep a target even for one request
└── TooMuch        every pool within the limits serves less than what comes
"""

from __future__ import annotations


class PlanError(Exception):
    """There is no plan; says what stands in its way."""


class BadNeeds(PlanError):
    """A number is out of its range; names it."""


class NothingFits(PlanError):
    """No worker of any device can do it; says for each device which bound it misses."""


class TooMuch(PlanError):
    """The devices that exist are too few; says how much they serve."""
