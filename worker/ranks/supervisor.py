"""The thread that starts the other ranks, and sees whether they go on living."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from worker.ranks.rank_process import RankProcess

NUM_TURNS = 10
"""How often a rank is asked until it counts as silent."""
START_SILENCE_S = 120.0
"""The same while ranks start: whoever loads libraries may hold up all threads of a process."""


class RankSupervisor:
    """Followers are tied to this thread: when it ends, with the process or before, they do.

    A rank that has not answered for `silence_s` is told of, once, in this thread.
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
        self._patience_s = max(silence_s, START_SILENCE_S)
        self._over = threading.Event()
        self._started: Future[tuple[RankProcess, ...]] = Future()
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._thread.start()
        self.followers = self._started.result()

    def tighten(self) -> None:
        """All ranks are ready: from now on somebody waits for them."""
        self._patience_s = self._silence_s

    def end(self) -> None:
        """Idempotent; followers that are left are killed."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            followers = self._start()
        except BaseException as error:  # noqa: BLE001  # whoever waits for them must hear of it
            self._started.set_exception(error)
            return
        self._started.set_result(followers)
        turn_s = self._silence_s / NUM_TURNS
        while not self._over.wait(turn_s):
            silent = [each for each in followers if each.pulse.feel() * turn_s >= self._patience_s]
            if silent:
                self._on_silent(silent[0], self._patience_s)
                break
        self._over.wait()
