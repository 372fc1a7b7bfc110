"""How KV memory looks, so that two workers can tell whether they can exchange blocks."""

from __future__ import annotations

import hashlib

import msgspec

from wire.identity import PROTOCOL_VERSION

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int64": 8}


class KvLayout(msgspec.Struct, frozen=True):
    """A pool of blocks, block-major: [block, layer, key/value, kv_head, slot, head_size].

    One block holds `block_size` token slots of all layers and is contiguous, so that it travels as
    one descriptor; heads lie outside the slots, so that a head's slice is contiguous too.
    """

    num_layers: int
    num_kv_heads: int
    head_size: int
    block_size: int
    dtype: str

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * DTYPE_BYTES[self.dtype]

    @property
    def block_bytes(self) -> int:
        return self.token_bytes * self.block_size

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens, the last one perhaps in part."""
        return -(-num_tokens // self.block_size)


def fingerprint(layout: KvLayout, content: str) -> str:
    """Equal on two workers exactly when blocks of one mean the same on the other.

    `content` names the model, and how its blocks are checked.
    """
    described = msgspec.json.encode((PROTOCOL_VERSION, content, layout))
    return hashlib.blake2b(described, digest_size=16).hexdigest()
