"""HTTP/1.1 servers: h11 reads the protocol, connections have limits, applications are ASGI."""
