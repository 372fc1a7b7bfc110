"""A sequence that another worker hands over joins the recorded graph, and nothing waits for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_pool import BlockPool
from engine.sequence import Sequence
from prefill_worker.scheduler import PrefillPolicy
from tests.cuda.fake_cuda import FakeCuda, fake_cuda
from tests.cuda.fake_runner import BLOCK_SIZE, CONFIGS, a_runner
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams

NUM_BLOCKS = 64
GREEDY = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


def an_adopted(engine: AsyncEngine, name: str, num_prompt: int) -> Sequence:
    """A prompt whose blocks have been received, with its first token."""
    sequence = make_sequence(range(num_prompt + 1), GREEDY, num_prompt=num_prompt, name=name)
    blocks = engine.pool.try_allocate(-(-num_prompt // BLOCK_SIZE))
    assert blocks is not None
    sequence.blocks, sequence.num_computed = blocks, num_prompt
    engine.adopt(sequence)
    return sequence


def test_the_first_step_after_a_handoff_is_a_replay(cuda: FakeCuda) -> None:
    runner = a_runner(CONFIGS["llama"], max_sequences=4, num_blocks=NUM_BLOCKS)
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), DecodePolicy())
    an_adopted(engine, "first", 33)
    for number in range(4):
        with cuda.recording() as record:
            engine.step()
        assert (record.replays, record.faults) == (1, [])
        assert set(record.kernels) <= {"copy_", "argmax"}  # nothing is computed outside of it
        if number < 3:  # while the step before is under way
            an_adopted(engine, f"another-{number}", 16 * number + 9)
    assert [sequence.num_output for sequence in engine.running] == [4, 3, 2, 1]


def test_a_step_waits_for_the_one_before_it_alone(cuda: FakeCuda) -> None:
    runner = a_runner(CONFIGS["llama"], max_sequences=4, num_blocks=NUM_BLOCKS)
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), DecodePolicy())
    an_adopted(engine, "first", 33)
    engine.step()
    an_adopted(engine, "second", 20)
    with cuda.recording() as record:
        engine.step()
    assert len(record.waits) == 1  # for draws that were launched a step earlier
    assert len(record.to_device) == len(record.to_host) == 1


def test_chunks_of_a_prompt_are_launched_ahead_on_a_prefill_worker(cuda: FakeCuda) -> None:
    runner = a_runner(CONFIGS["llama"], num_blocks=NUM_BLOCKS)
    engine = AsyncEngine(runner, BlockPool(NUM_BLOCKS), PrefillPolicy(chunk_tokens=32))
    sequence = make_sequence(range(96), GREEDY)
    sequence.pinned = True
    engine.add(sequence)
    with cuda.recording() as record:
        assert engine.step() == []
        assert record.waits == []
        [progress] = engine.step()
        assert (progress.end, sequence.num_computed) == (32, 64)
        assert len(record.waits) == 1  # for the first chunk, with the second launched
    assert record.faults == []
