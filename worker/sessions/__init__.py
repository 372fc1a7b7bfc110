"""A worker's sessions with routers and with other workers."""
