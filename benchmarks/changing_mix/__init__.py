"""Goodput of roles that follow traffic which changes, beside every fixed assignment of roles."""
