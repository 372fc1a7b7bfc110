"""What holds for all tests."""

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
