"""The router: serves the public APIs, and places each request on one worker or a pair of
workers."""
