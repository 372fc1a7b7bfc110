"""The status endpoint: what it tells, and who may read it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from router.access.keys import generate_key
from router.roles.model_status import StatusBody
from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import ids
from tests.router.test_invalid_requests import http_client
from wire.identity import Role


async def read_status(stage: Stage) -> StatusBody:
    async with http_client(stage) as http:
        response = await http.get("/status")
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=StatusBody)


async def test_it_tells_of_workers_and_of_ended_requests(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(ttft_target_s=60.0)
    await stage.add_pair(ids(backend, "the quick brown fox"))
    async for _ in stage.call(text="the fox"):
        pass
    told = await read_status(stage)
    (model,) = told.models
    assert told.router_id == stage.server.router_id
    assert [it.worker_id for it in model.workers] == ["decode-0", "prefill-0"]
    assert {it.state for it in model.workers} == {"ready"}
    assert (model.attainment.num_ended, model.attainment.ttft.num_met) == (1, 1)
    assert model.sentences


async def test_a_request_that_no_worker_can_serve_counts_as_refused(stage: Stage) -> None:
    async with http_client(stage) as http:
        body = {"model": "tiny", "prompt": "the fox", "max_tokens": 1}
        assert (await http.post("/v1/completions", json=body)).status_code == 503
    (model,) = (await read_status(stage)).models
    assert model.attainment.num_refused == 1
    assert model.sentences == ("No worker is ready: requests of this model are refused.",)


async def test_workers_are_sorted_as_people_count(stage: Stage) -> None:
    for number in (10, 9):
        await stage.add(f"decode-{number}", Role.DECODE)
    (model,) = (await read_status(stage)).models
    assert [it.worker_id for it in model.workers] == ["decode-9", "decode-10"]


async def test_as_many_workers_as_there_are_are_wanted_before_requests_come(stage: Stage) -> None:
    await stage.add("decode-0", Role.DECODE)
    async with http_client(stage) as http:
        scrape = (await http.get("/metrics")).text
    assert 'tandem_wanted_workers{model="tiny",role="decode"} 1.0' in scrape
    assert 'tandem_wanted_workers{model="tiny",role="prefill"} 0.0' in scrape


async def test_only_a_key_of_an_admin_may_read_it(start_stage: StartStage, tmp_path: Path) -> None:
    (key, hashed), (admin, admin_hashed) = generate_key(), generate_key()
    file = tmp_path / "keys.yaml"
    file.write_text(f"alice: {hashed}\nroot: {{hash: '{admin_hashed}', admin: true}}\n")
    stage = await start_stage(keys_file=str(file))
    async with http_client(stage) as http:
        codes = [
            (await http.get("/status", headers={"Authorization": f"Bearer {each}"})).status_code
            for each in (key, admin, "wrong")
        ]
    assert codes == [403, 200, 401]


async def test_with_an_admin_port_it_is_there_alone(start_stage: StartStage) -> None:
    stage = await start_stage(admin_port=0)
    async with http_client(stage) as http:
        hidden = await http.get("/status")
        shown = await http.get(f"http://{stage.addresses.admin}/status")
    assert hidden.status_code == 404
    assert "admin port" in hidden.json()["error"]["message"]
    assert shown.status_code == 200
