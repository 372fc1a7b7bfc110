"""The fixed cost of a handoff: messages between two workers, without the bytes.

python -m benchmarks.handoff

Prints medians between processes on this machine. The cost of bytes is measured by
benchmarks.transfer.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.pool import LOOPBACK
from benchmarks.source import FakeSource
from cluster.config import load_config
from cluster.process_launcher import ProcessLauncher
from cluster.running import RunningCluster, running
from runtime.session import OpenedSession, Session, open_session
from wire.identity import AttemptId
from wire.messages import Destination, Handed, Hello, Prefilled, Released, Submit
from wire.sampling import SamplingParams

NUM_HANDOFFS = 300
MAX_CONTROL_S = 1.5e-3
"""Maximum seconds from Offer to Accepted, without data."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one action in each repetition."""

    name: str
    seconds: list[float]

    @property
    def p50_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[-1]


def main() -> None:
    console = Console()
    config = load_config(None, {"worker.runner": "arithmetic", "worker.ucx_env": LOOPBACK})
    with running(config, ProcessLauncher(), lambda line: None) as cluster:
        control, *rest = asyncio.run(_measure(cluster))
    table = Table("between two processes", "p50 ms", "p99 ms")
    for spent in (control, *rest):
        table.add_row(spent.name, f"{spent.p50_s * 1e3:.2f}", f"{spent.p99_s * 1e3:.2f}")
    console.print(table)
    verdict = "met" if control.p50_s < MAX_CONTROL_S else "missed"
    console.print(f"offer to accepted below {MAX_CONTROL_S * 1e3:.1f} ms at p50: {verdict}")


async def _measure(cluster: RunningCluster) -> list[Spent]:
    prefill, decode = [
        await open_session(address, Hello(caller_id="bench"), timeout_s=10)
        for address in cluster.worker_addresses
    ]
    spent = [*await control_s(decode), *await handoff_s(prefill, decode)]
    prefill.session.close()
    decode.session.close()
    return spent


async def control_s(decode: OpenedSession) -> list[Spent]:
    """Seconds of Offer, Grant, Commit, Accepted for blocks that the destination has cached.

    No sequence is decoded afterwards, since its first step would compete with the verdict for the
    destination's interpreter.
    """
    source = await FakeSource.open(decode)
    await source.fill_cache()
    cached, sequences, turns = [], [], []
    for number in range(NUM_HANDOFFS):
        cached.append(await source.hand_over(number, prefix_only=True))
        sequences.append(await source.hand_over(number))
        turns.append(await source.one_turn(number))
    source.close()
    return [
        Spent("offer to accepted, no data", [sum(attempt_id) for attempt_id in cached]),
        Spent("  offer to grant", [granted for granted, _ in cached]),
        Spent("  commit to accepted", [accepted for _, accepted in cached]),
        Spent(
            "the same with a sequence to go on with", [sum(attempt_id) for attempt_id in sequences]
        ),
        Spent("there and back: an unknown attempt's commit", turns),
    ]


async def handoff_s(prefill: OpenedSession, decode: OpenedSession) -> list[Spent]:
    """Seconds of handoffs of new one-block prompts, without a router."""
    destination = Destination(decode.card.ref, decode.card.address)
    to_commit, whole = [], []
    for number in range(NUM_HANDOFFS):
        started = time.perf_counter()
        prefill.session.send(a_submit(number, destination))
        await next_of(prefill.session, Released)
        whole.append(time.perf_counter() - started)
        handed = await next_of(decode.session, Handed)
        assert isinstance(handed, Handed)
        to_commit.append(handed.moved.exposed_s)
    return [
        Spent("one block: prefill's end to commit", to_commit),
        Spent("one block: submit to release, with prefill", whole),
    ]


def a_submit(number: int, destination: Destination) -> Submit:
    tokens = tuple((number * 16 + i) % 2048 for i in range(16))
    return Submit(
        attempt_id=AttemptId(f"bench-{number}"),
        tokens=tokens,
        num_prompt=len(tokens),
        sampling=SamplingParams(max_tokens=2),
        destination=destination,
    )


async def next_of(session: Session, kind: type[Released | Handed | Prefilled]) -> object:
    while not isinstance(message := await session.receive(), kind):
        pass
    return message


if __name__ == "__main__":
    main()
