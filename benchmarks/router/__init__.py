"""The router's cost: CPU time per request and token, and added latency."""
