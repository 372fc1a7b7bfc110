"""The images, as far as they can be known without building them."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.helm.engines import CHART, ROOT

DOCKER = ROOT / "docker"
ROOMS = {path.parent.name for path in ROOT.glob("*/__init__.py")}
START = {
    "router": "import router.__main__, router.server, grammar.compiler",
    "worker": "import cluster.commands, cluster.ray_launcher\n"
    "import prefill_worker.__main__, decode_worker.__main__",
}
ONLY_THESE = """
import importlib.abc, json, sys
given = frozenset(json.loads(sys.argv[1]))
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in given | sys.stdlib_module_names:
            raise ModuleNotFoundError(f"the image has no {name}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize("image", START)
def test_an_image_has_whatever_its_processes_import(image: str) -> None:
    given = _modules(_closure(_required(image))) | _copied(image)
    code = ONLY_THESE + START[image]
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sorted(given))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_routers_image_has_neither_torch_nor_ray() -> None:
    closure = _closure(_required("router"))
    assert closure & {"torch", "ray", "nixl-cu12", "nixl-cu13"} == set()
    assert {"engine", "worker", "cluster"} & _copied("router") == set()


@pytest.mark.parametrize("image", START)
def test_what_a_dockerfile_copies_is_sent_to_the_builder(image: str) -> None:
    ignores = (DOCKER / f"{image}.Dockerfile.dockerignore").read_text().split()
    allowed = {line[1:] for line in ignores if line.startswith("!")}
    assert set(_sources(image)) <= allowed
    assert all((ROOT / source).exists() for source in _sources(image))


@pytest.mark.parametrize("image", START)
def test_an_image_runs_as_the_user_whom_the_chart_names(image: str) -> None:
    assert "\nUSER 10001\n" in (DOCKER / f"{image}.Dockerfile").read_text()
    assert "runAsUser: 10001" in (CHART / "values.yaml").read_text()


def test_a_worker_s_image_keeps_what_it_compiles_and_finds_the_driver_on_gke() -> None:
    file = (DOCKER / "worker.Dockerfile").read_text()
    for setting in (
        *("HOME=/tmp", "TANDEM_CACHE_DIR=/cache/tandem", "TRITON_CACHE_DIR=/cache/triton"),
        *("FLASHINFER_WORKSPACE_BASE=/cache", "LD_LIBRARY_PATH=/usr/local/nvidia/lib64"),
    ):
        assert setting in file
    assert "install --directory --mode=1777 /cache" in file


def test_a_worker_s_image_for_cuda_12_differs_in_nixl_and_an_extra_only_adds() -> None:
    usual, older = _required("worker"), _required("worker", "--cuda", "12")
    assert set(usual) ^ set(older) == {"nixl-cu13==1.5.1", "nixl-cu12==1.5.1"}
    with_flashinfer = set(_required("worker", "--extra", "gpu"))
    assert {_name(it) for it in with_flashinfer - set(usual)} == {"flashinfer-python"}
    assert set(usual) <= with_flashinfer


def test_the_chart_starts_the_ray_and_the_version_that_the_images_have() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (ray,) = re.findall(r'"ray\[default\]==([\d.]+)"', project)
    (version,) = re.findall(r'^version = "([\d.]+)"', project, re.M)
    assert f"  version: {ray}\n" in (CHART / "values.yaml").read_text()
    assert f'appVersion: "{version}"' in (CHART / "Chart.yaml").read_text()


def _required(image: str, *options: str) -> list[str]:
    script = [sys.executable, f"{DOCKER}/requirements.py", image, f"{ROOT}/pyproject.toml"]
    script += options
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout.split("\n")


def _closure(requirements: list[str]) -> set[str]:
    """Names of distributions, with all that they require here."""
    seen: set[str] = set()
    todo = [_name(requirement) for requirement in requirements if requirement]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        seen.add(name)
        todo += [_name(it) for it in required if "extra ==" not in it]
        if name == "ray":  # its extra `default` is asked for
            todo += [_name(it) for it in required if re.search(r"extra == .default.", it)]
    return seen


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;(]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _modules(distributions: set[str]) -> set[str]:
    found = {
        module
        for module, owners in metadata.packages_distributions().items()
        if any(_name(owner) in distributions for owner in owners)
    }
    if "ray" in distributions:  # which brings some along inside
        (folder,) = importlib.util.find_spec("ray").submodule_search_locations  # type: ignore[union-attr, misc]
        found |= {path.name for path in Path(folder, "thirdparty_files").iterdir()}
    return found


def _sources(image: str) -> list[str]:
    lines = (DOCKER / f"{image}.Dockerfile").read_text().splitlines()
    copies = [
        line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line
    ]
    return [source for copy in copies for source in copy]


def _copied(image: str) -> set[str]:
    return {Path(source).name for source in _sources(image)} & ROOMS
