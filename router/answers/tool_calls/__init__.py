"""Tool calls in the formats of model families: read from the text, or enforced by a grammar."""
