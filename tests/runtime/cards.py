"""A worker that announces itself."""

from decode_worker.scheduler import DecodePolicy
from wire.identity import ProcessRef, Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import WorkerCard

CARD = WorkerCard(
    ref=WorkerRef("decode-0", 1),
    role=Role.DECODE,
    address="127.0.0.1:1",
    model="m",
    model_hash="h",
    layout=KvLayout(num_layers=1, num_kv_heads=1, head_size=4, block_size=4, dtype="float32"),
    content="c",
    num_blocks=1,
    max_model_len=1,
    policies={role: DecodePolicy().traits for role in Role},
    transport="memory",
    process=ProcessRef("host", 1),
)
