"""The cache gets what the largest step leaves, of a fake device whose allocations are counted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.runner import Slice
from engine.runners.torch_runner import TorchRunner
from tests.cuda.fake_cuda import FREE_BYTES, FakeCuda, fake_cuda
from tests.cuda.fake_runner import a_config, a_sequence, an_empty_runner

CHUNK, MAX_SEQUENCES, VOCABULARY = 128, 4, 32000


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with fake_cuda() as cuda:
        yield cuda


def a_wide_runner(graphs: str = "start") -> TorchRunner:
    return an_empty_runner(
        a_config(vocab_size=VOCABULARY, hidden_size=512, intermediate_size=2048),
        graphs=graphs,
        max_sequences=MAX_SEQUENCES,
        chunk_tokens=CHUNK,
    )


def reserved_bytes(cuda: FakeCuda, runner: TorchRunner) -> int:
    block_bytes = runner.layout.block_bytes
    free = FREE_BYTES - cuda.watch.memory.allocated
    return free - runner.fit_num_blocks(None, 1.0) * block_bytes


def test_the_cache_gets_a_fraction_of_what_steps_leave(cuda: FakeCuda) -> None:
    runner = a_wide_runner()
    reserved = reserved_bytes(cuda, runner)
    logits_bytes = MAX_SEQUENCES * VOCABULARY * 4
    gate_up_bytes = CHUNK * 2 * 2048 * 2
    assert reserved > 3 * logits_bytes + gate_up_bytes
    free = FREE_BYTES - cuda.watch.memory.allocated
    half = runner.fit_num_blocks(None, 0.5) * runner.layout.block_bytes
    assert half == pytest.approx((free - reserved) / 2, abs=runner.layout.block_bytes)


def test_measuring_leaves_nothing_behind(cuda: FakeCuda) -> None:
    runner = a_wide_runner()
    before = cuda.watch.memory.allocated
    runner.fit_num_blocks(None, 0.9)
    assert cuda.watch.memory.allocated == before
    runner.allocate(64)  # as if nothing had been


def test_a_size_in_bytes_is_taken_as_it_is(cuda: FakeCuda) -> None:
    runner = a_wide_runner()
    with cuda.recording() as record:
        assert runner.fit_num_blocks(10 * runner.layout.block_bytes, 0.9) == 10
    assert not record.kernels


@pytest.mark.parametrize("graphs", ["start", "off"])
def test_no_step_takes_more_than_was_kept_for_it(cuda: FakeCuda, graphs: str) -> None:
    runner, memory = a_wide_runner(graphs), cuda.watch.memory
    reserved = reserved_bytes(cuda, runner)
    runner.allocate_only(64)
    before = memory.allocated
    runner.capture_own_steps()
    prompt = a_sequence(CHUNK, 0, temperature=1.0, seed=1, top_p=0.9)
    others = [a_sequence(40 + n, 16, temperature=1.0, seed=1, top_p=0.9) for n in range(3)]
    memory.peak = memory.allocated
    runner.launch([Slice(prompt, 0, CHUNK), *(Slice(o, o.num_tokens - 1, 1) for o in others)])
    assert memory.peak - before <= reserved
