"""Structured outputs and tool calls of one model: the grammar of an answer, and its parser."""

from __future__ import annotations

from functools import partial

import msgspec

from grammar import lark
from grammar.errors import GrammarError
from grammar.thought import thought
from router.answers.answer import AnswerParser
from router.answers.grammar_checks import GrammarChecks, GrammarSpec, InvalidGrammar
from router.answers.grammar_choice import call_grammar, must_call
from router.answers.reasoning import (
    TAIL_TOKENS,
    CallsInThoughts,
    ReasoningScanner,
    find_marks,
    reasoning_of,
)
from router.answers.tool_calls.first_call import FirstCallOnly
from router.answers.tool_calls.formats import LLAMA3_JSON, ToolFormat, find_format
from router.config import RouterConfig
from router.errors import InvalidRequest
from router.requests.prompts import Constraint, ConstraintKind, ToolMode
from router.requests.request import GenerateRequest, Reasoning, RequestDraft
from router.text.model_card import ModelCard
from router.text.tokenizer import Tokenizer
from wire.sampling import Grammar


class Structured:
    """Creates the grammars of requests, and refuses those that workers could not follow.

    Nothing is read or compiled before the first grammar. Raises StartError for an unknown
    `tool_parser` or `reasoning_parser`.
    """

    def __init__(self, config: RouterConfig, card: ModelCard, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        template = card.tool_template or card.chat_template
        self.format = find_format(
            config.tool_parser, template, lambda mark: self._special(mark) is not None
        )
        templates = f"{card.chat_template}{card.tool_template}"
        self._thought_marks = find_marks(config.reasoning_parser, templates)
        self.checks = GrammarChecks(config, card)

    async def apply(self, request: GenerateRequest, draft: RequestDraft) -> GenerateRequest:
        """The request with the grammar of its answer, if any, and its reasoning.

        Raises InvalidRequest, Overloaded.
        """
        request = self._with_reasoning(request, draft)
        preface = self._preface(request.reasoning)
        if must_call(draft.tool_choice):
            must = self._calls(request, draft)
            return await self._with_grammar(request, GrammarSpec(must, preface), "tools")
        wanted = draft.constraint
        if wanted is None:
            return request
        may_call = _may_call(request) and self.format.calls_are_marked
        calls = self._calls(request, draft).text if may_call else ""
        return await self._with_grammar(request, GrammarSpec(wanted, preface, calls), wanted.field)

    def parser(self, request: GenerateRequest) -> AnswerParser | None:
        """A new parser for one answer; None if all of it is text."""
        calls = self._call_parser(request) if _may_call(request) else None
        if self._thought_marks is None or request.reasoning is Reasoning.NONE:
            return calls
        mark, early = self._format_for(request).opening, None
        if calls is not None and mark is not None:
            early = CallsInThoughts(mark, partial(self._call_parser, request))
        begun = request.reasoning is Reasoning.BEGUN
        return ReasoningScanner(calls, begun=begun, calls=early, marks=self._thought_marks)

    def shown_tokens(self, request: GenerateRequest) -> frozenset[int]:
        """Special tokens that the parser or the client must see as text."""
        marks = self._format_for(request).marks if _may_call(request) else ()
        if self._thought_marks is not None and request.reasoning is not Reasoning.NONE:
            marks = (*marks, self._thought_marks.opening, self._thought_marks.closing)
        seen = {token for mark in marks if (token := self._special(mark)) is not None}
        return request.shown_tokens | seen

    def _call_parser(self, request: GenerateRequest) -> AnswerParser:
        scanner = self._format_for(request).scan(request.tools)
        return scanner if request.parallel_tool_calls else FirstCallOnly(scanner)

    def _with_reasoning(self, request: GenerateRequest, draft: RequestDraft) -> GenerateRequest:
        if self._thought_marks is None:
            return request
        ids = request.prompt_tokens[-TAIL_TOKENS:]
        tail = self._tokenizer.decode(ids, skip_special_tokens=False)
        return msgspec.structs.replace(
            request, reasoning=reasoning_of(draft.prompt, tail, self._thought_marks)
        )

    def _calls(self, request: GenerateRequest, draft: RequestDraft) -> Grammar:
        """The grammar of the request's tool calls. Raises InvalidRequest."""
        try:
            return call_grammar(draft, self._format_for(request), self._write_mark)
        except GrammarError as error:
            raise InvalidRequest(f"tools: {error}", "tools") from error

    async def _with_grammar(
        self, request: GenerateRequest, wanted: GrammarSpec, field: str
    ) -> GenerateRequest:
        """The request with the compiled grammar. Raises InvalidRequest, Overloaded."""
        found = await self.checks.check(wanted)
        if isinstance(found, InvalidGrammar):
            raise InvalidRequest(f"{field}: {found.text}", field)
        sampling = msgspec.structs.replace(request.sampling, grammar=found)
        answer_spec = wanted.answer
        tag = (
            isinstance(answer_spec, Constraint)
            and answer_spec.kind is ConstraintKind.STRUCTURAL_TAG
        )
        shown = lark.token_ids(found.text) if tag else frozenset[int]()
        return msgspec.structs.replace(request, sampling=sampling, shown_tokens=shown)

    def _preface(self, reasoning: Reasoning) -> str:
        """The Lark rules of the reasoning that may precede an answer with a grammar."""
        marks = self._thought_marks
        if marks is None or reasoning in (Reasoning.NONE, Reasoning.CLOSED):
            return ""
        tokens = {mark: self._special(mark) for mark in (marks.opening, marks.closing)}
        special = {mark: token for mark, token in tokens.items() if token is not None}
        begun = reasoning is Reasoning.BEGUN
        return thought(marks.opening, marks.closing, special, begun=begun)

    def _format_for(self, request: GenerateRequest) -> ToolFormat:
        cannot = self.format.enforce is None and must_call(request.tool_choice)
        return LLAMA3_JSON if cannot else self.format

    def _special(self, mark: str) -> int | None:
        return self._tokenizer.special_token_id(mark)

    def _write_mark(self, mark: str) -> str:
        """The mark in Lark, where a special token is a number in brackets and never matches its
        text."""
        token = self._special(mark)
        return msgspec.json.encode(mark).decode() if token is None else f"<[{token}]>"


def _may_call(request: GenerateRequest) -> bool:
    choice = request.tool_choice
    return choice is not None and choice.mode is not ToolMode.NONE
