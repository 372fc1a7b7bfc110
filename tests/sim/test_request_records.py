"""Coefficients from the records of served requests."""

from __future__ import annotations

import msgspec
import pytest

from router.placing.placement_request import Split
from sim.devices.device import Coefficients
from sim.devices.errors import BadFit
from sim.devices.request_records import ServedRequest, fit_requests
from sim.machine import MachineModel
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import open_trace
from sim.worker import SETTINGS
from wire.identity import Role

TRUTH = MachineModel(noise=0.02)


def records() -> list[ServedRequest]:
    """What a worker with the coefficients of TRUTH would log."""
    load = open_trace("poisson:800/100,sigma=0.8", per_s=12.0, count=120, seed=3).arrivals
    settings = msgspec.structs.replace(SETTINGS, chunk_tokens=4096, mixed_chunk_tokens=4096)
    pool = WorkerPool(Role.PREFILL, 1, TRUTH, settings)
    results = SimulatedCluster([pool], RouterSettings(max_queued=None, split=Split.NEVER)).run(load)
    found = []
    for each in results:
        assert each.first_s is not None
        assert each.last_s is not None
        alone_s = TRUTH.prefill_s(each.arrival.num_prompt, 4096)
        found.append(
            ServedRequest(
                num_prompt=each.arrival.num_prompt,
                num_new=each.arrival.num_new,
                started_s=each.first_s - alone_s,
                first_s=each.first_s,
                last_s=each.last_s,
            )
        )
    return found


def test_the_coefficients_that_made_the_records_come_out_of_them() -> None:
    """Terms that grow together are known only together."""
    found = fit_requests(records())
    assert found.step_s == pytest.approx(TRUTH.step_s, rel=0.05)
    assert prompt_token_s(found) == pytest.approx(prompt_token_s(TRUTH), rel=0.1)
    assert answer_token_s(found) == pytest.approx(answer_token_s(TRUTH), rel=0.2)


def prompt_token_s(costs: Coefficients | MachineModel) -> float:
    """A token of a prompt of 800."""
    return costs.prompt_token_s + costs.prompt_pair_s * 400


def answer_token_s(costs: Coefficients | MachineModel) -> float:
    """A token of an answer behind such a prompt, without the step's fixed part."""
    return costs.sequence_s + costs.context_token_s * 850


def test_few_answers_are_refused() -> None:
    with pytest.raises(BadFit, match="3 answers of 8 tokens or more: 5 needed"):
        fit_requests(records()[:3])
