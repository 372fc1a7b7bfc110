"""Reading the keys of a JSON file, so that every complaint names the file and the key."""

from __future__ import annotations

import json
from pathlib import Path

from engine.errors import CheckpointError


def read_json(path: Path) -> Keys:
    """The object in `path`; CheckpointError when it is missing, unreadable or no JSON object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return Keys(path, values)


class Keys:
    """One JSON object. A key that is null counts as absent; an absent one needs a default."""

    def __init__(self, path: Path, values: dict[str, object], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self._prefix = prefix

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, least: int = 1) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.invalid(key, f"an integer of at least {least}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.invalid(key, "a number above 0")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        return self.number(key) if key in self else None

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.invalid(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.invalid(key, "a string")
        return value

    def mapping(self, key: str) -> Keys:
        """The object under `key`, an empty one when it is absent."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self.invalid(key, "an object")
        return Keys(self.path, value, f"{self._prefix}{key}.")

    def invalid(self, key: str, wanted: str) -> CheckpointError:
        """An error that says what `key` should hold and what it does."""
        found = json.dumps(self.values.get(key))
        return CheckpointError(
            f"{self.path}: key '{self._prefix}{key}': expected {wanted}, found {found}"
        )

    def _get(self, key: str, default: object) -> object:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise CheckpointError(f"{self.path}: key '{self._prefix}{key}' is missing")
        return default
