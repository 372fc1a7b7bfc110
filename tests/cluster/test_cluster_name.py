"""What the second cluster of one name hears."""

from __future__ import annotations

import json

import pytest

from cluster.cluster_name import JOB_CONFIG, Holder, refusal, submission_id

pytestmark = pytest.mark.quick

SINCE = "2026-01-02 03:04:05 UTC"


def test_the_job_that_runs_the_first_is_named_and_how_to_end_it() -> None:
    said = refusal("main", Holder("gpu-1", 77, SINCE, "raysubmit_x"))
    assert f"since {SINCE}, by process 77 on gpu-1" in said
    assert "end it with `ray job stop raysubmit_x`, or" in said
    assert "--set name=main-2" in said


def test_a_driver_without_a_job_is_ended_by_its_process() -> None:
    assert "press Ctrl-C or run `kill 77`" in refusal("main", Holder("gpu-1", 77, SINCE))


def test_one_that_ends_just_now_is_worth_another_try() -> None:
    assert "'main' is ending on this Ray; try again in a moment" in refusal("main", None)


def test_a_driver_knows_the_job_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    assert submission_id() is None
    metadata = {"job_submission_id": "raysubmit_x", "job_name": "raysubmit_x"}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": {}, "metadata": metadata}))
    assert submission_id() == "raysubmit_x"
