"""The workers that play, one of each role: of one rank each, which computes by hand."""

from __future__ import annotations

from typing import Any

from tests.faults.survivor import Survivor
from tests.worker.bench import expected
from wire.identity import Role

STAMPS = {Role.PREFILL: 1, Role.DECODE: 2}
NUM_LAYERS, WIDTH = 4, 256
"""16 KiB of cache for a token: a prompt of 2,000 is 32 MB, which takes a while to travel."""
MIB = 1024 * 1024


class Scene:
    num_prompt_tokens = 2000

    def __init__(self, ucx_tls: str | None) -> None:
        self._ucx_tls = ucx_tls

    def settings(self, role: Role) -> dict[str, Any]:
        """Of a worker with short deadlines and large blocks."""
        return {
            **self._patience(role),
            "model": "m",
            "runner": "arithmetic",
            "stamp": STAMPS[role],
            "width": WIDTH,
            "num_layers": NUM_LAYERS,
            "cache_bytes": 96 * MIB,
            "max_model_len": 4096,
        }

    def survivor(self, role: Role) -> Survivor:
        return Survivor(role, self.settings(role))

    def is_right(self, prompt: list[int], tokens: list[int]) -> bool:
        """Whether both workers together had to answer so."""
        made_by = [token % 4 for token in tokens]
        return tokens == expected(prompt, made_by) and made_by[0] == STAMPS[Role.PREFILL]

    def _patience(self, role: Role) -> dict[str, Any]:
        ucx_env = {"UCX_NET_DEVICES": "lo"} | ({"UCX_TLS": self._ucx_tls} if self._ucx_tls else {})
        return {
            "worker_id": role.value,
            "ucx_env": ucx_env,
            "handoff_deadline_s": 5.0,
            "transfer_deadline_s": 2.5,
            "fence_deadline_s": 1.0,
        }
