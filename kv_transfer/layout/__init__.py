"""How blocks lie in memory: routes between ranks, spans to copy, conversion, checksums."""
