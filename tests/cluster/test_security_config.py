"""What one file says of keys and certificates reaches every process; and the commands for keys."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cluster.commands import app
from cluster.config import load_config
from cluster.demo import check_no_auth
from cluster.errors import BadConfig
from router.access.keys import read_keys
from runtime.tls import MutualTls

pytestmark = pytest.mark.quick

FILES = "{ca: ca.pem, cert: /etc/c.pem, key: /etc/k.pem}"


def a_file(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_certificates_are_said_once_and_hold_for_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(a_file(tmp_path, f"tls: {FILES}"), {})
    expected = MutualTls(ca=str(tmp_path / "ca.pem"), cert="/etc/c.pem", key="/etc/k.pem")
    assert config.tls == config.router.tls == expected
    assert [pool.worker.tls for pool in config.pools] == [expected, expected]


def test_files_of_the_doors_are_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "router: {keys_file: keys.yaml, door_tls: {cert: c.pem, key: k.pem}}"
    router = load_config(a_file(tmp_path, text), {}).router
    assert router.keys_file == str(tmp_path / "keys.yaml")
    assert router.door_tls is not None
    assert router.door_tls.cert == str(tmp_path / "c.pem")
    assert router.door_tls.client_ca is None
    assert router.tls is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tls: {ca: a, cert: b}", r"missing required field `key` - at `\$.tls`"),
        (f"tls: {FILES}\nrouter: {{tls: {{ca: a}}}}", r"`cert` - at `\$.router.tls`"),
        ("router: {door_tls: {cert: a, key: b, ca: c}}", "unknown field `ca`"),
        ("tls: yes", "tls: must be a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadConfig, match=complaint):
        load_config(a_file(tmp_path, text), {})


@pytest.mark.parametrize(
    "settings",
    [{"router.keys_file": "k"}, {"router.door_tls.cert": "c", "router.door_tls.key": "k"}],
)
def test_the_demo_says_that_it_has_no_key(settings: dict[str, str]) -> None:
    with pytest.raises(BadConfig, match="tandem up"):
        check_no_auth(load_config(None, settings))
    check_no_auth(load_config(None, {}))


def tandem(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_new_key_is_shown_once_with_its_line(tmp_path: Path) -> None:
    status, output, _ = tandem("key", "new", "alice")
    _, key, _, line = output.splitlines()
    assert status == 0
    path = tmp_path / "keys.yaml"
    path.write_text(line.strip())
    tenant = read_keys(str(path)).find(key.strip())
    assert tenant is not None
    assert tenant.name == "alice"


def test_keys_are_added_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    keys = [tandem("key", "new", name, "--file", str(path))[1].strip() for name in ("a", "b")]
    ring = read_keys(str(path))
    found = [ring.find(key) for key in keys]
    assert [tenant.name for tenant in found if tenant] == ["a", "b"]
    assert not any(key in path.read_text() for key in keys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ("alice: sha256:" + 64 * "a", "alice", "has a key of alice"),
        ("alice: nonsense", "bob", "alice: a hash is"),
        (None, "two words", "printable characters"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_as_it_was(
    tmp_path: Path, content: str | None, name: str, complaint: str
) -> None:
    path = tmp_path / "keys.yaml"
    if content is not None:
        path.write_text(content)
    status, output, error = tandem("key", "new", name, "--file", str(path))
    assert (status, output) == (2, "")
    assert complaint in error
    assert (path.read_text() if path.exists() else None) == content


def test_settings_of_tls_cross_processes_as_json() -> None:
    tls = MutualTls(ca="a", cert="b", key="c")
    assert msgspec.json.decode(msgspec.json.encode(tls), type=MutualTls) == tls
