"""The workloads of the grid: made-up lengths and recorded traces, each at any rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sim import traces
from sim.traces import Arrival
from sim.traces.generate import poisson
from sim.warm_up import FIRST_BLOCK, NUM_WARM

SIGMA = 0.4
"""Standard deviation of the logarithm of made-up lengths."""
MADE_UP = ("2048/128", "1155/211", "500/500", "8192/256")
"""Mean lengths of prompts and answers, in tokens."""
RECORDED = {
    "azure-code": "azure2023_code.csv",
    "azure-conversation": "azure2023_conv.csv",
    "mooncake-conversation": "mooncake_conversation_trace.jsonl",
}
WARM_EVERY_S = 2.0
"""Interval between the requests of the warm-up: half a request a second is no load."""
WINDOW_STEP = 400
"""Requests between the beginnings of two windows of a trace."""


@dataclass(frozen=True, slots=True)
class Source:
    """Draws the requests of a workload: `seed` those of made-up ones, `window` a trace's part."""

    workload: str
    traces_dir: Path | None
    seed: int
    window: int

    def requests(self, count: int, per_s: float) -> list[Arrival]:
        """Requests at that rate; raises FileNotFoundError where there is no such trace."""
        if self.workload not in RECORDED:
            prompt, answer = map(int, self.workload.split("/"))
            seed = self.seed * 1000 + self.window
            return poisson(prompt, answer, per_s, count, seed, SIGMA)
        name, first = RECORDED[self.workload], self.window * WINDOW_STEP
        if self.traces_dir is None:
            raise FileNotFoundError(f"{name}: say with --traces where it lies")
        read = traces.azure if name.endswith(".csv") else traces.mooncake
        return traces.at_rate(read(self.traces_dir / name, first + count)[first:], per_s)

    def available(self) -> bool:
        """Whether its trace is there, if it needs one."""
        name = RECORDED.get(self.workload)
        return name is None or (self.traces_dir is not None and (self.traces_dir / name).exists())


def warmed_up(requests: list[Arrival], samples: list[Arrival]) -> list[Arrival]:
    """NUM_WARM of the `samples`, which come too slowly for roles to change and share nothing with
    the requests, and then the requests: the router has served such requests before."""
    warm = [
        replace(
            each,
            at_s=number * WARM_EVERY_S,
            blocks=tuple(FIRST_BLOCK + 4096 * number + n for n in range(len(each.blocks))),
        )
        for number, each in enumerate(samples[-NUM_WARM:])
    ]
    begin_s = WARM_EVERY_S * (NUM_WARM + 5)
    return [*warm, *(each.later(begin_s) for each in requests)]
