"""What can be wrong with a grammar.

GrammarError
├── GrammarInvalid      it says nothing that an answer could match; carries the compiler's words
├── GrammarTooLarge     it is larger or deeper than the limits allow; names the limit
└── VocabularyError     the model's tokenizer cannot be matched against grammars
"""

from __future__ import annotations


class GrammarError(Exception):
    """Anything that keeps an answer from following a grammar."""


class GrammarInvalid(GrammarError):
    """The client's mistake, or a keyword that the compiler does not enforce."""


class GrammarTooLarge(GrammarError):
    """The client may try with a smaller one."""


class VocabularyError(GrammarError):
    """The model's directory is to blame, not the grammar."""
