"""What holds for all tests."""

from hypothesis import settings

# A busy machine is no failure: what matters is what a test finds, not how long it looked.
settings.register_profile("unhurried", deadline=None, derandomize=True)
settings.load_profile("unhurried")
