"""Answers that follow a grammar, across the handoff between two workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.grammar.grammars import Grammars
from grammar.errors import VocabularyError
from grammar.limits import DEFAULT_LIMITS, GrammarLimits
from grammar.vocabulary import Vocabulary, read_vocabulary
from tests.worker.bench import Bench
from wire.handoff import Offer, Refuse, RefuseReason
from wire.identity import AttemptId
from wire.messages import Failed, FinishReason, Handed, Kept
from wire.sampling import Grammar, GrammarKind, SamplingParams

pytestmark = pytest.mark.quick

PROMPT = list(range(5, 26))
EOS = 1
CITY = Grammar(
    GrammarKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 10},
                "size": {"type": "integer", "minimum": 1, "maximum": 99},
            },
            "required": ["city", "size"],
            "additionalProperties": False,
        }
    ),
)
FOLLOWING = SamplingParams(max_tokens=120, grammar=CITY)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(Path("models/tiny-python/tokenizer.json"), 2048, [EOS])


def a_bench(vocabulary: Vocabulary, *, ahead: bool = False) -> Bench:
    bench = Bench(ahead=ahead)
    for station in bench.stations:
        station.engine.grammar_sequences.grammars = Grammars(
            lambda: vocabulary, vocabulary.eos_token_ids
        )
    return bench


def run(bench: Bench) -> None:
    """Until nothing is left to do; it never waits for anything but grammars."""
    for _ in range(1000):
        if not bench.turn() and all(station.loop.idle for station in bench.stations):
            return
        for station in bench.stations:
            for sequence in station.engine.grammar_sequences.unready.values():
                assert sequence.grammar is not None
                sequence.grammar.job.wait(60)


def person(vocabulary: Vocabulary, tokens: list[int]) -> dict[str, object]:
    assert tokens[-1] == EOS
    city: dict[str, object] = json.loads(vocabulary.tokenizer.decode_str(tokens[:-1]))
    return city


@pytest.mark.parametrize("ahead", [False, True])
def test_a_split_answer_is_that_of_one_worker_alone(vocabulary: Vocabulary, ahead: bool) -> None:
    bench = a_bench(vocabulary, ahead=ahead)
    split = bench.submit("split", PROMPT, sampling=FOLLOWING)
    run(bench)
    assert len(bench.told(Handed)) == 1
    alone = bench.submit("alone", PROMPT, sampling=FOLLOWING, alone=True)
    run(bench)
    assert bench.tokens(split) == bench.tokens(alone)
    assert set(person(vocabulary, bench.tokens(split))) == {"city", "size"}
    assert bench.outputs(split)[-1].finish is FinishReason.STOP
    bench.check_nothing_is_held()


def test_the_destination_compiles_while_blocks_travel(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, expected = a_bench(vocabulary), []
    monkeypatch.setattr(bench.decode.engine.grammar_sequences.grammars, "expect", expected.append)
    bench.submit("a", PROMPT, sampling=FOLLOWING)
    while not expected:
        run_one_turn(bench)
        assert not bench.told(Handed)
    assert expected == [CITY]


def run_one_turn(bench: Bench) -> None:
    bench.turn()
    for sequence in bench.prefill.engine.grammar_sequences.unready.values():
        assert sequence.grammar is not None
        assert sequence.grammar.job is not None
        sequence.grammar.job.wait(60)


def test_a_handoff_that_fails_leaves_the_grammar_where_it_was(vocabulary: Vocabulary) -> None:
    bench = a_bench(vocabulary)
    occupied = bench.decode.pool.try_allocate(bench.decode.pool.num_free)
    assert occupied is not None
    attempt_id = bench.submit("a", PROMPT, sampling=FOLLOWING)
    run(bench)
    assert len(bench.told(Kept)) == 1
    assert person(vocabulary, bench.tokens(attempt_id))
    bench.decode.pool.release(occupied)
    bench.check_nothing_is_held()


def test_a_worker_without_a_tokenizer_refuses_what_follows_a_grammar(
    vocabulary: Vocabulary,
) -> None:
    bench = a_bench(vocabulary)
    bench.decode.engine.grammar_sequences.grammars = None
    refused: list[Refuse] = []
    receive = bench.prefill.loop.source_handoffs.receive

    def noted(message: object, peer: object) -> None:
        if isinstance(message, Refuse):
            refused.append(message)
        receive(message, peer)  # type: ignore[arg-type]

    bench.prefill.loop.source_handoffs.receive = noted  # type: ignore[method-assign]
    attempt_id = bench.submit("a", PROMPT, sampling=FOLLOWING)
    run(bench)
    assert [(r.reason, r.detail[:20]) for r in refused] == [
        (RefuseReason.INCOMPATIBLE, "no tokenizer.json he")
    ]
    assert person(vocabulary, bench.tokens(attempt_id))


def test_a_grammar_that_cannot_be_enforced_is_the_requests_fault(vocabulary: Vocabulary) -> None:
    bench = a_bench(vocabulary)
    sampling = SamplingParams(max_tokens=9, grammar=Grammar(GrammarKind.LARK, "start: b"))
    bench.submit("a", PROMPT, sampling=sampling)
    run(bench)
    (failed,) = bench.told(Failed)
    assert isinstance(failed, Failed)
    assert failed.invalid
    assert not failed.retryable
    assert 'unknown name: "b"' in failed.cause
    bench.check_nothing_is_held()


@pytest.mark.parametrize("limits", [GrammarLimits(max_bytes=10), None])
def test_a_grammar_that_this_worker_cannot_compile_is_its_own_fault(
    vocabulary: Vocabulary, limits: GrammarLimits | None
) -> None:
    """The router has found it sound: a limit, or a tokenizer that cannot be read, is ours."""

    def unreadable() -> Vocabulary:
        raise VocabularyError("no tokenizer")

    bench = a_bench(vocabulary)
    read = (lambda: vocabulary) if limits else unreadable
    for station in bench.stations:
        station.engine.grammar_sequences.grammars = Grammars(
            read, vocabulary.eos_token_ids, limits or DEFAULT_LIMITS
        )
    bench.submit("a", PROMPT, sampling=FOLLOWING)
    run(bench)
    (failed,) = bench.told(Failed)
    assert isinstance(failed, Failed)
    assert not failed.invalid
    assert not failed.retryable
    bench.check_nothing_is_held()


def test_an_attempt_that_is_cancelled_while_its_grammar_compiles_is_gone(
    vocabulary: Vocabulary,
) -> None:
    bench = a_bench(vocabulary)
    bench.cancel(bench.submit("a", PROMPT, sampling=FOLLOWING))
    run(bench)
    bench.check_nothing_is_held()


def test_offers_without_a_grammar_carry_none(vocabulary: Vocabulary) -> None:
    bench = a_bench(vocabulary)
    bench.submit("a", PROMPT)
    bench.prefill.loop.turn()
    (_, offer) = bench.prefill.outbox.for_peers[0]
    assert isinstance(offer, Offer)
    assert offer.grammar is None
    assert offer.attempt_id == AttemptId("a")
