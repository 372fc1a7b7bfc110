"""Tool calls in the formats of model families: parsed from the text, or enforced by a grammar."""
