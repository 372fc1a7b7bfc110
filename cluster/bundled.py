"""The bundled model: where it lies, and the worker settings that suit it."""

from pathlib import Path
from typing import Any

BUNDLED_MODEL = (Path(__file__).parent / "tiny-python").resolve()
BUNDLED_WORKER: dict[str, Any] = {
    "cache_bytes": 512 * 1024 * 1024,
    "chunk_tokens": 128,  # small enough that a prompt of some hundred tokens shows the overlap
}
