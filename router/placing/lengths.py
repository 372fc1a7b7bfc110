"""How long answers will be, learned from those that ended: never what a client allows at most."""

from __future__ import annotations

from collections import OrderedDict

FIRST_GUESS = 128.0
MEMORY = 0.98
"""Decay of an answer's weight with each further answer of the same tenant."""
FEW = 8
"""Answers of a tenant before it is believed to differ from the others."""
MOST_TENANTS = 4096


class _Mean:
    def __init__(self) -> None:
        self.weight = 0.0
        self.total = 0.0

    def add(self, value: float) -> None:
        self.weight = MEMORY * self.weight + 1.0
        self.total = MEMORY * self.total + value

    @property
    def mean(self) -> float:
        return self.total / self.weight


class Lengths:
    """In tokens, by tenant. Tenants that were quiet the longest are forgotten."""

    def __init__(self) -> None:
        self._all = _Mean()
        self._tenants: OrderedDict[str, _Mean] = OrderedDict()

    def observe(self, tenant: str, num_tokens: int) -> None:
        """An answer of this tenant ended by itself, or at its limit."""
        self._all.add(num_tokens)
        if tenant not in self._tenants:
            self._tenants[tenant] = _Mean()
            if len(self._tenants) > MOST_TENANTS:
                self._tenants.popitem(last=False)
        self._tenants[tenant].add(num_tokens)
        self._tenants.move_to_end(tenant)

    @property
    def mean(self) -> float:
        """The mean of all tenants."""
        return self._all.mean if self._all.weight else FIRST_GUESS

    def expected(self, tenant: str, max_tokens: int) -> float:
        """The mean of such answers; no more than `max_tokens`."""
        own = self._tenants.get(tenant)
        if own is not None and own.weight >= FEW:
            return min(own.mean, max_tokens)
        if self._all.weight:
            return min(self._all.mean, max_tokens)
        return min(FIRST_GUESS, max_tokens)
