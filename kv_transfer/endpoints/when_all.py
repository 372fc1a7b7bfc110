"""Joins callbacks: the last of several results calls one function with all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def when_all(count: int, done: Callable[[list[T]], None]) -> list[Callable[[T], None]]:
    """`count` functions, each to be called once, from any thread; `done(results)` after the last.

    The results are in the order of the functions.
    """
    results: dict[int, T] = {}
    lock = threading.Lock()

    def one(number: int) -> Callable[[T], None]:
        def tell(result: T) -> None:
            with lock:
                results[number] = result
                complete = len(results) == count
            if complete:
                done([results[number] for number in range(count)])

        return tell

    return [one(number) for number in range(count)]


def when_all_ended(count: int, then: Callable[[], None]) -> list[Callable[[], None]]:
    """`count` functions without a result, each to be called once; `then()` after the last."""

    def all_ended(ends: list[None]) -> None:
        then()

    return [partial(end, None) for end in when_all(count, all_ended)]
