"""Roles that follow the load beside never splitting, with real processes and their simulation."""
