"""Answers that follow a grammar, on the runner that can be computed by hand."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.errors import GrammarsBusy, SequenceError
from engine.grammar.grammars import NUM_COMPILING_THREADS, Grammars
from engine.grammar.sequences import MAX_UNREADY
from engine.runners.arithmetic_runner import ArithmeticRunner
from engine.sequence import Sequence, Status
from grammar.compiler import compile_grammar
from grammar.limits import GrammarLimits
from grammar.vocabulary import Vocabulary, read_vocabulary
from wire.identity import AttemptId
from wire.messages import FinishReason
from wire.sampling import Grammar, GrammarKind, SamplingParams

pytestmark = pytest.mark.quick

TOKENIZER = Path("models/tiny-python/tokenizer.json")
EOS = 1
PERSON = Grammar(
    GrammarKind.JSON_SCHEMA,
    json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 12},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": False,
        }
    ),
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(TOKENIZER, 2048, [EOS])


def an_engine(vocabulary: Vocabulary, num_blocks: int = 256, **limits: int) -> Engine:
    runner = ArithmeticRunner(block_size=4)
    runner.allocate(num_blocks)
    grammars = Grammars(lambda: vocabulary, vocabulary.eos_token_ids, GrammarLimits(**limits))
    return Engine(runner, BlockPool(num_blocks), DecodePolicy(), grammars)


def a_sequence(
    name: str, grammar: Grammar | None = PERSON, tokens: tuple[int, ...] = (5, 6, 7), **fields: int
) -> Sequence:
    sampling = SamplingParams(**{"max_tokens": 400, **fields}, grammar=grammar)
    return Sequence(AttemptId(name), list(tokens), sampling, num_prompt=3)


def run(engine: Engine) -> dict[str, FinishReason]:
    finished = {}
    while engine.busy:
        wait_for_grammars(engine)
        for made in engine.step():
            if made.finish is not None:
                finished[made.sequence.attempt_id.request_id] = made.finish
        engine.pool.check_integrity()
    return finished


def wait_for_grammars(engine: Engine) -> None:
    for sequence in engine.grammar_sequences.unready.values():
        assert sequence.grammar is not None
        assert sequence.grammar.job is not None
        sequence.grammar.job.wait(60)


def text(vocabulary: Vocabulary, sequence: Sequence) -> str:
    answer = sequence.tokens[sequence.num_prompt :]
    return vocabulary.tokenizer.decode_str([token for token in answer if token != EOS])


def test_an_answer_follows_its_schema_and_ends_when_it_is_complete(vocabulary: Vocabulary) -> None:
    engine, sequence = an_engine(vocabulary), a_sequence("a")
    engine.add(sequence)
    assert run(engine) == {"a": FinishReason.STOP}
    assert sequence.tokens[-1] == EOS
    person = json.loads(text(vocabulary, sequence))
    assert set(person) == {"name", "age", "tags"}
    assert 0 <= person["age"] <= 150


def test_many_answers_follow_their_own_grammars_in_one_batch(vocabulary: Vocabulary) -> None:
    engine = an_engine(vocabulary)
    digits = Grammar(GrammarKind.REGEX, "[0-9]{20}")
    letters = Grammar(GrammarKind.LARK, 'start: ("x" | "yz")~5')
    grammars = [PERSON, digits, letters, None] * 3
    sequences = [
        a_sequence(str(i), grammar, (5, 6, i), max_tokens=300) for i, grammar in enumerate(grammars)
    ]
    for sequence in sequences:
        engine.add(sequence)
    finished = run(engine)
    for sequence in sequences:
        answer = text(vocabulary, sequence)
        match sequence.sampling.grammar:
            case None:
                assert finished[sequence.attempt_id.request_id] is FinishReason.LENGTH
            case Grammar(kind=GrammarKind.JSON_SCHEMA):
                assert set(json.loads(answer)) == {"name", "age", "tags"}
            case Grammar(kind=GrammarKind.REGEX):
                assert len(answer) == 20
                assert answer.isdigit()
            case Grammar(kind=GrammarKind.LARK):
                assert set(answer) <= set("xyz")


def test_the_batch_changes_no_answer(vocabulary: Vocabulary) -> None:
    alone, together = a_sequence("alone"), a_sequence("together")
    engine = an_engine(vocabulary)
    engine.add(alone)
    run(engine)
    for sequence in (a_sequence("other", None, (9, 9, 9)), together, a_sequence("third")):
        engine.add(sequence)
    run(engine)
    assert together.tokens == alone.tokens


@pytest.mark.parametrize("num_known", [1, 5, 17])
def test_an_answer_goes_on_elsewhere_from_the_tokens_so_far(
    vocabulary: Vocabulary, num_known: int
) -> None:
    whole = a_sequence("a")
    engine = an_engine(vocabulary)
    engine.add(whole)
    run(engine)
    rest = a_sequence("b", tokens=tuple(whole.tokens[: 3 + num_known]))
    other = an_engine(vocabulary)
    other.add(rest)
    run(other)
    assert rest.tokens == whole.tokens


def test_preemption_changes_no_answer(vocabulary: Vocabulary) -> None:
    roomy, tight = an_engine(vocabulary), an_engine(vocabulary, num_blocks=120)
    answers = []
    for engine in (roomy, tight):
        sequences = [a_sequence(str(i), PERSON, (5, 6, i), max_tokens=200) for i in range(8)]
        for sequence in sequences:
            engine.add(sequence)
        run(engine)
        answers.append([sequence.tokens for sequence in sequences])
    assert answers[0] == answers[1]


def test_an_adopted_sequence_runs_when_its_grammar_is_known(vocabulary: Vocabulary) -> None:
    whole = a_sequence("a")
    engine = an_engine(vocabulary)
    engine.add(whole)
    run(engine)
    other, known = an_engine(vocabulary), tuple(whole.tokens[:10])
    other.add(a_sequence("prefix", None, known, max_tokens=8))
    run(other)
    adopted = a_sequence("b", tokens=known)
    adopted.blocks = other.pool.acquire_prefix(adopted.update_hashes(4))
    adopted.num_computed = 8
    other.adopt(adopted)
    assert adopted.status is Status.HELD
    run(other)
    assert adopted.tokens == whole.tokens


def test_min_tokens_and_ignored_ends_give_way_to_the_grammar(vocabulary: Vocabulary) -> None:
    engine = an_engine(vocabulary)
    short = a_sequence("a", Grammar(GrammarKind.REGEX, "ab"), min_tokens=50, ignore_eos=True)
    engine.add(short)
    assert run(engine) == {"a": FinishReason.STOP}
    assert text(vocabulary, short) == "ab"


def test_a_bad_grammar_ends_its_sequence_and_no_other(vocabulary: Vocabulary) -> None:
    engine = an_engine(vocabulary)
    bad, good = a_sequence("bad", Grammar(GrammarKind.REGEX, "[a")), a_sequence("good")
    engine.add(bad)
    engine.add(good)
    assert run(engine) == {"good": FinishReason.STOP}
    assert engine.grammar_sequences.take_failed() == [bad]
    assert engine.grammar_sequences.take_failed() == []
    assert bad.status is Status.FINISHED
    assert bad.grammar is not None
    assert "invalid regex" in str(bad.grammar.error)
    assert bad.grammar.to_blame


def test_a_grammar_that_becomes_too_complex_ends_its_sequence(vocabulary: Vocabulary) -> None:
    engine = an_engine(vocabulary)
    deep = a_sequence("deep", Grammar(GrammarKind.REGEX, "(((a{1,100}){1,100}){1,100}){100}c"))
    engine.add(deep)
    assert run(engine) == {}
    assert engine.grammar_sequences.take_failed() == [deep]
    assert deep.grammar is not None
    assert "cannot be followed any further" in str(deep.grammar.error)
    assert set(text(vocabulary, deep)) == {"a"}
    assert engine.pool.num_free == engine.pool.num_blocks


def test_a_slow_grammar_keeps_nobody_else_waiting(vocabulary: Vocabulary) -> None:
    may_compile = threading.Event()

    def read() -> Vocabulary:
        assert may_compile.wait(60)
        return vocabulary

    engine = an_engine(vocabulary)
    engine.grammar_sequences.grammars = Grammars(read, vocabulary.eos_token_ids)
    slow, plain = a_sequence("slow"), a_sequence("plain", None, max_tokens=5)
    engine.add(slow)
    engine.add(plain)
    while plain.status is not Status.FINISHED:
        engine.step()
    assert slow.status is Status.WAITING
    may_compile.set()
    assert run(engine) == {"slow": FinishReason.STOP}


def test_a_sequence_that_is_dropped_while_its_grammar_compiles_is_gone(
    vocabulary: Vocabulary,
) -> None:
    engine, sequence = an_engine(vocabulary), a_sequence("a")
    engine.add(sequence)
    engine.drop(sequence)
    assert not engine.busy
    assert engine.step() == []


def test_so_many_sequences_may_wait_for_their_grammars(vocabulary: Vocabulary) -> None:
    never: Future[Vocabulary] = Future()
    engine = an_engine(vocabulary)
    engine.grammar_sequences.grammars = Grammars(lambda: never.result(60), vocabulary.eos_token_ids)
    for number in range(MAX_UNREADY):
        engine.add(a_sequence(str(number)))
    with pytest.raises(GrammarsBusy, match=f"{MAX_UNREADY} sequences wait"):
        engine.add(a_sequence("one more"))
    never.set_result(vocabulary)


def test_who_is_dropped_keeps_no_place_before_the_compilers(vocabulary: Vocabulary) -> None:
    never: Future[Vocabulary] = Future()
    engine = an_engine(vocabulary)
    engine.grammar_sequences.grammars = Grammars(lambda: never.result(60), vocabulary.eos_token_ids)
    num_left = 0
    for number in range(10):
        sequence = a_sequence(str(number))
        engine.add(sequence)
        engine.drop(sequence)
        assert sequence.grammar is not None
        num_left += not sequence.grammar.ready
    assert num_left <= NUM_COMPILING_THREADS
    never.set_result(vocabulary)


def test_a_compiler_that_breaks_ends_one_sequence_and_no_worker(
    vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Vocabulary:
        raise RuntimeError("out of tables")

    engine, other = an_engine(vocabulary), a_sequence("b", None, max_tokens=5)
    engine.grammar_sequences.grammars = Grammars(broken, vocabulary.eos_token_ids)
    sequence = a_sequence("a")
    engine.add(sequence)
    engine.add(other)
    assert run(engine) == {"b": FinishReason.LENGTH}
    assert engine.grammar_sequences.take_failed() == [sequence]
    assert sequence.grammar is not None
    assert sequence.grammar.error == "the grammar's compiler broke: RuntimeError"
    assert not sequence.grammar.to_blame
    assert "out of tables" in caplog.text


def test_without_a_tokenizer_a_grammar_is_refused() -> None:
    runner = ArithmeticRunner()
    engine = Engine(runner, BlockPool(8), DecodePolicy())
    with pytest.raises(SequenceError, match="no tokenizer"):
        engine.add(a_sequence("a", max_tokens=5))


def test_a_place_is_the_same_after_many_tokens_at_once(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenizer.tokenize_str('{"name": "x", "age": 1')
    one_by_one, at_once = compile_grammar(PERSON, vocabulary), compile_grammar(PERSON, vocabulary)
    for token in tokens:
        one_by_one.consume([token])
    at_once.consume(tokens)
    members = at_once.allowed().members().tolist()
    assert members
    assert one_by_one.allowed().members().tolist() == members
