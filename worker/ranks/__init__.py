"""One worker on several devices: rank 0 starts the others, and they compute as it says."""
