"""An HTTP/1.1 server for ASGI applications: h11 parses, and every connection has limits."""
