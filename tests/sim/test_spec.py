"""SPECs: requests come as described, equal ones for equal seeds, and mistakes are shown."""

from __future__ import annotations

import statistics
from itertools import pairwise

import pytest

from sim.traces import Arrival, open_trace
from sim.traces.bad_trace import BadSpec, BadTrace, TraceError

pytestmark = pytest.mark.quick


def drawn(spec: str, per_s: float = 20.0, count: int | None = 4000, seed: int = 1) -> list[Arrival]:
    return open_trace(spec, per_s, count, seed=seed).arrivals


def variation(arrivals: list[Arrival]) -> float:
    gaps = [after.at_s - before.at_s for before, after in pairwise(arrivals)]
    return statistics.pstdev(gaps) / statistics.fmean(gaps)


@pytest.mark.parametrize(
    ("spec", "cv"),
    [
        ("2048/128", 1.0),
        ("poisson:2048/128", 1.0),
        ("gamma:2048/128,cv=2", 2.0),
        ("gamma:2048/128,cv=0.5", 0.5),
        ("even:2048/128", 0.0),
    ],
)
def test_requests_come_at_the_rate_with_the_variation(spec: str, cv: float) -> None:
    arrivals = drawn(spec)
    assert len(arrivals) / arrivals[-1].at_s == pytest.approx(20, rel=0.1)
    assert variation(arrivals) == pytest.approx(cv, rel=0.1, abs=1e-9)
    assert statistics.fmean(each.num_prompt for each in arrivals) == pytest.approx(2048, rel=0.05)
    assert statistics.fmean(each.num_new for each in arrivals) == pytest.approx(128, rel=0.05)


def test_lengths_are_equal_without_sigma() -> None:
    found = {(each.num_prompt, each.num_new) for each in drawn("poisson:700/9,sigma=0")}
    assert found == {(700, 9)}


def test_bursts_are_as_much_denser_and_leave_the_rate() -> None:
    arrivals = drawn("burst:100/10,times=4,on=5s,off=15s", count=20_000)
    assert len(arrivals) / arrivals[-1].at_s == pytest.approx(20, rel=0.05)
    num_on = sum(each.at_s % 20 < 5 for each in arrivals)
    assert (num_on / 5) / ((len(arrivals) - num_on) / 15) == pytest.approx(4, rel=0.1)


def test_a_mix_changes_at_its_times_and_ends() -> None:
    spec = "mix:4000/60@10s,sigma=0,256/512@500ms,sigma=0,rate=200,conversation@20s,turns=3"
    arrivals = drawn(spec, count=None)
    first = [each for each in arrivals if each.at_s < 10]
    second = [each for each in arrivals if 10 <= each.at_s < 10.5]
    third = [each for each in arrivals if each.at_s >= 10.5]
    assert {each.num_prompt for each in first} == {4000}
    assert {each.num_new for each in second} == {512}
    assert {each.num_prompt for each in third} == {2200, 2550, 2900}
    assert arrivals[-1].at_s < 30.5
    for phase, per_s, seconds in ((first, 20, 10), (second, 200, 0.5), (third, 20, 20)):
        assert len(phase) == pytest.approx(per_s * seconds, rel=0.3)


def test_turns_of_a_conversation_follow_what_was_said() -> None:
    arrivals = drawn("conversation:turns=3,prefix=50,append=20,answer=10,think=2s", 5.0, 300)
    assert all(len(each.tokens()) == each.num_prompt for each in arrivals)
    assert len(arrivals) / arrivals[-1].at_s == pytest.approx(5, rel=0.2)
    (last, *_) = (each for each in arrivals[200:] if each.num_prompt == 50 + 3 * 20 + 2 * 10)
    earlier = [each for each in arrivals if each.tokens()[50:70] == last.tokens()[50:70]]
    assert [each.num_prompt for each in earlier] == [70, 100, 130]
    for turn in earlier:
        assert last.tokens()[: turn.num_prompt] == turn.tokens()
    first, second, third = (each.at_s for each in earlier)
    assert 1 <= second - first <= 3
    assert 1 <= third - second <= 3


def test_other_requests_share_nothing() -> None:
    arrivals = drawn("poisson:600/10", count=200)
    known = [set(each.tokens()) for each in arrivals]
    assert len(set().union(*known)) == sum(map(len, known))


@pytest.mark.parametrize("spec", ["gamma:200/10", "burst:200/10", "conversation,", "mix:9/9@9s"])
def test_equal_seeds_draw_equal_requests(spec: str) -> None:
    spec = spec.rstrip(",")
    assert drawn(spec, count=50) == drawn(spec, count=50)
    assert drawn(spec, count=50) != drawn(spec, count=50, seed=2)


@pytest.mark.parametrize(
    ("spec", "at", "said"),
    [
        ("pois:1/2", 0, "unknown kind 'pois'; did you mean poisson?"),
        ("poisson", 0, "poisson needs lengths of prompts and answers: poisson:2048/128"),
        ("poisson:2048", 8, "wanted tokens of prompts and answers such as 2048/128, found 2048"),
        ("2048/0", 0, "wanted tokens of prompts and answers such as 2048/128, found 2048/0"),
        ("poisson:1/2,sigm=3", 12, "unknown option of poisson 'sigm'; did you mean sigma?"),
        ("poisson:1/2,", 12, "wanted an option such as sigma=0.4, found nothing"),
        ("poisson:1/2,cv=3", 12, "unknown option of poisson 'cv'"),
        ("gamma:1/2,cv=x", 13, "cv must be a number, found x"),
        ("gamma:1/2,cv=0", 13, "cv must be above 0"),
        ("burst:1/2,on=5", 13, "wanted a time such as 500ms, 60s or 2m, found 5"),
        ("conversation:turns=2.5", 19, "turns must be a whole number, found 2.5"),
        ("conversation:12/3", 13, "conversation has options instead of lengths"),
        ("mix:", 4, "a phase of a mix needs its time: 2048/128@60s"),
        ("mix", 3, "mix needs phases"),
        ("mix:sigma=2,1/2@3s", 4, "an option belongs behind its phase"),
        ("mix:1/2@3s,gamm:1/2@3s", 11, "unknown kind 'gamm'; did you mean gamma?"),
        ("mix:1/2@3s,rate=0", 16, "rate must be above 0"),
    ],
)
def test_mistakes_are_shown_where_they_are(spec: str, at: int, said: str) -> None:
    with pytest.raises(BadSpec) as raised:
        drawn(spec)
    message, text, mark = str(raised.value).splitlines()
    assert said in message
    assert text == f"  {spec}"
    assert mark == f"  {' ' * at}^"


def test_neither_file_nor_spec_is_said() -> None:
    with pytest.raises(BadTrace, match=r"conversatio is neither .* did you mean conversation\?"):
        drawn("conversatio")


def test_a_rate_is_needed_and_a_phase_may_have_its_own() -> None:
    with pytest.raises(TraceError, match=r"how many requests a second\? \(--rate"):
        open_trace("poisson:1/2")
    assert len(open_trace("mix:1/2@10s,rate=9").arrivals) == pytest.approx(90, rel=0.3)
    with pytest.raises(TraceError, match="no request comes in its time"):
        open_trace("mix:1/2@1ms", 1.0)
