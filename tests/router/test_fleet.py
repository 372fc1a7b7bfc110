"""How workers join, tell and leave."""

from __future__ import annotations

import msgspec
import pytest
from tokenizers import Tokenizer

from kv_transfer.hashing import block_hashes
from router.fleet.worker_events import WorkerEvent, WorkerLost
from tests.router.conftest import Stage
from tests.router.fake_worker import LAYOUT
from tests.router.test_generate import generate
from wire.identity import AttemptId, Role, WorkerRef
from wire.messages import Submit, WantSnapshot
from wire.reports import CacheEvents


async def test_a_worker_that_announces_itself_again_is_known_already(stage: Stage) -> None:
    worker = await stage.add("lone", Role.DECODE)
    stage.model.fleet.join(worker.card)
    stage.model.fleet.join(worker.card)
    assert worker.count(WantSnapshot) == 1
    assert stage.view(worker).ready


async def test_a_worker_with_another_model_is_not_taken(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = stage.make_worker("stranger", Role.DECODE, model="other")
    await stranger.start(stage.addresses.fleet)
    await stranger.joined.wait()
    assert stage.model.fleet.member(stranger.ref) is None
    assert "'other'" in caplog.text
    assert "'tiny'" in caplog.text


async def test_everyone_with_a_leg_hears_at_once_that_a_worker_is_lost(stage: Stage) -> None:
    worker = await stage.add("lone", Role.DECODE)
    member = stage.model.fleet.member(worker.ref)
    assert member is not None
    heard: list[tuple[int, WorkerRef, WorkerEvent]] = []
    for number in range(3):

        def on_event(sender: WorkerRef, event: WorkerEvent, number: int = number) -> None:
            heard.append((number, sender, event))

        member.attach(AttemptId(f"r{number}"), on_event)
    await worker.die()
    await stage.until(lambda: stage.model.fleet.member(worker.ref) is None)
    assert [(number, sender) for number, sender, _ in heard] == [(n, worker.ref) for n in range(3)]
    assert all(isinstance(event, WorkerLost) for *_, event in heard)


async def test_an_announcement_that_another_worker_answers_is_dropped(stage: Stage) -> None:
    worker = await stage.add("real", Role.DECODE)
    ghost = msgspec.structs.replace(worker.card, ref=WorkerRef("ghost", 1))
    stage.model.fleet.join(ghost)
    await stage.until(lambda: stage.model.fleet.member(ghost.ref) is None)
    assert stage.view(worker).ready


async def test_a_gap_in_cache_events_brings_a_snapshot(stage: Stage) -> None:
    worker = await stage.add("lone", Role.PREFILL)
    blocks = tuple(block_hashes(range(100, 112), LAYOUT.block_size))
    worker.send(CacheEvents(number=1, stored=blocks[:1]))
    worker.cache = CacheEvents(number=5, stored=blocks, snapshot=True)
    worker.send(CacheEvents(number=3, stored=blocks[1:2]))
    await worker.hears(WantSnapshot, 2)
    await stage.until(lambda: stage.view(worker, range(100, 112)).num_hit_tokens == 12)


async def test_a_prompt_goes_where_its_prefix_is(stage: Stage, backend: Tokenizer) -> None:
    # Long enough that five requests in a row do not make its holder look busy in comparison.
    prompt = " ".join(["the quick brown fox jumps over the lazy dog"] * 6)
    tokens = backend.encode(prompt).ids
    workers = [await stage.add(f"prefill-{n}", Role.PREFILL, script=[65]) for n in range(3)]
    hashes = tuple(block_hashes(tokens, LAYOUT.block_size))
    workers[1].send(CacheEvents(number=1, stored=hashes))
    await stage.until(lambda: stage.view(workers[1], tokens).num_hit_tokens > 0)
    for _ in range(5):
        await generate(stage, text=prompt)
    assert [worker.count(Submit) for worker in workers] == [0, 5, 0]
    for _ in range(60):  # equals share by lot: that one of them gets none would be a miracle
        await generate(stage, text=prompt, cache_salt="another tenant")
    assert all(worker.count(Submit) for worker in workers)


async def test_load_that_was_placed_counts_until_it_is_computed(stage: Stage) -> None:
    first = await stage.add("prefill-0", Role.PREFILL, script=[65, 66])
    second = await stage.add("prefill-1", Role.PREFILL, script=[65, 66])
    for worker in (first, second):
        worker.serve = lambda submit: None
    calls = [stage.call(text="a") for _ in range(6)]
    await first.hears(Submit, 3)
    await second.hears(Submit, 3)
    num_tokens = len((await first.hears(Submit)).tokens)
    assert stage.view(first).num_queued_tokens == 3 * num_tokens
    for call in calls:
        call.cancel()
    assert await stage.server.conductor.wait_idle(60)
    assert stage.view(first).num_queued_tokens == 0
