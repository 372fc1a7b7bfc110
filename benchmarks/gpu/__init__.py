"""The first run on a GPU: what is right, and how fast it is relative to the device's limits."""
