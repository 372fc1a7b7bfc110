"""The driver's watch over its job, where Ray's head now and then does not answer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.helm.engines import CHART

PENDING, RUNNING, STOPPED = "PENDING", "RUNNING", "STOPPED"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("ray.job_submission")
    spec = importlib.util.spec_from_file_location("driver", CHART / "files" / "driver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.time = SimpleNamespace(monotonic=lambda: 0.0, sleep=lambda s: None, time_ns=lambda: 1)
    return module


class Stopping:
    """An event that is set after so many looks at it."""

    def __init__(self, num_looks: int) -> None:
        self._num_looks = num_looks

    def is_set(self) -> bool:
        return self._num_looks <= 0

    def wait(self, timeout: float) -> bool:
        self._num_looks -= 1
        return self._num_looks < 0


class Head:
    """Answers what it is told to, one answer after the other, and the last one for ever."""

    def __init__(self, driver: ModuleType, *answers: Any) -> None:
        self._statuses = driver.JobStatus
        self._answers = list(answers)
        self.stopped: list[str] = []
        self.submitted: list[dict[str, Any]] = []
        self.running: list[tuple[str, str, str]] = []
        """Jobs of drivers before: what they are called, their cluster, and their command."""

    def list_jobs(self) -> list[Any]:
        return [
            SimpleNamespace(
                submission_id=name,
                entrypoint=entrypoint,
                metadata={"tandem/cluster": cluster},
                status=self._statuses[RUNNING],
            )
            for name, cluster, entrypoint in self.running
        ]

    def submit_job(self, **job: Any) -> str:
        self.submitted.append(job)
        return str(job["submission_id"])

    def get_job_status(self, job: str) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return self._statuses[answer]

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)
        self._answers = [STOPPED]


def run(
    driver: ModuleType, head: Head, folder: Path, monkeypatch: pytest.MonkeyPatch, num_looks: int
) -> int:
    environ = {
        "TANDEM_CLUSTER": "c",
        "POD_NAME": "pod",
        "TANDEM_RAY_JOBS": "http://head:8265",
        "TANDEM_CLUSTER_FILE": "/etc/tandem/cluster.yaml",
        "TANDEM_STATE_DIR": str(folder / "state"),
        "TANDEM_STOP_S": "30",
    }
    monkeypatch.setattr(driver, "JobSubmissionClient", lambda address: head)
    return int(driver.Driver(environ, Stopping(num_looks)).run())


def test_a_head_that_does_not_answer_once_does_not_end_the_job(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(driver, RUNNING, ConnectionError("reset"), RuntimeError(""), RUNNING)
    assert run(driver, head, tmp_path, monkeypatch, num_looks=5) == 0
    assert head.stopped == ["pod-0"]  # when the driver itself was stopped
    assert (tmp_path / "state" / "alive").exists()


def test_a_head_that_says_nothing_for_long_ends_the_driver(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 25))
    driver.time.monotonic = lambda: float(next(clock))
    head = Head(driver, RUNNING, ConnectionError("reset"))
    with pytest.raises(ConnectionError, match="reset"):
        run(driver, head, tmp_path, monkeypatch, num_looks=20)
    assert head.stopped == []


def test_a_head_that_has_forgotten_the_job_ends_the_driver_at_once(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = RuntimeError("Request failed with status code 404: no such job")
    with pytest.raises(RuntimeError, match="404"):
        run(driver, Head(driver, RUNNING, gone, RUNNING), tmp_path, monkeypatch, num_looks=5)


def test_the_job_reads_the_file_on_the_head_and_follows_it(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(driver, RUNNING)
    assert run(driver, head, tmp_path, monkeypatch, num_looks=2) == 0
    (job,) = head.submitted
    assert job["entrypoint"] == "python -m cluster up --reload -c /etc/tandem/cluster.yaml"
    assert "working_dir" not in job["runtime_env"], "a copy would never change"


def test_a_job_whose_driver_vanished_goes_on_and_others_of_the_cluster_are_stopped(
    driver: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(driver, RUNNING)
    same = driver.ENTRYPOINT.format("/etc/tandem/cluster.yaml")
    head.running = [("other", "d", same), ("old", "c", "python -m cluster up"), ("mine", "c", same)]
    monkeypatch.setattr(driver.Driver, "_stop", lambda self, client, job: head.stop_job(job))
    head.stop_job = lambda job: head.stopped.append(job)  # type: ignore[method-assign]
    assert run(driver, head, tmp_path, monkeypatch, num_looks=2) == 0
    assert head.submitted == []
    assert head.stopped == ["old", "mine"], "its own at last, when the driver was stopped"
