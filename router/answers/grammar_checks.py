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

NUM_KNOWN = 256
"""Number of remembered results, since clients repeat grammars."""
MAX_CHECKS = 64
"""Maximum number of concurrent checks."""
NUM_THREADS = 2


class Wanted(msgspec.Struct, frozen=True):
    """A grammar to check: the client's constraint or the grammar of a required call, with the
    reasoning before it and the tool calls that may replace it."""

    answer: Constraint | Grammar
    preface: str
    calls: str = ""


class Complaint(msgspec.Struct, frozen=True):
    """The error in a grammar."""

    text: str


class GrammarChecks:
    """The checks of one model. Nothing is read or compiled before the first grammar."""

    def __init__(self, config: RouterConfig, card: ModelCard) -> None:
        self._card = card
        self._timeout_s = config.grammar_timeout_s
        self._limits = GrammarLimits(max_bytes=config.max_grammar_bytes)
        self._known: OrderedDict[Wanted, Grammar | Complaint] = OrderedDict()
        self._num_checks = 0

    async def check(self, wanted: Wanted) -> Grammar | Complaint:
        """Translate and compile a grammar in a thread, unless its result is known.

        Raises Overloaded, and Internal if the model does not support grammars.
        """
        if wanted in self._known:
            self._known.move_to_end(wanted)
            return self._known[wanted]
        if self._num_checks >= MAX_CHECKS:
            text = f"{MAX_CHECKS} grammars are being checked: retry later"
            raise Overloaded(text, reason="grammars_busy")
        self._num_checks += 1
        checking = asyncio.get_running_loop().run_in_executor(self._threads, self._check, wanted)
        checking.add_done_callback(self._count_down)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.shield(checking)
        except TimeoutError:
            limit = f"{self._timeout_s:g} s"
            return Complaint(f"the grammar takes longer than {limit} to compile: simplify it")
        self._known[wanted] = found
        if len(self._known) > NUM_KNOWN:
            self._known.popitem(last=False)
        return found

    def _count_down(self, checking: asyncio.Future[Grammar | Complaint]) -> None:
        """Release a check's slot, also after its request has gone."""
        self._num_checks -= 1
        if not checking.cancelled():
            checking.exception()  # retrieved, since the waiting request raises it

    def _check(self, wanted: Wanted) -> Grammar | Complaint:
        """Check a grammar; runs in a thread. Raises Internal if the model does not support
        grammars."""
        try:
            check_bytes(wanted.answer.text + wanted.calls, "grammar", self._limits)
            grammar = self._translated(wanted)
            compile_grammar(grammar, self._vocabulary, self._limits).allowed()
        except VocabularyError as error:
            raise Internal(str(error)) from error
        except GrammarError as error:
            return Complaint(str(error))
        return grammar

    def _translated(self, wanted: Wanted) -> Grammar:
        answer = wanted.answer
        if isinstance(answer, Constraint):
            answer = constraint_grammar(answer, self._vocabulary.special_tokens)
        return msgspec.structs.replace(answer, preface=wanted.preface, calls=wanted.calls)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_THREADS, "grammars")

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        card = self._card
        return read_vocabulary(card.tokenizer_file, card.vocab_size, card.eos_token_ids)
