"""Grammars that answers must follow: checked and compiled in the router, matched in the engine."""
