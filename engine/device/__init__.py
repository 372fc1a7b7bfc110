"""The device: precision, memory, CPU threads, copies to and from it, collectives of ranks."""
