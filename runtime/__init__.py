"""Shared runtime of all processes: sessions, fleet membership, servers, TLS, logs, metrics,
shutdown."""
