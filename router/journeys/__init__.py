"""A request's way through the fleet: attempts, retries, several answers to one prompt."""
