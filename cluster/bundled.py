"""Where the bundled model lies."""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).resolve().parent.parent / "models" / "tiny-python"
