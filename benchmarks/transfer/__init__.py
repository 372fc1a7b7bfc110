"""Rates of KV block transfers between two processes, compared with other means."""
