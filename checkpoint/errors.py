"""What can be wrong with a model directory."""


class BrokenDirectory(Exception):
    """A file that is missing or broken, named with what to do."""
