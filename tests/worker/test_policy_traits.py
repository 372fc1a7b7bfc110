"""What policies say of themselves is what they do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from decode_worker.scheduler import DecodePolicy
from engine.runner import Slice
from engine.schedule.policy import Policy
from engine.sequence import Sequence
from prefill_worker.scheduler import PrefillPolicy
from wire.identity import AttemptId
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

LONG = 100_000
MAKERS = [
    lambda target_s=None: PrefillPolicy(chunk_tokens=400, tpot_target_s=target_s),
    lambda target_s=None: DecodePolicy(400, prefill_tokens=100, tpot_target_s=target_s),
]
each_policy = pytest.mark.parametrize("make", MAKERS, ids=["prefill", "decode"])
Make = Callable[..., Policy]


def a_prompt(num_tokens: int) -> Sequence:
    return Sequence(AttemptId("prompt"), [1] * num_tokens, SamplingParams(max_tokens=1))


def decoding() -> Sequence:
    sequence = Sequence(AttemptId("decoding"), [1, 2, 3], SamplingParams(max_tokens=8))
    sequence.num_computed = 2
    sequence.num_prompt = 2
    return sequence


def prompt_tokens(policy: Policy, *running: Sequence) -> list[int]:
    return [it.count for it in policy.plan(running) if not it.sequence.decoding]


@each_policy
def test_a_step_of_prompts_alone_has_chunk_tokens(make: Make) -> None:
    policy = make()
    assert prompt_tokens(policy, a_prompt(LONG)) == [policy.traits.chunk_tokens]


@each_policy
def test_beside_decoding_sequences_it_has_mixed_chunk_tokens(make: Make) -> None:
    policy = make()
    (count,) = prompt_tokens(policy, decoding(), a_prompt(LONG))
    assert policy.traits.mixed_chunk_tokens - 1 <= count <= policy.traits.mixed_chunk_tokens


@each_policy
def test_a_target_that_nothing_meets_leaves_min_chunk_tokens(make: Make) -> None:
    policy = make(target_s=1e-9)
    for count in (64, 128, 192, 256):
        policy.observe([Slice(a_prompt(LONG), 0, count)], 1e-3 * count)
    assert prompt_tokens(policy, decoding(), a_prompt(LONG)) == [policy.traits.min_chunk_tokens]


@each_policy
def test_a_prompt_that_is_shorter_by_the_ratio_overtakes(make: Make) -> None:
    policy = make()
    short = LONG // policy.traits.overtaking_ratio
    half = policy.traits.chunk_tokens // 2
    assert prompt_tokens(policy, a_prompt(LONG), a_prompt(short)) == [half, half]
    assert prompt_tokens(policy, a_prompt(LONG), a_prompt(short + 1)) == [2 * half]
