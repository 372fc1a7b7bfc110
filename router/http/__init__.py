"""The public HTTP API: routes, authentication, and streams of server-sent events."""
