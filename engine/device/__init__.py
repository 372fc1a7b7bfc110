"""The device that computes: memory, threads, copies to it, collectives between ranks."""
