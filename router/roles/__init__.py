"""Roles that follow the load: which workers prefill, and which decode."""
