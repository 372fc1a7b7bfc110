"""The handoff's six invariants, checked in every state; None when all of them hold."""

from __future__ import annotations

from collections.abc import Callable

from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from tests.exploration.machines import Machines
from tests.exploration.state import FREE, Scope, State, lands, tag

WRITABLE = (DestinationState.GRANTED, DestinationState.FENCING)


def broken(scope: Scope, machines: Machines, state: State) -> str | None:
    for holds in CHECKS:
        problem = holds(scope, machines, state)
        if problem is not None:
            return problem
    return None


def at_rest(state: State) -> bool:
    """Whether all pools are free, and no attempt waits for anything."""
    workers = (state.source, *state.destinations)
    return not any(
        any(worker.owners) or any(attempt_id.machine is not None for attempt_id in worker.attempts)
        for worker in workers
    )


def no_write_is_under_way_into_a_reused_block(
    scope: Scope, machines: Machines, state: State
) -> str | None:
    """Checks writes that could land now, without waiting until they do."""
    for flight in state.flights:
        if lands(scope, state, flight):
            worker = state.destinations[flight.place]
            number = worker.attempts[flight.attempt_id].machine
            writable = number is not None and machines[number].state in WRITABLE
            for block in flight.remote_blocks:
                if not writable or worker.owners[block] != flight.epoch:
                    return f"invariant 1: attempt {flight.attempt_id} may still write {block}"
        if flight.status == "posted":
            for block in flight.blocks:
                if state.source.owners[block] != flight.attempt_id + 1:
                    return f"invariant 1: {flight.attempt_id} still sends block {block}, now free"
    return None


def no_block_is_in_use_by_nobody(scope: Scope, machines: Machines, state: State) -> str | None:
    for worker in state.destinations:
        epochs = {FREE}
        for it in worker.attempts:
            epochs.update(worker.owners[block] for block in it.running)
            if it.machine is not None:
                machine = machines[it.machine]
                assert isinstance(machine, DestinationHandoff)
                epochs.add(machine.epoch)
        for block, epoch in enumerate(worker.owners):
            if epoch not in epochs:
                return f"invariant 2: block {block} is in use, and nobody will free it"
    for block, owner in enumerate(state.source.owners):
        if owner and block not in state.source.attempts[owner - 1].blocks:
            return f"invariant 2: block {block} is in use, and nobody will free it"
    return None


def no_sequence_runs_twice(scope: Scope, machines: Machines, state: State) -> str | None:
    for attempt_id, here in enumerate(state.source.attempts):
        num_adoptions = sum(
            worker.attempts[attempt_id].num_adoptions for worker in state.destinations
        )
        if num_adoptions > 1:
            return f"invariant 3: attempt {attempt_id} was adopted {num_adoptions} times"
        if num_adoptions and here.outcome == "kept":
            return f"invariant 3: {attempt_id} runs at a destination, and its source goes on too"
    return None


def nothing_unverified_is_decoded(scope: Scope, machines: Machines, state: State) -> str | None:
    for worker in state.destinations:
        for attempt_id, it in enumerate(worker.attempts):
            for number, block in enumerate(it.running):
                if worker.memory[block] != tag(attempt_id, number):
                    return (
                        f"invariant 4: attempt {attempt_id} decodes from block {block}, not its own"
                    )
    return None


def refusal_costs_nothing(scope: Scope, machines: Machines, state: State) -> str | None:
    """Kept sequences are whole, given ones were taken, and every end is reported."""
    for attempt_id, here in enumerate(state.source.attempts):
        taken = any(worker.attempts[attempt_id].num_adoptions for worker in state.destinations)
        if here.outcome == "handed over" and not taken:
            return f"invariant 6: attempt {attempt_id} was given away, and nobody has it"
        if here.outcome == "open" and here.machine is None and here.stage != "waiting":
            return f"invariant 6: the handoff of {attempt_id} is over, its host was not told how"
        if here.outcome == "kept" and here.stage == "running":
            computed = here.blocks[: here.num_computed]
            tags = [state.source.memory[block] for block in computed]
            whole = len(here.blocks) == scope.num_blocks
            if not whole or tags != [tag(attempt_id, i) for i in range(here.num_computed)]:
                return f"invariant 6: attempt {attempt_id} was refused, and its blocks are gone"
    return None


Check = Callable[[Scope, Machines, State], str | None]
CHECKS: tuple[Check, ...] = (
    no_write_is_under_way_into_a_reused_block,
    no_block_is_in_use_by_nobody,
    no_sequence_runs_twice,
    nothing_unverified_is_decoded,
    refusal_costs_nothing,
)
