"""Calls of tools in the models' own formats: how they are told from text, and how enforced."""
