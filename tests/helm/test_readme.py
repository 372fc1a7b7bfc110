"""The chart's README tells what values.yaml says, and the schema knows every key."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.helm.engines import CHART
from tests.helm.values_table import leaves, rows, with_table
from tools.chart_schema import FILE, with_settings

pytestmark = pytest.mark.quick

pytestmark = pytest.mark.quick

VALUES = (CHART / "values.yaml").read_text()


def test_the_table_of_values_is_that_of_values_yaml() -> None:
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, VALUES), "run python -m tests.helm.values_table"


def test_every_value_is_told() -> None:
    told = [row.path for row in rows(VALUES)]
    assert len(told) == len(set(told))
    untold = [
        leaf
        for leaf in leaves(yaml.safe_load(VALUES))
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in told)
    ]
    assert untold == []


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert _unlike(schema, schema, yaml.safe_load(VALUES), "") == []


def test_the_schema_has_the_settings_that_processes_have() -> None:
    assert FILE.read_text() == with_settings(FILE.read_text()), "python -m tools.config_reference"


def test_the_schema_refers_to_nothing_elsewhere() -> None:
    references = re.findall(r'"\$ref": "([^"]+)"', (CHART / "values.schema.json").read_text())
    assert references
    assert all(reference.startswith("#/definitions/") for reference in references)


def _unlike(schema: Any, root: Any, value: Any, path: str) -> list[str]:
    """Where the schema and the defaults have different keys."""
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    known = schema.get("properties")
    if known is None or not isinstance(value, dict):
        return []
    found = [f"{path}.{key}: not in the schema" for key in value.keys() - known.keys()]
    found += [f"{path}.{key}: has no default" for key in known.keys() - value.keys() - {"global"}]
    if path.endswith(("resources", "issuerRef", "settings")):
        found = []
    for key in value.keys() & known.keys():
        found += _unlike(known[key], root, value[key], f"{path}.{key}")
    return found
