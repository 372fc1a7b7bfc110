"""A pool that follows the load, of real processes: a worker is added.

That workers leave again is tested without processes, in tests/router and tests/cluster.
"""

from __future__ import annotations

import asyncio
import random
import signal
from itertools import count
from pathlib import Path

import grpc
import pytest
import yaml

from tests.system.clusters import LOOPBACK, a_request, answer
from tests.system.shells import BIN, Shell
from wire import inference_pb2_grpc as rpc

pytestmark = pytest.mark.long

CROWD, NUM_NEW = 12, 64


STEPS = {"step_s": 0.02, "sequence_s": 0.006, "prompt_token_s": 0.0005}
"""By these one worker serves 1.2 such requests a second within the target, whatever the machine."""


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
    """A crowd of clients, each of which asks again as soon as it is answered."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.is_over = False
        self.num_whole = 0

    async def run(self) -> None:
        """Until it is over. Fails with the first request that is not answered whole."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = rpc.InferenceStub(channel)
            await asyncio.gather(*(self._ask(stub, number) for number in range(CROWD)))

    async def _ask(self, stub: rpc.InferenceStub, number: int) -> None:
        for turn in count(1):
            if self.is_over:
                return
            draw = random.Random(1000 * number + turn)  # nothing of a prompt is cached
            prompt = [draw.randrange(5, 200) for _ in range(300)]
            tokens, _ = await answer(stub, a_request(prompt, NUM_NEW))
            assert len(tokens) == NUM_NEW
            self.num_whole += 1


async def grow(up: Shell, load: Load) -> None:
    """The load comes, and a worker is added that serves it, too."""
    requests = asyncio.create_task(load.run())
    for pattern in ("scales decode from 1 to 2 workers", r"decode-1\s+ready"):
        line = asyncio.create_task(asyncio.to_thread(up.line_with, pattern))
        await asyncio.wait([line, requests], return_when=asyncio.FIRST_COMPLETED)
        if requests.done():
            requests.result()
        await line
    load.is_over = True
    await requests


@pytest.mark.timeout(400)
def test_a_worker_is_added_under_load_without_a_request_lost(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    write(path)
    with Shell([str(BIN / "tandem"), "up", "-c", str(path), "--without-ray"], {}) as up:
        address = up.line_with(r"router-0\s+ready\s+grpc (\S+)").group(1)
        up.line_with("Ctrl-C stops")
        load = Load(address)
        asyncio.run(grow(up, load))
        assert up.end(signal.SIGTERM) == 0
    assert load.num_whole >= CROWD
