"""The router's view of its workers: sessions, reports, attempts, metrics."""
