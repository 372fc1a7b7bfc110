"""What the engine does on a GPU: checked against itself, and against the device's own limits."""
