"""The simulation's own speed and size: thousands of workers, a hundred thousand requests.

    python -m benchmarks.sim_scale --trace mooncake_conversation_trace.jsonl
        [--cells 10] [--workers 1000] [--count 100000] [--rate 700] [--tpot 0.015] [--seed 1]

Ten routers with a thousand workers each, among which a balancer deals the requests of Mooncake's
conversation trace in turn, all on one virtual clock. The trace has 12,031 rows: it is repeated,
each time with content of its own, and sped up to `--rate` requests a second for each router. Half
of the workers prefill at first, and roles follow the load. A placement is timed as a router makes
it, by CPU time: cache hits by given hashes, choice, and ledger entries.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from router.config import Roles
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Slo
from sim.evaluate import worker_settings
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.router_cells import RouterCells
from sim.simulation import WorkerPool
from sim.traces import Arrival, at_rate, mooncake
from wire.identity import Role

CHUNK_TOKENS = 8192
MACHINE = MachineModel()
MOST_WALL_S, MOST_BYTES, MOST_P99_S = 600.0, 8 << 30, 1e-3


def main(
    trace: Annotated[Path, typer.Option(help="Mooncake's conversation trace.")],
    cells: Annotated[int, typer.Option(help="Routers.")] = 10,
    workers: Annotated[int, typer.Option(help="Workers of each router.")] = 1000,
    count: Annotated[int, typer.Option(help="Requests, over all routers.")] = 100_000,
    rate: Annotated[float, typer.Option(help="Requests a second for each router.")] = 700.0,
    tpot: Annotated[float, typer.Option(help="Target in seconds per output token.")] = 0.015,
    seed: Annotated[int, typer.Option(help="Draws the durations of steps.")] = 1,
) -> None:
    targets = Slo(tpot_s=tpot)
    settings = worker_settings(targets, CHUNK_TOKENS)
    pools = [WorkerPool(role, workers // 2, MACHINE, settings) for role in Role]
    load = at_rate(repeated(trace, count), rate * cells)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    site = RouterCells(cells, pools, RouterSettings(roles=Roles.FOLLOW, max_queued=None), seed)
    decisions = [timed(cluster.ledger) for cluster in site.clusters]
    gc.collect()
    gc.freeze()  # the workers stay until the end
    results = site.run(load, lambda arrival: slo(arrival, tpot))
    wall_s, cpu_s = time.monotonic() - wall_s, time.process_time() - cpu_s
    taken_s = np.array([each for found in decisions for each in found])
    show(site, results, taken_s, wall_s, cpu_s)


def slo(arrival: Arrival, tpot_s: float) -> Slo:
    """A first token may take two seconds, and three times what its prompt takes alone."""
    return Slo(2.0 + 3 * MACHINE.prefill_s(arrival.num_prompt), tpot_s)


def repeated(trace: Path, count: int) -> list[Arrival]:
    """The trace again and again, all at its own times, until there are `count` requests."""
    once = mooncake(trace, count)
    num_blocks = 1 + max(max(each.blocks) for each in once)
    arrivals: list[Arrival] = []
    for number in range(-(-count // len(once))):
        first = number * num_blocks
        arrivals += [replace(each, blocks=_shifted(each.blocks, first)) for each in once]
    return sorted(arrivals[:count], key=lambda arrival: arrival.at_s)


def _shifted(blocks: tuple[int, ...], first: int) -> tuple[int, ...]:
    return tuple(first + block for block in blocks)


def timed(ledger: Ledger) -> list[float]:
    """CPU seconds of every placement that the ledger makes from now on."""
    taken: list[float] = []
    spent = [0.0]

    def measured(call: Callable[..., Any], *, last: bool = False) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            begun = time.thread_time()
            result = call(*args)
            spent[0] += time.thread_time() - begun
            if last:
                taken.append(spent[0])
                spent[0] = 0.0
            return result

        return run

    def hashed(tokens: list[int], hashes: PromptHashes) -> Hits:
        """A prompt is hashed once, before it is placed."""
        hashes.of(tokens, MACHINE.layout.block_size)
        return hits(tokens, hashes)

    hits, ledger.hits = measured(ledger.hits), hashed
    ledger.place = measured(ledger.place)
    ledger.placed = measured(ledger.placed, last=True)
    return taken


def show(
    site: RouterCells,
    results: list[RequestResult],
    taken_s: np.ndarray,
    wall_s: float,
    cpu_s: float,
) -> None:
    """Print the figures."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lost = sum(each.last_s is None for each in results)
    p50_s, p99_s = np.percentile(taken_s, (50, 99))
    table = Table("figure", "value", "bar")
    rows = [
        ("workers", f"{sum(len(each.workers) for each in site.clusters):,}", ""),
        ("requests", f"{len(results):,}", ""),
        ("wall time", f"{wall_s:.0f} s", f"{MOST_WALL_S:.0f} s"),
        ("CPU time", f"{cpu_s:.0f} s", ""),
        ("virtual time", f"{site.clock.now:.0f} s", ""),
        ("peak memory", f"{peak / 2**30:.2f} GiB", f"{MOST_BYTES >> 30} GiB"),
        ("placement, p50", f"{p50_s * 1e3:.2f} ms", ""),
        ("placement, p99", f"{p99_s * 1e3:.2f} ms", f"{MOST_P99_S * 1e3:.0f} ms"),
        ("goodput", f"{sum(each.good for each in results) / len(results):.3f}", ""),
        ("requests lost", f"{lost}", "0"),
        ("role changes", f"{sum(len(each.role_changes) for each in site.clusters)}", ""),
    ]
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    assert not lost, "requests were lost"


if __name__ == "__main__":
    typer.run(main)
