"""A worker of several ranks: real processes, real collectives, the tokens of transformers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from cluster.process_launcher import Child
from cluster.roles import POLICIES
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.errors import ConfigError, EngineError
from runtime.session import open_session
from tests.engine.checkpoints import Recipe, llama, qwen2, write
from tests.engine.driver import ChunkPolicy, decode, give_blocks, make_sequence, output
from tests.engine.reference import Reference, prompt
from tests.system.shells import children_of
from wire.identity import AttemptId, Role
from wire.messages import Hello, StepOutputs, Submit
from wire.sampling import SamplingParams
from worker.build import make_engine, make_runner
from worker.config import RunnerKind, WorkerConfig
from worker.fitted_config import FittedConfig, fit
from worker.host import Worker
from worker.ranks.errors import RankLost
from worker.ranks.lead_runner import LeadRunner

NUM_NEW = 24
MODELS = {
    "grouped": Recipe(lambda: llama(num_attention_heads=8, num_key_value_heads=4, head_dim=8)),
    "few-kv-heads": Recipe(lambda: qwen2(num_key_value_heads=2, tie_word_embeddings=True)),
}
Checkpoints = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return cache(lambda name: write(MODELS[name], tmp_path_factory.mktemp(name)))


def settings(directory: Path, size: int, **changes: Any) -> FittedConfig:
    given = {
        "device": "cpu",
        "threads": size,
        "block_size": 4,
        "cache_bytes": 1 << 18,
        "transport": "nixl",
        "ucx_env": {"UCX_NET_DEVICES": "lo"},
        "worker_id": "w",
    }
    config = WorkerConfig(model=str(directory), tensor_parallel_size=size, **{**given, **changes})
    return fit(config, Role.DECODE, gpu_bytes=None)


@asynccontextmanager
async def a_worker(config: WorkerConfig, lost: Future[Exception]) -> AsyncIterator[Worker]:
    worker = Worker(config, Role.DECODE, POLICIES, on_crash=lost.set_result)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def answers(
    worker: Worker,
    prompts: list[tuple[int, ...]],
    count: int,
    scores: dict[AttemptId, list[float]] | None = None,
) -> list[list[int]]:
    """Of all prompts at once; with `scores` the prompts' own log-probabilities go there."""
    opened = await open_session(worker.card.address, Hello(caller_id="router"), timeout_s=60)
    sampling = SamplingParams(
        max_tokens=count,
        temperature=0.0,
        ignore_eos=True,
        prompt_logprobs=None if scores is None else 1,
    )
    made: dict[AttemptId, list[int]] = {}
    for number, tokens in enumerate(prompts):
        attempt_id = AttemptId(str(number))
        made[attempt_id] = []
        opened.session.send(
            Submit(attempt_id=attempt_id, tokens=tokens, num_prompt=len(tokens), sampling=sampling)
        )
    async with asyncio.timeout(60):
        async for message in opened.session.messages():
            for each in message.outputs if isinstance(message, StepOutputs) else ():
                made[each.attempt_id] += each.tokens
                if scores is not None and each.prompt_logprobs:
                    scores[each.attempt_id] = [score.logprob for score in each.prompt_logprobs]
            if all(len(tokens) >= count for tokens in made.values()):
                break
    opened.session.close()
    return list(made.values())


@pytest.mark.parametrize(
    ("name", "size"), [("grouped", 1), ("grouped", 2), ("grouped", 4), ("few-kv-heads", 4)]
)
async def test_a_worker_of_any_degree_gives_the_tokens_of_transformers(
    name: str, size: int, checkpoint: Checkpoints
) -> None:
    prompts = [prompt(3), prompt(70), prompt(41) + prompt(29, seed=1)]
    reference = Reference(checkpoint(name))
    async with a_worker(settings(checkpoint(name), size), Future()) as worker:
        found = await answers(worker, prompts, NUM_NEW)
        again = await answers(worker, prompts, NUM_NEW)  # from the prefix cache
        scores: dict[AttemptId, list[float]] = {}
        scored = await answers(worker, prompts, NUM_NEW, scores)
        worker.engine.pool.check_integrity()
        pids = [each.pid for each in worker.engine.runner.team.processes] if (size > 1) else []
        assert len(pids) == size - 1
    for number, tokens in enumerate(prompts):
        rows = reference.logits(tokens)[:-1].log_softmax(-1)
        own = rows.gather(-1, torch.tensor(tokens[1:])[:, None])[:, 0].tolist()
        assert scores[AttemptId(str(number))] == pytest.approx(own, abs=1e-4)
    assert found == again == scored == [reference.greedy(tokens, NUM_NEW) for tokens in prompts]
    assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@contextmanager
def a_runner(config: FittedConfig, lost: Future[Exception]) -> Iterator[LeadRunner]:
    runner = make_runner(config, lambda loaded, total: None, lost.set_result)
    assert isinstance(runner, LeadRunner)
    try:
        yield runner
    finally:
        runner.close()


def test_pools_are_as_large_as_the_smallest_rank_s_and_copies_reach_all(
    checkpoint: Checkpoints,
) -> None:
    """Two prompts that part within a block share its beginning, by a copy on every rank."""
    config = settings(checkpoint("grouped"), 2)
    with a_runner(config, Future()) as runner:
        engine, region = make_engine(config, runner, ChunkPolicy(64))
        assert type(engine) is Engine
        assert engine.pool.num_blocks == (1 << 18) // runner.layout.block_bytes
        assert region.num_bytes == (engine.pool.num_blocks + 1) * runner.layout.block_bytes
        prompts = [prompt(31), prompt(30) + prompt(9, seed=1)]
        made = [make_sequence(tokens, greedy(8), name=str(len(tokens))) for tokens in prompts]
        for sequence in made:
            engine.add(sequence)
            engine.step()
        assert made[1].num_cached > 28, "a copied part of a block"
        while engine.busy:
            engine.step()
        engine.pool.check_integrity()
    reference = Reference(checkpoint("grouped"))
    assert [output(s) for s in made] == [reference.greedy(tokens, 8) for tokens in prompts]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


@pytest.mark.parametrize("victim", [1, 3])
def test_a_rank_that_is_killed_in_the_middle_of_a_step_is_named(
    victim: int, checkpoint: Checkpoints
) -> None:
    """Nobody waits for it in a collective, and nobody outlives it."""
    lost: Future[Exception] = Future()
    with a_runner(settings(checkpoint("grouped"), 4), lost) as runner:
        runner.allocate(129)
        sequence = make_sequence(prompt(30))
        give_blocks(sequence, BlockPool(128), 500)
        pids = [each.pid for each in runner.team.processes]
        stopper = threading.Timer(0.0, os.kill, [pids[victim - 1], signal.SIGKILL])
        decode(runner, [sequence], 1)
        stopper.start()
        with pytest.raises(RankLost) as caught:
            decode(runner, [sequence], 400)
        assert str(caught.value) == (
            f"rank {victim} of 4 (process {pids[victim - 1]}) ended: killed by SIGKILL"
        )
        assert lost.result(60) is caught.value
    assert not any(is_alive(pid) for pid in pids)


async def test_an_idle_worker_whose_rank_dies_crashes_at_once(checkpoint: Checkpoints) -> None:
    lost: Future[Exception] = Future()
    async with a_worker(settings(checkpoint("grouped"), 2), lost) as worker:
        (process,) = worker.engine.runner.team.processes  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert "rank 1 of 2" in str(await asyncio.wrap_future(lost))


def a_process(config: WorkerConfig) -> Child:
    """A worker in a process of its own, which serves."""
    given = msgspec.json.encode(config).decode()
    child = Child("worker", ["decode_worker", "--model", config.model, "--settings", given])
    assert child.wait_ready(200) is not None
    return child


def ranks_of(child: Child) -> list[int]:
    """Process ids, in order of rank."""
    pid = child.process.pid
    others = {}
    for each in children_of(pid):
        command = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        if b"worker.ranks" in command:
            others[int(command[command.index(b"worker.ranks") + 1])] = each
    return [pid, *(others[rank] for rank in sorted(others))]


def wait_gone(pids: list[int]) -> None:
    """Processes whose end nobody here is told of."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        import select

        assert select.select([fd], [], [], 60)[0], f"process {pid} is left behind"
        os.close(fd)


@pytest.mark.parametrize("victim", [2, pytest.param(0, marks=pytest.mark.long)])
def test_of_a_worker_process_no_rank_outlives_another(victim: int, checkpoint: Checkpoints) -> None:
    child = a_process(settings(checkpoint("few-kv-heads"), 4))
    pids = ranks_of(child)
    assert len(pids) == 4
    os.kill(pids[victim], signal.SIGKILL)
    child.stop(60)
    wait_gone(pids)
    if victim:
        assert child.process.returncode == 1
        assert any(f"rank {victim} of 4" in line for line in child._errors)


def test_a_worker_process_that_is_asked_to_ends_in_peace(checkpoint: Checkpoints) -> None:
    child = a_process(settings(checkpoint("few-kv-heads"), 2))
    pids = ranks_of(child)
    os.kill(pids[1], signal.SIGTERM)  # as whoever ends a whole group of processes does
    child.process.terminate()
    child.stop(60)
    assert child.process.returncode == 0
    wait_gone(pids)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0, must be at least 1"),
        ({"tensor_parallel_size": 3}, "tensor_parallel_size is 3, must be a divisor of this model"),
        ({"host_cache_bytes": 1 << 20}, "tensor_parallel_size is 2, must be 1: host_cache_bytes"),
        ({"deterministic": True}, "tensor_parallel_size is 2, must be 1: deterministic"),
        ({"runner": RunnerKind.ARITHMETIC}, 'must be 1: runner "arithmetic"'),
        ({"device": "cuda:4096"}, 'device "cuda:4096"'),
    ],
)
def test_settings_that_ranks_cannot_have_are_named(
    changes: dict[str, Any], reason: str, checkpoint: Checkpoints
) -> None:
    config = msgspec.structs.replace(settings(checkpoint("grouped"), 2), **changes)
    with pytest.raises(ConfigError) as caught:
        make_runner(config, lambda loaded, total: None)
    assert reason in str(caught.value)


def test_a_cache_that_has_no_room_is_refused_and_leaves_no_process(
    checkpoint: Checkpoints,
) -> None:
    config = settings(checkpoint("grouped"), 2, cache_bytes=7)
    runner = make_runner(config, lambda loaded, total: None)
    assert isinstance(runner, LeadRunner)
    pids = [each.pid for each in runner.team.processes]
    with pytest.raises(EngineError, match="not one KV cache block fits"):
        make_engine(config, runner, ChunkPolicy(8))
    assert not any(is_alive(pid) for pid in pids)
