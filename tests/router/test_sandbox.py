"""What templates may make, and what they may not."""

from __future__ import annotations

import itertools

import jinja2
import pytest

from router.text.sandbox import BoundedSandbox, OutOfBounds, render

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'ab' * 3 }}{{ 2 * [1] }}{{ 2 * 3.5 }}", "ababab[1, 1]7.0"),
        ("{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%s-%03d' % ('a', 7) }}", "10243a-007"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ ''.__class__ }}", ""),
    ],
)
def test_what_templates_need_works(source: str, text: str) -> None:
    assert render(BoundedSandbox().from_string(source), {}) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 99999999999 }}",
        "{{ 99999999999 * [1] }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{% for i in range(90000) %}{% for j in range(90000) %}"
        "{{ 'a' * 9999 }}{% endfor %}{% endfor %}",
    ],
)
def test_much_of_little_is_refused(source: str) -> None:
    with pytest.raises(OutOfBounds):
        render(BoundedSandbox().from_string(source), {})


@pytest.mark.parametrize("source", ["{{ messages.append(1) }}", "{{ range(10 ** 6) }}"])
def test_nothing_is_changed_and_no_loop_is_too_long(source: str) -> None:
    with pytest.raises((jinja2.exceptions.SecurityError, OverflowError)):
        render(BoundedSandbox().from_string(source), {"messages": []})


def test_a_template_that_takes_too_long_is_stopped() -> None:
    seconds = itertools.count()
    source = "{% for i in range(99999) %}{{ i }}{% endfor %}"
    with pytest.raises(OutOfBounds, match="longer than 5 s"):
        render(BoundedSandbox().from_string(source), {}, clock=lambda: float(next(seconds)))
