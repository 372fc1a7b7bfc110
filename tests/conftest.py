"""What holds for all tests."""

import signal

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.quick"]

# A busy machine is no failure: what matters is what a test finds, not how long it looked.
settings.register_profile(
    "unhurried",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unhurried")

# A shell starts jobs in the background with SIGINT ignored, and nohup with SIGHUP, which what they
# start inherits.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a module share clusters, so one process runs them all; and one runs all of Ray's,
    since two Rays do not fit on a laptop."""
    rays = {item.path for item in items if item.get_closest_marker("ray")}
    for item in items:
        group = "ray" if item.path in rays else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
