"""A position in a grammar: its allowed next tokens, and the step to the sampled one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher

from grammar.errors import GrammarInvalid
from grammar.token_set import TokenSet
from grammar.vocabulary import Vocabulary


class Matcher:
    """Used by one thread at a time; matching releases the GIL."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._mask = np.zeros((vocabulary.vocab_size + 31) // 32, np.uint32)
        self._vocabulary = vocabulary

    def copy(self) -> Matcher:
        """Another matcher at the same position; takes microseconds."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)

    def consume(self, tokens: Sequence[int]) -> None:
        """Raises GrammarInvalid when the grammar does not allow them, or has become too complex."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise self._lost()

    def allowed(self) -> TokenSet:
        """The allowed next tokens, EOS tokens among them exactly when the answer may end here.

        Raises GrammarInvalid when the position is too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise self._lost()
        return TokenSet(self._mask, self._vocabulary.vocab_size)

    @property
    def may_end(self) -> bool:
        """True when the consumed tokens are a complete answer."""
        return self._matcher.is_accepting()

    def _lost(self) -> GrammarInvalid:
        cause = self._matcher.get_error().partition("\n")[0]
        return GrammarInvalid(f"the grammar cannot be followed any further: {cause}")
