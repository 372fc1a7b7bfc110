"""A router's status as a terminal shows it: for each model its workers, stages and sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.roles.bottleneck import BINDS_FROM, Bottleneck, StageLoad
from router.roles.model_status import LinkView, ModelStatus, StatusBody, WorkerView

BAR_CELLS = 20
MOST_LINKS = 8
"""Links that are shown; the JSON has all."""
HIGH = 0.6
"""Load from which a bar is yellow."""


def status_view(status: StatusBody) -> RenderableType:
    """All models, one below the other."""
    draining = Text(", draining", style="yellow") if status.draining else Text()
    head = Text.assemble((status.router_id, "bold"), f"   tandem {status.version}", draining)
    return Group(head, *(part for model in status.models for part in _model(model)))


def _model(model: ModelStatus) -> Iterator[RenderableType]:
    yield Text()
    yield Text.assemble("model ", (model.name, "bold"))
    for number, sentence in enumerate(model.sentences):
        yield Text(sentence, style="bold" if number == 0 else "")
    if model.bottleneck is not None:
        yield _stages(model.bottleneck)
    yield _workers(model.workers)
    yield from _links(model.workers)


def _stages(found: Bottleneck) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for stage in found.stages:
        serves = "" if stage.serves_per_s is None else f"of {stage.serves_per_s:.1f} requests/s"
        table.add_row(stage.stage.value, _bar(stage), _percent(stage.load), Text(serves, "dim"))
    return table


def _bar(stage: StageLoad) -> Text:
    full = min(BAR_CELLS, round(stage.load * BAR_CELLS))
    color = "red" if stage.load >= BINDS_FROM else "yellow" if stage.load >= HIGH else "green"
    return Text.assemble(("█" * full, color), ("░" * (BAR_CELLS - full), "dim"))


def _workers(workers: tuple[WorkerView, ...]) -> Table:
    table = _table("worker", "role")
    for column in ("busy", "step", "runs", "waits", "KV", "in/s", "out/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for worker in workers:
        table.add_row(*_cells(worker))
    return table


def _cells(worker: WorkerView) -> tuple[str | Text, ...]:
    return (
        worker.worker_id,
        _role(worker),
        "-" if worker.busy is None else _percent(worker.busy),
        "-" if worker.step_s is None else _time(worker.step_s),
        str(worker.num_running),
        f"{_count(worker.waiting_tokens)} tok" if worker.waiting_tokens else "-",
        _percent(worker.kv_used),
        _count(worker.prefilled_per_s),
        _count(worker.generated_per_s),
    )


def _role(worker: WorkerView) -> Text:
    """The present role, behind that of its pool if it is another; or a state that is none."""
    if worker.state != "ready":
        return Text(worker.state, "yellow")
    if worker.role == worker.pool_role:
        return Text(worker.role)
    return Text.assemble((f"{worker.pool_role}→", "dim"), (worker.role, "cyan"))


def _links(workers: tuple[WorkerView, ...]) -> Iterator[RenderableType]:
    """The busiest links; nothing where there is none."""
    links = [(worker.worker_id, link) for worker in workers for link in worker.links]
    if not links:
        return
    links.sort(key=lambda it: (not it[1].slow, -it[1].used_bytes_per_s))
    table = _table("link", "kind")
    for column in ("gives", "used", "exposed"):
        table.add_column(column, justify="right", no_wrap=True)
    for source, link in links[:MOST_LINKS]:
        table.add_row(*_link_cells(source, link))
    yield table
    if len(links) > MOST_LINKS:
        yield Text(f"and {len(links) - MOST_LINKS} links with less traffic", "dim")


def _link_cells(source: str, link: LinkView) -> tuple[str | Text, ...]:
    return (
        f"{source} → {link.destination}",
        Text.assemble(link.kind, (" slow" if link.slow else "", "red")),
        f"{link.bytes_per_s / 1e9:.1f} GB/s",
        f"{link.used_bytes_per_s / 1e6:.1f} MB/s",
        "-" if link.exposed_s is None else _time(link.exposed_s),
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _count(number: float) -> str:
    if number >= 1e6:
        return f"{number / 1e6:.1f}M"
    return f"{number / 1e3:.1f}k" if number >= 1e4 else f"{number:.0f}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
