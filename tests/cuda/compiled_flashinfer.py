"""FlashInfer's Python as it is installed, over stand-ins for the modules that it would compile.

A stand-in takes the arguments of the compiled functions (`csrc/batch_decode.cu`,
`csrc/batch_prefill.cu` and `csrc/batch_prefill_sm90.cu` of the tested version), refuses what those
refuse, and computes the attention that they describe. Tensors are in host memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.attention import flashinfer_backend

NON_CAUSAL, CAUSAL, HND = 0, 1, 1
_GROUPS = {1, 2, 3, 4, 6, 8, 16}
"""Query heads of a KV head for which there are decode kernels without tensor cores."""


@dataclass(frozen=True)
class Planned:
    """A plan's arguments; starts [sequences + 1] and lengths are in host memory."""

    module: str
    query_starts: Tensor
    block_starts: Tensor
    heads: int
    kv_heads: int
    block_size: int
    head_size: int
    for_graphs: bool
    causal: bool
    window_left: int

    @property
    def kernel(self) -> str:
        """ "decode", without tensor cores, or "fa2" or "fa3"."""
        if self.module.startswith("batch_decode"):
            return "decode"
        return "fa3" if self.module.endswith("_sm90") else "fa2"


@dataclass
class Compiled:
    """The modules that were asked for, and all plans that were made of them."""

    specs: list[Any] = field(default_factory=list)
    """What FlashInfer compiles them by."""
    plans: list[Planned] = field(default_factory=list)

    @property
    def modules(self) -> list[str]:
        """Their names, which tell what they compute."""
        return [spec.name for spec in self.specs]

    def build(self, spec: Any) -> SimpleNamespace:
        """What compiling and loading a module gives."""
        self.specs.append(spec)
        module = _Module(spec.name, self.plans)
        if spec.name.startswith("batch_decode"):
            return SimpleNamespace(plan=module.plan_decode, run=module.run_decode)
        return SimpleNamespace(
            plan=module.plan_prefill, paged_run=module.run_prefill, ragged_run=None
        )


@contextmanager
def compiled_flashinfer(folder: Path, capability: tuple[int, int]) -> Iterator[Compiled]:
    """FlashInfer on a GPU of this compute capability; sources are generated in `folder`."""
    if find_spec("flashinfer") is None:
        pytest.skip("needs FlashInfer")
    import flashinfer  # whose warnings pyproject.toml knows
    from flashinfer.jit import core, env

    compiled = Compiled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.JitSpec, "build_and_load", lambda spec: compiled.build(spec))
        patch.setattr(env, "FLASHINFER_GEN_SRC_DIR", folder)
        patch.setenv("FLASHINFER_CUDA_ARCH_LIST", "{}.{}".format(*capability))
        _replace_device(patch, capability)
        patch.setattr(flashinfer_backend, "_WORKSPACE_BYTES", 1 << 20)
        _forget_modules(flashinfer)
        yield compiled
        _forget_modules(flashinfer)


def _replace_device(patch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """Everything that asks for the device gets this one."""
    answers = {
        "get_compute_capability": capability,
        "is_sm90a_supported": capability == (9, 0),
        "device_support_pdl": capability >= (9, 0),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("flashinfer"):
            for asked, answer in answers.items():
                if asked in vars(module):
                    patch.setattr(module, asked, lambda device, answer=answer: answer)
    event = SimpleNamespace(synchronize=lambda: None)
    stream = SimpleNamespace(record_event=lambda: event)
    patch.setattr(torch.cuda, "current_stream", lambda device: stream)
    empty = torch.empty

    def pageable(*size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return empty(*size, **options)

    patch.setattr(torch, "empty", pageable)


def _forget_modules(flashinfer: Any) -> None:
    """FlashInfer loads each module once a process."""
    flashinfer.decode.get_batch_decode_module.cache_clear()
    flashinfer.prefill.get_batch_prefill_module.cache_clear()


@dataclass(frozen=True)
class _Module:
    name: str
    plans: list[Planned]

    def plan_decode(
        self,
        floats: Tensor,
        ints: Tensor,
        pinned: Tensor,
        block_starts: Tensor,
        batch_size: int,
        heads: int,
        kv_heads: int,
        block_size: int,
        for_graphs: bool,
        window_left: int,
        soft_cap: float,
        head_size: int,
        value_head_size: int,
        *dtypes: Tensor,
    ) -> list[int]:
        assert heads // kv_heads in _GROUPS
        assert batch_size == len(block_starts) - 1
        query_starts = torch.arange(batch_size + 1, dtype=torch.int32)
        sizes = heads, kv_heads, block_size, head_size
        return self._plan(query_starts, block_starts, sizes, for_graphs, False, window_left)

    def plan_prefill(
        self,
        floats: Tensor,
        ints: Tensor,
        pinned: Tensor,
        query_starts: Tensor,
        block_starts: Tensor,
        lengths: Tensor,
        num_rows: int,
        batch_size: int,
        heads: int,
        kv_heads: int,
        block_size: int,
        for_graphs: bool,
        head_size: int,
        value_head_size: int,
        causal: bool,
        window_left: int,
        *splits: object,
    ) -> list[int]:
        assert batch_size == len(query_starts) - 1 == len(block_starts) - 1
        assert num_rows == query_starts[-1]
        assert (query_starts.diff() <= lengths).all()
        assert torch.equal(block_starts.diff(), -(-lengths // block_size))
        assert bool(splits) != self.name.endswith("_sm90")  # of the two, FA2 alone splits keys
        sizes = heads, kv_heads, block_size, head_size
        return self._plan(query_starts, block_starts, sizes, for_graphs, causal, window_left)

    def _plan(
        self,
        query_starts: Tensor,
        block_starts: Tensor,
        sizes: tuple[int, int, int, int],
        for_graphs: bool,
        causal: bool,
        window_left: int,
    ) -> list[int]:
        assert query_starts.dtype == block_starts.dtype == torch.int32
        assert f"_use_swa_{window_left >= 0}_" in self.name
        assert f"_head_dim_qk_{sizes[3]}_" in self.name
        starts = query_starts.clone(), block_starts.clone()
        made = Planned(self.name, *starts, *sizes, for_graphs, causal, window_left)
        self.plans.append(made)
        return [len(self.plans) - 1]

    def run_decode(
        self, floats: Tensor, ints: Tensor, plan: list[int], query: Tensor, *arguments: Any
    ) -> None:
        keys, values, block_starts, blocks, last_lens, out, _, layout, window_left, *_ = arguments
        planned = self.plans[plan[0]]
        assert (layout, window_left) == (HND, planned.window_left)
        tables = block_starts, blocks, last_lens
        _attend(planned, query, keys, values, planned.query_starts, tables, out)

    def run_prefill(
        self, floats: Tensor, ints: Tensor, plan: list[int], query: Tensor, *arguments: Any
    ) -> None:
        keys, values, query_starts, *rest = arguments
        block_starts, blocks, last_lens, out, _, mask_mode, layout, window_left, *_ = rest
        planned = self.plans[plan[0]]
        assert mask_mode == (CAUSAL if planned.causal else NON_CAUSAL)
        assert (layout, window_left) == (HND, planned.window_left)
        assert torch.equal(query_starts, planned.query_starts)
        _attend(planned, query, keys, values, query_starts, (block_starts, blocks, last_lens), out)


def _attend(
    planned: Planned,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    query_starts: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
) -> None:
    """Attention as planned, over keys and values [blocks, kv_heads, block_size, head_size]."""
    block_starts, blocks, last_lens = tables
    assert {table.dtype for table in tables} == {torch.int32}
    assert torch.equal(block_starts, planned.block_starts)
    assert keys.stride() == values.stride()
    assert keys.shape[1:] == (planned.kv_heads, planned.block_size, planned.head_size)
    assert query.shape == out.shape == (query_starts[-1], planned.heads, planned.head_size)
    assert out.is_contiguous()
    assert query.stride()[1:] == (planned.head_size, 1)
    for number, last_len in enumerate(last_lens.tolist()):
        table = blocks[block_starts[number] : block_starts[number + 1]].long()
        end = (len(table) - 1) * planned.block_size + last_len
        rows = slice(int(query_starts[number]), int(query_starts[number + 1]))
        seen = (part[table].transpose(0, 1).flatten(1, 2)[:, :end] for part in (keys, values))
        out[rows] = _attend_one(query[rows], *seen, planned.window_left)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, window_left: int) -> Tensor:
    """query [n, heads, head_size], keys and values [kv_heads, end, head_size]; the last query sees
    the last key, and `window_left` keys before it, or all for -1."""
    grouped = query.float().unflatten(1, (len(keys), -1))
    scores = torch.einsum("nkgd,ked->kgne", grouped, keys.float()) / query.shape[2] ** 0.5
    end = keys.shape[1]
    behind = torch.arange(end) - torch.arange(end - len(query), end)[:, None]
    hidden = (behind > 0) | ((behind < -window_left) if window_left >= 0 else False)
    shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("kgne,ked->nkgd", shares, values.float()).flatten(1, 2).to(query.dtype)
