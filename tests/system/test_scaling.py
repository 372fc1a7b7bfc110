"""A pool that follows the load, of real processes: a worker is added, and leaves drained."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import grpc
import pytest
import yaml

from tests.system.clusters import LOOPBACK, a_request, answer
from tests.system.shells import BIN, Shell
from wire import inference_pb2_grpc as rpc

pytestmark = pytest.mark.long

CROWD, LONG, SHORT = 12, 64, 8
PAUSE_S = 2.0
STEPS = {"step_s": 0.02, "sequence_s": 0.006, "prompt_token_s": 0.0005}
"""By these one worker serves 1.2 long requests a second within the target, whatever the machine."""


def write(path: Path) -> None:
    """The bundled model on one worker, which may become two."""
    tree = {
        "worker": {"runner": "arithmetic", "step_costs": STEPS, "threads": 1, "ucx_env": LOOPBACK},
        "prefill": {"replicas": 0},
        "decode": {"replicas": 1, "max_workers": 2},
        "router": {"tpot_target_s": 0.06, "worker_start_s": 5, "scale_down_after_s": 5},
    }
    path.write_text(yaml.safe_dump(tree))


class Load:
    """Requests without end: a crowd of long ones, or now and then a short one."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.is_crowd = True
        self.is_over = False
        self.num_whole = 0

    async def run(self) -> None:
        """Until it is over. Fails with the first request that is not answered whole."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = rpc.InferenceStub(channel)
            await asyncio.gather(*(self._ask(stub, number) for number in range(CROWD)))

    async def _ask(self, stub: rpc.InferenceStub, number: int) -> None:
        turn = 0
        while not self.is_over and (self.is_crowd or number == 0):
            turn += 1
            count = LONG if self.is_crowd else SHORT
            draw = random.Random(1000 * number + turn)  # nothing of a prompt is cached
            prompt = [draw.randrange(5, 200) for _ in range(300)]
            tokens, _ = await answer(stub, a_request(prompt, count))
            assert len(tokens) == count
            self.num_whole += 1
            if not self.is_crowd:
                await asyncio.sleep(PAUSE_S)


async def come_and_go(up: Shell, load: Load) -> None:
    """The load comes, a worker is added; it goes, the worker leaves."""
    requests = asyncio.create_task(load.run())

    async def said(pattern: str) -> None:
        line = asyncio.create_task(asyncio.to_thread(up.line_with, pattern))
        await asyncio.wait([line, requests], return_when=asyncio.FIRST_COMPLETED)
        if requests.done():
            requests.result()
        await line

    await said("scales decode from 1 to 2 workers")
    await said(r"decode-1\s+ready")
    load.is_crowd = False
    await said("scales decode from 2 to 1 workers")
    await said(r"decode-1\s+left")
    load.is_over = True
    await requests


@pytest.mark.timeout(400)
def test_a_worker_is_added_under_load_and_leaves_after_it_without_a_request_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cluster.yaml"
    write(path)
    with Shell([str(BIN / "tandem"), "up", "-c", str(path), "--without-ray"], {}) as up:
        address = up.line_with(r"router-0\s+ready\s+grpc (\S+)").group(1)
        up.line_with("Ctrl-C stops")
        load = Load(address)
        asyncio.run(come_and_go(up, load))
        assert up.end(signal.SIGTERM) == 0
    assert load.num_whole > CROWD
