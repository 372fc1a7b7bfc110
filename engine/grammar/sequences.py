"""Sequences with grammars: those that wait for compilation, and those whose grammar failed."""

from __future__ import annotations

from engine.errors import GrammarsBusy, SequenceError
from engine.grammar.grammars import DrawnToken, Grammars
from engine.sequence import Sequence, Status
from grammar.path import GrammarPath
from wire.identity import AttemptId

MAX_UNREADY = 256
"""Most new sequences that may wait for their grammars."""


class GrammarSequences:
    """Bookkeeping of sequences with grammars; the engine changes their status.

    `grammars` is None where the model has no tokenizer: then no answer can follow any.
    """

    def __init__(self, grammars: Grammars | None) -> None:
        self.grammars = grammars
        self.unready: dict[AttemptId, Sequence] = {}
        """Sequences whose grammars are being compiled or matched; they take part in no step."""
        self._drawn: list[DrawnToken] = []
        self._failed: list[Sequence] = []

    def open(self, sequence: Sequence) -> None:
        """Start compiling a sequence's grammar. Raises SequenceError, and GrammarsBusy for a new
        sequence when too many wait."""
        grammar = sequence.sampling.grammar
        assert grammar is not None
        if self.grammars is None:
            raise SequenceError(
                f"{sequence.attempt_id}: this model has no tokenizer.json, without which no "
                "answer can follow a grammar"
            )
        if sequence.status is Status.WAITING and len(self.unready) >= MAX_UNREADY:
            raise GrammarsBusy(
                f"{sequence.attempt_id}: {MAX_UNREADY} sequences wait for their grammars"
            )
        sequence.grammar = self.grammars.open(grammar, sequence.tokens[sequence.num_prompt :])
        self.unready[sequence.attempt_id] = sequence

    def ready(self) -> list[Sequence]:
        """Sequences whose wait is over: their position in the grammar is known, or an error."""
        return [s for s in self.unready.values() if s.grammar is not None and s.grammar.ready]

    def forget(self, sequence: Sequence) -> bool:
        """Stop waiting for a sequence's grammar; True when it was waiting."""
        if self.unready.pop(sequence.attempt_id, None) is None:
            return False
        assert sequence.grammar is not None
        sequence.grammar.give_up()
        return True

    def add_drawn(self, grammar: GrammarPath, token: int) -> None:
        """Record a sampled token, which `follow` matches."""
        self._drawn.append((grammar, token))

    def follow(self) -> None:
        """Start to match all tokens of a step that were recorded."""
        if self._drawn:
            assert self.grammars is not None
            self.grammars.follow(self._drawn)
            self._drawn = []

    def fail(self, sequence: Sequence) -> None:
        """Record a sequence that ended because it cannot follow its grammar."""
        self._failed.append(sequence)

    def take_failed(self) -> list[Sequence]:
        """Sequences recorded by `fail` since the last call."""
        failed, self._failed = self._failed, []
        return failed
