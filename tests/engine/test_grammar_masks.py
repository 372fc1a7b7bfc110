"""Masks on real logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.grammar.grammars import Grammars
from engine.grammar.masks import apply_masks
from engine.sampler.sampler import Sampler
from engine.sequence import Sequence
from grammar.vocabulary import Vocabulary, read_vocabulary
from tests.engine.driver import make_sequence
from wire.sampling import Grammar, GrammarKind, SamplingParams

pytestmark = pytest.mark.quick

EOS = 1
VOCAB = 2053
"""More than the tokenizer has, and no whole number of bytes or words."""


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(Path("models/tiny-python/tokenizer.json"), VOCAB, [EOS])


def following(vocabulary: Vocabulary, pattern: str | None, **fields: object) -> Sequence:
    """A sequence that stands at the beginning of the pattern, or is free."""
    grammar = None if pattern is None else Grammar(GrammarKind.REGEX, pattern)
    sampling = SamplingParams(**{"max_tokens": 50, **fields}, grammar=grammar)
    sequence = make_sequence([3, 4, 5], sampling)
    if grammar is not None:
        grammars = Grammars(lambda: vocabulary, vocabulary.eos_token_ids)
        sequence.grammar = grammars.open(grammar, [])
        sequence.grammar.job.wait(60)
        assert sequence.grammar.error is None
    return sequence


def random_logits(num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, VOCAB, generator=torch.Generator().manual_seed(1)) * 5


def test_a_row_keeps_the_logits_of_what_its_grammar_allows_and_others_keep_all(
    vocabulary: Vocabulary,
) -> None:
    patterns = (None, "[0-9]+", None, "x?", '[^"]+')
    sequences = [following(vocabulary, pattern) for pattern in patterns]
    logits = random_logits(5)
    masked = logits.clone()
    apply_masks(masked, sequences)
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    for row in (1, 3, 4):
        grammar = sequences[row].grammar
        assert grammar is not None
        allowed = grammar.allowed.members().tolist()
        assert allowed
        assert torch.equal(masked[row, allowed], logits[row, allowed])
        rest = torch.ones(VOCAB, dtype=torch.bool)
        rest[allowed] = False
        assert (masked[row, rest] == float("-inf")).all()
    assert sequences[4].grammar is not None
    assert sequences[4].grammar.allowed.inverted  # most of the vocabulary
    assert masked[3, EOS] == logits[3, EOS]
    assert masked[1, EOS] == float("-inf")


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.1}, {}])
def test_whatever_the_sampling_only_allowed_tokens_are_drawn(
    vocabulary: Vocabulary, fields: dict[str, object]
) -> None:
    sampler = Sampler(frozenset({EOS}))
    for seed in range(20):
        sequence = following(vocabulary, "[0-9]{3}", seed=seed, **fields)
        (drawn,) = sampler.sample(random_logits(1), [sequence])
        assert vocabulary.tokenizer.decode_str([drawn.token]).isdigit()


def test_when_all_that_is_allowed_was_banned_the_grammar_wins(vocabulary: Vocabulary) -> None:
    ended = following(vocabulary, "x?", min_tokens=10)
    assert ended.grammar is not None
    ended.grammar.follow([vocabulary.tokenizer.tokenize_str("x")[0]])
    (drawn,) = Sampler(frozenset({EOS})).sample(random_logits(1), [ended])
    assert drawn.token == EOS


def test_log_probabilities_are_those_without_the_grammar(vocabulary: Vocabulary) -> None:
    logits = random_logits(1)
    sequence = following(vocabulary, "[0-9]{3}", logprobs=0)
    (drawn,) = Sampler(frozenset({EOS})).sample(logits.clone(), [sequence])
    assert drawn.logprob is not None
    assert drawn.logprob.logprob == pytest.approx(float(logits.log_softmax(-1)[0, drawn.token]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_masks_as_the_cpu_does(vocabulary: Vocabulary) -> None:
    patterns = (None, "[0-9]+", "x?", '[^"]+')
    sequences = [following(vocabulary, pattern, min_tokens=2) for pattern in patterns]
    here, there = random_logits(4), random_logits(4).cuda()
    here[2] = there[2] = float("-inf")
    apply_masks(here, sequences)
    apply_masks(there, sequences)
    assert torch.equal(there.cpu(), here)
