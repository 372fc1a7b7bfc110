"""An incremental parser for one tool call as a JSON object."""

from __future__ import annotations

import enum
import json

NAME_KEYS = frozenset({"name", "function"})
"""Keys of the name. Llama sometimes writes the second; in OpenAI's own format it has an object."""
ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
SPACE = " \t\r\n"


class CallStage(enum.Enum):
    OPENING = "before the object"
    KEY = "before a key, or the object's end"
    IN_KEY = "within a key"
    COLON = "before a colon"
    VALUE = "before a value"
    IN_VALUE = "within a value"
    COMMA = "after a value"
    DONE = "after the object"
    FAILED = "not a call"


class JsonCallReader:
    """Parses {"name": …, "arguments": {…}}: the name as soon as it is complete, then the arguments
    as they arrive, verbatim.

    Keys may come in any order; other keys are ignored. With `known`, only these names are calls.
    """

    def __init__(self, known: frozenset[str] | None = None) -> None:
        self.name: str | None = None
        self.raw = ""
        """Text read before the name is known; it is plain text if there is no call."""
        self._known = known
        self._stage = CallStage.OPENING
        self._value = JsonValueReader()
        self._key = ""
        self._piece = ""
        self._arguments = ""
        """Arguments that were not taken yet."""
        self._emitted_any = False

    @property
    def done(self) -> bool:
        """The object is complete; without a name it is not a call."""
        return self._stage is CallStage.DONE

    @property
    def failed(self) -> bool:
        """The next character cannot continue the object."""
        return self._stage is CallStage.FAILED

    def feed(self, text: str) -> int:
        """Parse as far as the object goes; returns the number of characters used."""
        for index, character in enumerate(text):
            if self.done or self.failed:
                return index
            self._read(character)
            if self.failed:
                return index
            if self.name is None:
                self.raw += character
        return len(text)

    def take_arguments(self) -> str:
        """New characters of the arguments; empty before the name is known."""
        if self.name is None:
            return ""
        if self.done and not self._emitted_any and not self._arguments:
            self._arguments = "{}"
        taken, self._arguments = self._arguments, ""
        self._emitted_any |= bool(taken)
        return taken

    def _read(self, character: str) -> None:
        if self._stage in (CallStage.IN_KEY, CallStage.IN_VALUE):
            self._continue(character)
        elif character not in SPACE:
            self._begin(character)

    def _begin(self, character: str) -> None:
        match self._stage, character:
            case CallStage.OPENING, "{":
                self._stage = CallStage.KEY
            case CallStage.KEY, '"':
                self._start_value(character, CallStage.IN_KEY)
            case CallStage.COLON, ":":
                self._stage = CallStage.VALUE
            case CallStage.VALUE, _ if character not in "}],:":
                self._start_value(character, CallStage.IN_VALUE)
            case CallStage.COMMA, ",":
                self._stage = CallStage.KEY
            case ((CallStage.COMMA | CallStage.KEY), "}"):
                self._stage = CallStage.DONE
            case _:
                self._stage = CallStage.FAILED

    def _start_value(self, character: str, stage: CallStage) -> None:
        self._stage, self._value, self._piece = stage, JsonValueReader(), ""
        self._continue(character)

    def _continue(self, character: str) -> None:
        """Continue a key or value; numbers and words end before the next character, others with
        their last."""
        belongs = self._value.read(character)
        if belongs:
            self._piece += character
            if self._stage is CallStage.IN_VALUE and self._streams:
                self._arguments += character
        if self._value.done:
            self._finish_value()
        if not belongs and not self.failed:
            self._read(character)

    @property
    def _streams(self) -> bool:
        return self._key in ARGUMENT_KEYS and self._piece[:1] in "{["

    def _finish_value(self) -> None:
        if self._stage is CallStage.IN_KEY:
            self._key, self._stage = str(_decoded(self._piece)), CallStage.COLON
            return
        self._stage = CallStage.COMMA
        if self._key in NAME_KEYS:
            self._take_name(_decoded(self._piece))
        elif self._key in ARGUMENT_KEYS and not self._streams:
            decoded = _decoded(self._piece)  # some models write the arguments as a string of JSON
            self._arguments += decoded if isinstance(decoded, str) else ""

    def _take_name(self, name: object) -> None:
        if isinstance(name, str) and (self._known is None or name in self._known):
            self.name = self.name or name
        elif isinstance(name, str) or self._key == "name":
            self._stage = CallStage.FAILED


class JsonValueReader:
    """Finds the end of one JSON value, without validating it."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._quoted = self._escaped = False

    def read(self, character: str) -> bool:
        """Read one character; False if it is not part of the value, which ended before it."""
        if self._quoted:
            self._read_quoted(character)
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]" and self._depth:
            self._depth -= 1
            self.done = self._depth == 0
        elif self._depth == 0 and character in SPACE + ",}]":
            self.done = True
            return False
        return True

    def _read_quoted(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = False
            self.done = self._depth == 0


def _decoded(text: str) -> object:
    """The decoded JSON; None if the text is not JSON."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
