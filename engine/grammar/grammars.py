"""Compiled grammars, and the threads that compile and match them while steps are computed."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial

from grammar.compile_job import CompileJob
from grammar.compiler import compile_grammar
from grammar.errors import GrammarError
from grammar.limits import DEFAULT_LIMITS, GrammarLimits
from grammar.matcher import Matcher
from grammar.path import GrammarPath
from grammar.vocabulary import Vocabulary
from wire.sampling import Grammar

NUM_COMPILED = 64
"""Capacity of the cache of compiled grammars: clients repeat theirs."""
NUM_COMPILING_THREADS = 2
NUM_MASKING_THREADS = 2
WORTH_A_THREAD_S = 100e-6
"""Less CPU time than this is spent at once: waking up a thread takes longer."""

DrawnToken = tuple[GrammarPath, int]
"""A sequence's position in its grammar, and the token that was sampled there."""

log = logging.getLogger(__name__)


class Grammars:
    """No call blocks, and nothing is created before the first grammar comes.

    `read` gives the model's vocabulary; it is called once, by a thread. The masks have threads of
    their own, so that no sequence waits for another's compiler. `on_ready` is called by a thread
    whenever a path has become ready.
    """

    def __init__(
        self,
        read: Callable[[], Vocabulary],
        eos_token_ids: frozenset[int],
        limits: GrammarLimits = DEFAULT_LIMITS,
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        self._read = read
        self._eos_token_ids = eos_token_ids
        self._limits = limits
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[Grammar, Matcher] = OrderedDict()
        self._path_s = WORTH_A_THREAD_S
        """CPU time to advance one path by one token, a moving average."""

    def open(self, grammar: Grammar, answer: Seq[int]) -> GrammarPath:
        """Start to compile a grammar and to match an answer's tokens; the path is ready later."""
        path, tokens = GrammarPath(self._eos_token_ids), tuple(answer)
        path.job = CompileJob(self._compilers, partial(self._begin, path, grammar, tokens))
        path.job.when_done(lambda: self.on_ready())
        return path

    def expect(self, grammar: Grammar) -> None:
        """Compile a grammar in advance, for a sequence that may come soon."""
        self._compilers.submit(self._begin, GrammarPath(self._eos_token_ids), grammar, ())

    def follow(self, drawn: Seq[DrawnToken]) -> None:
        """Compute the allowed next tokens of all paths of a step, in threads if it takes long."""
        if len(drawn) * self._path_s < WORTH_A_THREAD_S:
            self._follow(drawn)
            return
        size = -(-len(drawn) // NUM_MASKING_THREADS)
        for first in range(0, len(drawn), size):
            share = drawn[first : first + size]
            job = CompileJob(self._maskers, partial(self._follow, share))
            for path, _ in share:
                path.job = job

    @cached_property
    def _compilers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_COMPILING_THREADS, "grammars")

    @cached_property
    def _maskers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_MASKING_THREADS, "masks")

    def _follow(self, drawn: Seq[DrawnToken]) -> None:
        started = time.thread_time()
        for path, token in drawn:
            path.follow((token,))
        spent_s = (time.thread_time() - started) / len(drawn)
        self._path_s += 0.1 * (spent_s - self._path_s)

    def _begin(self, path: GrammarPath, grammar: Grammar, tokens: tuple[int, ...]) -> None:
        try:
            path.begin(self._matcher(grammar), tokens)
        except GrammarError as error:
            path.fail(error)
        except Exception as error:  # one request's grammar, by which no worker may end
            log.exception("a grammar's compiler broke")
            path.fail(GrammarError(f"the grammar's compiler broke: {type(error).__name__}"))

    def _matcher(self, grammar: Grammar) -> Matcher:
        """A new matcher at the grammar's beginning."""
        with self._lock:
            found = self._compiled.get(grammar)
            if found is not None:
                self._compiled.move_to_end(grammar)
                return found.copy()
            vocabulary = self._vocabulary = self._vocabulary or self._read()
        made = compile_grammar(grammar, vocabulary, self._limits)
        with self._lock:
            self._compiled[grammar] = made
            if len(self._compiled) > NUM_COMPILED:
                self._compiled.popitem(last=False)
            return made.copy()
