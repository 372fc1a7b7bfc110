"""Checks of requests' grammars: each is translated and compiled once, before a worker gets it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import msgspec

from grammar.compiler import check_bytes, compile_grammar
from grammar.errors import GrammarError, VocabularyError
from grammar.limits import GrammarLimits
from grammar.vocabulary import Vocabulary, read_vocabulary
from router.answers.grammar_choice import constraint_grammar
from router.config import RouterConfig
from router.errors import Internal, Overloaded
from router.requests.prompts import Constraint
from router.text.model_card import ModelCard
from wire.sampling import Grammar

MAX_CACHED = 256
"""Number of remembered results, since clients repeat grammars."""
MAX_CHECKS = 64
"""Maximum number of concurrent checks."""
NUM_THREADS = 2


class GrammarSpec(msgspec.Struct, frozen=True):
    """A grammar to check: the client's constraint or the grammar of a required call, with the
    reasoning before it and the tool calls that may replace it."""

    answer: Constraint | Grammar
    preface: str
    calls: str = ""


class InvalidGrammar(msgspec.Struct, frozen=True):
    """The error in a grammar."""

    text: str


class GrammarChecks:
    """The checks of one model. Nothing is read or compiled before the first grammar."""

    def __init__(self, config: RouterConfig, card: ModelCard) -> None:
        self._card = card
        self._timeout_s = config.grammar_timeout_s
        self._limits = GrammarLimits(max_bytes=config.max_grammar_bytes)
        self._results: OrderedDict[GrammarSpec, Grammar | InvalidGrammar] = OrderedDict()
        self._num_checks = 0

    async def check(self, spec: GrammarSpec) -> Grammar | InvalidGrammar:
        """Translate and compile a grammar in a thread, unless its result is known.

        Raises Overloaded, and Internal if the model does not support grammars.
        """
        if spec in self._results:
            self._results.move_to_end(spec)
            return self._results[spec]
        if self._num_checks >= MAX_CHECKS:
            text = f"{MAX_CHECKS} grammars are being checked: retry later"
            raise Overloaded(text, reason="grammars_busy")
        self._num_checks += 1
        checking = asyncio.get_running_loop().run_in_executor(self._threads, self._check, spec)
        checking.add_done_callback(self._release)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.shield(checking)
        except TimeoutError:
            limit = f"{self._timeout_s:g} s"
            return InvalidGrammar(f"the grammar takes longer than {limit} to compile: simplify it")
        self._results[spec] = found
        if len(self._results) > MAX_CACHED:
            self._results.popitem(last=False)
        return found

    def _release(self, checking: asyncio.Future[Grammar | InvalidGrammar]) -> None:
        """Release a check's slot, also after its request has gone."""
        self._num_checks -= 1
        if not checking.cancelled():
            checking.exception()  # retrieved, since the waiting request raises it

    def _check(self, spec: GrammarSpec) -> Grammar | InvalidGrammar:
        """Check a grammar; runs in a thread. Raises Internal if the model does not support
        grammars."""
        try:
            check_bytes(spec.answer.text + spec.calls, "grammar", self._limits)
            grammar = self._translate(spec)
            compile_grammar(grammar, self._vocabulary, self._limits).allowed()
        except VocabularyError as error:
            raise Internal(str(error)) from error
        except GrammarError as error:
            return InvalidGrammar(str(error))
        return grammar

    def _translate(self, spec: GrammarSpec) -> Grammar:
        answer = spec.answer
        if isinstance(answer, Constraint):
            answer = constraint_grammar(answer, self._vocabulary.special_tokens)
        return msgspec.structs.replace(answer, preface=spec.preface, calls=spec.calls)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_THREADS, "grammars")

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        card = self._card
        return read_vocabulary(card.tokenizer_file, card.vocab_size, card.eos_token_ids)
