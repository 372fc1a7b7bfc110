"""Limits on grammars, so that no request keeps a router or a worker busy."""

from __future__ import annotations

import msgspec
from llguidance import LLParserLimits


class GrammarLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on a grammar's text, and on the work of the compiler and the matcher.

    One unit of the compiler's fuel is about 20 ns, one of a step's about 70 ns. The compiler itself
    limits nesting: 127 levels of JSON, 30 of a grammar, 250 of a regular expression.
    """

    max_bytes: int = 64 * 1024
    max_symbols: int = 100_000
    """Symbols in the compiled grammar's productions."""
    compile_fuel: int = 1_000_000
    step_fuel: int = 200_000

    def for_compiler(self) -> LLParserLimits:
        return LLParserLimits(
            initial_lexer_fuel=self.compile_fuel,
            step_lexer_fuel=self.step_fuel,
            max_grammar_size=self.max_symbols,
            verbose_errors=False,  # errors reach logs, which hold no text of clients
        )


DEFAULT_LIMITS = GrammarLimits()
