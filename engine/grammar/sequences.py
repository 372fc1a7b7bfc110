"""An engine's sequences that follow grammars: who waits for one, and who has lost theirs."""

from __future__ import annotations

from engine.errors import GrammarsBusy, SequenceError
from engine.grammar.grammars import Drawn, Grammars
from engine.sequence import Sequence, Status
from grammar.path import GrammarPath
from wire.identity import AttemptId

MAX_UNREADY = 256
"""Most new sequences that may wait for their grammars."""


class GrammarSequences:
    """Bookkeeping only: what becomes of a sequence is the engine's business.

    `grammars` is None where the model has no tokenizer: then no answer can follow any.
    """

    def __init__(self, grammars: Grammars | None) -> None:
        self.grammars = grammars
        self.unready: dict[AttemptId, Sequence] = {}
        """Those whose place in the grammar is still looked for; they take part in no step."""
        self._drawn: list[Drawn] = []
        self._lost: list[Sequence] = []

    def open(self, sequence: Sequence) -> None:
        """Look for its place in the grammar. Raises SequenceError, and GrammarsBusy for new ones
        when too many wait."""
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
        """Those that need not wait any more: their place is known, or that there is none."""
        return [s for s in self.unready.values() if s.grammar is not None and s.grammar.ready]

    def forget(self, sequence: Sequence) -> bool:
        """It waits no more, and no compiler works for it; True when it did wait."""
        if self.unready.pop(sequence.attempt_id, None) is None:
            return False
        assert sequence.grammar is not None
        sequence.grammar.give_up()
        return True

    def drew(self, grammar: GrammarPath, token: int) -> None:
        """A sequence goes on in its grammar with this token."""
        self._drawn.append((grammar, token))

    def follow(self) -> None:
        """All tokens of a step are known: what may follow them is looked for from now on."""
        if self._drawn:
            assert self.grammars is not None
            self.grammars.follow(self._drawn)
            self._drawn = []

    def lose(self, sequence: Sequence) -> None:
        """It has ended, because it cannot follow its grammar."""
        self._lost.append(sequence)

    def take_lost(self) -> list[Sequence]:
        """Those that ended so, each once."""
        lost, self._lost = self._lost, []
        return lost
