"""docs/metrics.md has every metric that there is, and no other."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from router.errors import REASONS
from router.fleet.fleet import Fleet
from router.fleet.fleets import Fleets
from router.metrics import CACHE_SIDES, OUTCOMES, RouterMetrics
from tests.docs.blocks import ROOT
from tests.worker.test_live import a_worker
from tests.worker.test_status_port import a_reader
from wire.identity import Role

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def _named(scrape: str) -> set[str]:
    """Families, as their series begin; not when these were created, which tells nobody anything."""
    families = text_string_to_metric_families(scrape)
    names = {f"{it.name}_total" if it.type == "counter" else it.name for it in families}
    return {it for it in names if it.startswith("tandem_") and not it.endswith("_created")}


def _told(title: str) -> set[str]:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    firsts = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    return set(re.findall(r"tandem_\w+", " ".join(firsts)))


async def test_the_page_has_every_metric_and_no_other() -> None:
    fleet = Fleet("router", "model", open_timeout_s=1, index_max_entries=1)
    of_router = _named(RouterMetrics(Fleets([fleet])).expose().decode())
    async with a_worker(Role.DECODE, metrics_port=0) as worker, a_reader(worker) as http:
        of_worker = _named((await http.get("/metrics")).text)
    assert _told("Of workers and links") == of_worker
    assert _told("Of a router") == of_router - of_worker
    assert of_worker <= of_router


def test_the_page_has_every_outcome_reason_and_side() -> None:
    for word in (*OUTCOMES, *REASONS, *CACHE_SIDES):
        assert f"`{word}`" in PAGE
