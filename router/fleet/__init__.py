"""The workers that this router knows, and what they report."""
