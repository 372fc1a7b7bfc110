"""What the parity part of benchmarks.gpu takes for right, and what not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from benchmarks.gpu.checkpoint import write_checkpoint
from benchmarks.gpu.finding import Kind
from benchmarks.gpu.judges import PlainJudge
from benchmarks.gpu.models import TINY
from benchmarks.gpu.parts import parity
from benchmarks.gpu.steps import Answer
from engine.model.config import ModelConfig, read_config
from wire.sampling import TokenLogprob

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")
PROMPT = list(range(9))
VOCAB = 12


class Table:
    """A judge that has log-probabilities of its own for every position, whatever the tokens."""

    def __init__(self, noise: float = 0.0) -> None:
        torch.manual_seed(0)
        self.values = torch.randn(64, VOCAB).log_softmax(-1)
        self.values += noise * torch.randn(64, VOCAB)

    def logprobs(self, tokens: list[int]) -> Tensor:
        return self.values[: len(tokens)]


def answered(judge: Table, rank: int = 0) -> Answer:
    """The judge's own answer; of its last token only the one of this rank is taken."""
    best = judge.values[len(PROMPT) - 1 : len(PROMPT) + 11].topk(4)
    tokens = best.indices[:, 0].tolist()
    tokens[-1] = best.indices[-1, rank].item()
    logprobs = [
        TokenLogprob(
            row[ids.tolist().index(token)].item(), tuple(ids.tolist()), tuple(row.tolist())
        )
        for token, ids, row in zip(tokens, best.indices, best.values, strict=True)
    ]
    return Answer(PROMPT, tokens, logprobs)


def test_in_float32_nothing_but_the_judge_s_numbers_is_right() -> None:
    exact = Table()
    assert parity._checked_exactly("x", [answered(exact)], exact).kind is Kind.GREEN
    assert parity._checked_exactly("x", [answered(Table(0.01))], exact).kind is Kind.RED


def test_in_float32_a_token_that_is_not_the_best_is_wrong() -> None:
    exact = Table()
    assert parity._checked_exactly("x", [answered(exact, rank=2)], exact).kind is Kind.RED


@pytest.mark.parametrize(
    ("noise", "kind"), [(0.01, Kind.GREEN), (0.05, Kind.GREEN), (0.1, Kind.RED)]
)
def test_in_bfloat16_the_engine_may_be_as_far_off_as_the_judge(noise: float, kind: Kind) -> None:
    found = parity._checked_beside("x", [answered(Table(noise))], Table(), Table(0.05))
    assert found.kind is kind


FAMILIES = parity._families(TINY, 11)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=list(FAMILIES))
def test_a_checkpoint_is_read_as_it_was_meant(config: ModelConfig, tmp_path: Path) -> None:
    found = read_config(write_checkpoint(config, tmp_path, CPU))
    assert msgspec.structs.replace(found, eos_token_ids=()) == config


def test_the_plain_judge_reads_windows(tmp_path: Path) -> None:
    """Two models with the same weights, of which one sees eleven tokens."""
    narrow = FAMILIES["mistral"]
    wide = msgspec.structs.replace(narrow, windows=(None, None))
    tokens = torch.randint(0, narrow.vocab_size, (30,)).tolist()
    one, other = (
        PlainJudge(write_checkpoint(it, tmp_path / name, CPU), torch.float32).logprobs(tokens)
        for it, name in ((narrow, "narrow"), (wide, "wide"))
    )
    assert torch.equal(one[:11].argmax(-1), other[:11].argmax(-1))
    torch.testing.assert_close(one[:11], other[:11])
    assert (one[12:] - other[12:]).abs().max() > 1e-3
