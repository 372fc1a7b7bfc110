"""Kinds of workers that devices allow: every tensor-parallel degree that holds the model and keeps
the targets for one request alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sim.devices.device import Device
from sim.devices.errors import BadDevice, DoesNotFit
from sim.devices.model_shape import ModelShape
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from sim.plan.plan_errors import NothingFits
from sim.plan.pool_choice import Needs, WorkerKind
from sim.plan.traffic_profile import TrafficProfile
from sim.traces import BLOCK_TOKENS

DEGREES = (1, 2, 4, 8)
"""Tensor-parallel degrees that are tried: GPUs of one node."""


class DeviceStock(msgspec.Struct, frozen=True):
    """A kind of device, and how many exist; None for any number."""

    device: Device
    count: int | None = None


class KindsFound(msgspec.Struct, frozen=True):
    """`able` are the workers that can serve; `reasons` say why others cannot, a sentence each."""

    able: tuple[WorkerKind, ...]
    reasons: tuple[str, ...]


def worker_kinds(
    stock: Sequence[DeviceStock], shape: ModelShape, block_tokens: int = BLOCK_TOKENS
) -> KindsFound:
    """Workers that hold the model. Raises NothingFits where there are none.

    Prices count where every device has one. KV blocks have `block_tokens` tokens.
    """
    priced = all(each.device.price_per_hour > 0 for each in stock)
    able, reasons = [], []
    for each in stock:
        for degree in DEGREES:
            if each.count is not None and degree > each.count:
                continue
            try:
                able.append(_kind(each, shape, degree, priced, block_tokens))
            except (DoesNotFit, BadDevice) as error:
                reasons.append(f"{each.device.name} TP{degree}: {error}")
    if not able:
        raise NothingFits("no worker can hold the model:\n  " + "\n  ".join(reasons))
    return KindsFound(tuple(able), tuple(reasons))


def check_targets(kinds: Sequence[WorkerKind], traffic: TrafficProfile, needs: Needs) -> None:
    """Raises NothingFits where no worker keeps a target, or holds the sequences, even with a single
    request."""
    _check_lengths(kinds, traffic, needs)
    _check_tpot(kinds, traffic, needs)
    _check_ttft(kinds, traffic, needs)


def one_step_s(machine: MachineModel, traffic: TrafficProfile) -> float:
    """A step in which one sequence decodes."""
    context = traffic.cached_tokens + traffic.uncached_tokens + traffic.answer_tokens / 2
    return machine.step_s + machine.sequence_s + machine.context_token_s * context


def capacity_tokens(machine: MachineModel) -> int:
    """The longest sequence that the worker holds."""
    pool = machine.num_blocks * machine.layout.block_size
    return min(pool, machine.max_model_len)


def _kind(
    stock: DeviceStock, shape: ModelShape, degree: int, priced: bool, block_tokens: int
) -> WorkerKind:
    device = stock.device
    if shape.intermediate_size % degree:
        width = f"the feed-forward's width of {shape.intermediate_size}"
        raise DoesNotFit(f"{width} cannot be divided among {degree} devices")
    return WorkerKind(
        device=device.name,
        tensor_parallel=degree,
        machine=machine_of(device, shape, degree).with_block_size(block_tokens),
        price_per_hour=degree * device.price_per_hour if priced else None,
        num_gpus_that_exist=stock.count,
    )


def _check_lengths(kinds: Sequence[WorkerKind], traffic: TrafficProfile, needs: Needs) -> None:
    roomiest = max(kinds, key=lambda kind: capacity_tokens(kind.machine))
    room = capacity_tokens(roomiest.machine)
    share = traffic.share_longer(room)
    if share > 1 - needs.attainment:
        why = "the model's limit" if room == roomiest.machine.max_model_len else "its KV cache"
        raise NothingFits(
            f"{share:.1%} of the trace's requests are longer than {room:,} tokens, the most that "
            f"any worker holds ({roomiest.label}, {why}); the longest has "
            f"{traffic.lengths[-1]:,}. At most {1 - needs.attainment:.1%} may fail"
        )


def _check_tpot(kinds: Sequence[WorkerKind], traffic: TrafficProfile, needs: Needs) -> None:
    if any(one_step_s(kind.machine, traffic) <= needs.tpot_s for kind in kinds):
        return
    steps_ms = {kind.label: 1e3 * one_step_s(kind.machine, traffic) for kind in kinds}
    lines = [
        f"one step of this model on {label} takes {step_ms:.1f} ms, the target (--tpot) is "
        f"{1e3 * needs.tpot_s:g} ms"
        for label, step_ms in steps_ms.items()
    ]
    raise NothingFits("no device keeps the target for tokens:\n  " + "\n  ".join(lines))


def _check_ttft(kinds: Sequence[WorkerKind], traffic: TrafficProfile, needs: Needs) -> None:
    tokens = int(traffic.long_prompt_tokens)
    alone = {kind.label: kind.machine.prefill_s(tokens, 1 << 13) for kind in kinds}
    if any(seconds <= needs.ttft_s for seconds in alone.values()):
        return
    lines = [
        f"a prompt of {tokens:,} tokens, as a tenth of this trace has or more, takes "
        f"{seconds:.2f} s on {label} alone, the target (--ttft) is {needs.ttft_s:g} s"
        for label, seconds in alone.items()
    ]
    raise NothingFits("no device keeps the target for first tokens:\n  " + "\n  ".join(lines))
