"""Requests from files, recognised by their content, and what is said of a file that has none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sim.traces import open_trace
from sim.traces.bad_trace import BadTrace

pytestmark = pytest.mark.quick

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.9799600,3180,8
2023-11-16 18:17:06.9799600,34,0
"""
MOONCAKE = [
    {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 6000, "input_length": 1500, "output_length": 7, "hash_ids": [0, 1, 2]},
]


def a_file(folder: Path, text: str, name: str = "requests.txt") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_azure_traces_are_known_by_their_columns(tmp_path: Path) -> None:
    file = a_file(tmp_path, AZURE.replace("\n", "\r\n"))
    arrivals = open_trace(file).arrivals
    assert [each.at_s for each in arrivals] == pytest.approx([0, 1, 3])
    assert [(each.num_prompt, each.num_new) for each in arrivals] == [
        (4808, 10),
        (3180, 8),
        (34, 1),
    ]
    assert not set(arrivals[0].tokens()) & set(arrivals[1].tokens())


def test_mooncake_traces_are_known_by_their_lines(tmp_path: Path) -> None:
    file = a_file(tmp_path, "".join(json.dumps(row) + "\n" for row in MOONCAKE))
    one, other = open_trace(file).arrivals
    assert other.tokens()[:1000] == one.tokens()
    assert len(other.tokens()) == 1500
    assert 3 <= other.at_s - one.at_s <= 9


def test_lengths_need_no_times(tmp_path: Path) -> None:
    file = a_file(tmp_path, "prompt,answer\n100,10\n200,20\n300,30\n")
    arrivals = open_trace(file, per_s=4.0).arrivals
    assert [(each.num_prompt, each.num_new) for each in arrivals] == [
        (100, 10),
        (200, 20),
        (300, 30),
    ]
    assert arrivals[-1].at_s == pytest.approx(3 / 4)


@pytest.mark.parametrize("second", ["2.5", "2026-01-01T00:00:02.5"])
def test_lengths_may_have_times(tmp_path: Path, second: str) -> None:
    first = "0" if "T" not in second else "2026-01-01T00:00:00"
    file = a_file(tmp_path, f"timestamp, prompt, answer\n{second},200,20\n{first},100,10\n")
    arrivals = open_trace(file).arrivals
    assert [(each.at_s, each.num_prompt) for each in arrivals] == [(0, 100), (2.5, 200)]


def test_a_window_begins_at_its_first_request(tmp_path: Path) -> None:
    arrivals = open_trace(a_file(tmp_path, AZURE), count=1, skip=1).arrivals
    assert [(each.at_s, each.num_prompt) for each in arrivals] == [(0, 3180)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("prompt,answer\n", "has no requests"),
        ("prompts,answer\n1,2\n", "unknown column prompts; did you mean prompt?"),
        ("prompt,timestamp\n1,2\n", "there is no column answer, only prompt, timestamp"),
        ("prompt,answer\n1,2\n3,none\n", "line 3: answer must be a number of tokens from 1 on"),
        ("prompt,answer\n1,0\n", "line 2: answer must be a number of tokens from 1 on, found 0"),
        (
            "prompt,answer\n1\n",
            "line 2: answer must be a number of tokens from 1 on, found nothing",
        ),
        ("prompt,answer,timestamp\n1,2,noon\n", "line 2: Invalid isoformat string: 'noon'"),
        ('{"timestamp": 0}\n', "line 1: wanted a JSON object of timestamp, input_length"),
        (AZURE.replace("3180", "many"), "line 3: wanted TIMESTAMP, ContextTokens, Generated"),
        (AZURE[:40] + "\n", "has no requests"),
        ("\x00,\udcff", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "requests.csv"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadTrace, match=re.escape(said)) as raised:
        open_trace(str(file))
    assert str(file) in str(raised.value)


def test_a_window_behind_the_end_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="has 3 requests: none is left behind 3"):
        open_trace(a_file(tmp_path, AZURE), skip=3)


@pytest.mark.parametrize("name", ["mooncake_conversation_trace.jsonl", "azure2023_code.csv"])
def test_recorded_traces_are_sped_up(name: str) -> None:
    file = RECORDED / name
    if not file.exists():
        pytest.skip(f"needs the recorded trace {name}, which is not in the repository")
    arrivals = open_trace(str(file), per_s=20.0, count=100, skip=50).arrivals
    assert len(arrivals) == 100
    assert arrivals[-1].at_s == pytest.approx(100 / 20)
    assert all(len(each.tokens()) == each.num_prompt for each in arrivals)
