"""All gates together: what is wrong with a chart, for some values."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.helm.documents import Document, read_documents
from tests.helm.engines import KUBE_VERSIONS, Engine, HelmFailed
from tests.helm.meaning import meaning_problems
from tests.helm.references import reference_problems
from tests.helm.schemas import schema_problems


def rendered(engine: Engine, chart: Path, values: dict[str, Any]) -> list[Document]:
    """Raises HelmFailed, or yaml.YAMLError for YAML that Helm takes and nobody should."""
    return read_documents(engine.render(chart, values))


def chart_problems(engine: Engine, chart: Path, values: dict[str, Any]) -> Iterator[str]:
    """With the gate that found each; the cheap gates come first."""
    try:
        documents = rendered(engine, chart, values)
    except (HelmFailed, yaml.YAMLError) as error:
        yield f"render: {error}"
        return
    try:
        yield from (f"references: {it}" for it in reference_problems(documents, strings(values)))
        with tempfile.TemporaryDirectory() as folder:
            yield from (f"meaning: {it}" for it in meaning_problems(documents, Path(folder)))
    except KeyError as missing:
        yield f"references: something lacks its {missing}"
    yield from (f"schema: {it}" for it in schema_problems(documents, KUBE_VERSIONS[1:2]))
    yield from (f"lint: {it}" for it in engine.lint(chart, values, KUBE_VERSIONS[1]))


def strings(tree: Any) -> frozenset[str]:
    """All strings within."""
    if isinstance(tree, str):
        return frozenset([tree])
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return frozenset().union(*map(strings, inner))
