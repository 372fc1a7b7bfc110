"""The format that docs/add-a-tool-format.md adds works as the page shows it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from grammar.compiler import compile_grammar
from grammar.vocabulary import read_vocabulary
from router.answers.tool_calls import enforced, formats, scanner
from tests.docs.blocks import ROOT, Block, blocks
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick

PAGE = ROOT / "docs" / "add-a-tool-format.md"
ARGUMENTS = '{"city": "Paris"}'
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def run(block: Block, *modules: Any) -> dict[str, Any]:
    """What a block of the page defines, in a file that has the names of these modules."""
    names = {name: value for module in modules for name, value in vars(module).items()}
    exec(block.text, names)
    return names


@pytest.fixture(scope="module")
def added() -> formats.ToolFormat:
    reading, forcing, registering, _ = (it for it in blocks(PAGE) if it.language == "python")
    internlm = SimpleNamespace(**run(reading, scanner))
    grammar = SimpleNamespace(**run(forcing, enforced))
    made = run(registering, formats, SimpleNamespace(internlm=internlm, enforced=grammar))
    added: formats.ToolFormat = made["INTERNLM"]
    return added


@pytest.fixture(scope="module")
def answer() -> str:
    """What the page shows of a model's answer."""
    (shown,) = (it.text for it in blocks(PAGE) if it.language == "text")
    return shown.rstrip("\n")


@pytest.mark.parametrize("size", [1, 5, 500])
def test_its_scanner_reads_the_answer_of_the_page(
    added: formats.ToolFormat, answer: str, size: int
) -> None:
    scan = added.scan([TOOL])
    pieces = [answer[begin : begin + size] for begin in range(0, len(answer), size)]
    told = [scan.push(piece, done=False) for piece in pieces] + [scan.push("", done=True)]
    calls = [call for parsed in told for call in parsed.tool_calls]
    assert "".join(parsed.text for parsed in told) == "Let me look."
    assert [call.name for call in calls if call.name] == ["get_weather"]
    assert json.loads("".join(call.arguments for call in calls)) == json.loads(ARGUMENTS)


def test_its_grammar_allows_a_call_as_its_scanner_reads_it(added: formats.ToolFormat) -> None:
    vocabulary = read_vocabulary(ROOT / "models" / "tiny-python" / "tokenizer.json", 2048, [1])
    assert added.enforce is not None
    lark = added.enforce([TOOL], json.dumps, several=False)
    matcher = compile_grammar(Grammar(GrammarKind.LARK, lark), vocabulary)
    call = f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'
    matcher.consume(
        vocabulary.tokenizer.tokenize_str(f"<|action_start|><|plugin|>\n{call}\n<|action_end|>")
    )
    assert matcher.may_end
