"""Scheduling: policies, token budgets for chunked prefill, step times, the waiting queue."""
