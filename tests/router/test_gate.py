"""From an Authorization header to a caller, and from a caller to a request that it may make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.access.caller import ANYBODY, narrowed
from router.access.gate import Gate
from router.access.keys import KeyFile, generate_key
from router.errors import Forbidden, OverQuota, Unauthenticated, Unavailable
from router.requests.request import RequestDraft
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick

DRAFT = RequestDraft(request_id="a", prompt=None, max_tokens=4)


def asking(**traits: Any) -> RequestDraft:
    """A draft whose client said so much."""
    given = {name: value for name, value in traits.items() if value is not None}
    has_priority = "priority" in given
    return msgspec.structs.replace(DRAFT, traits=RequestTraits(**given), has_priority=has_priority)


MakeGate = Callable[[str], tuple[Gate, str]]


@pytest.fixture
def make_gate(tmp_path: Path) -> MakeGate:
    """A gate with one key, of these further settings; and that key."""

    def make(settings: str) -> tuple[Gate, str]:
        key, hashed = generate_key()
        path = tmp_path / "keys.yaml"
        path.write_text(f"alice: {{hash: '{hashed}'{settings}}}")
        return Gate(KeyFile(str(path)), clock=lambda: 0.0), f"Bearer {key}"

    return make


def test_without_keys_everybody_may_do_everything() -> None:
    caller = Gate(None).caller(None)
    assert caller is ANYBODY
    assert caller.admit(asking(priority=-5)) == asking(priority=-5)


def test_a_key_is_asked_for_and_found_whatever_the_case_of_bearer(make_gate: MakeGate) -> None:
    gate, header = make_gate("")
    assert gate.caller(header).name == "alice"
    assert gate.caller(header.replace("Bearer", "bearer")).name == "alice"
    with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
        gate.caller(None)


@pytest.mark.parametrize("spoil", ["Basic {key}", "Bearer {key}x", "{key}", "Bearer ", ""])
def test_other_headers_are_refused_without_saying_why(make_gate: MakeGate, spoil: str) -> None:
    gate, header = make_gate("")
    key = header.removeprefix("Bearer ")
    with pytest.raises(Unauthenticated) as caught:
        gate.caller(spoil.format(key=key))
    assert key not in str(caught.value)


def test_what_a_key_uses_is_counted_over_all_its_requests(make_gate: MakeGate) -> None:
    gate, header = make_gate(", concurrency: 1, tokens_per_minute: 15")
    gate.caller(header).enter()
    with pytest.raises(OverQuota, match="1 requests"):
        gate.caller(header).enter()
    with gate.caller(header).charge(10) as spend:
        with pytest.raises(OverQuota), gate.caller(header).charge(10):
            pass
        spend(10)
    gate.caller(header).leave()
    with pytest.raises(OverQuota, match="15 tokens"):
        gate.caller(header).enter()


@pytest.mark.parametrize(("num_generated", "left"), [(0, 15), (1, 4)])
def test_a_prompt_that_was_not_served_costs_nothing(
    make_gate: MakeGate, num_generated: int, left: int
) -> None:
    gate, header = make_gate(", tokens_per_minute: 15")

    def serve() -> None:
        with gate.caller(header).charge(10) as spend:
            spend(num_generated)
            raise Unavailable("no worker")

    with pytest.raises(Unavailable):
        serve()
    with gate.caller(header).charge(left):
        pass
    with pytest.raises(OverQuota), gate.caller(header).charge(1):
        pass


def test_a_request_carries_its_tenant_and_the_tenant_s_salt(make_gate: MakeGate) -> None:
    gate, header = make_gate("")
    admitted = gate.caller(header).admit(DRAFT)
    assert admitted.traits.tenant == "alice"
    assert len(admitted.traits.cache_salt) == 32
    assert msgspec.structs.replace(admitted, traits=RequestTraits()) == DRAFT


def test_a_client_s_own_salt_narrows_and_never_leads_out(make_gate: MakeGate) -> None:
    gate, header = make_gate("")
    caller = gate.caller(header)

    def salt(own: bytes) -> bytes:
        return caller.admit(asking(cache_salt=own)).traits.cache_salt

    default = salt(b"")
    assert salt(b"one") == salt(b"one")
    assert len({default, salt(b"one"), salt(b"two"), salt(default), salt(salt(b"one"))}) == 5
    other = bytes(32)
    assert all(salt(guess) != other for guess in (b"", other, b"other"))
    assert salt(b"one") == narrowed(default, b"one")


@pytest.mark.parametrize(
    ("settings", "asked", "given"),
    [
        ("", None, 0),
        ("", 0, 0),
        ("", 7, 7),
        (", max_priority: 5", None, 5),
        (", max_priority: -3", None, 0),
        (", max_priority: -3", -3, -3),
    ],
)
def test_a_priority_is_as_urgent_as_the_key_allows(
    make_gate: MakeGate, settings: str, asked: int | None, given: int
) -> None:
    gate, header = make_gate(settings)
    assert gate.caller(header).admit(asking(priority=asked)).traits.priority == given


def test_a_more_urgent_one_is_refused(make_gate: MakeGate) -> None:
    gate, header = make_gate("")
    with pytest.raises(Forbidden, match="no more urgent than 0") as caught:
        gate.caller(header).admit(asking(priority=-1))
    assert caught.value.field == "priority"


def test_only_some_keys_open_the_admin_port(make_gate: MakeGate) -> None:
    gate, header = make_gate("")
    with pytest.raises(Forbidden, match="admin: true"):
        gate.admin(header)
    gate, header = make_gate(", admin: true")
    assert gate.admin(header).name == "alice"
    assert Gate(None).admin(None) is ANYBODY
