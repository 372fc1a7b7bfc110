"""JSON files of a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from checkpoint.errors import BrokenDirectory


def read_object(path: Path) -> dict[str, Any]:
    """The object in `path`; empty if there is no such file. Raises BrokenDirectory."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BrokenDirectory(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"{path} is not a JSON object ({error}): download the file again"
        raise BrokenDirectory(text) from error
