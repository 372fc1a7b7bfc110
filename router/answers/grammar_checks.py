"""Grammars that requests ask for, translated and compiled once.

What no worker could follow is found before a worker hears of it.
"""

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
"""Grammars whose check is remembered: clients come back with the same ones."""
MAX_CHECKS = 64
"""Most requests whose grammars are being checked."""
NUM_THREADS = 2


class Wanted(msgspec.Struct, frozen=True):
    """What an answer must follow, as the client said it or as the grammar of a call that must be
    made; what may come before it, and the calls that may come in its place."""

    answer: Constraint | Grammar
    preface: str
    calls: str = ""


class Complaint(msgspec.Struct, frozen=True):
    """What is wrong with a grammar."""

    text: str


class GrammarChecks:
    """Of one model. Nothing is read or compiled before the first grammar comes."""

    def __init__(self, config: RouterConfig, card: ModelCard) -> None:
        self._card = card
        self._timeout_s = config.grammar_timeout_s
        self._limits = GrammarLimits(max_bytes=config.max_grammar_bytes)
        self._known: OrderedDict[Wanted, Grammar | Complaint] = OrderedDict()
        self._num_checks = 0

    async def check(self, wanted: Wanted) -> Grammar | Complaint:
        """Translated and compiled in a thread, unless it is known. Raises Overloaded, and Internal
        when the model cannot follow any grammar."""
        if wanted in self._known:
            self._known.move_to_end(wanted)
            return self._known[wanted]
        if self._num_checks >= MAX_CHECKS:
            text = f"{MAX_CHECKS} grammars are being checked: come back later"
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
        """Also when nobody waits for it any more."""
        self._num_checks -= 1
        if not checking.cancelled():
            checking.exception()  # whoever waited has seen it

    def _check(self, wanted: Wanted) -> Grammar | Complaint:
        """In a thread. Raises Internal when the model cannot follow any grammar."""
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
