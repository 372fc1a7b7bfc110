"""A place in a grammar: which tokens may come next, and the step to the one that came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher

from grammar.errors import GrammarInvalid
from grammar.token_set import TokenSet
from grammar.vocabulary import Vocabulary


class Matcher:
    """Used by one thread at a time; the work is done without Python's lock."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._mask = np.zeros((vocabulary.vocab_size + 31) // 32, np.uint32)
        self._vocabulary = vocabulary

    def copy(self) -> Matcher:
        """Another one at the same place; takes microseconds."""
        return Matcher(self._matcher.deep_copy(), self._vocabulary)

    def consume(self, tokens: Sequence[int]) -> None:
        """Raises GrammarInvalid when the grammar does not allow them, or has become too complex."""
        if not self._matcher.consume_tokens(list(tokens)):
            raise self._lost()

    def allowed(self) -> TokenSet:
        """What may come next; the tokens that end the answer exactly when it may end here.

        Raises GrammarInvalid when the place is too complex.
        """
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise self._lost()
        return TokenSet(self._mask, self._vocabulary.vocab_size)

    @property
    def may_end(self) -> bool:
        """True when what was consumed is a whole answer."""
        return self._matcher.is_accepting()

    def _lost(self) -> GrammarInvalid:
        cause = self._matcher.get_error().partition("\n")[0]
        return GrammarInvalid(f"the grammar cannot be followed any further: {cause}")
