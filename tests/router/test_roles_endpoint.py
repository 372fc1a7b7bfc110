"""An operator looks at roles, and changes them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from router.config import Roles
from tests.router.conftest import Stage, StartStage
from tests.router.test_invalid_requests import http_client
from wire.identity import Role
from wire.messages import SetRole
from wire.reports import Report, WorkerState


def admin_client(stage: Stage) -> httpx2.AsyncClient:
    base_url = f"http://{stage.addresses.admin}"
    return httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60)


def report(role: Role) -> Report:
    return Report(
        state=WorkerState.READY,
        role=role,
        num_running=0,
        num_waiting=0,
        waiting_tokens=0,
        free_blocks=1000,
        num_blocks=1000,
    )


async def roles(admin: httpx2.AsyncClient) -> dict[str, str]:
    listed = (await admin.get("/roles")).json()["workers"]
    return {each["worker"]: each["role"] for each in listed}


async def test_a_worker_takes_the_role_that_is_asked_for(start_stage: StartStage) -> None:
    stage = await start_stage(admin_port=0)
    prefill, _ = await stage.add_pair([1])
    async with admin_client(stage) as admin:
        assert await roles(admin) == {"prefill-0": "prefill", "decode-0": "decode"}
        response = await admin.post("/roles", json={"worker": "prefill-0", "role": "decode"})
        assert response.status_code == 202
        assert (await prefill.hears(SetRole)).role is Role.DECODE
        table = stage.model.fleet.ledger.table
        assert table.prefills.sum() == 0, "placement counts with it at once"
        prefill.send(report(Role.DECODE))
        async with asyncio.timeout(60):
            while (await roles(admin))["prefill-0"] != "decode":
                pass
        text = (await admin.get("/metrics")).text
    assert 'tandem_workers{model="tiny",role="decode",state="ready"} 2.0' in text


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"worker": "other", "role": "decode"}, "worker", "decode-0, prefill-0"),
        ({"worker": "prefill-0", "role": "mixed"}, "role", "mixed"),
        ({"worker": "prefill-0"}, None, "role"),
        ({"worker": "prefill-0", "role": "decode", "when": 1}, None, "when"),
    ],
)
async def test_what_is_wrong_is_named(
    start_stage: StartStage, body: dict[str, Any], field: str | None, says: str
) -> None:
    stage = await start_stage(admin_port=0)
    prefill, _ = await stage.add_pair([1])
    async with admin_client(stage) as admin:
        response = await admin.post("/roles", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert says in error["message"]
    assert prefill.count(SetRole) == 0


async def test_roles_that_follow_the_load_are_nobody_s_to_choose(start_stage: StartStage) -> None:
    stage = await start_stage(admin_port=0, roles=Roles.FOLLOW)
    prefill, _ = await stage.add_pair([1])
    async with admin_client(stage) as admin:
        response = await admin.post("/roles", json={"worker": "prefill-0", "role": "decode"})
        assert len(await roles(admin)) == 2
    assert response.status_code == 400
    assert "set router.roles to fixed" in response.json()["error"]["message"]
    assert prefill.count(SetRole) == 0


@pytest.mark.parametrize("settings", [{}, {"admin_port": 0}])
async def test_clients_reach_no_roles(start_stage: StartStage, settings: dict[str, Any]) -> None:
    stage = await start_stage(**settings)
    await stage.add_pair([1])
    async with http_client(stage) as http:
        for response in (
            await http.get("/roles"),
            await http.post("/roles", json={"worker": "prefill-0", "role": "decode"}),
        ):
            assert response.status_code == 404
            assert "router.admin_port" in response.json()["error"]["message"]
