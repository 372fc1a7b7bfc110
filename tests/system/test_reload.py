"""`tandem up --reload`: what runs becomes like the file, and no request notices."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
import yaml

from tests.system.clusters import DECODE_STAMP, LOOPBACK, PREFILL_STAMP, a_request, answer
from tests.system.shells import BIN, Shell
from tests.system.test_first_light import expected
from wire import inference_pb2_grpc as rpc

pytestmark = pytest.mark.long

NUM_TOKENS = 150
PROMPTS = [[*range(start, start + 60)] for start in range(0, 60, 10)]


def write(path: Path, replicas: int, **worker: int) -> None:
    """A file as an operator has it, but for workers that compute sums, slowly."""
    decode = {"replicas": replicas, "worker": {"stamp": DECODE_STAMP, **worker}}
    tree = {
        "worker": {
            "runner": "arithmetic",
            "step_s": 0.02,
            "ucx_env": LOOPBACK,
            "cache_bytes": 4 * 1024 * 1024,
        },
        "prefill": {"worker": {"stamp": PREFILL_STAMP}},
        "decode": decode,
        "router": {"split": "always"},
    }
    path.write_text(yaml.safe_dump(tree))


async def stream_all(address: str) -> None:
    """Each answer is whole, and made by a prefill and a decode worker."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = rpc.InferenceStub(channel)
        asked = [answer(stub, a_request(prompt, NUM_TOKENS)) for prompt in PROMPTS]
        for prompt, (tokens, _) in zip(PROMPTS, await asyncio.gather(*asked), strict=True):
            stamps = [PREFILL_STAMP] + (NUM_TOKENS - 1) * [DECODE_STAMP]
            assert tokens == expected(prompt, stamps)


async def streams_during(address: str, path: Path, replicas: int, **worker: int) -> None:
    """The file changes while streams are under way."""
    streams = asyncio.create_task(stream_all(address))
    await asyncio.sleep(0)
    write(path, replicas, **worker)
    await streams


@pytest.mark.timeout(400)
def test_workers_come_go_and_are_replaced_under_running_streams(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    write(path, 1)
    up = Shell([str(BIN / "tandem"), "up", "-c", str(path), "--reload", "--without-ray"], {})
    try:
        address = up.line_with(r"router-0\s+ready\s+grpc (\S+)").group(1)
        up.line_with("Ctrl-C stops")
        asyncio.run(streams_during(address, path, 2))
        up.line_with("the configuration has changed: it adds decode-1")
        up.line_with(r"decode-1\s+ready")
        asyncio.run(streams_during(address, path, 1))
        up.line_with("the configuration has changed: it drains decode-1")
        up.line_with(r"decode-1\s+left")
        write(path, 1, max_sequences=64)
        up.line_with("it replaces decode-0")
        up.line_with(r"decode-0\s+left")
        up.line_with(r"decode-0\s+ready")
        asyncio.run(stream_all(address))
        path.write_text("decode: {replica: 3}")
        up.line_with("the change is refused: .*replica")
        asyncio.run(stream_all(address))
    finally:
        status = up.end(signal.SIGTERM)
    assert status == 0
