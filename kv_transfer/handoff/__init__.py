"""The handoff protocol: pure state machines of the source and of the destination."""
