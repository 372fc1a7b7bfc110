"""Answers of the whole engine against transformers, in float32 and in bfloat16.

The engine answers greedily, with steps of every kind. A judge then reads each answer and says how
likely every token was; so an answer that takes another way at a tie is judged by the way that it
took. In bfloat16 the engine may be no farther from the judge's float32 than the judge's own
bfloat16 is: there is no other measure of how far rounding may lead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from benchmarks.gpu.checkpoint import write_checkpoint
from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.finding import Finding, check, skipped
from benchmarks.gpu.judges import Judge, PlainJudge, TransformersJudge
from benchmarks.gpu.models import SMALL, TINY
from benchmarks.gpu.needs import why_missing
from benchmarks.gpu.steps import Answer, Driver
from engine.model.config import ModelConfig
from engine.runners.torch_loading import load_torch_runner

SPREAD = 0.06
EXACT = 1e-3
"""Largest difference of log-probabilities in float32."""
MEAN_SLACK, MOST_SLACK = 1.1, 2.0
"""How much farther than the judge's bfloat16 the engine's may be: the root of the mean square of
some thousand differences is steady to a few percent, the largest one is chance."""


@dataclass(frozen=True, slots=True)
class Size:
    models: dict[str, ModelConfig]
    prompts: tuple[int, ...]
    max_tokens: int
    num_blocks: int
    graphs: tuple[str, ...]


def _families(base: ModelConfig, window: int) -> dict[str, ModelConfig]:
    """One model of each family, alike but for what the families differ in."""
    windows = (window,) * base.num_layers
    replace = msgspec.structs.replace
    return {
        "llama": base,
        "qwen3": replace(base, architecture="Qwen3ForCausalLM", qk_norm=True),
        "mistral": replace(base, architecture="MistralForCausalLM", windows=windows),
        "qwen2": replace(base, architecture="Qwen2ForCausalLM", windows=windows, qkv_bias=True),
    }


PROMPTS = (3, 16, 17, 40, 100, 257, 300, 511)
GPU = Size(_families(SMALL, 100), PROMPTS, 40, 512, ("start", "off"))
CPU = Size({"qwen2": _families(TINY, 11)["qwen2"]}, (3, 17, 40), 8, 64, ("off",))


def run(context: Context) -> Iterator[Finding]:
    size = GPU if context.on_gpu else CPU
    if (reason := why_missing("transformers")) is not None:
        yield skipped("transformers", f"{reason}; PyTorch's operations on the CPU judge instead")
    for name, config in size.models.items():
        yield from guarded(
            context, name, lambda name=name, config=config: _judge(context, size, name, config)
        )


def _judge(context: Context, size: Size, name: str, config: ModelConfig) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        directory = write_checkpoint(config, Path(folder), context.torch_device, SPREAD)
        exact, rounded = (
            _judge_of(context, directory, dtype) for dtype in (torch.float32, torch.bfloat16)
        )
        for graphs in size.graphs:
            kind = f"{name}, {'graphs' if graphs == 'start' else 'eager'}"
            answers = _answers(context, size, directory, "float32", graphs)
            yield _checked_exactly(f"{kind}, float32", answers, exact)
            answers = _answers(context, size, directory, "bfloat16", graphs)
            yield _checked_beside(f"{kind}, bfloat16", answers, exact, rounded)


def _judge_of(context: Context, directory: Path, dtype: torch.dtype) -> Judge:
    if why_missing("transformers") is not None:
        return PlainJudge(directory, dtype)
    return TransformersJudge(directory, dtype, context.torch_device)


def _answers(
    context: Context, size: Size, directory: Path, dtype: str, graphs: str
) -> list[Answer]:
    runner = load_torch_runner(
        directory,
        device=context.device,
        dtype=dtype,
        attention="torch",
        graphs=graphs,
        max_sequences=len(size.prompts),
    )
    runner.allocate(size.num_blocks)
    return Driver(runner, size.num_blocks).answer(size.prompts, size.max_tokens)


def _checked_exactly(name: str, answers: Sequence[Answer], exact: Judge) -> Finding:
    """Every log-probability is the judge's, and every token is his best."""
    off, lost = 0.0, 0.0
    for answer in answers:
        told, judged = _both(answer, exact)
        off = max(off, float((told - judged[0]).abs().max()))
        lost = max(lost, float(judged[1].max()))
    text = f"log-probabilities within {off:.1e}, tokens within {lost:.1e} of the best"
    return check(name, off <= EXACT and lost <= 2 * EXACT, text, difference=off, lost=lost)


def _checked_beside(name: str, answers: Sequence[Answer], exact: Judge, rounded: Judge) -> Finding:
    ours, theirs, lost = list[Tensor](), list[Tensor](), 0.0
    for answer in answers:
        told, judged = _both(answer, exact)
        ours.append(told - judged[0])
        theirs.append(_both(answer, rounded)[1][0] - judged[0])
        lost = max(lost, float(judged[1].max()))
    our_mean, our_most = _extent(torch.cat(ours))
    their_mean, their_most = _extent(torch.cat(theirs))
    near = our_mean <= MEAN_SLACK * their_mean and our_most <= MOST_SLACK * their_most
    text = (
        f"from float32 {our_mean:.4f} and at most {our_most:.3f}, "
        f"the judge's bfloat16 {their_mean:.4f} and {their_most:.3f}"
    )
    figures = {"ours": our_mean, "theirs": their_mean, "our_most": our_most, "lost": lost}
    return check(name, near and lost <= 2 * MOST_SLACK * their_most, text, **figures)


def _both(answer: Answer, judge: Judge) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The answer's log-probabilities; and the judge's of the same tokens, with how much likelier
    than each chosen token the judge's best one was."""
    ids = torch.tensor(
        [[token, *it.top_ids] for token, it in zip(answer.tokens, answer.logprobs, strict=True)]
    )
    told = torch.tensor([[it.logprob, *it.top_logprobs] for it in answer.logprobs])
    tokens = answer.prompt + answer.tokens[:-1]
    judged = judge.logprobs(tokens)[len(answer.prompt) - 1 :].cpu()
    found = judged.gather(1, ids)
    return told.flatten(), (found.flatten(), judged.amax(1) - found[:, 0])


def _extent(differences: Tensor) -> tuple[float, float]:
    """Root of the mean square, and the largest."""
    return float(differences.square().mean().sqrt()), float(differences.abs().max())
