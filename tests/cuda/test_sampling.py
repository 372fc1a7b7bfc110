"""The sampler's Triton kernels, interpreted, draw the tokens that the CPU draws."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from engine.cuda import draw_kernels, limit_kernels, sampling  # noqa: E402
from engine.cuda.draw_kernels import random_bits, rough_exponential, speed  # noqa: E402
from engine.sampler import sampler as sampler_module  # noqa: E402
from engine.sampler.device_draw import row_settings  # noqa: E402
from engine.sampler.filters import apply_filters  # noqa: E402
from engine.sampler.noise import draw_key, exponential_noise  # noqa: E402
from engine.sampler.sampler import Sampler  # noqa: E402
from engine.sequence import Sequence  # noqa: E402
from tests.cuda.interpreter import interpreted  # noqa: E402
from tests.engine.driver import make_sequence  # noqa: E402
from wire.sampling import SamplingParams  # noqa: E402

THIS = sys.modules[__name__]
NEVER = float("-inf")


@pytest.fixture
def _interpreted() -> Iterator[None]:
    with interpreted(draw_kernels, limit_kernels, THIS), np.errstate(all="ignore"):
        yield


def on_the_cpu(logits: Tensor, sequences: list[Sequence]) -> list[int]:
    return [each.token for each in Sampler(frozenset()).sample(logits.clone(), sequences)]


def by_the_kernels(
    logits: Tensor,
    sequences: list[Sequence],
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    room: int,
) -> list[int]:
    """With small splits, and little room, so that a short row has many."""
    with monkeypatch.context() as patch:
        patch.setattr(sampler_module, "uses_triton", lambda _: True)
        patch.setattr(sampling, "BLOCK", block)
        patch.setattr(sampling, "ROOM", room)
        return on_the_cpu(logits, sequences)


def a_row(chance: random.Random, vocab_size: int, filters: bool) -> tuple[Tensor, Sequence]:
    """Logits that are spread, flat, rounded so that many tie, or mostly excluded."""
    logits = torch.tensor([chance.gauss(0, 1) for _ in range(vocab_size)])
    logits *= chance.choice([0.1, 1, 4])
    if chance.random() < 0.3:
        logits = (logits * 2).round() / 2
    if chance.random() < 0.3:
        kept = chance.choice([1, 3, vocab_size // 2])
        logits[torch.tensor(chance.sample(range(vocab_size), vocab_size - kept))] = NEVER
    fields: dict[str, object] = {"temperature": chance.choice([0, 0.2, 0.7, 1, 1, 1.5, 30, 1e-6])}
    if filters and chance.random() < 0.6:
        fields["top_k"] = chance.choice([1, 2, 5, 100, vocab_size - 1, vocab_size + 9])
    if filters and chance.random() < 0.6:
        fields["top_p"] = chance.choice([1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 0.999999])
    if filters and chance.random() < 0.3:
        fields["min_p"] = chance.choice([0.01, 0.2, 1.0])
    sampling = SamplingParams(max_tokens=9, seed=chance.randrange(2**40), **fields)  # type: ignore[arg-type]
    return logits, make_sequence([1] * chance.randrange(1, 60), sampling)


@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("vocab_size", [50, 700, 2048])
@pytest.mark.usefixtures("_interpreted")
def test_tokens_are_those_of_the_cpu(
    vocab_size: int, filters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(vocab_size)
    logits, sequences = zip(*(a_row(chance, vocab_size, filters) for _ in range(8)), strict=True)
    batch, rows = torch.stack(logits), list(sequences)
    expected = on_the_cpu(batch, rows)
    for block, room in [(512, 64), (2048, 512)]:
        assert by_the_kernels(batch, rows, monkeypatch, block, room) == expected


@pytest.mark.parametrize(("block", "room"), [(256, 16), (1024, 1024)])
@pytest.mark.usefixtures("_interpreted")
def test_filters_keep_what_sorting_keeps(
    block: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "BLOCK", block)
    monkeypatch.setattr(sampling, "ROOM", room)
    chance = random.Random(room)
    made = [a_row(chance, 600, filters=True) for _ in range(14)]
    drawn = [(logits, row) for logits, row in made if not row.sampling.greedy]
    logits, rows = torch.stack([logits for logits, _ in drawn]), [row for _, row in drawn]
    settings = row_settings(rows, 600, logits.device)
    sampling.draw_tokens(logits, settings)
    distances = (logits.amax(-1, keepdim=True) - logits) / settings.temperatures[:, None]
    sorted_out = -distances
    apply_filters(sorted_out, [row.sampling for row in rows])
    kept = (distances <= settings.limits[:, None]) & (distances < math.inf)
    assert torch.equal(kept, sorted_out > NEVER)
    assert len(set(kept.sum(-1).tolist())) > 3


@triton.jit
def noise_of(keys, exact, rough, SIZE: tl.constexpr):
    """The noise of the first tokens in float64, from a race of equals, and in float32."""
    row, token = tl.program_id(0), tl.arange(0, SIZE)
    bits = random_bits(tl.load(keys + row), token)
    tl.store(exact + row * SIZE + token, 1.0 / speed(tl.zeros([SIZE], tl.float32), bits))
    tl.store(rough + row * SIZE + token, rough_exponential(bits))


@pytest.mark.usefixtures("_interpreted")
def test_noise_is_that_of_the_definition_and_float32_is_close_to_it() -> None:
    names = [draw_key(3, position) for position in range(64)]
    keys = torch.from_numpy(np.array(names, np.uint64).view(np.int64))
    exact, rough = torch.empty(64, 1024, dtype=torch.float64), torch.empty(64, 1024)
    noise_of[(64,)](keys, exact, rough, SIZE=1024)
    defined = exponential_noise(names, 1024, torch.device("cpu"))
    torch.testing.assert_close(exact, defined, rtol=1e-14, atol=0)
    assert defined.min() < 1e-4  # where uniform numbers are almost 1, and float32 has few bits
    assert ((rough.double() / defined).log().abs() < 2**-16).all()


@triton.jit
def rough_noise_of(bits, rough, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(rough + place, rough_exponential(tl.load(bits + place)))


@pytest.mark.usefixtures("_interpreted")
def test_float32_noise_is_close_at_both_ends_of_its_range() -> None:
    steps = torch.logspace(0, 51.99, 32, base=2, dtype=torch.float64).long()
    bits = torch.cat([steps - 1, 2**52 - steps])
    rough = torch.empty(64)
    rough_noise_of[(1,)](bits, rough, SIZE=64)
    for made, given in zip(rough.tolist(), bits.tolist(), strict=True):
        rest = (2**52 - 1 - given + 0.5) / 2**52
        defined = -math.log1p(-rest) if rest < 0.5 else -math.log((given + 0.5) / 2**52)
        assert abs(math.log(made / defined)) < 2**-16


@pytest.mark.usefixtures("_interpreted")
def test_a_row_of_which_nothing_may_be_drawn_gives_its_first_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.full((2, 300), NEVER)
    logits[1] = math.nan
    sampling = SamplingParams(max_tokens=9, top_k=3, top_p=0.5)
    rows = [make_sequence([1], sampling)] * 2
    assert by_the_kernels(logits, rows, monkeypatch, 128, 16) == [0, 0]
