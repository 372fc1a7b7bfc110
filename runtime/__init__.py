"""The life of any process: sessions, fleet membership, clock, logs, metrics, serve and drain."""
