"""Each sampling parameter against a slow and obvious reference, and the draw's independence."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from engine.sampler.filters import apply_filters
from engine.sampler.noise import draw_key, exponential_noise
from engine.sampler.penalties import Penalties
from engine.sampler.sampler import Sampler
from engine.sequence import Sequence
from tests.engine.driver import make_sequence
from wire.sampling import SamplingParams, TokenRules

pytestmark = pytest.mark.quick

VOCAB = 50
EOS = frozenset({7, VOCAB + 3})


def params(**changes: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, **changes})


def make_logits(rows: int = 1, seed: int = 0, vocab_size: int = VOCAB) -> Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def sequence_with(
    sampling: SamplingParams, prompt: tuple[int, ...] = (1, 2, 3), output: tuple[int, ...] = ()
) -> Sequence:
    return make_sequence(prompt + output, sampling, num_prompt=len(prompt))


def sample(logits: Tensor, *sequences: Sequence) -> list[int]:
    return [sampled.token for sampled in Sampler(EOS).sample(logits.clone(), sequences)]


def kept_by_reference(logits: list[float], sampling: SamplingParams) -> set[int]:
    """Tokens that top-k, top-p and min-p leave, by sorting and adding up."""
    order = sorted(range(len(logits)), key=lambda id: -logits[id])[: sampling.top_k or None]
    weights = {id: math.exp(logits[id] - max(logits)) for id in order}
    kept, mass = [], 0.0
    for id in order:
        if mass >= sampling.top_p * sum(weights.values()) and kept:
            break
        kept.append(id)
        mass += weights[id]
    return {id for id in kept if weights[id] >= sampling.min_p}


FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.9},
    {"top_p": 0.3},
    {"top_p": 1e-9},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 12, "top_p": 0.7},
    {"top_k": 20, "top_p": 0.95, "min_p": 0.05},
]


@pytest.mark.parametrize("vocab_size", [VOCAB, 3000])
def test_filters_in_one_batch_keep_what_each_alone_should(vocab_size: int) -> None:
    # A flat row makes nuclei larger than what the top-p filter looks at first.
    logits = make_logits(len(FILTERS), vocab_size=vocab_size) / (1 if vocab_size == VOCAB else 10)
    wanted = [params(**changes) for changes in FILTERS]
    filtered = logits.clone()
    apply_filters(filtered, wanted)
    for row, sampling in enumerate(wanted):
        kept = set(filtered[row].isfinite().nonzero()[:, 0].tolist())
        assert kept == kept_by_reference(logits[row].tolist(), sampling), FILTERS[row]


def test_equal_logits_stay_together() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]])
    apply_filters(logits, [params(top_k=2, top_p=0.99)])
    assert logits.isfinite().tolist() == [[False, True, True, True, True, False]]


def test_greedy_takes_the_best_token() -> None:
    logits = make_logits(3)
    sequences = [sequence_with(params(temperature=0.0)) for _ in range(3)]
    assert sample(logits, *sequences) == logits.argmax(-1).tolist()


def test_a_greedy_batch_reads_its_logits_once_and_changes_nothing() -> None:
    logits = make_logits(2)
    before = logits.clone()
    Sampler(EOS).sample(logits, [sequence_with(params(temperature=0.0))] * 2)
    assert torch.equal(logits, before)


def test_repetition_penalty_weakens_tokens_of_prompt_and_output() -> None:
    logits = torch.tensor([[3.0, -1.0, 2.9, 1.0, 0.0]])
    sampling = params(temperature=0.0, repetition_penalty=1.5)
    assert sample(logits, sequence_with(sampling, prompt=(0, 1))) == [2]
    assert sample(logits, sequence_with(sampling, prompt=(0,), output=(2, 2))) == [0]
    negative = torch.tensor([[-1.0, -1.4]])
    assert sample(negative, sequence_with(sampling, prompt=(0,))) == [1]


def test_presence_penalty_counts_output_tokens_once() -> None:
    logits = torch.tensor([[3.0, 2.5, 2.0]])
    sampling = params(temperature=0.0, presence_penalty=0.6)
    assert sample(logits, sequence_with(sampling, prompt=(0, 0))) == [0]
    assert sample(logits, sequence_with(sampling, output=(0, 0, 0))) == [1]
    assert sample(logits, sequence_with(sampling, output=(0, 1))) == [0]


def test_frequency_penalty_counts_every_occurrence() -> None:
    logits = torch.tensor([[3.0, 2.5, 2.0]])
    sampling = params(temperature=0.0, frequency_penalty=0.3)
    assert sample(logits, sequence_with(sampling, output=(0,))) == [0]
    assert sample(logits, sequence_with(sampling, output=(0, 0))) == [1]
    assert sample(logits, sequence_with(sampling, output=(0, 0, 0, 0, 1, 1))) == [2]


def test_penalties_counted_from_step_to_step_are_those_counted_anew() -> None:
    sampling = params(repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2)
    along = [
        sequence_with(sampling, prompt=(1, 2, 2)),
        sequence_with(params(presence_penalty=0.9), prompt=(9,)),
        sequence_with(params(temperature=0.0)),
    ]
    kept = Penalties(EOS)
    for number in range(12):
        present = along if number % 5 else along[::-1][:2]  # one is absent, others move
        present = [*present, along[0].followed_by([3, 4])]
        once, anew = make_logits(len(present), seed=number), make_logits(len(present), seed=number)
        kept.apply(once, present)
        Penalties(EOS).apply(anew, present)
        assert torch.equal(once, anew)
        for sequence in along:
            sequence.tokens.append((number * 7) % 5)


def test_negative_penalties_reward() -> None:
    logits = torch.tensor([[3.0, 2.5]])
    sampling = params(temperature=0.0, frequency_penalty=-0.3)
    assert sample(logits, sequence_with(sampling, output=(1, 1))) == [1]


def test_stops_are_banned_until_min_tokens_are_reached() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 7], logits[0, 9], logits[0, 11] = 5.0, 4.0, 3.0
    sampling = params(temperature=0.0, min_tokens=2, stop_token_ids=(9, VOCAB + 70))
    assert sample(logits, sequence_with(sampling)) == [11]
    assert sample(logits, sequence_with(sampling, output=(1,))) == [11]
    assert sample(logits, sequence_with(sampling, output=(1, 1))) == [7]
    ignoring = params(temperature=0.0, min_tokens=2, ignore_eos=True, stop_token_ids=(9,))
    assert sample(logits, sequence_with(ignoring)) == [7]


def test_logprobs_come_from_the_raw_distribution() -> None:
    logits = make_logits(3)
    raw = logits.log_softmax(-1)
    sequences = [
        sequence_with(params(temperature=0.0, logprobs=2, repetition_penalty=1e9), prompt=(4,)),
        sequence_with(params(temperature=0.0)),
        sequence_with(params(temperature=0.5, top_k=3, logprobs=0)),
    ]
    first, second, third = Sampler(EOS).sample(logits.clone(), sequences)
    best = raw[0].topk(2)
    assert first.logprob is not None
    assert first.logprob.logprob == pytest.approx(raw[0, first.token].item())
    assert first.logprob.top_ids == tuple(best.indices.tolist())
    assert first.logprob.top_logprobs == pytest.approx(best.values.tolist())
    assert second.logprob is None
    assert third.logprob is not None
    assert third.logprob.logprob == pytest.approx(raw[2, third.token].item())
    assert third.logprob.top_ids == ()


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    [sampled] = Sampler(EOS).sample(make_logits(), [sequence_with(params(logprobs=VOCAB + 9))])
    assert sampled.logprob is not None
    assert len(sampled.logprob.top_ids) == VOCAB


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    sampling = params(temperature=0.8)
    expected = (logits / 0.8).softmax(-1)[0].tolist()
    draws = 4000
    sequences = [sequence_with(params(temperature=0.8, seed=seed)) for seed in range(draws)]
    by_seed = Counter(sample(logits.expand(draws, -1), *sequences))
    along = [sequence_with(sampling, output=(0,) * position) for position in range(draws)]
    by_position = Counter(sample(logits.expand(draws, -1), *along))
    for counts in (by_seed, by_position):
        for token, probability in enumerate(expected):
            deviation = math.sqrt(draws * probability * (1 - probability))
            assert abs(counts[token] - draws * probability) < 4 * deviation


def test_noise_is_exponential_and_uncorrelated_between_neighbours() -> None:
    keys = [draw_key(3, position) for position in range(40)]
    noise = exponential_noise(keys, 5000, torch.device("cpu"))
    assert noise.min() > 0
    assert noise.mean().item() == pytest.approx(1.0, abs=0.01)
    assert noise.var().item() == pytest.approx(1.0, abs=0.03)
    for left, right in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])):
        pair = torch.stack((left.flatten(), right.flatten())).corrcoef()
        assert abs(pair[0, 1].item()) < 0.01


def test_noise_is_splitmix64_with_the_token_as_its_counter() -> None:
    key = draw_key(1, 2)
    noise = exponential_noise([key], 40, torch.device("cpu"))[0].tolist()
    assert noise == pytest.approx([exponential_by_hand(key, token) for token in range(40)])


def exponential_by_hand(key: int, token: int) -> float:
    """The definition in Python's unbounded integers."""
    mask = 2**64 - 1
    bits = (key + (token + 1) * 0x9E3779B97F4A7C15) & mask
    bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) & mask
    bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) & mask
    bits ^= bits >> 31
    return -math.log(((bits >> 12) + 0.5) / 2**52)


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    logits = make_logits(8)
    mixture = [
        sequence_with(params(temperature=1.1, seed=row, top_p=0.9 if row % 2 else 1.0, top_k=row))
        for row in range(8)
    ]
    mixture[3] = sequence_with(params(temperature=0.0))
    mixture[5] = sequence_with(params(seed=5, repetition_penalty=1.2, logprobs=3))
    together = sample(logits, *mixture)
    backwards = sample(logits.flip(0), *mixture[::-1])[::-1]
    alone = [sample(logits[row : row + 1], mixture[row])[0] for row in range(8)]
    assert together == backwards == alone


def test_the_position_counts_and_not_what_came_before() -> None:
    logits = make_logits()
    for seed in range(20):
        sampling = params(seed=seed, temperature=3.0)
        one = sequence_with(sampling, prompt=(1, 2), output=(3,))
        other = sequence_with(sampling, prompt=(8, 9, 10))
        assert sample(logits, one) == sample(logits, other)
    drawn = {
        sample(logits, sequence_with(params(seed=4, temperature=3.0), output=(1,) * count))[0]
        for count in range(30)
    }
    assert len(drawn) > 1


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63), 2**64 + 1, 10**40])
def test_any_integer_is_a_seed(seed: int) -> None:
    logits = make_logits()
    sequence = sequence_with(params(seed=seed))
    assert sample(logits, sequence) == sample(logits, sequence)


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 1e30])
def test_extreme_temperatures_are_greedy_or_uniform(temperature: float) -> None:
    logits = make_logits()
    tokens = {
        sample(logits, sequence_with(params(temperature=temperature, seed=seed)))[0]
        for seed in range(40)
    }
    best = logits.argmax().item()
    assert tokens == {best} if temperature < 1 else len(tokens) > 15


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("filters", [False, True])
@pytest.mark.parametrize("vocab_size", [32000, 128256])
def test_a_gpu_draws_the_tokens_that_a_cpu_draws(vocab_size: int, filters: bool) -> None:
    """Of spread and of flat rows, at low and high temperatures."""
    logits = make_logits(64, vocab_size=vocab_size) * torch.linspace(0.05, 2, 64)[:, None]
    sequences = [
        sequence_with(
            params(
                seed=row,
                temperature=(row % 7) / 3,
                top_k=row % 5 * row if filters else None,
                top_p=0.5 + row / 128 if filters else 1.0,
            )
        )
        for row in range(64)
    ]
    assert sample(logits.cuda(), *sequences) == sample(logits, *sequences)


def rules(**given: object) -> SamplingParams:
    return params(temperature=0.0, rules=TokenRules(**given))  # type: ignore[arg-type]


def test_a_bias_is_added_to_the_logits_of_its_tokens_alone() -> None:
    logits = make_logits(rows=2)
    order = logits[0].argsort(descending=True).tolist()
    gap = float(logits[0, order[0]] - logits[0, order[3]])
    for bias, token in [(gap + 0.01, order[3]), (gap - 0.01, order[0])]:
        biased = sequence_with(rules(bias=((order[3], bias),)))
        plain = sequence_with(params(temperature=0.0))
        assert sample(logits, biased, plain) == [token, int(logits[1].argmax())]
    banned = sequence_with(rules(bias=((order[0], -100.0), (order[1], -100.0))))
    assert sample(logits[:1], banned) == [order[2]]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_only_allowed_tokens_are_drawn(temperature: float) -> None:
    allowed = (3, 17, 40)
    drawn = set()
    for seed in range(60):
        sampling = params(temperature=temperature, seed=seed, rules=TokenRules(allowed=allowed))
        drawn.update(sample(make_logits(seed=seed), sequence_with(sampling)))
    assert drawn == set(allowed)


def test_a_bad_word_is_kept_from_being_finished_and_its_pieces_are_not() -> None:
    logits = make_logits()
    best, second = logits[0].argsort(descending=True).tolist()[:2]
    for run, output, token in [
        ((best,), (), second),
        ((4, best), (), best),
        ((4, best), (5, 4), second),
        ((4, best), (4, 5), best),
        ((5, 4, best), (5, 4), second),
        ((5, 4, best), (4,), best),
        ((3, best), (), best),  # the prompt's last token begins no word of the output
    ]:
        assert sample(logits, sequence_with(rules(banned=(run,)), output=output)) == [token]


def test_rules_leave_the_reported_logprobs_as_they_were() -> None:
    logits = make_logits()
    sampling = params(temperature=0.0, logprobs=0, rules=TokenRules(allowed=(5,)))
    (sampled,) = Sampler(EOS).sample(logits.clone(), [sequence_with(sampling)])
    assert sampled.logprob is not None
    assert sampled.logprob.logprob == pytest.approx(float(logits[0].log_softmax(-1)[5]), abs=1e-5)
