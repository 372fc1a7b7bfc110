"""Chat samples from source files: somebody asks for a function, the library answers.

Two kinds of question: a header line, answered with the body; and an instruction
made of a docstring's first sentence, answered with the whole definition.
"""

from __future__ import annotations

import ast
import random
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from .corpus import SourceFile

Messages = list[dict[str, str]]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# Characters of one answer: with its question it fits a training window.
MAX_ANSWER = 1150

SYSTEM_PROMPT = "You write Python in the manner of the standard library."

# First words of a docstring that are no verb, so that "a function that ..." cannot go on.
NO_VERBS = """
    a abstract alias all an any as base by class constructor default deprecated equivalent
    factory for function helper if implementation in internal it like method no not one
    only optional override private public same see shortcut simple the these this to true
    used utility when with wrapper you
"""


@dataclass(frozen=True)
class Exchange:
    """One question and its answer."""

    question: str
    answer: str


def third_person(verb: str) -> str:
    """'Return' becomes 'returns'."""
    verb = verb.lower()
    if verb.endswith("s") and not verb.endswith("ss"):
        return verb
    if verb.endswith(("ss", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def first_sentence(node: Definition) -> str:
    """The first sentence of a docstring if it is one line of plain words, else nothing."""
    paragraph = (ast.get_docstring(node) or "").split("\n\n")[0]
    sentence = re.split(r"\.(?:\s|$)", " ".join(paragraph.split()))[0]
    return sentence if re.fullmatch(r"[A-Z][a-z]+ [^<>]{8,110}", sentence) else ""


def instruction(node: Definition) -> str:
    """The docstring's sentence as somebody's wish."""
    sentence = first_sentence(node)
    if not sentence:
        return ""
    if isinstance(node, ast.ClassDef):
        return f"Write a class: {sentence}."
    verb, rest = sentence.split(" ", 1)
    if verb.lower() in NO_VERBS.split() or verb.endswith("ly"):
        return ""
    return f"Write a function that {third_person(verb)} {rest}."


def header_length(lines: list[str], limit: int) -> int:
    """How many lines the header takes; nought where the body shares its line."""
    for index, line in enumerate(lines[:limit]):
        if line.rstrip().endswith(":"):
            return index + 1
    return 0


def last_line(node: Definition) -> int:
    """Where to stop: a class too long for a window keeps the members that fit."""
    end = node.end_lineno or node.lineno
    if isinstance(node, ast.ClassDef):
        lengths = [(child.end_lineno or 0) for child in node.body]
        end = max([line for line in lengths if line - node.lineno < 30] or [end])
    return end


def exchanges_of(node: Definition, lines: list[str]) -> Iterator[Exchange]:
    """The exchanges that one definition yields: none, one or two."""
    text = textwrap.dedent("\n".join(lines[node.lineno - 1 : last_line(node)])).rstrip()
    own = text.split("\n")
    split = header_length(own, node.body[0].lineno - node.lineno)
    if not split or len(text) > MAX_ANSWER or not text.isascii():
        return
    yield Exchange("\n".join(own[:split]), "\n".join(own[split:]))
    if wish := instruction(node):
        yield Exchange(wish, text)


def file_exchanges(file: SourceFile) -> Iterator[Exchange]:
    """All exchanges of a file, in the order of its syntax tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(file.text)
    lines = file.text.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, Definition):
            yield from exchanges_of(node, lines)


def conversations(files: list[SourceFile], rng: random.Random) -> list[Messages]:
    """Conversations of mostly one exchange; some have two, some a system prompt."""
    exchanges = sorted(
        {exchange for file in files for exchange in file_exchanges(file)},
        key=lambda exchange: (exchange.question, exchange.answer),
    )
    rng.shuffle(exchanges)
    found: list[Messages] = []
    while exchanges:
        messages: Messages = []
        if rng.random() < 0.1:
            messages.append({"role": "system", "content": SYSTEM_PROMPT})
        for _ in range(2 if rng.random() < 0.1 else 1):
            if exchanges:
                messages += as_messages(exchanges.pop())
        found.append(messages)
    return found


def as_messages(exchange: Exchange) -> Messages:
    """The exchange in the form that chat templates take."""
    return [
        {"role": "user", "content": exchange.question},
        {"role": "assistant", "content": exchange.answer},
    ]
