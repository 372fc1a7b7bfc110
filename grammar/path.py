"""One sequence's position in its grammar."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from grammar.compile_job import CompileJob
from grammar.errors import GrammarError, GrammarInvalid
from grammar.matcher import Matcher
from grammar.token_set import TokenSet


class GrammarPath:
    """The allowed next tokens of a sequence, computed by other threads in advance.

    Jobs follow one another: `job` is the running one, or the last. When it is done, either tokens
    are allowed, or `error` is set.
    """

    __slots__ = ("_allowed", "_matcher", "eos_token_ids", "error", "job", "to_blame")

    def __init__(self, eos_token_ids: frozenset[int]) -> None:
        self.eos_token_ids = eos_token_ids
        self.error: str | None = None
        self.to_blame = True
        """True when the error is the grammar's fault, not this worker's."""
        self.job: CompileJob | None = None
        self._matcher: Matcher | None = None
        self._allowed: TokenSet | None = None

    @property
    def ready(self) -> bool:
        """True when the allowed tokens, or an error, are known."""
        return self.job is not None and self.job.done

    @property
    def allowed(self) -> TokenSet:
        """Wait for the running job and return the allowed tokens. Undefined after an error."""
        assert self.job is not None
        self.job.finish()
        assert self._allowed is not None, "no job has computed the allowed tokens"
        return self._allowed

    def give_up(self) -> None:
        """Cancel the job unless it has begun."""
        assert self.job is not None
        self.job.cancel()

    def begin(self, matcher: Matcher, tokens: Seq[int]) -> None:
        """Part of a job: set the matcher, and match the answer so far."""
        self._matcher = matcher
        self.follow(tokens)

    def follow(self, tokens: Seq[int]) -> None:
        """Part of a job: match these tokens, and compute the allowed ones behind them."""
        assert self._matcher is not None
        try:
            if tokens:
                self._matcher.consume(tokens)
            self._allowed = self._matcher.allowed()
        except GrammarError as error:
            self.fail(error)

    def fail(self, error: GrammarError) -> None:
        """Part of a job: set the error. Errors other than GrammarInvalid, such as a limit of this
        worker's or a vocabulary that cannot be read, are this worker's fault."""
        self.error, self.to_blame = str(error), isinstance(error, GrammarInvalid)
