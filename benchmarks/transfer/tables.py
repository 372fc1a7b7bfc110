"""Tables of the measurements."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from benchmarks.measure import Times
from benchmarks.transfer.costs import Digested
from benchmarks.transfer.flows import Flows
from benchmarks.transfer.layouts import Result, fitted
from benchmarks.transfer.rates import KIB, MIB, CpuCost, Rates


def rates_table(rates: list[Rates], scattered: bool) -> Table:
    order = "scattered" if scattered else "contiguous"
    table = Table("total", "block", title=f"{order} blocks: GB/s, and of memory copy")
    for path in rates[0].paths:
        table.add_column(path, justify="right")
    table.add_column("memory copy", justify="right")
    shown = [found for found in rates if found.case.scattered == scattered]
    for found in sorted(shown, key=lambda found: found.case.total_bytes):
        cells = [f"{found.gb_s(path):.2f}  {found.of_copy(path):.2f}" for path in found.paths]
        sizes = size(found.case.total_bytes), size(found.case.block_bytes)
        table.add_row(*sizes, *cells, f"{found.copy_gb_s:.1f}")
    return table


def cpu_table(costs: list[CpuCost]) -> Table:
    paths = list(dict.fromkeys(cost.path for cost in costs))
    table = Table("block", *paths, title="CPU seconds for each GB, both ends, scattered blocks")
    for block_bytes in dict.fromkeys(cost.block_bytes for cost in costs):
        row = [cost for cost in costs if cost.block_bytes == block_bytes]
        table.add_row(size(block_bytes), *(f"{cost.s_per_gb:.2f}" for cost in row))
    return table


def layouts_table(results: list[Result]) -> Table:
    table = Table("layouts", "pieces", "direct", "staged", "copy", "faster")
    table.title = "16 MiB in scattered blocks: ms by descriptors, through staging, of it copying"
    for found in results:
        table.add_row(
            found.case.name,
            f"{found.num_pieces} x {size(found.piece_bytes)}",
            "-" if found.direct is None else _ms(found.direct),
            _ms(found.staged),
            _ms(found.copy),
            found.faster,
        )
    return table


def cost_line(results: list[Result]) -> str:
    found = fitted(results)
    return (
        f"a descriptor costs {found.descriptor_s * 1e6:.1f} us, the link gives "
        f"{found.link_bytes_per_s / 1e9:.1f} GB/s, copying into staging "
        f"{found.copy_bytes_per_s / 1e9:.1f} GB/s: it pays for pieces below "
        f"{found.threshold_bytes / KIB:.1f} KiB"
    )


def flows_table(flows: list[Flows]) -> Table:
    table = Table("flows", "GB/s together", "slowest over fastest")
    table.title = "concurrent writes of 64 MiB, a link each"
    for found in flows:
        table.add_row(str(found.num_flows), f"{found.gb_s:.2f}", f"{found.spread:.2f}")
    return table


def digests_table(checksums: Iterable[Digested]) -> Table:
    table = Table("block", "GB/s", "of the write's time", title="checksum of host blocks")
    for found in checksums:
        table.add_row(size(found.block_bytes), f"{found.gb_s:.1f}", f"{found.of_write:.0%}")
    return table


def size(num_bytes: int) -> str:
    if num_bytes >= MIB:
        return f"{num_bytes // MIB} MiB"
    return f"{num_bytes / KIB:g} KiB"


def _ms(times: Times) -> str:
    return f"{times.median_s * 1e3:.2f}"
