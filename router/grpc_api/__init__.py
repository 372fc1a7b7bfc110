"""The gRPC door: tandem.v1, its gate, and its errors."""
