"""How busy servers may be so that hardly anybody waits for long."""

from __future__ import annotations

import math

NUM_HALVINGS = 40


def usable_share(
    num_servers: int, service_s: float, scv: float, wait_s: float, probability: float
) -> float:
    """Share of their time for which servers may be busy, from 0 to 1, so that a wait is longer than
    `wait_s` with at most this probability.

    `service_s` is the mean service time, `scv` the mean of the squared coefficients of variation of
    services and of times between arrivals. Waits are taken as exponential, and the probability of
    any wait from Sakasegawa, "An approximation formula L_q = α ρ^β/(1-ρ)" (1977); Whitt,
    "Approximations for the GI/G/m queue" (1993), has both.
    """
    low, high = 0.0, 1.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if _longer(middle, num_servers, service_s, scv, wait_s) > probability:
            high = middle
        else:
            low = middle
    return low


def _longer(busy: float, num_servers: int, service_s: float, scv: float, wait_s: float) -> float:
    """Probability of a longer wait than `wait_s`."""
    any_wait: float = busy ** (math.sqrt(2 * (num_servers + 1)) - 1)
    decay = num_servers * (1 - busy) / (service_s * max(scv, 1e-6))
    return any_wait * math.exp(-max(0.0, wait_s) * decay)
