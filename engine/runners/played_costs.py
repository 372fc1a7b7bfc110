"""How long steps of a model take that is only played."""

from __future__ import annotations

import msgspec


class PlayedCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds for the parts of a step, as in wire.reports.StepCosts."""

    step_s: float
    """Fixed part of each step."""
    sequence_s: float = 0.0
    """Per decoding sequence in the step."""
    prompt_token_s: float = 0.0
    """Per prompt token in the step."""

    def seconds(self, counts: list[int]) -> float:
        """The duration of a step that computes so many tokens of each of its sequences; one is a
        token that follows, more are a prompt's."""
        num_decoding = counts.count(1)
        num_prompt = sum(counts) - num_decoding
        return self.step_s + self.sequence_s * num_decoding + self.prompt_token_s * num_prompt
