"""What a worker's own HTTP port tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.fleet import FleetService
from runtime.handoffs import MAX_PAIRS, HandoffCounters
from runtime.listen import PortTaken
from tests.worker.test_live import Router, a_router, a_worker
from wire.handoff import Moved
from wire.identity import AttemptId, Role, WorkerRef
from wire.messages import Destination, Handed, Prefilled, Submit, WantSnapshot, WorkerCard
from wire.sampling import SamplingParams
from worker.host import Worker
from worker.sessions.status_port import WorkerPhase

PROMPT = tuple(range(1, 65))
NUM_TOKENS = 5


@asynccontextmanager
async def a_reader(worker: Worker) -> AsyncIterator[httpx2.AsyncClient]:
    base_url = f"http://{worker.card.metrics_address}"
    async with httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60) as http:
        yield http


async def samples_of(http: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    """By name and the values of all labels but the worker's own."""
    text = (await http.get("/metrics")).text
    return {
        (each.name, *(v for k, v in each.labels.items() if k not in ("worker", "role"))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


async def test_health_follows_a_worker_from_its_start_to_its_drain() -> None:
    async with a_worker(Role.DECODE, metrics_port=0) as worker, a_reader(worker) as http:
        joining = await http.get("/health")
        assert (joining.status_code, joining.json()["status"]) == (503, WorkerPhase.JOINING.value)
        async with a_router(worker) as router:
            router.sessions[0].send(WantSnapshot())
            await worker.joined.wait()
            assert (await http.get("/health")).json() == {"status": "ready"}
            assert (await http.head("/health")).status_code == 200
            assert await worker.drain(60)
            draining = await http.get("/health")
            assert (draining.status_code, draining.json()["status"]) == (503, "draining")
            assert (await http.get("/ping")).status_code == 200


async def test_a_worker_that_no_router_takes_says_why() -> None:
    def refuse(card: WorkerCard) -> str:
        return f"{card.ref.worker_id} is taken"

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([FleetService("router", refuse)])
    fleet = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with (
            a_worker(Role.DECODE, metrics_port=0, routers=(fleet,)) as worker,
            a_reader(worker) as http,
            asyncio.timeout(60),
        ):
            while "reason" not in (told := (await http.get("/health")).json()):
                pass
            assert told["status"] == WorkerPhase.JOINING.value
            assert told["reason"] == f"{worker.ref.worker_id} is taken"
    finally:
        await server.stop(0)


async def test_while_it_loads_a_worker_is_not_ready_and_has_no_numbers() -> None:
    async with a_worker(Role.DECODE, metrics_port=0) as worker, a_reader(worker) as http:
        worker.phase, worker.known = WorkerPhase.LOADING, None
        assert (await http.get("/health")).status_code == 503
        assert not [key for key in await samples_of(http) if key[0].startswith("tandem_")]


async def test_other_paths_and_methods_are_refused() -> None:
    async with a_worker(Role.DECODE, metrics_port=0) as worker, a_reader(worker) as http:
        assert (await http.get("/v1/models")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405


async def test_without_a_port_there_is_none_and_a_taken_one_is_named() -> None:
    async with a_worker(Role.DECODE) as worker:
        assert worker.card.metrics_address is None
        port = int(worker.card.address.rpartition(":")[2])
        with pytest.raises(PortTaken, match="set metrics_port to another port"):
            async with a_worker(Role.PREFILL, metrics_port=port):
                pass


async def test_both_ends_count_what_they_did_for_a_sequence_that_moved() -> None:
    async with (
        a_worker(Role.PREFILL, metrics_port=0) as prefill,
        a_worker(Role.DECODE, metrics_port=0) as decode,
        a_router(prefill, decode) as router,
    ):
        handed = [await _served(router, decode, AttemptId(f"r{n}", 0)) for n in range(2)]
        for worker in (prefill, decode):
            assert await worker.drain(60)  # and a report with all that was done
        async with a_reader(prefill) as http:
            first = await samples_of(http)
        async with a_reader(decode) as http:
            second = await samples_of(http)
    assert first["tandem_worker_prefilled_tokens_total",] == len(PROMPT) + 2  # found again
    assert first["tandem_worker_cached_tokens_total", "device"] == len(PROMPT)
    assert first["tandem_worker_generated_tokens_total",] == 2
    assert second["tandem_worker_generated_tokens_total",] == 2 * (NUM_TOKENS - 1)
    assert second["tandem_worker_offers_total", "granted"] == 2
    assert first["tandem_worker_steps_total",] >= 2
    ends = "decode", "prefill"
    assert second["tandem_link_handoffs_total", *ends] == 2
    num_bytes = sum(each.moved.num_bytes for each in handed)
    assert second["tandem_link_handoff_bytes_total", *ends] == num_bytes > 0
    assert first["tandem_link_bytes_per_second", *ends] > 0
    assert first["process_resident_memory_bytes",] > 0


async def _served(router: Router, second: Worker, attempt_id: AttemptId) -> Handed:
    submit = Submit(
        attempt_id=attempt_id,
        tokens=(*PROMPT, 1),
        num_prompt=len(PROMPT) + 1,
        sampling=SamplingParams(max_tokens=NUM_TOKENS),
        destination=Destination(ref=second.ref, address=second.card.address),
    )
    router.sessions[0].send(submit)
    await router.first(attempt_id, Prefilled)
    handed = await router.first(attempt_id, Handed)
    assert isinstance(handed, Handed)
    return handed


def test_the_book_adds_up_and_forgets_the_pair_of_which_it_heard_least_lately() -> None:
    book, moved = HandoffCounters(), Moved(num_bytes=10, transfer_s=0.5, hidden_s=0.25)
    here = WorkerRef("here", 1)
    for number in range(MAX_PAIRS):
        book.add(here, WorkerRef(f"w{number}", 1), moved)
    book.add(here, WorkerRef("w0", 2), moved)
    book.add(here, WorkerRef("new", 1), moved)
    pairs = book.pairs()
    assert len(pairs) == MAX_PAIRS
    assert ("here", "w1") not in pairs
    assert (pairs["here", "w0"].num, pairs["here", "w0"].hidden_s) == (2, 0.5)
    assert book.num_bytes == 10 * (MAX_PAIRS + 2)
