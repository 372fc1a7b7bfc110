"""Who does the work of following grammars: other threads, or whoever needs it first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.grammar.grammars import WORTH_A_THREAD_S, Grammars
from grammar.compile_job import CompileJob
from grammar.vocabulary import read_vocabulary
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_a_job_that_nobody_began_is_done_by_who_needs_it(executor: ThreadPoolExecutor) -> None:
    busy, doers = threading.Event(), list[threading.Thread]()
    executor.submit(busy.wait, 60)
    job = CompileJob(executor, lambda: doers.append(threading.current_thread()))
    job.finish()
    job.finish()
    busy.set()
    executor.submit(int).result(60)
    assert doers == [threading.current_thread()]


def test_a_job_that_another_thread_began_is_waited_for(executor: ThreadPoolExecutor) -> None:
    begun, go_on, doers = threading.Event(), threading.Event(), list[threading.Thread]()

    def work() -> None:
        begun.set()
        assert go_on.wait(60)
        doers.append(threading.current_thread())

    job = CompileJob(executor, work)
    assert begun.wait(60)
    assert not job.done
    go_on.set()
    job.finish()
    assert job.done
    assert len(doers) == 1
    assert doers[0] is not threading.current_thread()


def test_what_goes_wrong_in_a_job_is_heard(executor: ThreadPoolExecutor) -> None:
    def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        CompileJob(executor, work).finish()


def test_a_job_that_nobody_wants_any_more_is_not_begun(executor: ThreadPoolExecutor) -> None:
    busy, doers = threading.Event(), list[threading.Thread]()
    executor.submit(busy.wait, 60)
    job = CompileJob(executor, lambda: doers.append(threading.current_thread()))
    job.cancel()
    assert job.done
    busy.set()
    executor.submit(int).result(60)
    assert doers == []


@pytest.mark.parametrize("path_s", [0.0, WORTH_A_THREAD_S], ids=["at once", "by a thread"])
def test_a_path_is_followed_either_way(path_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = read_vocabulary(Path("models/tiny-python/tokenizer.json"), 2048, [1])
    grammars = Grammars(lambda: vocabulary, vocabulary.eos_token_ids)
    monkeypatch.setattr(grammars, "_path_s", path_s)
    path = grammars.open(Grammar(GrammarKind.REGEX, "ab"), [])
    assert path.job is not None
    path.job.wait(60)
    first = path.job
    (token,) = vocabulary.tokenizer.tokenize_str("ab")[:1]
    assert token in path.allowed.members()
    grammars.follow([(path, token)])
    assert (path.job is first) == (path_s == 0.0)
    assert token not in path.allowed.members()
    assert path.error is None
