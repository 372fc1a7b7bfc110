"""One sequence's way through its grammar."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from grammar.compile_job import CompileJob
from grammar.errors import GrammarError, GrammarInvalid
from grammar.matcher import Matcher
from grammar.token_set import TokenSet


class GrammarPath:
    """Which tokens may come next, computed by other threads while nobody asks.

    Jobs follow one another: `job` is the one under way, or the last. When it is done, either
    something is allowed, or `error` says why nothing is.
    """

    __slots__ = ("_allowed", "_matcher", "eos_token_ids", "error", "job", "to_blame")

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self.error: str | None = None
        self.to_blame = True
        """With an error: the grammar is at fault, and not this worker."""
        self.job: CompileJob | None = None
        self._matcher: Matcher | None = None
        self._allowed: TokenSet | None = None

    @property
    def ready(self) -> bool:
        """True when it is known what is allowed, or why nothing is."""
        return self.job is not None and self.job.done

    @property
    def allowed(self) -> TokenSet:
        """Finishes the job under way. Means nothing after an error."""
        assert self.job is not None
        self.job.finish()
        assert self._allowed is not None, "a path that never began leads nowhere"
        return self._allowed

    def give_up(self) -> None:
        """Nobody will ask; a job that has begun ends as ever."""
        assert self.job is not None
        self.job.cancel()

    def begin(self, matcher: Matcher, tokens: Seq[int]) -> None:
        """Part of a job: this grammar, and the answer so far."""
        self._matcher = matcher
        self.follow(tokens)

    def follow(self, tokens: Seq[int]) -> None:
        """Part of a job: these tokens came."""
        assert self._matcher is not None
        try:
            if tokens:
                self._matcher.consume(tokens)
            self._allowed = self._matcher.allowed()
        except GrammarError as error:
            self.fail(error)

    def fail(self, error: GrammarError) -> None:
        """Part of a job: nothing can follow. What says nothing of the grammar itself, such as a
        limit of this worker's or a vocabulary that cannot be read, is this worker's fault."""
        self.error, self.to_blame = str(error), isinstance(error, GrammarInvalid)
