"""Running workers give simulated ones what they have measured; a file that cannot is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from router.roles.attainment import Attainment
from router.roles.model_status import (
    LinkView,
    ModelStatus,
    QueueView,
    StatusBody,
    StepView,
    WorkerView,
)
from sim.machine import LAYOUT
from sim.observed import BadStatus, read_status
from wire.identity import Role

pytestmark = pytest.mark.quick

STEPS = StepView(
    step_s=0.004,
    sequence_s=1e-4,
    context_token_s=1e-7,
    prompt_token_s=2e-5,
    prompt_pair_s=0.0,
    pool_tokens=5000,
    token_bytes=LAYOUT.token_bytes // 4,
    max_model_len=2048,
)
LINK = LinkView(destination="decode-0", bytes_per_s=1e9, latency_s=2e-3, kind="", slow=False)


def worker(name: str, role: str, steps: StepView | None = STEPS, links: int = 0) -> WorkerView:
    return WorkerView(
        worker_id=name,
        pool_role="prefill",
        role=role,
        state="ready",
        steps=steps,
        links=(LINK,) * links,
    )


def a_status(folder: Path, *workers: WorkerView, num_models: int = 1) -> Path:
    queues = QueueView(num_in_router=0, num_prompts=0, prompt_tokens=0, prompt_s=0.0)
    model = ModelStatus(
        name="m", workers=workers, attainment=Attainment(window_s=60.0), queues=queues
    )
    body = StatusBody(router_id="r", version="1", models=(model,) * num_models)
    file = folder / "status.json"
    file.write_bytes(msgspec.json.encode(body))
    return file


def test_workers_of_a_role_have_the_means_of_their_own(tmp_path: Path) -> None:
    slower = msgspec.structs.replace(STEPS, step_s=0.006, pool_tokens=4000)
    workers = [
        worker("a", "prefill", msgspec.structs.replace(STEPS, sequence_s=None), links=2),
        worker("b", "decode"),
        worker("c", "decode", slower),
        worker("d", "decode", None),
    ]
    found = read_status(a_status(tmp_path, *workers))
    assert found[Role.PREFILL].num_workers == 1
    assert found[Role.DECODE].num_workers == 2
    prefill, decode = (found[role].machine for role in (Role.PREFILL, Role.DECODE))
    assert prefill.sequence_s == STEPS.sequence_s
    assert (prefill.step_s, decode.step_s) == (0.004, pytest.approx(0.005))
    assert (decode.pool_tokens, decode.max_model_len) == (4000, 2048)
    assert decode.bytes_per_s == pytest.approx(4e9)  # its blocks are four times as large
    assert decode.latency_s == pytest.approx(2e-3)


def test_a_status_of_which_too_little_is_known_is_refused(tmp_path: Path) -> None:
    unknown = msgspec.structs.replace(STEPS, sequence_s=None)
    with pytest.raises(BadStatus, match="sequence_s not measured yet: serve some requests"):
        read_status(a_status(tmp_path, worker("a", "decode", unknown)))
    with pytest.raises(BadStatus, match="no worker has reported yet"):
        read_status(a_status(tmp_path, worker("a", "decode", None)))
    with pytest.raises(BadStatus, match="wanted the status of one model, found m, m"):
        read_status(a_status(tmp_path, num_models=2))


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    with pytest.raises(BadStatus, match="cannot be read: No such file"):
        read_status(file)
    file.write_text(json.dumps({"models": []}))
    with pytest.raises(BadStatus, match="is not what `tandem status --json` prints"):
        read_status(file)
