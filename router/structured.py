"""What an answer must look like, and what of it is a call of a tool."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

import msgspec

from grammar import lark
from grammar.compiler import check_bytes, compile_grammar
from grammar.errors import GrammarError, VocabularyError
from grammar.limits import GrammarLimits
from grammar.thought import thought
from grammar.vocabulary import Vocabulary, read_vocabulary
from router.answer import AnswerParser
from router.config import RouterConfig
from router.errors import Internal, InvalidRequest, Overloaded
from router.grammar_choice import call_grammar, constraint_grammar, must_call
from router.prompts import Constraint, ConstraintKind, ToolMode
from router.reasoning import (
    MARKS,
    TAIL_TOKENS,
    CallsInThoughts,
    ReasoningScanner,
    has_reasoning,
    reasoning_of,
)
from router.requests import GenerateRequest, Reasoning, RequestDraft
from router.text.model_card import ModelCard
from router.text.tokenizer import Tokenizer
from router.tool_calls.first_call import FirstCallOnly
from router.tool_calls.formats import LLAMA3_JSON, ToolFormat, find_format
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


class Structured:
    """Makes grammars of requests, and refuses those that no worker could follow.

    Nothing is read or compiled before the first grammar comes. Raises StartError for a
    `tool_parser` or a `reasoning_parser` that is not known.
    """

    def __init__(self, config: RouterConfig, card: ModelCard, tokenizer: Tokenizer) -> None:
        self._config = config
        self._card = card
        self._tokenizer = tokenizer
        template = card.tool_template or card.chat_template
        self.format = find_format(
            config.tool_parser, template, lambda mark: self._special(mark) is not None
        )
        templates = f"{card.chat_template}{card.tool_template}"
        self._reasons = has_reasoning(config.reasoning_parser, templates)
        self._limits = GrammarLimits(max_bytes=config.max_grammar_bytes)
        self._known: OrderedDict[Wanted, Grammar | Complaint] = OrderedDict()
        self._num_checks = 0

    async def apply(self, request: GenerateRequest, draft: RequestDraft) -> GenerateRequest:
        """The request with the grammar that its answer must follow, if there is one, and with
        what it may think before that.

        Raises InvalidRequest, Overloaded.
        """
        request = self._thinking(request, draft)
        preface = self._preface(request.reasoning)
        if must_call(draft.tool_choice):
            must = self._calls(request, draft)
            return await self._following(request, Wanted(must, preface), "tools")
        wanted = draft.constraint
        if wanted is None:
            return request
        may_call = _may_call(request) and self.format.calls_are_marked
        calls = self._calls(request, draft).text if may_call else ""
        return await self._following(request, Wanted(wanted, preface, calls), wanted.field)

    def parser(self, request: GenerateRequest) -> AnswerParser | None:
        """A fresh one for each answer; None where all of it is text."""
        calls = self._call_parser(request) if _may_call(request) else None
        if request.reasoning is Reasoning.NONE:
            return calls
        mark, early = self._format_for(request).opening, None
        if calls is not None and mark is not None:
            early = CallsInThoughts(mark, partial(self._call_parser, request))
        return ReasoningScanner(calls, begun=request.reasoning is Reasoning.BEGUN, calls=early)

    def shown_tokens(self, request: GenerateRequest) -> frozenset[int]:
        """Special tokens that the parser must see as text, or the client."""
        marks = self._format_for(request).marks if _may_call(request) else ()
        if request.reasoning is not Reasoning.NONE:
            marks = (*marks, *MARKS)
        seen = {token for mark in marks if (token := self._special(mark)) is not None}
        return request.shown_tokens | seen

    def _call_parser(self, request: GenerateRequest) -> AnswerParser:
        scanner = self._format_for(request).scan(request.tools)
        return scanner if request.parallel_tool_calls else FirstCallOnly(scanner)

    def _thinking(self, request: GenerateRequest, draft: RequestDraft) -> GenerateRequest:
        if not self._reasons:
            return request
        ids = request.prompt_tokens[-TAIL_TOKENS:]
        tail = self._tokenizer.decode(ids, skip_special_tokens=False)
        return msgspec.structs.replace(request, reasoning=reasoning_of(draft.prompt, tail))

    def _calls(self, request: GenerateRequest, draft: RequestDraft) -> Grammar:
        """Raises InvalidRequest."""
        try:
            return call_grammar(draft, self._format_for(request), self._spell)
        except GrammarError as error:
            raise InvalidRequest(f"tools: {error}", "tools") from error

    async def _following(
        self, request: GenerateRequest, wanted: Wanted, field: str
    ) -> GenerateRequest:
        """Raises InvalidRequest, Overloaded."""
        found = await self._checked(wanted)
        if isinstance(found, Complaint):
            raise InvalidRequest(f"{field}: {found.text}", field)
        sampling = msgspec.structs.replace(request.sampling, grammar=found)
        said = wanted.answer
        tag = isinstance(said, Constraint) and said.kind is ConstraintKind.STRUCTURAL_TAG
        shown = lark.token_ids(found.text) if tag else frozenset[int]()
        return msgspec.structs.replace(request, sampling=sampling, shown_tokens=shown)

    def _preface(self, reasoning: Reasoning) -> str:
        """What an answer that follows a grammar may think before it."""
        if reasoning in (Reasoning.NONE, Reasoning.CLOSED):
            return ""
        special = {mark: token for mark in MARKS if (token := self._special(mark)) is not None}
        return thought(*MARKS, special, begun=reasoning is Reasoning.BEGUN)

    def _format_for(self, request: GenerateRequest) -> ToolFormat:
        cannot = self.format.enforce is None and must_call(request.tool_choice)
        return LLAMA3_JSON if cannot else self.format

    def _special(self, mark: str) -> int | None:
        return self._tokenizer.special_token_id(mark)

    def _spell(self, mark: str) -> str:
        """In Lark a special token is a number in brackets, and never matches its own text."""
        token = self._special(mark)
        return msgspec.json.encode(mark).decode() if token is None else f"<[{token}]>"

    async def _checked(self, wanted: Wanted) -> Grammar | Complaint:
        """Translated and compiled in a thread, unless it is known."""
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
            async with asyncio.timeout(self._config.grammar_timeout_s):
                found = await asyncio.shield(checking)
        except TimeoutError:
            limit = self._config.grammar_timeout_s
            return Complaint(f"the grammar takes longer than {limit:g} s to compile: simplify it")
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


def _may_call(request: GenerateRequest) -> bool:
    choice = request.tool_choice
    return choice is not None and choice.mode is not ToolMode.NONE
