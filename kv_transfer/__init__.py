"""The KV cache as something that travels: block hashes, the handoff protocol, transports."""
