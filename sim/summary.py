"""Figures of one simulated run: how many requests were in time, and what it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from sim.request import RequestResult

DIGITS = 6
"""Significant digits of every figure: further ones would be noise."""


class Percentiles(msgspec.Struct, frozen=True):
    """Of requests that were complete; None where there were none."""

    p50: float | None
    p90: float | None
    p99: float | None

    @staticmethod
    def of(values: Iterable[float]) -> Percentiles:
        found = list(values)
        if not found:
            return Percentiles(None, None, None)
        return Percentiles(*(rounded(float(each)) for each in np.percentile(found, (50, 90, 99))))


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Shares are from 0 to 1 and times in seconds.

    Warm-up is in none of the figures. Requests that were refused or lost count as out of time.
    """

    policy: str
    num_requests: int
    num_workers: int
    requests_per_s: float
    """That came, on average."""
    goodput: float
    """Share of the requests that were complete within both targets."""
    good_per_s: float
    """Requests a second within both targets: goodput times the rate at which requests came."""
    ttft_attainment: float
    """Share of the requests that were complete, and whose first token came in time."""
    tpot_attainment: float
    """Share of the requests that were complete, and whose further tokens came in time."""
    ttft_s: Percentiles
    tpot_s: Percentiles
    split_share: float
    """Share of the complete requests whose answer another worker wrote than computed the prompt."""
    cached_share: float
    """Share of prompt tokens that were cached where the prompt was computed."""
    busy_share: dict[str, float]
    """By role, the share of their time in which workers computed."""
    workers: dict[str, float]
    """By role, the mean number of workers."""
    tokens_per_s_per_worker: float
    """Answers' tokens."""
    prompt_tokens_per_s_per_worker: float
    """Prompts' tokens, cached ones included."""
    num_refused: int
    num_lost: int
    """Requests that failed."""
    first_failure: str | None
    """Why the first of them failed; None where none did."""
    num_role_changes: int
    cost_per_hour: float | None = None
    """All workers together; None where they have no prices."""
    cost_per_million_tokens: float | None = None
    """For a million tokens of answers; None without prices, and where no token came."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has left behind, beside the requests' results."""

    policy: str
    num_workers: int
    busy_share: dict[str, float]
    workers: dict[str, float]
    num_role_changes: int
    price_per_hour: float | None


def summarize(run: Run, results: Sequence[RequestResult]) -> Summary:
    """The figures of all results, of which there is at least one."""
    whole = [each for each in results if each.last_s is not None]
    span_s = _span_s(results)
    goodput, per_s = sum(each.good for each in results) / len(results), _rate(results)
    num_tokens = sum(each.arrival.num_new for each in whole)
    worker_s = run.num_workers * span_s
    return Summary(
        policy=run.policy,
        num_requests=len(results),
        num_workers=run.num_workers,
        requests_per_s=rounded(per_s),
        goodput=rounded(goodput),
        good_per_s=rounded(goodput * per_s),
        ttft_attainment=rounded(sum(map(_ttft_kept, results)) / len(results)),
        tpot_attainment=rounded(sum(map(_tpot_kept, results)) / len(results)),
        ttft_s=Percentiles.of(each.ttft_s for each in whole if each.ttft_s is not None),
        tpot_s=Percentiles.of(each.tpot_s for each in whole if each.tpot_s is not None),
        split_share=rounded(_share(sum(each.split for each in whole), len(whole))),
        cached_share=rounded(_cached_share(whole)),
        busy_share={role: rounded(share) for role, share in run.busy_share.items()},
        workers={role: rounded(number) for role, number in run.workers.items()},
        tokens_per_s_per_worker=rounded(num_tokens / worker_s),
        prompt_tokens_per_s_per_worker=rounded(
            sum(each.arrival.num_prompt for each in whole) / worker_s
        ),
        num_refused=sum(each.refused_s is not None for each in results),
        num_lost=sum(each.failure is not None for each in results),
        first_failure=next((each.failure for each in results if each.failure), None),
        num_role_changes=run.num_role_changes,
        cost_per_hour=run.price_per_hour,
        cost_per_million_tokens=_cost_per_million(run.price_per_hour, num_tokens, span_s),
    )


def rounded(value: float) -> float:
    """To DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _span_s(results: Sequence[RequestResult]) -> float:
    """From the first arrival until the last request has ended."""
    begin_s = min(each.arrival.at_s for each in results)
    ends_s = [max(each.last_s or 0.0, each.refused_s or 0.0) for each in results]
    return max(1e-9, max(ends_s) - begin_s)


def _rate(results: Sequence[RequestResult]) -> float:
    times_s = [each.arrival.at_s for each in results]
    return _share(len(results), max(times_s) - min(times_s))


def _ttft_kept(result: RequestResult) -> bool:
    return _kept(result, result.ttft_s, result.slo.ttft_s)


def _tpot_kept(result: RequestResult) -> bool:
    return _kept(result, result.tpot_s, result.slo.tpot_s)


def _kept(result: RequestResult, time_s: float | None, target_s: float | None) -> bool:
    if result.last_s is None or time_s is None:
        return False
    return target_s is None or time_s <= target_s


def _cached_share(results: Sequence[RequestResult]) -> float:
    num_cached = sum(each.cached for each in results)
    return _share(num_cached, sum(each.arrival.num_prompt for each in results))


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _cost_per_million(price_per_hour: float | None, num_tokens: int, span_s: float) -> float | None:
    if price_per_hour is None or num_tokens == 0:
        return None
    return rounded(price_per_hour * span_s / 3600 / num_tokens * 1e6)
