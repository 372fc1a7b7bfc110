"""Prefill workers: the scheduling policy and the process."""
