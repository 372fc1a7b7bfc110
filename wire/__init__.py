"""Everything that crosses processes: internal messages, and generated stubs of the public gRPC
API."""
