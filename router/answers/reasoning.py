"""Reasoning: separates a model's thought from its answer, as in <think> … </think>.

Qwen3, DeepSeek-R1 and many others use these marks, Mistral's models their own. Some chat templates
open the thought in the prompt.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from router.answers.answer import AnswerParser, Parsed
from router.answers.tool_calls.call_reader import SPACE
from router.answers.tool_calls.scanner import num_held_back
from router.errors import StartError
from router.requests.prompts import ChatPrompt, Prompt
from router.requests.request import Reasoning

TAIL_TOKENS = 16
"""Number of last prompt tokens that are searched for an opened thought."""

DOUBT_CHARS = 256
"""Number of characters after which text in a thought that resembles a call is judged."""


class ThoughtMarks(msgspec.Struct, frozen=True):
    """The marks before and after a thought."""

    opening: str
    closing: str


THINK = ThoughtMarks("<think>", "</think>")
MARKS = {"think": THINK, "mistral": ThoughtMarks("[THINK]", "[/THINK]")}


class ReasoningStage(enum.Enum):
    BEGINNING = "before the first visible character"
    THINKING = "within the thought"
    BETWEEN = "after the thought, before the answer"
    ANSWERING = "within the answer"


class CallsInThoughts(msgspec.Struct, frozen=True):
    """Tool calls that a model makes before it has closed its thought."""

    mark: str
    """The text that begins a call."""
    parser: Callable[[], AnswerParser]
    """Creates a parser for the text after the thought."""

    def begin(self, text: str, start: int) -> int:
        """The position of a possible call, from `start` on; -1 if there is none."""
        found = text.find(self.mark, start)
        while found >= 0:
            following = text.find(self.mark, found + 1)
            until = min(len(text) if following < 0 else following, found + DOUBT_CHARS)
            parsed = self.parser().push(text[found:until], done=False)
            if parsed.tool_calls or not parsed.text:
                return found
            found = following
        return -1


class ReasoningScanner:
    """An AnswerParser for a thought; the text after it goes to the parser `rest`, if any.

    A thought comes first or not at all; whitespace around it is dropped. A thought that never ends
    is all of the answer, except for `calls` in it: a possible call is held back until the thought
    is closed, which makes it part of the thought, or until the answer ends.
    """

    def __init__(
        self,
        rest: AnswerParser | None,
        *,
        begun: bool,
        calls: CallsInThoughts | None = None,
        marks: ThoughtMarks = THINK,
    ) -> None:
        self._rest = rest
        self._marks = marks
        self._calls = calls
        self._stage = ReasoningStage.THINKING if begun else ReasoningStage.BEGINNING
        self._pending = ""
        self._emitted = False
        """Whether a part of the thought was emitted."""

    def push(self, text: str, *, done: bool) -> Parsed:
        """The newly parsed part of the answer; with `done` all that remains."""
        self._pending += text
        if self._stage is ReasoningStage.BEGINNING:
            self._begin(done)
        thought = Parsed()
        if self._stage is ReasoningStage.THINKING:
            thought = self._think(done)
        if self._stage is ReasoningStage.BETWEEN:
            self._pending = self._pending.lstrip(SPACE)
            self._stage = ReasoningStage.ANSWERING if self._pending else ReasoningStage.BETWEEN
        answer = ""
        if self._stage is ReasoningStage.ANSWERING:
            answer, self._pending = self._pending, ""
        if self._rest is None or thought.tool_calls:
            return msgspec.structs.replace(thought, text=answer)
        parsed = self._rest.push(answer, done=done)
        return msgspec.structs.replace(parsed, reasoning=thought.reasoning)

    def _begin(self, done: bool) -> None:
        text = self._pending.lstrip(SPACE)
        opening = self._marks.opening
        if text.startswith(opening):
            self._pending, self._stage = text[len(opening) :], ReasoningStage.THINKING
        elif done or not opening.startswith(text):
            self._stage = ReasoningStage.ANSWERING

    def _think(self, done: bool) -> Parsed:
        text = self._pending if self._emitted else self._pending.lstrip(SPACE)
        thought, closing, behind = text.partition(self._marks.closing)
        if closing:
            self._pending, self._stage = behind, ReasoningStage.BETWEEN
            return Parsed(reasoning=thought.rstrip(SPACE))
        call = -1 if self._calls is None else self._calls.begin(text, 0)
        if done:
            self._pending = ""
            return self._end(text, len(text) if call < 0 else call)
        cut = len(text) - self._num_held_back(text) if call < 0 else len(text[:call].rstrip(SPACE))
        self._pending, self._emitted = text[cut:], self._emitted or cut > 0
        return Parsed(reasoning=text[:cut])

    def _num_held_back(self, text: str) -> int:
        """Length of the thought's suffix that may begin a mark."""
        held = num_held_back(text, self._marks.closing)
        return held if self._calls is None else max(held, num_held_back(text, self._calls.mark))

    def _end(self, text: str, call: int) -> Parsed:
        """End a thought that was never closed; calls from `call` on are accepted."""
        thought = text[:call].rstrip(SPACE)
        if self._calls is None or call == len(text):
            return Parsed(reasoning=thought)
        parsed = self._calls.parser().push(text[call:], done=True)
        if not parsed.tool_calls:
            return Parsed(reasoning=text.rstrip(SPACE))
        more = parsed.text.rstrip(SPACE)
        return Parsed(reasoning=thought + more, tool_calls=parsed.tool_calls, over=parsed.over)


def find_marks(setting: str, templates: str) -> ThoughtMarks | None:
    """The marks of the setting, or with "auto" those in the chat templates; None for a model
    without reasoning.

    Raises StartError for an unknown setting.
    """
    if setting == "auto":
        shown = (marks for marks in MARKS.values() if marks.closing in templates)
        return next(shown, None)
    if setting != "none" and setting not in MARKS:
        known = ", ".join(("auto", *MARKS, "none"))
        raise StartError(f"reasoning_parser is {setting!r}: it must be one of {known}")
    return MARKS.get(setting)


def reasoning_of(prompt: Prompt | None, tail: str, marks: ThoughtMarks = THINK) -> Reasoning:
    """The initial state of an answer's reasoning; `tail` is the end of the prompt as the model sees
    it."""
    if not isinstance(prompt, ChatPrompt):
        return Reasoning.NONE
    if tail.rstrip().endswith(marks.closing):
        return Reasoning.CLOSED
    begun = tail.rstrip().endswith(marks.opening)
    if prompt.continue_final_message and prompt.messages:
        text = prompt.messages[-1].content
        if text.rfind(marks.closing) > text.rfind(marks.opening):
            return Reasoning.CLOSED
        begun = begun or marks.opening in text
    return Reasoning.BEGUN if begun else Reasoning.POSSIBLE
