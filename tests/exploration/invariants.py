"""The handoff's six invariants, looked at in every state; None when all of them hold."""

from __future__ import annotations

from collections.abc import Callable

from kv_transfer.destination import DestinationHandoff, DestinationState
from tests.exploration.machines import Machines
from tests.exploration.state import FREE, Scope, State, tag

WRITABLE = (DestinationState.GRANTED, DestinationState.FENCING)


def broken(scope: Scope, machines: Machines, state: State) -> str | None:
    for holds in CHECKS:
        problem = holds(scope, machines, state)
        if problem is not None:
            return problem
    return None


def at_rest(state: State) -> bool:
    """Both pools are free, and nobody waits for anything."""
    return not (
        any(state.source_owners)
        or any(state.destination_owners)
        or any(it.machine is not None for it in state.sources)
        or any(it.machine is not None for it in state.destinations)
    )


def no_write_is_under_way_into_a_reused_page(
    scope: Scope, machines: Machines, state: State
) -> str | None:
    """It could land now, so that it need not be waited for."""
    for flight in state.flights:
        if flight.destination == state.destination_incarnation:
            number = state.destinations[flight.leg].machine
            writable = number is not None and machines[number].state in WRITABLE
            for page in flight.pages:
                if not writable or state.destination_owners[page] != flight.epoch:
                    return f"invariant 1: leg {flight.leg} may still write into page {page}"
        if flight.source == state.source_incarnation:
            for block in flight.blocks:
                if state.source_owners[block] != flight.leg + 1:
                    return f"invariant 1: leg {flight.leg} still sends block {block}, now free"
    return None


def no_page_is_in_use_by_nobody(scope: Scope, machines: Machines, state: State) -> str | None:
    epochs = {FREE}
    for it in state.destinations:
        if it.running:
            epochs.update(state.destination_owners[page] for page in it.running)
        if it.machine is not None:
            machine = machines[it.machine]
            assert isinstance(machine, DestinationHandoff)
            epochs.add(machine.epoch)
    for page, epoch in enumerate(state.destination_owners):
        if epoch not in epochs:
            return f"invariant 2: page {page} is in use, and nobody will free it"
    for block, owner in enumerate(state.source_owners):
        if owner and block not in state.sources[owner - 1].blocks:
            return f"invariant 2: block {block} is in use, and nobody will free it"
    return None


def no_sequence_runs_twice(scope: Scope, machines: Machines, state: State) -> str | None:
    for leg, (here, there) in enumerate(zip(state.sources, state.destinations, strict=True)):
        if there.num_adoptions > 1:
            return f"invariant 3: leg {leg} was adopted {there.num_adoptions} times"
        if there.num_adoptions and here.outcome == "kept":
            return f"invariant 3: leg {leg} runs at the destination, and its source goes on too"
    return None


def nothing_unverified_is_decoded(scope: Scope, machines: Machines, state: State) -> str | None:
    for leg, it in enumerate(state.destinations):
        for block, page in enumerate(it.running):
            if state.destination_memory[page] != tag(leg, block):
                return f"invariant 4: leg {leg} decodes from page {page}, which is not its block"
    return None


def refusal_costs_nothing(scope: Scope, machines: Machines, state: State) -> str | None:
    """What is kept is whole; what is given away was taken; and every end is told."""
    for leg, here in enumerate(state.sources):
        if here.outcome == "handed over" and not state.destinations[leg].num_adoptions:
            return f"invariant 6: leg {leg} was given away, and nobody has it"
        if here.outcome == "open" and here.machine is None and here.stage != "waiting":
            return f"invariant 6: the handoff of leg {leg} is over, and its host was not told how"
        if here.outcome == "kept" and here.stage == "running":
            computed = here.blocks[: here.num_computed]
            tags = [state.source_memory[block] for block in computed]
            whole = len(here.blocks) == scope.num_blocks
            if not whole or tags != [tag(leg, i) for i in range(here.num_computed)]:
                return f"invariant 6: leg {leg} was refused, and its blocks are gone"
    return None


Check = Callable[[Scope, Machines, State], str | None]
CHECKS: tuple[Check, ...] = (
    no_write_is_under_way_into_a_reused_page,
    no_page_is_in_use_by_nobody,
    no_sequence_runs_twice,
    nothing_unverified_is_decoded,
    refusal_costs_nothing,
)
