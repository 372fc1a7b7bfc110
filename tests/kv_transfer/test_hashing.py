import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_transfer.hashing import block_hashes, extend_hashes
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=80)


def salted(salt: bytes) -> RequestTraits:
    return RequestTraits(cache_salt=salt)


@given(tokens)
def test_only_full_blocks_have_a_hash(prompt: list[int]) -> None:
    assert len(block_hashes(prompt, 16)) == len(prompt) // 16


@given(tokens, tokens)
def test_a_hash_names_the_whole_prefix(a: list[int], b: list[int]) -> None:
    hashes_a, hashes_b = block_hashes(a, 4), block_hashes(b, 4)
    for index, (left, right) in enumerate(zip(hashes_a, hashes_b, strict=False)):
        end = (index + 1) * 4
        assert (left == right) == (a[:end] == b[:end])


@given(tokens, st.integers(0, 80))
def test_extending_gives_what_hashing_at_once_gives(prompt: list[int], cut: int) -> None:
    hashes = block_hashes(prompt[:cut], 8, salted(b"salt"))
    extend_hashes(hashes, prompt, 8, salted(b"salt"))
    assert hashes == block_hashes(prompt, 8, salted(b"salt"))


def test_another_salt_shares_nothing() -> None:
    prompt = list(range(64))
    hashes_a, hashes_b = (block_hashes(prompt, 16, salted(salt)) for salt in (b"a", b"b"))
    assert not set(hashes_a) & set(hashes_b)
