"""The error tree of grammars.

GrammarError
├── GrammarInvalid      no answer can match it, or it is malformed; with the compiler's message
├── GrammarTooLarge     it is larger or deeper than the limits allow; names the limit
└── VocabularyError     the model's tokenizer cannot be matched against grammars
"""

from __future__ import annotations


class GrammarError(Exception):
    """A grammar cannot be enforced."""


class GrammarInvalid(GrammarError):
    """The client's mistake, or a keyword that the compiler does not enforce."""


class GrammarTooLarge(GrammarError):
    """The grammar exceeds the limits; a smaller one may be accepted."""


class VocabularyError(GrammarError):
    """The model's tokenizer files are unusable, whatever the grammar."""
