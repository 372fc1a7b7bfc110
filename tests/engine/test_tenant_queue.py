"""Who starts next, and who may overtake whom within a step."""

from collections import Counter

import pytest

from engine.schedule.policy import in_turn
from engine.schedule.tenant_queue import TenantQueue
from engine.sequence import Sequence
from tests.engine.test_engine_flow import an_engine, expected
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from wire.traits import RequestTraits

pytestmark = pytest.mark.quick


def a_sequence(
    name: str, num_tokens: int = 4, *, tenant: str = "", priority: int = 0, max_tokens: int = 1
) -> Sequence:
    sampling = SamplingParams(max_tokens=max_tokens)
    tokens = list(range(1, num_tokens + 1))
    return Sequence(
        AttemptId(name), tokens, sampling, traits=RequestTraits(tenant=tenant, priority=priority)
    )


def a_queue(*sequences: Sequence) -> TenantQueue:
    queue = TenantQueue()
    for sequence in sequences:
        queue.add(sequence)
    return queue


def start_all(queue: TenantQueue) -> list[str]:
    """Names in the order in which they start, each charged with its tokens."""
    names = []
    while (sequence := queue.first()) is not None:
        queue.remove(sequence)
        queue.charge(sequence.traits.tenant, sequence.num_uncomputed)
        names.append(sequence.attempt_id.request_id)
    assert len(queue) == 0
    assert not queue
    return names


def test_one_tenants_sequences_start_in_the_order_in_which_they_came() -> None:
    assert start_all(a_queue(*(a_sequence(str(n)) for n in range(5)))) == list("01234")


def test_a_tenant_with_one_request_does_not_wait_for_anothers_hundred() -> None:
    heavy = [a_sequence(f"heavy {n}", tenant="heavy") for n in range(100)]
    queue = a_queue(*heavy, a_sequence("light", tenant="light"))
    assert start_all(queue).index("light") <= 1


def test_tenants_take_turns_by_tokens_and_not_by_requests() -> None:
    long = [a_sequence(f"long {n}", 40, tenant="long") for n in range(10)]
    short = [a_sequence(f"short {n}", 10, tenant="short") for n in range(40)]
    started = start_all(a_queue(*long, *short))
    first_half = Counter(name.split()[0] for name in started[:25])
    assert first_half == {"long": 5, "short": 20}


def test_idleness_earns_a_tenant_nothing() -> None:
    queue = a_queue(a_sequence("early", 4, tenant="idle"))
    start_all(queue)
    for n in range(50):
        queue.add(a_sequence(f"busy {n}", 100, tenant="busy"))
        start_all(queue)
    for n in range(10):
        queue.add(a_sequence(f"back {n}", 100, tenant="idle"))
        queue.add(a_sequence(f"busy {n}", 100, tenant="busy"))
    halves = Counter(name.split()[0] for name in start_all(queue)[:10])
    assert max(halves.values()) <= 6


def test_the_more_urgent_start_first_whatever_their_tenant_has_had() -> None:
    queue = a_queue(a_sequence("later", tenant="b"), a_sequence("now", tenant="a", priority=-1))
    queue.charge("a", 10_000)
    assert start_all(queue) == ["now", "later"]


def test_preempted_ones_come_first_in_the_order_of_their_preemption() -> None:
    queue = a_queue(a_sequence("new", priority=-5))
    for name in ("one", "two"):
        queue.put_back(a_sequence(name))
    assert start_all(queue) == ["one", "two", "new"]


def test_a_sequence_that_nobody_waits_for_leaves_the_queue() -> None:
    one, two = a_sequence("one"), a_sequence("two", tenant="other")
    queue = a_queue(one, two)
    queue.remove(one)
    assert list(queue) == [two]
    assert queue.first() is two


def test_a_short_prompt_overtakes_a_long_one_on_half_of_the_step() -> None:
    long, short = a_sequence("long", 1000), a_sequence("short", 30)
    shares = in_turn([long, short], 100)
    assert [(share.sequence, share.count) for share in shares] == [(long, 70), (short, 30)]


def test_short_prompts_never_take_more_than_half_of_a_long_ones_step() -> None:
    long = a_sequence("long", 1000)
    shares = in_turn([long, *(a_sequence(str(n), 40) for n in range(10))], 100)
    assert shares[0].sequence is long
    assert shares[0].count == 50
    assert sum(share.count for share in shares) == 100


def test_prompts_of_similar_length_are_finished_one_after_the_other() -> None:
    prompts = [a_sequence(str(n), 300 - n) for n in range(3)]
    assert [share.count for share in in_turn(prompts, 400)] == [300, 100]


def test_the_most_urgent_prompt_is_computed_first() -> None:
    slow, urgent = a_sequence("slow", 300), a_sequence("urgent", 300, priority=-1)
    assert [share.sequence for share in in_turn([slow, urgent], 100)] == [urgent]


def test_the_least_urgent_sequence_gives_its_blocks_up_and_is_computed_again() -> None:
    engine = an_engine(num_blocks=8)
    batch = a_sequence("batch", 7, priority=1, max_tokens=16)
    chat = a_sequence("chat", 7, max_tokens=16)
    for sequence in (batch, chat):
        engine.add(sequence)
    preempted = set()
    while engine.busy:
        engine.step()
        preempted |= {waiting.attempt_id.request_id for waiting in engine.waiting}
    assert preempted == {"batch"}
    for sequence in (batch, chat):
        assert sequence.tokens[7:] == expected(sequence.tokens[:7], 16)
