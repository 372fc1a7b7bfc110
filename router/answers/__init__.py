"""Answers: from a worker's tokens to text, reasoning and tool calls, with stop strings."""
