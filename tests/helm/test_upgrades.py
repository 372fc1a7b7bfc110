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


@pytest.mark.parametrize("base", ["ray", pytest.param("pods", marks=pytest.mark.long)])
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


DEFECTS: dict[str, tuple[str, str, str, str, str]] = {
    "a Job of one name": (
        "model-download.yaml",
        "-model-{{ $template | sha256sum | trunc 8 }}",
        "-model",
        "images.router.tag",
        "Job/serve-model: spec.template",
    ),
    "a Job whose name hashes less than its template": (
        "model-download.yaml",
        "{{ $template | sha256sum | trunc 8 }}",
        "{{ toJson $model | sha256sum | trunc 8 }}",
        "download.extraEnv",
        "spec.template",
    ),
    "a claim of one name": (
        "_model.tpl",
        '(printf "%s-model-%s" (include "tandem.fullname" .) $suffix)',
        '(printf "%s-model" (include "tandem.fullname" .))',
        "model.hf.claim.storageClass",
        "PersistentVolumeClaim/serve-model: spec.storageClassName",
    ),
    "a selector that a value changes": (
        "_names.tpl",
        "app.kubernetes.io/name: {{ .root.Chart.Name }}",
        "app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}",
        "nameOverride",
        "Deployment/serve-router: spec.selector",
    ),
    "a service that stops being headless": (
        "router-services.yaml",
        "spec:\n  clusterIP: None\n  {{- $families | nindent 2 }}\n  selector",
        'spec:\n  clusterIP: {{ .Values.router.grpcService.enabled | ternary "" "None" | quote }}\n'
        "  selector",
        "router.grpcService.enabled",
        "Service/serve-grpc: spec.clusterIP",
    ),
}
"""File, what stands there, what is put there, the value that is changed, what the server says."""


@pytest.mark.parametrize("what", DEFECTS)
def test_a_chart_that_would_change_it_is_found_out(what: str, helm4: Helm4, tmp_path: Path) -> None:
    file, right, wrong, path, said = DEFECTS[what]
    chart = tmp_path / "tandem"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / file).read_text()
    assert right in text, "the chart has changed: so must this defect"
    (chart / "templates" / file).write_text(text.replace(right, wrong, 1))
    base = BASES["pods"]
    before, after = (
        _parsed(helm4.render(chart, values)) for values in (base, over(base, CHANGES[path]))
    )
    problems = [
        it
        for name in before.keys() & after.keys()
        for it in refused_changes(before[name], after[name])
    ]
    assert any(said in it for it in problems), problems
