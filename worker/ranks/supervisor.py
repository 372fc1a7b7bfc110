"""A thread that starts the other ranks, and supervises them by heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from worker.ranks.rank_process import RankProcess

NUM_TURNS = 10
"""Heartbeats that a rank may miss until it counts as silent."""
START_SILENCE_S = 120.0
"""Silence that is allowed while ranks start: loading libraries may hold up all their threads."""


class RankSupervisor:
    """Rank processes are tied to this thread: when it ends, with its process or before, so do they.

    `on_silent(process, silence_s)` is called in this thread, once, for the first rank that has not
    answered for `silence_s`.
    """

    def __init__(
        self,
        start: Callable[[], tuple[RankProcess, ...]],
        silence_s: float,
        on_silent: Callable[[RankProcess, float], None],
    ) -> None:
        """Raises what `start` raises."""
        self._start = start
        self._silence_s = silence_s
        self._on_silent = on_silent
        self._allowed_s = max(silence_s, START_SILENCE_S)
        self._over = threading.Event()
        self._started: Future[tuple[RankProcess, ...]] = Future()
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()
        self.processes = self._started.result()

    def arm(self) -> None:
        """All ranks are ready: from now on they may be silent for `silence_s` and no longer."""
        self._allowed_s = self._silence_s

    def end(self) -> None:
        """Idempotent; processes that are left are killed."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            processes = self._start()
        except BaseException as error:  # noqa: BLE001  # it belongs to the thread that waits for them
            self._started.set_exception(error)
            return
        self._started.set_result(processes)
        turn_s = self._silence_s / NUM_TURNS
        while not self._over.wait(turn_s):
            silent = [
                each for each in processes if each.heartbeat.missed() * turn_s >= self._allowed_s
            ]
            if silent:
                self._on_silent(silent[0], self._allowed_s)
                break
        self._over.wait()
