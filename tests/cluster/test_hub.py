"""Models that are named as a hub names them, from a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config
from cluster.errors import BadConfig
from cluster.hub import find_model, served_name
from tests.cluster.fake_hub import COMMIT, REPOSITORY, FakeHub, a_hub

NEEDED = ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"]
FILES = {
    **{name: name.encode() for name in NEEDED},
    "original/params.json": b"of no use",
    "original/consolidated.00.pth": b"of no use",
    "pytorch_model.bin": b"of no use",
    "README.md": b"of no use",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with a_hub(FILES) as hub:
        yield hub


def find(hub_url: str, home: Path, name: str, **environment: str) -> tuple[str, str]:
    """The directory, and what is wrong; in a process of its own, for huggingface_hub reads its
    environment once."""
    code = (
        "import json, sys\n"
        "from cluster.errors import BadConfig\n"
        "from cluster.hub import find_model\n"
        "try: print(json.dumps([find_model(sys.argv[1]), '']))\n"
        "except BadConfig as error: print(json.dumps(['', str(error)]))\n"
    )
    own = {"HF_ENDPOINT": hub_url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    ended = subprocess.run(
        [sys.executable, "-c", code, name],
        env={**os.environ, **own},
        **{"capture_output": True, "text": True, "timeout": 120, "check": True},
    )
    directory, error = json.loads(ended.stdout.splitlines()[-1])
    return directory, error


def test_a_model_comes_once_and_without_what_is_not_needed(hub: FakeHub, tmp_path: Path) -> None:
    directory, error = find(hub.url, tmp_path, REPOSITORY)
    assert not error
    assert sorted(hub.given) == sorted(NEEDED)
    assert sorted(it.name for it in Path(directory).iterdir()) == sorted(NEEDED)
    hub.given.clear()
    for revision in ("v1", "main", COMMIT):
        assert find(hub.url, tmp_path, f"{REPOSITORY}@{revision}") == (directory, "")
    assert hub.given == []
    assert find("http://127.0.0.1:1", tmp_path, REPOSITORY, HF_HUB_OFFLINE="1")[0] == directory
    assert find("http://127.0.0.1:1", tmp_path, REPOSITORY)[0] == directory


def test_what_it_does_not_give_has_a_cause_and_a_remedy(hub: FakeHub, tmp_path: Path) -> None:
    assert "no such model, or not for you" in find(hub.url, tmp_path, "tandem/other")[1]
    assert "no revision 'v9'" in find(hub.url, tmp_path, f"{REPOSITORY}@v9")[1]
    assert "HF_HUB_OFFLINE" in find(hub.url, tmp_path, REPOSITORY, HF_HUB_OFFLINE="1")[1]
    assert "`hf download tandem/tiny`" in find("http://127.0.0.1:1", tmp_path, REPOSITORY)[1]
    hub.gated = True
    gated = find(hub.url, tmp_path, REPOSITORY)[1]
    assert gated.startswith(f"model 'tandem/tiny' is no directory here, and {hub.url} does not")
    assert "hf auth login" in gated


def test_a_directory_is_itself_and_no_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("org/name", "~/org/name"):
        assert find_model(path) == str(tmp_path / "org" / "name")
    assert served_name("org/name") == "name"
    assert find_model("/no/such/directory") == "/no/such/directory"


@pytest.mark.parametrize(
    "settings", [{"model": "org/name@v2"}, {"models": {"org/name": "org/name@v2"}, **{}}]
)
def test_routers_and_workers_get_the_directory_and_clients_the_name(
    settings: dict[str, Any],
) -> None:
    found = {"org/name@v2": str(BUNDLED_MODEL)}
    config = load_config(None, settings, found.__getitem__)
    assert {name: it.path for name, it in config.models.items()} == {"org/name": str(BUNDLED_MODEL)}
    assert {it.worker.model for it in config.pools} == {str(BUNDLED_MODEL)}
    assert {it.worker.model_name for it in config.pools} == {"org/name"}


def test_nothing_is_fetched_for_a_configuration_that_is_wrong() -> None:
    def never(path: str) -> str:
        raise AssertionError(f"{path} was fetched")

    with pytest.raises(BadConfig, match="replicas"):
        load_config(None, {"model": "org/name", "prefill.replicas": -1}, never)
