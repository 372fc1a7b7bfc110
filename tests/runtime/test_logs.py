"""What a log tells of an error, and what it keeps to itself."""

from __future__ import annotations

import logging

import pytest

from runtime.logs import FORMAT, HideMessages

pytestmark = pytest.mark.quick

SECRET = "swordfish"


def test_a_discreet_log_tells_where_and_what_kind_and_never_the_message() -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"no {SECRET}") from error
    except ValueError as error:
        record = logging.LogRecord(
            "tandem", logging.ERROR, __file__, 1, "a request failed", (), None
        )
        record.exc_info = (type(error), error, error.__traceback__)
    told = HideMessages(FORMAT).format(record)
    assert SECRET not in told
    assert "a request failed" in told
    assert "builtins.ValueError after KeyError" in told
    assert "test_logs.py" in told
