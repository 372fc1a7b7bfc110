"""The file of keys: what it may say, what a mistake in it costs, and how it follows its changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.access.keys import KeyFile, KeyRing, generate_key, read_keys
from router.errors import StartError

pytestmark = pytest.mark.quick


def a_file(folder: Path, text: str) -> Path:
    path = folder / "keys.yaml"
    path.write_text(text)
    return path


def a_ring(folder: Path, text: str) -> KeyRing:
    return read_keys(str(a_file(folder, text)))


def test_a_key_is_known_by_its_hash_alone(tmp_path: Path) -> None:
    key, hashed = generate_key()
    assert key not in hashed
    ring = a_ring(tmp_path, f"alice: {hashed}\nbob: {generate_key()[1]}")
    tenant = ring.find(key)
    assert tenant is not None
    assert tenant.name == "alice"
    assert ring.find(hashed) is None
    assert ring.find(key + "x") is None
    assert ring.find("") is None
    assert ring.find("x" * 100_000) is None


def test_two_keys_serve_one_name_while_one_replaces_the_other(tmp_path: Path) -> None:
    (old, old_hash), (new, new_hash) = generate_key(), generate_key()
    ring = a_ring(tmp_path, f"alice: {{hash: [{old_hash}, {new_hash}], concurrency: 3}}")
    found = [ring.find(old), ring.find(new)]
    assert [tenant.name for tenant in found if tenant] == ["alice", "alice"]
    assert [tenant.entry.concurrency for tenant in found if tenant] == [3, 3]


def test_every_key_has_a_salt_of_its_own_and_a_group_has_one_together(tmp_path: Path) -> None:
    keys = [generate_key() for _ in range(4)]
    ring = a_ring(
        tmp_path,
        f"""
a: {keys[0][1]}
team: {keys[1][1]}
b: {{hash: {keys[2][1]}, share_group: team}}
c: {{hash: {keys[3][1]}, share_group: team}}
""",
    )
    salts = {}
    for key, _ in keys:
        tenant = ring.find(key)
        assert tenant is not None
        salts[tenant.name] = tenant.salt
    assert salts["b"] == salts["c"]
    assert len({salts["a"], salts["team"], salts["b"]}) == 3
    assert all(len(salt) == 32 for salt in salts.values())


def test_salts_are_the_same_in_every_router_that_reads_the_file(tmp_path: Path) -> None:
    key, hashed = generate_key()
    found = [a_ring(tmp_path, f"alice: {hashed}").find(key) for _ in range(2)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].salt == found[1].salt


HASH = "sha256:" + 64 * "a"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping"),
        ("- a", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("alice: hunter2", "alice: a hash is sha256: and 64 hexadecimal digits"),
        ("alice: sha256:abc", "alice: a hash is"),
        ("alice: 3", "alice: Expected `object`"),
        (f"alice: {{hash: '{HASH}', rate: 3}}", "alice: .*unknown field `rate`"),
        (f"alice: {{hash: '{HASH}', concurrency: 0}}", "alice: concurrency is 0, must be over 0"),
        (f"alice: {HASH}\nbob: {HASH}", "bob: has the same key as alice"),
        (f"'a b': {HASH}", "'a b': a name is"),
    ],
)
def test_a_mistake_is_named_with_its_entry(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(StartError, match=f"(?s)keys.yaml: .*{complaint}"):
        KeyFile(str(a_file(tmp_path, text)))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StartError, match="/no/such/keys"):
        KeyFile("/no/such/keys")


def rewrite(path: Path, text: str) -> None:
    """As careful programs do it: the file is a new one."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def test_a_changed_file_holds_a_second_later(tmp_path: Path) -> None:
    (old, old_hash), (new, new_hash) = generate_key(), generate_key()
    path = a_file(tmp_path, f"alice: {old_hash}")
    keys = KeyFile(str(path))
    assert keys.ring(10.0).find(old)
    rewrite(path, f"alice: {new_hash}")
    assert keys.ring(10.5).find(old), "nobody looks twice a second"
    assert keys.ring(11.0).find(new)
    assert not keys.ring(11.0).find(old)


def test_a_broken_or_missing_new_file_leaves_the_keys_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, hashed = generate_key()
    path = a_file(tmp_path, f"alice: {hashed}")
    keys = KeyFile(str(path))
    rewrite(path, "alice: nonsense")
    assert keys.ring(1.0).find(key)
    assert keys.ring(3.0).find(key)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "alice: a hash is" in caplog.text
    path.unlink()
    assert keys.ring(5.0).find(key)
    assert len(caplog.records) == 2
    rewrite(path, f"bob: {hashed}")
    tenant = keys.ring(7.0).find(key)
    assert tenant is not None
    assert tenant.name == "bob"
