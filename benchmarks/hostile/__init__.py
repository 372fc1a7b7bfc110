"""Hostile clients, and the router's memory after them."""
