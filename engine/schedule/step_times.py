"""A linear model of step durations, learned online, for any device; pure."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import msgspec

from engine.runner import Slice

ENOUGH_STEPS = 3
"""Steps with prompts to be observed before predictions about prompts are used."""
FORGETTING = 0.995
"""A step counts this much less with each one after it: some hundred of them are remembered."""
LITTLE_KNOWN = 0.01
"""Uncertainty of the other coefficients at first, as a part of the fixed one's: what comes with
every step, such as one sequence that decodes, is a part of the step until it varies."""
MOST_UNCERTAIN = 1e4
"""Bound on the uncertainty: a kind of work that does not occur is not forgotten beyond it."""


_UNITS = (1, 8, 4096, 128, 65536)
_Row = tuple[float, float, float, float, float]
_Matrix = tuple[_Row, _Row, _Row, _Row, _Row]


def num_pairs(count: int, start: int) -> int:
    """Pairs of a prompt token in [start, start + count) and a token that it attends to."""
    return count * (2 * start + count) // 2


class StepWork(msgspec.Struct, frozen=True, gc=False):
    """A step's work, in the quantities that its duration is linear in."""

    num_decoding: int = 0
    context_tokens: int = 0
    """Cached tokens that the decoding sequences read."""
    prompt_tokens: int = 0
    prompt_pairs: int = 0
    """Pairs of a prompt token and a token that it attends to."""

    @staticmethod
    def of(slices: Seq[Slice]) -> StepWork:
        decoding = context = tokens = pairs = 0
        for slice in slices:
            if slice.count == 1:
                decoding += 1
                context += slice.start
            else:
                tokens += slice.count
                pairs += num_pairs(slice.count, slice.start)
        return StepWork(decoding, context, tokens, pairs)

    def features(self) -> _Row:
        """Scaled to similar sizes; the first stands for the step itself."""
        return (
            1.0,
            self.num_decoding / _UNITS[1],
            self.context_tokens / _UNITS[2],
            self.prompt_tokens / _UNITS[3],
            self.prompt_pairs / _UNITS[4],
        )


class StepTimes:
    """Recursive least squares with forgetting. (Plackett, Biometrika 37, 1950)

    Written out, because five by five numbers are too few for NumPy: it would take four times as
    long, for each step.
    """

    def __init__(self) -> None:
        self._weights: _Row = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._uncertainty = _diagonal(MOST_UNCERTAIN, MOST_UNCERTAIN * LITTLE_KNOWN)
        self.num_prompt_steps = 0

    def observe(self, work: StepWork, seconds: float) -> None:
        features = work.features()
        before = self._uncertainty
        reach = _reach(before, features)
        scale = 1 / (FORGETTING + _product(features, reach))
        off = scale * (seconds - _product(features, self._weights))
        r0, r1, r2, r3, r4 = reach
        w0, w1, w2, w3, w4 = self._weights
        self._weights = (w0 + r0 * off, w1 + r1 * off, w2 + r2 * off, w3 + r3 * off, w4 + r4 * off)
        self._uncertainty = _narrowed(before, reach, scale)
        self.num_prompt_steps += work.prompt_tokens > 0

    @property
    def knows_prompts(self) -> bool:
        """True when enough steps with prompts were observed."""
        return self.num_prompt_steps >= ENOUGH_STEPS

    def per_unit(self) -> list[float]:
        """Seconds for the step itself, and for one unit of each quantity of StepWork."""
        return [w / unit for w, unit in zip(self._weights, _UNITS, strict=True)]

    def predict(self, work: StepWork) -> float:
        """Seconds; never negative."""
        return max(0.0, _product(work.features(), self._weights))

    def prompt_tokens_within(self, work: StepWork, context: int, seconds: float) -> float:
        """Number of prompt tokens behind `context` others that fit beside this work into `seconds`.

        Negative when the work takes longer by itself.
        """
        alone = self.predict(work)
        pairs = num_pairs(128, context)
        one_chunk = StepWork(
            work.num_decoding,
            work.context_tokens,
            work.prompt_tokens + 128,
            work.prompt_pairs + pairs,
        )
        each_s = max(1e-9, (self.predict(one_chunk) - alone) / 128)
        return (seconds - alone) / each_s


def _product(one: _Row, other: _Row) -> float:
    a, b, c, d, e = one
    f, g, h, i, j = other
    return a * f + b * g + c * h + d * i + e * j


def _reach(matrix: _Matrix, features: _Row) -> _Row:
    """The matrix times the features, of which the first is 1; those of prompts are mostly 0."""
    _, f1, f2, f3, f4 = features
    (
        (a0, b0, c0, d0, e0),
        (a1, b1, c1, d1, e1),
        (a2, b2, c2, d2, e2),
        (a3, b3, c3, d3, e3),
        (a4, b4, c4, d4, e4),
    ) = matrix
    if not f3:
        return (
            a0 + b0 * f1 + c0 * f2,
            a1 + b1 * f1 + c1 * f2,
            a2 + b2 * f1 + c2 * f2,
            a3 + b3 * f1 + c3 * f2,
            a4 + b4 * f1 + c4 * f2,
        )
    return (
        a0 + b0 * f1 + c0 * f2 + d0 * f3 + e0 * f4,
        a1 + b1 * f1 + c1 * f2 + d1 * f3 + e1 * f4,
        a2 + b2 * f1 + c2 * f2 + d2 * f3 + e2 * f4,
        a3 + b3 * f1 + c3 * f2 + d3 * f3 + e3 * f4,
        a4 + b4 * f1 + c4 * f2 + d4 * f3 + e4 * f4,
    )


def _narrowed(before: _Matrix, reach: _Row, scale: float) -> _Matrix:
    """The uncertainty after a step; old steps are forgotten as long as it stays within bounds."""
    r0, r1, r2, r3, r4 = reach
    (
        (a0, b0, c0, d0, e0),
        (a1, b1, c1, d1, e1),
        (a2, b2, c2, d2, e2),
        (a3, b3, c3, d3, e3),
        (a4, b4, c4, d4, e4),
    ) = before
    trace = a0 + b1 + c2 + d3 + e4
    trace -= scale * (r0 * r0 + r1 * r1 + r2 * r2 + r3 * r3 + r4 * r4)
    g = 1 / FORGETTING if trace < MOST_UNCERTAIN else 1.0
    s = scale * g
    s0, s1, s2, s3, s4 = s * r0, s * r1, s * r2, s * r3, s * r4
    return (
        (a0 * g - s0 * r0, b0 * g - s0 * r1, c0 * g - s0 * r2, d0 * g - s0 * r3, e0 * g - s0 * r4),
        (a1 * g - s1 * r0, b1 * g - s1 * r1, c1 * g - s1 * r2, d1 * g - s1 * r3, e1 * g - s1 * r4),
        (a2 * g - s2 * r0, b2 * g - s2 * r1, c2 * g - s2 * r2, d2 * g - s2 * r3, e2 * g - s2 * r4),
        (a3 * g - s3 * r0, b3 * g - s3 * r1, c3 * g - s3 * r2, d3 * g - s3 * r3, e3 * g - s3 * r4),
        (a4 * g - s4 * r0, b4 * g - s4 * r1, c4 * g - s4 * r2, d4 * g - s4 * r3, e4 * g - s4 * r4),
    )


def _diagonal(first: float, value: float) -> _Matrix:
    return (
        (first, 0.0, 0.0, 0.0, 0.0),
        (0.0, value, 0.0, 0.0, 0.0),
        (0.0, 0.0, value, 0.0, 0.0),
        (0.0, 0.0, 0.0, value, 0.0),
        (0.0, 0.0, 0.0, 0.0, value),
    )
