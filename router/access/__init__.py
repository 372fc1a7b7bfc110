"""Who may do what, and how much of it: API keys and their limits."""
