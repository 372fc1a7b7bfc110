"""Clients that mean no good, and what they leave of a router's memory."""
