"""Each rule for scrapes finds what breaks it."""

from __future__ import annotations

import pytest

from tests.metric_rules import problems, promtool, promtool_problems

pytestmark = pytest.mark.quick

SOUND = """\
# HELP tandem_requests_total Requests.
# TYPE tandem_requests_total counter
tandem_requests_total{door="http"} 3
# HELP tandem_queue_seconds Waiting.
# TYPE tandem_queue_seconds histogram
tandem_queue_seconds_bucket{le="1.0"} 1
tandem_queue_seconds_bucket{le="+Inf"} 2
tandem_queue_seconds_sum 3.5
tandem_queue_seconds_count 2
"""


def test_a_sound_scrape_breaks_no_rule() -> None:
    assert problems(SOUND) == []


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("# HELP tandem_queue_seconds Waiting.\n", "", "has no HELP"),
        ("queue_seconds", "queue_milliseconds", "no base unit"),
        ("queue_seconds", "queueSeconds", "lower case words"),
        ('{door="http"}', '{le="1"}', "has no label le"),
        ("requests_total counter", "requests_total gauge", "only counters end in _total"),
        ('{door="http"}', '{Door="http"}', "is not lower case"),
        ('{door="http"} 3', '{door="http"} 3\ntandem_requests_total{door="http"} 4', "2 times"),
        ("tandem_requests", "tandem_counter_requests", "says its type"),
    ],
)
def test_a_broken_rule_is_found(before: str, after: str, rule: str) -> None:
    assert before in SOUND
    assert rule in "\n".join(problems(SOUND.replace(before, after)))


@pytest.mark.skipif(promtool() is None, reason="no promtool on PATH, and none named by PROMTOOL")
def test_promtool_finds_fault_where_there_is_some_and_else_none() -> None:
    tool = promtool()
    assert tool is not None
    assert promtool_problems(tool, SOUND) == ""
    assert "no help text" in promtool_problems(tool, SOUND.replace("# HELP tandem_q", "# tandem_q"))
