"""The bundled model: its directory, and worker settings that suit it."""

from pathlib import Path
from typing import Any

BUNDLED_MODEL = (Path(__file__).parent / "tiny-python").resolve()
BUNDLED_WORKER: dict[str, Any] = {
    "cache_bytes": 512 * 1024 * 1024,
    "chunk_tokens": 128,  # small, so that transfers of short prompts overlap prefill
}
