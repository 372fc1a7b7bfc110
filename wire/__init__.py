"""What crosses a process: generated stubs of the public contract and the internal messages."""
