"""Trains the bundled model: a tiny Llama that writes Python in the standard library's manner.

Everything needed is on any machine with Python: the corpus is the standard
library's own sources.  Run ``python -m tools.train_tiny --help``.
"""
