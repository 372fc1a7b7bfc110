"""The cost of grammars (structured outputs): python -m benchmarks.grammars

Measures compiling, masks and their copies with a random vocabulary of 128,000 tokens, and decode
steps of the bundled model with and without a grammar. Masks are computed concurrently with a step;
only the copies are not.
"""

from __future__ import annotations

import json
import random
import string
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.engine.ours import Cost, median_cost, timed_cost
from cluster.bundled import BUNDLED_MODEL
from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.grammar.grammars import Grammars
from engine.grammar.masks import apply_masks
from engine.runners.torch_loading import load_torch_runner
from engine.sequence import Sequence
from grammar.compiler import compile_grammar
from grammar.vocabulary import Vocabulary, read_vocabulary
from wire.identity import AttemptId
from wire.sampling import Grammar, GrammarKind, SamplingParams

VOCAB_SIZE = 128_000
RECORD = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
RECORDS = Grammar(
    GrammarKind.JSON_SCHEMA, json.dumps({"type": "array", "items": RECORD, "minItems": 500})
)
PLACES = {"between parts": "[{", "within a text": '[{"name":"x'}


def made_up_vocabulary(directory: Path) -> tuple[Vocabulary, Cost]:
    """Words of random letters, and what reading them took."""
    draw = random.Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(["<end>", *alphabet])
    while len(words) < VOCAB_SIZE:
        word = "".join(draw.choices(8 * string.ascii_letters + ' .,"', k=draw.randint(2, 8)))
        words["Ġ" + word.replace(" ", "Ġ") if draw.random() < 0.5 else word.replace(" ", "Ġ")] = (
            None
        )
    ids = {word.replace(" ", "Ġ"): id_ for id_, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    read: list[Vocabulary] = []
    spent = timed_cost(lambda: read.append(read_vocabulary(path, VOCAB_SIZE, [0])))
    return read[0], spent


def measure_matching(vocabulary: Vocabulary) -> None:
    largest = {f"p{n:03}": {"type": "string", "pattern": "^[a-z]{3,20}$"} for n in range(1000)}
    schema = json.dumps({"type": "object", "properties": largest})
    for name, grammar in (
        ("small schema", RECORDS),
        (f"schema of {len(schema) >> 10} KiB", Grammar(GrammarKind.JSON_SCHEMA, schema)),
    ):
        tell(f"compile a {name}", partial(compile_grammar, grammar, vocabulary))
    start = compile_grammar(RECORDS, vocabulary)
    for place, text in PLACES.items():
        measure_place(vocabulary, place, vocabulary.tokenizer.tokenize_str(text))
    tell("copy a matcher", start.copy)


def measure_place(vocabulary: Vocabulary, place: str, tokens: list[int]) -> None:
    spent = []
    for _ in range(20):
        matcher = compile_grammar(RECORDS, vocabulary)
        matcher.consume(tokens)
        spent.append(timed_cost(matcher.allowed))
    print_us(f"mask {place}, first time", median_cost(spent))
    matcher = compile_grammar(RECORDS, vocabulary)
    matcher.consume(tokens)
    tell(f"mask {place}, again", matcher.allowed)
    for num_rows in (1, 16):
        grammars = Grammars(lambda: vocabulary, vocabulary.eos_token_ids)
        rows = [a_sequence(str(n), RECORDS) for n in range(num_rows)]
        for row in rows:
            row.grammar = grammars.open(RECORDS, tokens)
            assert row.grammar.job is not None
            row.grammar.job.wait(10)
        logits = torch.randn(num_rows, VOCAB_SIZE)
        tell(f"write it on {num_rows} rows", partial(apply_masks, logits, rows))


def measure_steps(batch: int) -> None:
    engines = [an_engine(batch, grammar) for grammar in (None, RECORDS)]
    rounds = [[timed_cost(engine.step) for engine in engines] for _ in range(101)][1:]
    for name, costs in zip(("free", "JSON"), zip(*rounds, strict=True), strict=True):
        cost = median_cost(list(costs))
        print(
            f"step of {batch:>2} sequences, {name}: {cost.cpu_s * 1e3:.2f} ms of the CPU, "
            f"{cost.wall_s * 1e3:.2f} by the clock"
        )


def an_engine(batch: int, grammar: Grammar | None) -> Engine:
    """All of whose sequences decode."""
    runner = load_torch_runner(BUNDLED_MODEL, device="cpu", threads=1)
    runner.allocate(4096)
    tokenizer_file, ends = BUNDLED_MODEL / "tokenizer.json", runner.eos_token_ids
    grammars = Grammars(lambda: read_vocabulary(tokenizer_file, runner.vocab_size, ends), ends)
    engine = Engine(runner, BlockPool(4096), DecodePolicy(), grammars)
    for number in range(batch):
        engine.add(a_sequence(str(number), grammar))
    while engine.grammar_sequences.unready or any(
        not sequence.decoding for sequence in engine.running
    ):
        engine.step()
    return engine


def a_sequence(name: str, grammar: Grammar | None) -> Sequence:
    sampling = SamplingParams(max_tokens=400, seed=len(name), ignore_eos=True, grammar=grammar)
    return Sequence(AttemptId(name), list(range(10, 50)), sampling)


def tell(name: str, action: Callable[[], object]) -> None:
    print_us(name, median_cost([timed_cost(action) for _ in range(21)][1:]))


def print_us(name: str, cost: Cost) -> None:
    print(f"{name:<36} {cost.cpu_s * 1e6:>8.0f} us of the CPU")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        vocabulary, spent = made_up_vocabulary(Path(directory))
    print_us("read the vocabulary", spent)
    measure_matching(vocabulary)
    for batch in (1, 16, 64):
        measure_steps(batch)


if __name__ == "__main__":
    main()
