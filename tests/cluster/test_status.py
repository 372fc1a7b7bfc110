"""`tandem status`: the tables, and the errors of what is not a router's status."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.commands import app
from cluster.errors import NoStatus
from cluster.router_client import RouterClient, base_url
from cluster.status_view import MOST_LINKS, status_view
from router.roles.attainment import Attainment
from router.roles.bottleneck import Bottleneck, Sharing, Stage, StageLoad
from router.roles.model_status import LinkView, ModelStatus, QueueView, StatusBody, WorkerView
from wire.identity import Role

LINK = LinkView(
    destination="decode-0",
    bytes_per_s=10e9,
    latency_s=1e-3,
    kind="network",
    slow=True,
    used_bytes_per_s=3e6,
    exposed_s=0.0123,
)
WORKERS = (
    WorkerView(
        worker_id="prefill-0",
        pool_role="prefill",
        role="decode",
        state="ready",
        num_running=3,
        waiting_tokens=12_000,
        kv_used=0.25,
        busy=0.5,
        step_s=0.0061,
        generated_per_s=420.0,
        links=(LINK,),
    ),
    WorkerView(worker_id="decode-0", pool_role="decode", role="decode", state="draining"),
)
MODEL = ModelStatus(
    name="tiny",
    sentences=("Prefill binds: it does.", "Another sentence."),
    workers=WORKERS,
    bottleneck=Bottleneck(
        binds=Stage.PREFILL,
        requests_per_s=30.0,
        serves_per_s=28.0,
        tpot_s=None,
        sharing=Sharing.APART,
        stages=(StageLoad(stage=Stage.PREFILL, load=1.07, serves_per_s=28.0),),
        one_more=dict.fromkeys(Role, 30.0),
    ),
    attainment=Attainment(window_s=120),
    queues=QueueView(num_in_router=0, num_prompts=0, prompt_tokens=0, prompt_s=0.0),
)
STATUS = StatusBody(router_id="router-1", version="0.1.0", models=(MODEL,))


def shown(status: StatusBody, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(status_view(status))
    return console.export_text()


@pytest.mark.quick
def test_a_page_shows_sentences_stages_workers_and_links() -> None:
    text = shown(STATUS)
    assert "Prefill binds: it does." in text
    assert "107 %  of 28.0 requests/s" in text
    assert "prefill-0" in text
    assert "prefill-0  prefill→decode  50 %  6.1 ms     3  12.0k tok  25 %" in text
    assert "decode-0   draining" in text
    assert "prefill-0 → decode-0  network slow  10.0 GB/s  3.0 MB/s  12.3 ms" in text


@pytest.mark.quick
def test_a_page_fits_a_terminal_of_80_columns() -> None:
    assert "…" not in shown(STATUS, width=80)


@pytest.mark.quick
def test_of_many_links_the_busiest_are_shown() -> None:
    links = tuple(
        msgspec.structs.replace(LINK, destination=f"d-{number}", used_bytes_per_s=float(number))
        for number in range(100)
    )
    worker = msgspec.structs.replace(WORKERS[0], links=links)
    model = msgspec.structs.replace(MODEL, workers=(worker,))
    text = shown(msgspec.structs.replace(STATUS, models=(model,)))
    assert "d-99 " in text
    assert f"and {100 - MOST_LINKS} links with less traffic" in text


@pytest.mark.quick
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("8000", "http://127.0.0.1:8000"),
        ("host:8000", "http://host:8000"),
        ("https://host/v1", "https://host"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_an_address_may_be_written_briefly(given: str, meant: str) -> None:
    assert base_url(given) == meant


class _Answers(BaseHTTPRequestHandler):
    """Answers GET by path."""

    told: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        code, body = self.told.get(self.path, (404, b"not here"))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def server() -> Iterator[str]:
    http = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def error(text: str) -> bytes:
    return msgspec.json.encode(
        {"error": {"message": text, "type": "t", "param": None, "code": None}}
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"/status": (401, error("no"))}, "wants an API key: give one with `admin: true` by --key"),
        ({"/status": (403, error("this requires admin"))}, "refuses this API key: this requires"),
        (
            {"/status": (404, error("/status is on the admin port"))},
            "/status is on the admin port; name that port with --url",
        ),
        ({"/version": (200, b'{"version": "0.0.9"}')}, "tandem 0.0.9 runs at "),
        ({}, "has no /status and tells no version"),
        ({"/status": (500, error("it broke"))}, "answers 500: it broke"),
        ({"/status": (200, b"<html>")}, "is not a router of Tandem"),
        ({"/status": (200, b'{"format": 2}')}, "tells its status in format 2"),
    ],
)
def test_an_error_says_what_was_wrong_and_what_to_do(
    server: str,
    told: dict[str, tuple[int, bytes]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Answers, "told", told)
    with pytest.raises(NoStatus) as caught:
        RouterClient(server).status()
    assert said in str(caught.value)
    assert server in str(caught.value)


def test_the_command_prints_json_or_tables(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Answers, "told", {"/status": (200, msgspec.json.encode(STATUS))})
    run = CliRunner().invoke
    as_json = run(app, ["status", "--url", server, "--json"])
    assert msgspec.json.decode(as_json.output, type=StatusBody) == STATUS
    assert "Prefill binds: it does." in run(app, ["status", "--url", server]).output


def test_nobody_at_the_address_is_one_line_and_exit_status_2() -> None:
    result = CliRunner().invoke(app, ["status", "--url", "127.0.0.1:1"])
    assert result.exit_code == 2
    assert "no router answers at http://127.0.0.1:1: Connection refused" in result.output
