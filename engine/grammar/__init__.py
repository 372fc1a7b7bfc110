"""Structured output: grammars are compiled and matched in threads while steps are computed."""
