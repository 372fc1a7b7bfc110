"""What a worker does between two engine steps: attempts, handoffs at both ends, reports."""
