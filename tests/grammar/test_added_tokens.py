"""Grammars whose text holds added tokens of the model's tokenizer, special ones and others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from grammar import lark
from grammar.added_tokens import with_token_ids
from grammar.compiler import compile_grammar
from grammar.vocabulary import Vocabulary, read_vocabulary
from tests.grammar.families import END, FAMILIES
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick
OPENING, CLOSING = "<tool_call>", "</tool_call>"
SPACED = "<a mark>"
Written = Callable[[str], list[int]]

GRAMMARS = {
    "literal": (Grammar(GrammarKind.LARK, f'start: "{OPENING}" "a" "{CLOSING}"'), "{0}a{1}"),
    "choice": (Grammar(GrammarKind.LARK, lark.one_of([f"{OPENING}a", "b"])), "{0}a"),
    "regex": (Grammar(GrammarKind.REGEX, f"({OPENING}[a-c]+{CLOSING})+"), "{0}ab{1}{0}c{1}"),
    "const": (Grammar(GrammarKind.JSON_SCHEMA, json.dumps({"const": f"a {OPENING}"})), '"a {0}"'),
    "any text": (Grammar(GrammarKind.JSON_SCHEMA, '{"type": "string"}'), '"it has {0} and {1}"'),
    "space": (Grammar(GrammarKind.REGEX, f"a{SPACED}b"), f"a{SPACED}b"),
}


def a_tokenizer(family: str, *, special: bool) -> Tokenizer:
    return FAMILIES[family]({OPENING: special, CLOSING: special, SPACED: special})


def vocabulary_of(tokenizer: Tokenizer, directory: Path) -> Vocabulary:
    """As a model's directory gives it, with a padded vocabulary."""
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    size = tokenizer.get_vocab_size() + 9
    return read_vocabulary(path, size, [tokenizer.token_to_id(END)])


def in_pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    """Without added tokens: character by character."""
    blank = "Ġ" if tokenizer.token_to_id("Ġ") is not None else "▁"
    return [tokenizer.token_to_id(each.replace(" ", blank)) for each in text]


def follows(vocabulary: Vocabulary, grammar: Grammar, ids: list[int]) -> bool:
    """Whether each token is allowed, and is taken, up to an end."""
    matcher = compile_grammar(grammar, vocabulary)
    for token in ids:
        if token not in matcher.allowed().members():
            return False
        matcher.consume([token])
    return vocabulary.eos_token_ids <= set(matcher.allowed().members().tolist())


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_added_token_that_is_text_matches_what_it_says(
    family: str, name: str, tmp_path: Path
) -> None:
    tokenizer = a_tokenizer(family, special=False)
    vocabulary = vocabulary_of(tokenizer, tmp_path)
    grammar, form = GRAMMARS[name]
    text = form.format(OPENING, CLOSING)
    marks = {OPENING, CLOSING, SPACED}
    whole = list[int]()
    for piece in text.replace("<", "\0<").replace(">", ">\0").split("\0"):
        token = tokenizer.token_to_id(piece)
        whole += [token] if piece in marks else in_pieces(tokenizer, piece)
    assert any(tokenizer.token_to_id(mark) in whole for mark in marks)
    assert follows(vocabulary, grammar, whole)
    assert follows(vocabulary, grammar, in_pieces(tokenizer, text))


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_special_token_leaves_no_text_so_that_text_comes_in_pieces(
    family: str, name: str, tmp_path: Path
) -> None:
    tokenizer = a_tokenizer(family, special=True)
    vocabulary = vocabulary_of(tokenizer, tmp_path)
    grammar, form = GRAMMARS[name]
    text = form.format(OPENING, CLOSING)
    assert follows(vocabulary, grammar, in_pieces(tokenizer, text))
    first = form.index("{0}") if "{0}" in form else 1
    matcher = compile_grammar(grammar, vocabulary)
    matcher.consume(in_pieces(tokenizer, text[:first]))
    specials = {tokenizer.token_to_id(mark) for mark in (OPENING, CLOSING, SPACED)}
    assert not specials & set(matcher.allowed().members().tolist())


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_grammar_may_name_an_added_token(family: str, special: bool, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(family, special=special)
    vocabulary = vocabulary_of(tokenizer, tmp_path)
    grammar = Grammar(GrammarKind.LARK, f"start: {OPENING} /[a-c]/ {CLOSING}")
    opening, closing = map(tokenizer.token_to_id, (OPENING, CLOSING))
    assert follows(vocabulary, grammar, [opening, *in_pieces(tokenizer, "a"), closing])
    assert not follows(vocabulary, grammar, in_pieces(tokenizer, f"{OPENING}a{CLOSING}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("start: <t> </t>", "start: <[3]> <[4]>"),
        ('start: "<t>" /<t>/ <t>', 'start: "<t>" /<t>/ <[3]>'),
        ("// <t>\n# <t>\nstart: <t>", "// <t>\n# <t>\nstart: <[3]>"),
        ('start: "a\\"<t>" <t>', 'start: "a\\"<t>" <[3]>'),
        ("start: <[7]> <u> <t>+", "start: <[7]> <u> <[3]>+"),
        ('start: %json {"const": "<t>"} <t>', 'start: %json {"const": "<t>"} <[3]>'),
    ],
)
def test_only_names_of_tokens_become_ids(text: str, expected: str) -> None:
    assert with_token_ids(text, {"<t>": 3, "</t>": 4}) == expected


TAG = {
    "structures": [{"begin": "<tool_call>f=", "schema": {"type": "integer"}, "end": "</tool_call>"}]
}


@pytest.mark.parametrize("trigger", ["<tool_call>", "<tool_"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_structural_tag_is_triggered_by_added_tokens_that_are_text(
    family: str, trigger: str, tmp_path: Path
) -> None:
    tokenizer = a_tokenizer(family, special=False)
    vocabulary = vocabulary_of(tokenizer, tmp_path)
    tag = json.dumps({**TAG, "triggers": [trigger]})
    grammar = Grammar(GrammarKind.LARK, lark.from_structural_tag(tag, vocabulary.special_tokens))
    opening, closing = map(tokenizer.token_to_id, (OPENING, CLOSING))
    for before in (in_pieces(tokenizer, OPENING), [opening]):
        ids = [*in_pieces(tokenizer, "so "), *before, *in_pieces(tokenizer, "f=12")]
        assert follows(vocabulary, grammar, [*ids, closing, *in_pieces(tokenizer, " done")])
        assert not follows(vocabulary, grammar, [*before, *in_pieces(tokenizer, "f=x")])
        assert not follows(vocabulary, grammar, ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_structural_tag_is_triggered_by_special_tokens(family: str, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(family, special=True)
    vocabulary = vocabulary_of(tokenizer, tmp_path)
    tag = json.dumps({**TAG, "triggers": [OPENING]})
    text = lark.from_structural_tag(tag, vocabulary.special_tokens)
    opening, closing = map(tokenizer.token_to_id, (OPENING, CLOSING))
    assert lark.token_ids(text) == {opening, closing}
    grammar = Grammar(GrammarKind.LARK, text)
    inner = in_pieces(tokenizer, "f=12")
    assert follows(vocabulary, grammar, [*in_pieces(tokenizer, "so "), opening, *inner, closing])
    assert not follows(vocabulary, grammar, [opening, *inner])
    assert not follows(vocabulary, grammar, [opening, *in_pieces(tokenizer, "f=x")])
