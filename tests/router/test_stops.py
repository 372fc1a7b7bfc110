"""Stop strings, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.answers.stops import StopMatcher

pytestmark = pytest.mark.quick

TEXT = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By definition: the first moment at which the text ends with a stop, the longest one then."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(TEXT, STOPS, st.lists(st.integers(1, 5)))
def test_the_result_does_not_depend_on_how_the_text_is_cut(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    matcher = StopMatcher(stops)
    shown, rest = "", text
    for size in [*sizes, len(text)]:
        piece, rest = rest[:size], rest[size:]
        shown += matcher.push(piece)
        assert expected(text, stops)[0].startswith(shown), "text was shown that a stop would cut"
    shown += matcher.flush()
    assert (shown, matcher.matched) == expected(text, stops)


def test_only_a_possible_beginning_of_a_stop_is_held_back() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("x") == "ENx"
    assert matcher.push("EN") == ""
    assert matcher.flush() == "EN"


def test_nothing_is_shown_after_a_stop() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("one\n") == "one"
    assert matcher.push("\ntwo") == ""
    assert matcher.matched == "\n\n"
    assert matcher.push("three") == ""
    assert matcher.flush() == ""


@given(TEXT, STOPS, st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["ab", "ca"]))))
def test_hidden_text_is_matched_and_never_shown(
    text: str, stops: list[str], names: list[tuple[int, str]]
) -> None:
    """Beside the definition for the text with the names in it, of which they are taken out."""
    matcher, shown, whole, marked = StopMatcher(stops), "", "", ""
    inserts: dict[int, str] = dict(names)
    for index in range(len(text) + 1):
        if index in inserts:
            shown += matcher.push(inserts[index], hidden=True)
            whole += inserts[index]
            marked += "-" * len(inserts[index])
        shown += matcher.push(text[index : index + 1])
        whole += text[index : index + 1]
        marked += text[index : index + 1]
    shown += matcher.flush()
    before, stop = expected(whole, stops)
    assert matcher.matched == stop
    assert shown == marked[: len(before)].replace("-", "")


def test_without_stops_text_passes_untouched() -> None:
    assert StopMatcher([]).push("anything") == "anything"
