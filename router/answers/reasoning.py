"""What a model thinks before it answers, told apart from the answer: <think> … </think>.

Qwen3, DeepSeek-R1 and many others write so, and Mistral's models with marks of their own. Some
templates open the thought in the prompt itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

from router.answers.answer import AnswerParser, Parsed
from router.answers.tool_calls.call_reader import SPACE
from router.answers.tool_calls.scanner import num_held
from router.errors import StartError
from router.requests.prompts import ChatPrompt, Prompt
from router.requests.request import Reasoning

TAIL_TOKENS = 16
"""Of a prompt, in which it is seen whether the template has opened the thought."""

DOUBT_CHARS = 256
"""Of what may be a call within a thought, in which it is seen that it is none."""


class ThoughtMarks(msgspec.Struct, frozen=True):
    """What stands before a thought, and behind it."""

    opening: str
    closing: str


THINK = ThoughtMarks("<think>", "</think>")
MARKS = {"think": THINK, "mistral": ThoughtMarks("[THINK]", "[/THINK]")}


class ReasoningStage(enum.Enum):
    BEGINNING = "nothing but blanks has come"
    THINKING = "within the thought"
    BETWEEN = "behind the thought, before the answer"
    ANSWERING = "within the answer"


class CallsInThoughts(msgspec.Struct, frozen=True):
    """Calls of tools that a model makes before it has closed its thought."""

    mark: str
    """With which a call begins."""
    parser: Callable[[], AnswerParser]
    """A fresh one, for what follows the thought."""

    def begin(self, text: str, start: int) -> int:
        """Where a call may begin, from `start` on; -1 where none does."""
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
    """An AnswerParser: what comes behind the thought goes through `rest`, if there is one.

    A thought comes first or not at all; blanks around it are not told. What never ends is a thought
    to the end, but for the `calls` in it: what may be one is held back until the thought is closed,
    which makes it part of that, or the answer ends.
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
        self._told = False
        """A part of the thought."""

    def push(self, text: str, *, done: bool) -> Parsed:
        """What can be told now; with `done` all of the rest."""
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
        text = self._pending if self._told else self._pending.lstrip(SPACE)
        thought, closing, behind = text.partition(self._marks.closing)
        if closing:
            self._pending, self._stage = behind, ReasoningStage.BETWEEN
            return Parsed(reasoning=thought.rstrip(SPACE))
        call = -1 if self._calls is None else self._calls.begin(text, 0)
        if done:
            self._pending = ""
            return self._end(text, len(text) if call < 0 else call)
        cut = len(text) - self._num_held(text) if call < 0 else len(text[:call].rstrip(SPACE))
        self._pending, self._told = text[cut:], self._told or cut > 0
        return Parsed(reasoning=text[:cut])

    def _num_held(self, text: str) -> int:
        """Of the end of a thought, what may begin a mark."""
        held = num_held(text, self._marks.closing)
        return held if self._calls is None else max(held, num_held(text, self._calls.mark))

    def _end(self, text: str, call: int) -> Parsed:
        """The thought was never closed: calls from `call` on are made all the same."""
        thought = text[:call].rstrip(SPACE)
        if self._calls is None or call == len(text):
            return Parsed(reasoning=thought)
        parsed = self._calls.parser().push(text[call:], done=True)
        if not parsed.tool_calls:
            return Parsed(reasoning=text.rstrip(SPACE))
        more = parsed.text.rstrip(SPACE)
        return Parsed(reasoning=thought + more, tool_calls=parsed.tool_calls, over=parsed.over)


def find_marks(setting: str, templates: str) -> ThoughtMarks | None:
    """Those of the setting, or with "auto" those that the chat templates show; None for a model
    that does not think.

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
    """How an answer to this prompt begins, of which `tail` is the end as the model sees it."""
    if not isinstance(prompt, ChatPrompt):
        return Reasoning.NONE
    if tail.rstrip().endswith(marks.closing):
        return Reasoning.CLOSED
    begun = tail.rstrip().endswith(marks.opening)
    if prompt.continue_final_message and prompt.messages:
        said = prompt.messages[-1].content
        if said.rfind(marks.closing) > said.rfind(marks.opening):
            return Reasoning.CLOSED
        begun = begun or marks.opening in said
    return Reasoning.BEGUN if begun else Reasoning.POSSIBLE
