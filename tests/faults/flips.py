"""Bits that flip on the way: each must be caught, and cost nothing."""

from __future__ import annotations

import asyncio
import ctypes
import random
from collections.abc import Callable, Sequence

from kv_transfer.layout.region import CacheRegion
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.transport import PostedTransfer
from tests.faults.scene import Scene
from tests.faults.survivor import Survivor
from tests.faults.victim import Victim
from wire.identity import AttemptId, Role
from wire.messages import Destination, Handed, Kept, Submit
from wire.sampling import SamplingParams


class FlippingLink(NixlTransport):
    """Every write carries one bit that is not as it was when its checksum was taken."""

    draw = random.Random(0)
    armed = False

    def register(
        self, pool: CacheRegion, num_blocks: int, staging: CacheRegion | None = None
    ) -> None:
        super().register(pool, num_blocks, staging)
        self._address, self._block_bytes = pool.address, pool.num_bytes // num_blocks

    def write(
        self, peer: str, blocks: Sequence[int], remote_blocks: Sequence[int]
    ) -> PostedTransfer:
        if not FlippingLink.armed:
            return super().write(peer, blocks, remote_blocks)
        offset = self.draw.choice(blocks) * self._block_bytes
        return self._flipped(
            offset + self.draw.randrange(self._block_bytes),
            lambda: NixlTransport.write(self, peer, blocks, remote_blocks),
        )

    def write_spans(self, peer: str, spans: Offsets, *, staged: bool) -> PostedTransfer:
        """Layers that leave on their own."""
        assert not staged
        start, _, num_bytes = spans[self.draw.randrange(len(spans))].tolist()
        return self._flipped(
            start + self.draw.randrange(num_bytes),
            lambda: NixlTransport.write_spans(self, peer, spans, staged=staged),
        )

    def _flipped(self, offset: int, write: Callable[[], PostedTransfer]) -> PostedTransfer:
        byte = ctypes.c_uint8.from_address(self._address + offset)
        bit = 1 << self.draw.randrange(8)
        byte.value ^= bit
        transfer = write()
        while not transfer.done():
            pass
        byte.value ^= bit
        return transfer


async def run(num_flips: int, ucx_tls: str | None) -> int:
    """How many of so many flipped bits were caught, each in a handoff of its own."""
    scene = Scene(ucx_tls)
    survivor = scene.survivor(Role.PREFILL)
    await survivor.start()
    decode = await Victim.start(Role.DECODE, scene.settings(Role.DECODE))
    card = decode.opened.card
    num_caught = 0
    for number in range(num_flips + 1):
        FlippingLink.armed = number > 0  # the first opens the link
        prompt = (number, *range(1, 40))
        attempt_id = AttemptId(f"r{number}")
        survivor.session.send(
            Submit(
                attempt_id=attempt_id,
                tokens=prompt,
                num_prompt=len(prompt),
                sampling=SamplingParams(max_tokens=2),
                destination=Destination(card.ref, card.address),
            )
        )
        num_caught += await _is_kept(attempt_id, survivor, decode) and FlippingLink.armed
        await survivor.until_whole(60)
    await decode.kill()
    await survivor.worker.stop()
    return num_caught


async def _is_kept(attempt_id: AttemptId, survivor: Survivor, decode: Victim) -> bool:
    """Because of its checksum, and not for another cause."""
    ends = survivor.session, decode.opened.session
    hearing = [asyncio.create_task(end.receive()) for end in ends]
    try:
        while True:
            done, _ = await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                message, place = task.result(), hearing.index(task)
                if isinstance(message, Kept) and message.attempt_id == attempt_id:
                    return "checksum" in message.cause
                if isinstance(message, Handed) and message.attempt_id == attempt_id:
                    return False
                hearing[place] = asyncio.create_task(ends[place].receive())
    finally:
        for task in hearing:
            task.cancel()
