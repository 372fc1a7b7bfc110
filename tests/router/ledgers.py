"""A ledger with workers that have said so much of themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from decode_worker.scheduler import DecodePolicy
from prefill_worker.scheduler import PrefillPolicy
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger
from wire.identity import ProcessRef, Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import WorkerCard
from wire.reports import LinkReport, Report, StepCosts, WorkerState

LAYOUT = KvLayout(num_layers=32, num_kv_heads=8, head_size=128, block_size=16, dtype="float16")
COSTS = StepCosts(
    step_s=6e-3,
    sequence_s=3e-5,
    context_token_s=4e-8,
    prompt_token_s=3e-5,
    prompt_pair_s=2e-9,
)


TRAITS = {Role.PREFILL: PrefillPolicy().traits, Role.DECODE: DecodePolicy().traits}


def card(name: str, role: Role, **options: Any) -> WorkerCard:
    defaults: dict[str, Any] = {
        "address": "",
        "model": "m",
        "model_hash": "m",
        "layout": LAYOUT,
        "content": "c",
        "num_blocks": 20_000,
        "max_model_len": 200_000,
        "policies": TRAITS,
        "transport": "nixl",
        "process": ProcessRef("host", 1),
    }
    return WorkerCard(ref=WorkerRef(name, 1), role=role, **{**defaults, **options})


def report(**options: Any) -> Report:
    defaults: dict[str, Any] = {
        "state": WorkerState.READY,
        "num_running": 0,
        "num_waiting": 0,
        "waiting_tokens": 0,
        "free_blocks": 20_000,
        "num_blocks": 20_000,
    }
    return Report(**{**defaults, **options})


class Scene:
    """`add` workers; `hits` says how many tokens of the prompt each of them has."""

    def __init__(self) -> None:
        self.ledger = Ledger("router", 1000)
        self._hits: dict[WorkerRef, int] = {}

    def add(
        self,
        name: str,
        role: Role,
        *,
        ready: bool = True,
        hits: int = 0,
        told: dict[str, Any] | None = None,
        costs: StepCosts | None = None,
        **options: Any,
    ) -> WorkerRef:
        worker = card(name, role, **options)
        self.ledger.add(worker)
        self.ledger.set_ready(worker.ref, ready)
        self.ledger.on_report(worker.ref, report(costs=costs, **(told or {})))
        self._hits[worker.ref] = hits
        return worker.ref

    def tell(self, ref: WorkerRef, **told: Any) -> None:
        """Another report of a worker."""
        self.ledger.on_report(ref, report(**told))

    def link(self, source: WorkerRef, destination: WorkerRef, bytes_per_s: float) -> None:
        link = LinkReport(
            destination=destination,
            latency_s=1e-3,
            bytes_per_s=bytes_per_s,
            transport="nixl",
            kind="network",
        )
        self.ledger.measured(source, link)

    @property
    def hits(self) -> Hits:
        tokens = np.zeros(len(self.ledger.table.refs))
        for ref, count in self._hits.items():
            row = self.ledger.table.row(ref)
            assert row is not None
            tokens[row] = count
        return Hits(tokens, tokens)
