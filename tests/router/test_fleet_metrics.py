"""What one scrape tells of every worker."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from router.fleet.fleet_metrics import FleetCollector
from router.fleet.member import Member, MemberState
from router.placing.ledger import Ledger
from router.placing.revisions import RevisionView
from runtime.handoffs import HandoffCounters
from tests.router.fake_worker import FakeWorker
from wire.identity import Role, WorkerRef
from wire.reports import LinkReport, Report, WorkerState

pytestmark = pytest.mark.quick


def a_member(role: Role) -> Member:
    worker = FakeWorker(role.value, role, peers={})
    worker.address = "nowhere"
    return Member(worker.card, Ledger("router", 1))


class AFleet:
    """One decode worker that has reported, and a prefill worker that has not."""

    num_failed_handoffs = 3

    def __init__(self, report: Report) -> None:
        self._decode, self._prefill = a_member(Role.DECODE), a_member(Role.PREFILL)
        self._decode.on_report(report)
        self.handoffs = HandoffCounters()

    def count(self) -> dict[tuple[str, Role, MemberState], int]:
        return {
            ("tiny", Role.DECODE, MemberState.READY): 1,
            ("tiny", Role.PREFILL, MemberState.JOINING): 1,
        }

    def members(self) -> list[Member]:
        return [self._decode, self._prefill]

    def revisions(self) -> list[tuple[str, RevisionView]]:
        ready = {Role.PREFILL: 0, Role.DECODE: 1}
        return [("tiny", RevisionView(revision="hash", serves=True, num_ready=ready))]

    def links(self) -> list[tuple[WorkerRef, LinkReport]]:
        return []

    def block_size(self, ref: WorkerRef) -> int:
        return 4


def samples_of(report: Report) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(FleetCollector(AFleet(report)))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(v for k, v in sample.labels.items() if k not in ("worker", "role"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def a_report(**fields: int) -> Report:
    given = {"num_running": 5, "num_waiting": 2, "waiting_tokens": 700, "free_blocks": 60}
    given |= {"num_blocks": 100, "cached_blocks": 50, "num_handoffs": 1, **fields}
    return Report(state=WorkerState.READY, **given)


def test_blocks_add_up_to_all_that_a_worker_has() -> None:
    samples = samples_of(a_report())
    blocks = {key[1]: value for key, value in samples.items() if key[0] == "tandem_worker_blocks"}
    assert blocks == {"used": 40, "cached": 50, "blank": 10}
    assert samples["tandem_worker_kv_used_ratio",] == 0.4


def test_load_is_told_by_what_it_is() -> None:
    samples = samples_of(a_report())
    assert samples["tandem_worker_sequences", "running"] == 5
    assert samples["tandem_worker_sequences", "waiting"] == 2
    assert samples["tandem_worker_waiting_tokens",] == 700
    assert samples["tandem_worker_handoffs",] == 1
    assert samples["tandem_handoffs_kept_total",] == 3


def test_host_memory_is_told_where_there_is_some() -> None:
    assert not any("host" in key for key in samples_of(a_report()))
    samples = samples_of(a_report(num_host_blocks=20, cached_host_blocks=15))
    assert samples["tandem_worker_blocks", "cached", "host"] == 15
    assert samples["tandem_worker_blocks", "other", "host"] == 5


def test_a_worker_that_has_not_reported_is_counted_and_nothing_more() -> None:
    assert samples_of(a_report())["tandem_workers", "tiny", "joining"] == 1
    assert samples_of(a_report())["tandem_revision_serving", "tiny", "hash"] == 1
