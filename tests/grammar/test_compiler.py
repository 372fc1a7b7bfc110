"""What is a grammar, what is none, and what is too much of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grammar import lark
from grammar.compiler import MAX_COMPLAINT_CHARS, compile_grammar
from grammar.errors import GrammarInvalid, GrammarTooLarge, VocabularyError
from grammar.limits import GrammarLimits
from grammar.vocabulary import Vocabulary, read_vocabulary
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick

TOKENIZER = Path("models/tiny-python/tokenizer.json")
ENDS = [1, 0]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(TOKENIZER, 2048, ENDS)


def accepts(vocabulary: Vocabulary, grammar: Grammar, text: str) -> bool:
    """Whether the text is a whole answer."""
    matcher = compile_grammar(grammar, vocabulary)
    try:
        matcher.consume(vocabulary.tokenizer.tokenize_str(text))
    except GrammarInvalid:
        return False
    return matcher.may_end


def schema(**members: object) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(members))


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (schema(type="integer", minimum=3, maximum=12), ["3", "12"], ["2", "13", "3.5", "x"]),
        (schema(enum=["a", None, 1]), ['"a"', "null", "1"], ["2", '"b"']),
        (
            schema(type="array", items={"type": "boolean"}, maxItems=2),
            ["[]", "[true, false]", "[ true ,false ]"],
            ["[true,true,true]", "[1]", "[" + 30 * " " + "]"],
        ),
        (Grammar(GrammarKind.REGEX, "a+|b"), ["a", "aaa", "b"], ["", "ab"]),
        (Grammar(GrammarKind.LARK, 'start: "x" y\ny: "1" | "2"'), ["x1", "x2"], ["x", "x3"]),
        (Grammar(GrammarKind.LARK, lark.one_of(["yes", 'n"o\n'])), ["yes", 'n"o\n'], ["no"]),
        (
            Grammar(GrammarKind.LARK, lark.from_any('root ::= "a" more\nmore ::= [0-9]{2}')),
            ["a12"],
            ["a1", "b12"],
        ),
    ],
    ids=lambda value: str(value)[:50] if isinstance(value, Grammar) else "",
)
def test_a_grammar_accepts_what_it_says(
    vocabulary: Vocabulary, grammar: Grammar, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not accepts(vocabulary, grammar, text)] == []
    assert [text for text in bad if accepts(vocabulary, grammar, text)] == []


def test_all_ends_are_allowed_where_the_grammar_may_end(vocabulary: Vocabulary) -> None:
    matcher = compile_grammar(Grammar(GrammarKind.REGEX, "aa?"), vocabulary)
    assert not set(ENDS) & set(matcher.allowed().members().tolist())
    (letter,) = vocabulary.tokenizer.tokenize_str("a")
    matcher.consume([letter])
    assert set(ENDS) <= set(matcher.allowed().members().tolist())
    matcher.consume([letter])
    assert matcher.allowed().members().tolist() == sorted(ENDS)


def test_a_copy_goes_its_own_way(vocabulary: Vocabulary) -> None:
    matcher = compile_grammar(Grammar(GrammarKind.REGEX, "ab"), vocabulary)
    copy = matcher.copy()
    copy.consume(vocabulary.tokenizer.tokenize_str("ab"))
    assert (copy.may_end, matcher.may_end) == (True, False)


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        (schema(type="objct"), "JSON schema cannot be enforced: Invalid type: objct"),
        (Grammar(GrammarKind.JSON_SCHEMA, "[1"), "JSON schema cannot be enforced"),
        (schema(type="integer", minimum=3, maximum=2), "minimum .3. is greater than maximum"),
        (Grammar(GrammarKind.REGEX, "(a"), "regular expression cannot be enforced: .*unclosed"),
        (Grammar(GrammarKind.LARK, "start: b"), "grammar cannot be enforced: .*unknown name"),
        (Grammar(GrammarKind.LARK, "start: " + 99 * "(" + 99 * ")"), "too deeply nested"),
    ],
    ids=lambda value: value.text[:20] if isinstance(value, Grammar) else "",
)
def test_what_cannot_be_enforced_is_said_in_short(
    vocabulary: Vocabulary, grammar: Grammar, complaint: str
) -> None:
    with pytest.raises(GrammarInvalid, match=f"(?s){complaint}") as caught:
        compile_grammar(grammar, vocabulary)
    assert len(str(caught.value)) < MAX_COMPLAINT_CHARS + 100


def test_limits_name_what_is_too_large(vocabulary: Vocabulary) -> None:
    limits = GrammarLimits(max_bytes=10)
    with pytest.raises(GrammarTooLarge, match="the regular expression has 11 bytes: at most 10"):
        compile_grammar(Grammar(GrammarKind.REGEX, "a" * 11), vocabulary, limits)
    many = {f"p{n}": {"type": "object", "properties": {}} for n in range(200)}
    with pytest.raises(GrammarInvalid, match=r"cannot be enforced: .*grammar"):
        compile_grammar(schema(properties=many), vocabulary, GrammarLimits(max_symbols=100))


@pytest.mark.parametrize("text", ["", "root ::= b", "x", "root ::= " + 9000 * "("])
def test_what_is_no_ebnf_is_invalid(text: str) -> None:
    with pytest.raises(GrammarInvalid, match="no EBNF"):
        lark.from_any(text)


@pytest.mark.parametrize(
    ("tag", "complaint"),
    [
        ("{}", "cannot be read"),
        ('{"structures": [], "triggers": []}', "no structures"),
        (
            '{"structures": [{"begin": "<a>", "schema": {}, "end": ""}], "triggers": ["<b"]}',
            "no trigger of the structural tag begins '<a>'",
        ),
    ],
)
def test_a_structural_tag_that_says_too_little_is_invalid(tag: str, complaint: str) -> None:
    with pytest.raises(GrammarInvalid, match=complaint):
        lark.from_structural_tag(tag, {})


def test_a_structural_tag_frees_the_text_around_its_structures(vocabulary: Vocabulary) -> None:
    structure = {"begin": "<f=x>", "schema": {"type": "integer"}, "end": "</f>"}
    tag = json.dumps({"structures": [structure], "triggers": ["<f="]})
    grammar = Grammar(GrammarKind.LARK, lark.from_structural_tag(tag, {}))
    assert accepts(vocabulary, grammar, "well <f=x>12</f> done")
    assert accepts(vocabulary, grammar, "nothing")
    assert not accepts(vocabulary, grammar, "well <f=x>twelve</f>")


def test_a_model_that_cannot_follow_grammars_says_why(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="names no eos_token_id"):
        read_vocabulary(TOKENIZER, 2048, [])
    with pytest.raises(VocabularyError, match="vocab size too small"):
        read_vocabulary(TOKENIZER, 100, ENDS)
    with pytest.raises(VocabularyError, match="cannot be matched"):
        read_vocabulary(tmp_path / "tokenizer.json", 2048, ENDS)
