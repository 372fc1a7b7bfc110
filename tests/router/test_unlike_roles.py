"""Roles and costs of workers on unlike devices."""

from __future__ import annotations

import pytest

from benchmarks.model_shapes import LLAMA_8B
from decode_worker.scheduler import DecodePolicy
from prefill_worker.scheduler import PrefillPolicy
from router.placing.placement_request import Placement, PlacementRequest, Slo, Split
from sim.devices.device import Device, read_device
from sim.devices.roofline import machine_of
from tests.router.ledgers import Scene
from tests.router.test_roles import decide_until_calm, load
from wire.identity import Role, WorkerRef
from wire.reports import StepCosts

pytestmark = pytest.mark.quick

SPARK = Device(name="spark", memory_gb=128, memory_gb_per_s=273, tflops={"bfloat16": 100})
MAC = Device(name="mac", memory_gb=512, memory_gb_per_s=819, tflops={"bfloat16": 26})
CPU = Device(name="cpu", memory_gb=512, memory_gb_per_s=600, tflops={"bfloat16": 6})

LARGE_CHUNKS = {Role.PREFILL: PrefillPolicy(2048).traits, Role.DECODE: DecodePolicy(2048).traits}


def costs(device: Device, **changes: float | None) -> StepCosts:
    machine = machine_of(device, LLAMA_8B)
    names = StepCosts.__struct_fields__
    return StepCosts(**{**{name: getattr(machine, name) for name in names}, **changes})


def roles_after(
    heavy: Device, other: Device, counts: tuple[int, int], tpot_s: float, per_s: float
) -> dict[str, list[Role]]:
    """Roles that a controller leaves, by device; the first kind begins with decoding."""
    made = Scene()
    for device, count, role in ((heavy, counts[0], Role.DECODE), (other, counts[1], Role.PREFILL)):
        for number in range(count):
            name = f"{device.name}-{number}"
            made.add(name, role, costs=costs(device), device=device.name, policies=LARGE_CHUNKS)
    decide_until_calm(made, load(made, 4096, 100, per_s, tpot_s))
    found: dict[str, list[Role]] = {}
    table = made.ledger.table
    for row, ref in enumerate(table.refs):
        if ref is not None:
            role = Role.PREFILL if table.prefills[row] else Role.DECODE
            found.setdefault(ref.worker_id.split("-")[0], []).append(role)
    return found


@pytest.mark.parametrize(
    ("heavy", "other", "counts", "tpot_s", "per_s"),
    [
        (read_device("h200"), read_device("h20"), (2, 4), 0.015, 14.0),
        (SPARK, MAC, (1, 1), 0.05, 1.0),
        (read_device("l40s"), CPU, (1, 2), 0.2, 2.0),
    ],
    ids=["h200-beside-h20", "compute-heavy-beside-bandwidth-heavy", "cpu-decodes-what-a-gpu-read"],
)
def test_the_kind_that_computes_better_than_it_decodes_prefills(
    heavy: Device, other: Device, counts: tuple[int, int], tpot_s: float, per_s: float
) -> None:
    roles = roles_after(heavy, other, counts, tpot_s, per_s)
    assert set(roles[heavy.name]) == {Role.PREFILL}
    assert Role.DECODE in roles[other.name]


def test_workers_lend_their_costs_to_others_on_the_same_kind_of_device() -> None:
    made = Scene()
    for name in ("h200", "h20"):
        device = read_device(name)
        made.add(f"{name}-0", Role.DECODE, costs=costs(device), device=name)
        made.add(f"{name}-1", Role.DECODE, device=name)
    table = made.ledger.table
    for first in (0, 2):
        assert table.prompt_token_s[first + 1] == table.prompt_token_s[first]
    assert table.prompt_token_s[3] > 5 * table.prompt_token_s[1]
    assert not table.any_guessed


def test_a_kind_of_device_that_has_only_decoded_is_given_prompts_until_it_has_told_their_cost() -> (
    None
):
    """Else the compute of another device would be taken for its own, and it would never be asked
    for prompts that would show it."""
    made = Scene()
    made.add("h20-0", Role.PREFILL, costs=costs(read_device("h20")), device="h20")
    decoded = costs(read_device("h200"), prompt_token_s=None, prompt_pair_s=None)
    made.add("h200-0", Role.DECODE, costs=decoded, device="h200")
    assert made.ledger.table.any_guessed
    assert place(made) == ("h200-0", None)
    made.tell(WorkerRef("h200-0", 1), costs=costs(read_device("h200")))
    assert not made.ledger.table.any_guessed


def test_of_one_kind_of_device_nothing_is_guessed() -> None:
    made = Scene()
    whole = costs(read_device("h200"))
    made.add("a", Role.PREFILL, costs=costs(read_device("h200"), sequence_s=None))
    made.add("b", Role.DECODE, costs=whole)
    assert not made.ledger.table.any_guessed


def place(made: Scene) -> tuple[str, str | None]:
    request = PlacementRequest(
        key="r",
        num_prompt_tokens=4096,
        num_tokens=4200,
        num_new_tokens=100,
        slo=Slo(5.0, 0.05),
        split=Split.AUTO,
        roles_follow=True,
    )
    found = made.ledger.place(request, made.hits, 0.0)
    assert isinstance(found, Placement)
    destination = found.destination
    return found.first.worker_id, None if destination is None else destination.worker_id
