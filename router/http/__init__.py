"""The HTTP door: its routes, its gate, and the streams that it writes."""
