"""Grammars of structured output: checked and compiled in the router, matched in the engine."""
