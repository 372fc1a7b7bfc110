"""What the next step computes: scheduling policies, token budgets, waiting sequences."""
