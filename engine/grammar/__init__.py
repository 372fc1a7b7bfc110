"""Grammars beside the steps: compiled, followed and turned into masks while the model computes."""
