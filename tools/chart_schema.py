"""Writes the settings of processes into helm/values.schema.json, from the structs that read them.

So `helm install` and `helm template` refuse a setting that a process would refuse, before a pod
starts. `python -m tools.config_reference` refreshes the file; tests compare it with this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from router.config import RouterConfig, ServedModelConfig
from worker.config import WorkerConfig

FILE = Path(__file__).resolve().parent.parent / "helm" / "values.schema.json"
PREFIX = "Settings of "
"""Prefix of the titles of generated definitions."""
HUB_MODEL = {"$ref": "#/definitions/hubModel"}
IGNORED = ("title", "description", "default")


def with_settings(text: str) -> str:
    """The schema in `text` with its definitions of settings regenerated."""
    schema = json.loads(text)
    kept = {
        name: definition
        for name, definition in schema["definitions"].items()
        if not definition.get("title", "").startswith(PREFIX)
    }
    schema["definitions"] = {**kept, **definitions()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def definitions() -> dict[str, Any]:
    """Definitions by struct name. Nothing is required: the chart adds models and addresses."""
    kinds = (WorkerConfig, RouterConfig, ServedModelConfig)
    _, made = msgspec.json.schema_components(kinds, ref_template="#/definitions/{name}")
    for kind in kinds:
        del made[kind.__name__]["required"]
    model = made["ServedModelConfig"]["properties"]
    model["path"]["pattern"] = "^/"
    model["hf"] = HUB_MODEL
    return {name: {"title": PREFIX + name, **_plain(one)} for name, one in made.items()}


def _plain(schema: Any) -> Any:
    """The schema without descriptions and defaults, which the chart's values do not have."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _plain(one) for name, one in value.items()}
        if key == "properties"
        else _plain(value)
        for key, value in schema.items()
        if key not in IGNORED
    }


def main() -> None:
    FILE.write_text(with_settings(FILE.read_text()))
