"""What a model thinks before it answers, told apart from the answer: <think> … </think>.

Qwen3, DeepSeek-R1 and many others write so. Some templates open the thought in the prompt itself.
"""

from __future__ import annotations

import enum

from router.answer import AnswerParser, Parsed
from router.errors import StartError
from router.prompts import ChatPrompt, Prompt
from router.requests import Reasoning
from router.tool_calls.call_reader import SPACE
from router.tool_calls.scanner import num_held

OPENING, CLOSING = "<think>", "</think>"
MARKS = (OPENING, CLOSING)
TAIL_TOKENS = 16
"""Of a prompt, in which it is seen whether the template has opened the thought."""


class Stage(enum.Enum):
    BEGINNING = "nothing but blanks has come"
    THINKING = "within the thought"
    BETWEEN = "behind the thought, before the answer"
    ANSWERING = "within the answer"


class ReasoningScanner:
    """An AnswerParser: what comes behind the thought goes through `rest`, if there is one.

    A thought comes first or not at all; blanks around it are not told. What never ends is a thought
    to the end.
    """

    def __init__(self, rest: AnswerParser | None, *, begun: bool) -> None:
        self._rest = rest
        self._stage = Stage.THINKING if begun else Stage.BEGINNING
        self._pending = ""
        self._told = False
        """A part of the thought."""

    def push(self, text: str, *, done: bool) -> Parsed:
        """What can be told now; with `done` all of the rest."""
        self._pending += text
        if self._stage is Stage.BEGINNING:
            self._begin(done)
        thought = self._think(done) if self._stage is Stage.THINKING else ""
        if self._stage is Stage.BETWEEN:
            self._pending = self._pending.lstrip(SPACE)
            self._stage = Stage.ANSWERING if self._pending else Stage.BETWEEN
        answer = ""
        if self._stage is Stage.ANSWERING:
            answer, self._pending = self._pending, ""
        if self._rest is None:
            return Parsed(text=answer, reasoning=thought)
        parsed = self._rest.push(answer, done=done)
        return Parsed(text=parsed.text, reasoning=thought, tool_calls=parsed.tool_calls)

    def _begin(self, done: bool) -> None:
        text = self._pending.lstrip(SPACE)
        if text.startswith(OPENING):
            self._pending, self._stage = text[len(OPENING) :], Stage.THINKING
        elif done or not OPENING.startswith(text):
            self._stage = Stage.ANSWERING

    def _think(self, done: bool) -> str:
        text = self._pending if self._told else self._pending.lstrip(SPACE)
        thought, closing, behind = text.partition(CLOSING)
        if closing:
            self._pending, self._stage = behind, Stage.BETWEEN
            return thought.rstrip(SPACE)
        kept = 0 if done else num_held(text, CLOSING)
        cut = len(text) - kept
        self._pending, self._told = text[cut:], self._told or cut > 0
        return text[:cut].rstrip(SPACE) if done else text[:cut]


def has_reasoning(setting: str, templates: str) -> bool:
    """Whether the model marks its thoughts; with "auto" as its chat templates show.

    Raises StartError for an unknown setting.
    """
    if setting not in ("auto", "think", "none"):
        raise StartError(f"reasoning_parser is {setting!r}: it must be one of auto, think, none")
    return setting == "think" or (setting == "auto" and CLOSING in templates)


def reasoning_of(prompt: Prompt | None, tail: str) -> Reasoning:
    """How an answer to this prompt begins, of which `tail` is the end as the model sees it."""
    if not isinstance(prompt, ChatPrompt):
        return Reasoning.NONE
    begun = tail.rstrip().endswith(OPENING)
    if prompt.continue_final_message and prompt.messages:
        said = prompt.messages[-1].content
        begun = begun or said.rfind(OPENING) > said.rfind(CLOSING)
    return Reasoning.BEGUN if begun else Reasoning.POSSIBLE
