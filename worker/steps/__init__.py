"""A worker's step loop, and its work between two steps: attempts, handoffs, reports."""
