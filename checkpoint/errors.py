"""Errors in model directories."""


class BrokenDirectory(Exception):
    """A file is missing or broken; names the file and the remedy."""
