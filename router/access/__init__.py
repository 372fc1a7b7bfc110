"""Access control: API keys, their rights and their limits."""
