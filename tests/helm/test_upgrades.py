"""`helm upgrade` with any value changed: nothing that cannot be changed has to be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.changes import changed_values, over
from tests.helm.documents import Document, name_of
from tests.helm.engines import CHART, Helm4
from tests.helm.fake_api.immutable import FIXED, refused_changes

CLAIM = {"source": "hf", "hf": {"repo": "owner/model", "storage": "claim"}}
BASES: dict[str, dict[str, Any]] = {
    "pods": {"launcher": "pods", "model": CLAIM, "fullnameOverride": "serve"},
    "ray": {"launcher": "ray", "model": CLAIM, "fullnameOverride": "serve"},
}
CHANGES = dict(changed_values())
KINDS = (*FIXED, "Service")
OF_RAY = ("ray", "network", "pools", "fullnameOverride", "nameOverride", "commonLabels")
"""Which values reach what only launcher ray has."""


Objects = Callable[[dict[str, Any]], dict[str, Document]]


@pytest.fixture(scope="module")
def objects(helm4: Helm4) -> Objects:
    """What some values make, by name, of the kinds that have fields which cannot be changed."""
    return lambda values: _parsed(helm4.render(CHART, values))


def _parsed(text: str) -> dict[str, Document]:
    parts = text.split("\n---\n")
    wanted = [part for part in parts if any(f"kind: {kind}\n" in part for kind in KINDS)]
    found = [it for part in wanted for it in yaml.load_all(part, yaml.CSafeLoader) if it]
    return {name_of(document): document for document in found}


@pytest.mark.parametrize("base", BASES)
def test_no_value_changes_what_cannot_be_changed(base: str, objects: Objects) -> None:
    before, wrong = objects(BASES[base]), []
    for path, change in CHANGES.items():
        if base == "ray" and path.partition(".")[0] not in OF_RAY:
            continue
        after = objects(over(BASES[base], change))
        for name in before.keys() & after.keys():
            wrong += [f"{path}: {it}" for it in refused_changes(before[name], after[name])]
    assert wrong == []
    assert len(CHANGES) > 250


def test_the_chart_and_its_images_may_be_of_another_version(
    objects: Objects, helm4: Helm4, tmp_path: Path
) -> None:
    before = objects(BASES["pods"])
    chart = tmp_path / "tandem"
    shutil.copytree(CHART, chart)
    file = chart / "Chart.yaml"
    file.write_text(file.read_text().replace("0.1.0", "0.2.0"))
    after = _parsed(helm4.render(chart, BASES["pods"]))
    assert "0.2.0" in str(after["Deployment/serve-router"])
    for name in before.keys() & after.keys():
        assert list(refused_changes(before[name], after[name])) == []
