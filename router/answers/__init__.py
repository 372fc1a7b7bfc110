"""From a worker's tokens to what a client reads: text, reasoning, tool calls, stop strings."""
