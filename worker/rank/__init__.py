"""One rank of a worker: its part of the model, and its transport."""
