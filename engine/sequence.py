"""A sequence: the engine's state of one request, owned by the thread that steps the engine."""

from __future__ import annotations

import copy
import enum
from collections.abc import Sequence as Seq

from grammar.path import GrammarPath
from kv_transfer.hashing import extend_hashes
from wire.identity import AttemptId
from wire.messages import FinishReason
from wire.sampling import SamplingParams, TokenLogprob
from wire.traits import NO_TRAITS, RequestTraits


class Status(enum.Enum):
    WAITING = "waiting"  # no blocks, or preempted
    LOADING = "loading"  # has blocks, waits until they are filled from host memory
    RUNNING = "running"  # has blocks and takes part in steps
    HELD = "held"  # has blocks, waits for a handoff
    FINISHED = "finished"  # has no blocks and never runs again


_TRANSITIONS = {
    Status.WAITING: {Status.LOADING, Status.RUNNING, Status.FINISHED},
    Status.LOADING: {Status.RUNNING, Status.FINISHED},
    Status.RUNNING: {Status.WAITING, Status.HELD, Status.FINISHED},
    Status.HELD: {Status.RUNNING, Status.FINISHED},
    Status.FINISHED: set(),
}


class Sequence:
    """Tokens, the blocks that hold their KV cache, and how far that cache has been computed.

    Invariant: 0 <= num_computed <= num_tokens, and `blocks` cover at least `num_computed` tokens.
    The KV cache of tokens[:num_computed] is valid, or will be when the steps in flight are over;
    tokens[num_computed:] are still to be computed. When all tokens are computed the runner samples
    the next one.
    """

    __slots__ = (
        "attempt_id",
        "blocks",
        "grammar",
        "hashes",
        "num_cached",
        "num_computed",
        "num_prompt",
        "num_published",
        "num_steps_in_flight",
        "num_unknown",
        "pinned",
        "preempted",
        "sampling",
        "scores",
        "status",
        "takes_best",
        "tokens",
        "traits",
    )

    def __init__(
        self,
        attempt_id: AttemptId,
        tokens: list[int],
        sampling: SamplingParams,
        *,
        num_prompt: int | None = None,
        traits: RequestTraits = NO_TRAITS,
    ) -> None:
        self.attempt_id = attempt_id
        self.tokens = tokens
        self.num_prompt = len(tokens) if num_prompt is None else num_prompt
        self.sampling = sampling
        self.traits = traits
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []
        self.num_computed = 0
        self.num_cached = 0
        """Tokens whose KV cache was found, not computed, when the sequence first ran."""
        self.num_unknown = 0
        """Tokens that steps in flight sample: only the runner knows them yet."""
        self.num_steps_in_flight = 0
        """Launched steps that compute tokens of it and are not over."""
        self.num_published = 0
        """Leading blocks that are in the prefix cache by their hash."""
        self.scores: list[TokenLogprob] = []
        """Log-probabilities of the prompt's tokens from the second on, if they were asked for."""
        self.pinned = False
        """True while a transfer reads the blocks: they must stay what they are."""
        self.preempted = False
        """True while it waits to be computed again."""
        self.status = Status.WAITING
        self.grammar: GrammarPath | None = None
        """Position in the request's grammar, if it has one."""
        self.takes_best = _takes_best(sampling)
        """True for greedy sampling with nothing else to do: its next token is the argmax."""

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_tokens(self) -> int:
        """Including tokens sampled on the device that the host has not seen."""
        return len(self.tokens) + self.num_unknown

    @property
    def num_uncomputed(self) -> int:
        return len(self.tokens) + self.num_unknown - self.num_computed

    @property
    def decoding(self) -> bool:
        """True when one token is missing: the next step is a decode step."""
        num_computed = self.num_computed
        missing = len(self.tokens) + self.num_unknown - num_computed
        return missing == 1 and num_computed >= self.num_prompt

    @property
    def wants_scores(self) -> bool:
        """True while prompt log-probabilities that were asked for are missing."""
        wanted = self.sampling.prompt_logprobs is not None
        return wanted and len(self.scores) < self.num_prompt - 1

    @property
    def num_reusable(self) -> int:
        """Leading tokens whose KV cache may come from the prefix cache. The last known token must
        be computed for its logits, as must those whose successors' log-probabilities are wanted."""
        most = len(self.tokens) - 1
        return min(most, len(self.scores)) if self.wants_scores else most

    def num_scored(self, start: int, end: int) -> int:
        """How many leading tokens of [start, end) are followed by a prompt token whose
        log-probability is wanted."""
        if not self.wants_scores:
            return 0
        return max(0, min(end, self.num_prompt - 1) - start)

    def take_scores(self, start: int, scores: Seq[TokenLogprob]) -> None:
        """Append log-probabilities of the tokens behind `start`, except for those already known."""
        assert start <= len(self.scores), f"{self.attempt_id}: scores from {start} on leave a gap"
        self.scores += scores[len(self.scores) - start :]

    def followed_by(self, drafts: Seq[int]) -> Sequence:
        """A copy for sampling: this sequence as it would be if its next tokens were these."""
        assert self.grammar is None, f"{self.attempt_id}: only its next token has a mask"
        assert not self.num_unknown, f"{self.attempt_id}: drafts follow an unknown token"
        drafted = copy.copy(self)
        drafted.tokens = [*self.tokens, *drafts]
        return drafted

    def move(self, status: Status) -> None:
        assert status in _TRANSITIONS[self.status], f"{self.attempt_id}: {self.status} -> {status}"
        self.status = status

    def update_hashes(self, block_size: int) -> list[bytes]:
        """Extend and return the hashes of all full blocks of the known tokens."""
        extend_hashes(self.hashes, self.tokens, block_size, self.traits)
        return self.hashes

    def shorten(self, num_blocks: int, block_size: int) -> None:
        """Keep the tokens of that many full blocks only, all of them prompt."""
        del self.tokens[num_blocks * block_size :]
        del self.hashes[num_blocks:]
        self.num_prompt = len(self.tokens)

    def ending(self, eos_token_ids: frozenset[int]) -> tuple[FinishReason | None, int | None]:
        """Why the sequence ends with its last token, which may be what ends it; or None, None."""
        num_output = len(self.tokens) - self.num_prompt
        sampling, last = self.sampling, self.tokens[-1]
        if self.grammar is not None and last in self.grammar.eos_token_ids:
            return FinishReason.STOP, last  # nothing is allowed behind it
        if num_output >= sampling.min_tokens:
            ends = last in eos_token_ids and not sampling.ignore_eos
            if ends or last in sampling.stop_token_ids:
                return FinishReason.STOP, last
        return (FinishReason.LENGTH if num_output >= sampling.max_tokens else None), None


def _takes_best(sampling: SamplingParams) -> bool:
    return (
        sampling.greedy
        and sampling.logprobs is None
        and sampling.grammar is None
        and sampling.rules is None
        and sampling.min_tokens == 0
        and sampling.repetition_penalty == 1.0
        and sampling.presence_penalty == 0.0
        and sampling.frequency_penalty == 0.0
    )
