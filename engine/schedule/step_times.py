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
UNCERTAIN = 1e4
"""Uncertainty of the fixed one at first."""
MOST_FORGOTTEN = 0.1
"""Uncertainty up to which all kinds of work are forgotten; from there on, only what steps bring."""


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
    """Recursive least squares with forgetting: of everything while all kinds of work occur, else in
    the direction of each new step only.

    Hours of one kind of work thereby leave what was learned of other kinds as it is, where plain
    forgetting would let noise take its place. (Plackett, Biometrika 37, 1950; Cao and Schwartz,
    Automatica 36, 2000)

    Written out, because five by five numbers are too few for NumPy: it would take four times as
    long, for each step.
    """

    def __init__(self) -> None:
        self._weights: _Row = (0.0, 0.0, 0.0, 0.0, 0.0)
        self._uncertainty = _diagonal(UNCERTAIN, UNCERTAIN * LITTLE_KNOWN)
        self._information = _diagonal(1 / UNCERTAIN, 1 / (UNCERTAIN * LITTLE_KNOWN))
        """The inverse of the uncertainty."""
        self.num_prompt_steps = 0

    def observe(self, work: StepWork, seconds: float) -> None:
        features = work.features()
        keeps = FORGETTING if _trace(self._uncertainty) < MOST_FORGOTTEN else 1.0
        known = _times(self._information, features)
        forgotten = 0.0 if keeps < 1.0 else (1 - FORGETTING) / _product(features, known)
        more = forgotten / FORGETTING
        reach = _plus(_times(self._uncertainty, features), more * _square(features), features)
        scale = 1 / (keeps + _product(features, reach))
        off = scale * (seconds - _product(features, self._weights))
        self._weights = _plus(self._weights, off, reach)
        self._uncertainty = _updated(
            self._uncertainty, 1 / keeps, more, features, scale / keeps, reach
        )
        self._information = _updated(self._information, keeps, 1.0, features, forgotten, known)
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


def _square(row: _Row) -> float:
    return _product(row, row)


def _plus(row: _Row, scale: float, other: _Row) -> _Row:
    a, b, c, d, e = row
    f, g, h, i, j = other
    return (a + scale * f, b + scale * g, c + scale * h, d + scale * i, e + scale * j)


def _times(matrix: _Matrix, features: _Row) -> _Row:
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


def _updated(
    matrix: _Matrix, keeps: float, plus: float, row: _Row, minus: float, other: _Row
) -> _Matrix:
    """The matrix, of which a share is kept, plus so many times the square of a row, minus so many
    times that of another."""
    k = keeps
    f0, f1, f2, f3, f4 = row
    r0, r1, r2, r3, r4 = other
    (
        (a0, b0, c0, d0, e0),
        (a1, b1, c1, d1, e1),
        (a2, b2, c2, d2, e2),
        (a3, b3, c3, d3, e3),
        (a4, b4, c4, d4, e4),
    ) = matrix
    p0, p1, p2, p3, p4 = plus * f0, plus * f1, plus * f2, plus * f3, plus * f4
    s0, s1, s2, s3, s4 = minus * r0, minus * r1, minus * r2, minus * r3, minus * r4
    return (
        (
            k * a0 + p0 * f0 - s0 * r0,
            k * b0 + p0 * f1 - s0 * r1,
            k * c0 + p0 * f2 - s0 * r2,
            k * d0 + p0 * f3 - s0 * r3,
            k * e0 + p0 * f4 - s0 * r4,
        ),
        (
            k * a1 + p1 * f0 - s1 * r0,
            k * b1 + p1 * f1 - s1 * r1,
            k * c1 + p1 * f2 - s1 * r2,
            k * d1 + p1 * f3 - s1 * r3,
            k * e1 + p1 * f4 - s1 * r4,
        ),
        (
            k * a2 + p2 * f0 - s2 * r0,
            k * b2 + p2 * f1 - s2 * r1,
            k * c2 + p2 * f2 - s2 * r2,
            k * d2 + p2 * f3 - s2 * r3,
            k * e2 + p2 * f4 - s2 * r4,
        ),
        (
            k * a3 + p3 * f0 - s3 * r0,
            k * b3 + p3 * f1 - s3 * r1,
            k * c3 + p3 * f2 - s3 * r2,
            k * d3 + p3 * f3 - s3 * r3,
            k * e3 + p3 * f4 - s3 * r4,
        ),
        (
            k * a4 + p4 * f0 - s4 * r0,
            k * b4 + p4 * f1 - s4 * r1,
            k * c4 + p4 * f2 - s4 * r2,
            k * d4 + p4 * f3 - s4 * r3,
            k * e4 + p4 * f4 - s4 * r4,
        ),
    )


def _trace(matrix: _Matrix) -> float:
    return matrix[0][0] + matrix[1][1] + matrix[2][2] + matrix[3][3] + matrix[4][4]


def _diagonal(first: float, value: float) -> _Matrix:
    return (
        (first, 0.0, 0.0, 0.0, 0.0),
        (0.0, value, 0.0, 0.0, 0.0),
        (0.0, 0.0, value, 0.0, 0.0),
        (0.0, 0.0, 0.0, value, 0.0),
        (0.0, 0.0, 0.0, 0.0, value),
    )
