"""/v1/completions: from the router's deltas to whole texts and to the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from router.openai.answers import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
    UsageBody,
)
from router.openai.joined import Joined
from router.openai.responses import Form, Style, UsageField, finish_reason
from router.requests import Delta
from router.text.tokenizer import Tokenizer
from wire.sampling import TokenLogprob


class CompletionStyle(Style):
    id_prefix = "cmpl-"
    chunk_object = "text_completion"

    def __init__(self, request_id: str, model: str, tokenizer: Tokenizer, form: Form) -> None:
        super().__init__(request_id, model, tokenizer, form)
        self._offsets: dict[int, int] = {}

    def opening(self, delta: Delta, usage: UsageField) -> CompletionResponse | None:
        """The prompt itself, where it is to be told again."""
        prompt_tokens = delta.prompt_tokens or ()
        if not (self._form.echo or self._form.token_ids):
            return None
        choice = CompletionChoice(
            text=self._form.echo_of(delta.index, prompt_tokens, self._tokenizer),
            index=delta.index,
            token_ids=() if self._form.token_ids else UNSET,
            prompt_token_ids=prompt_tokens if self._form.token_ids else UNSET,
        )
        return self._response([choice], usage)

    def plain_pieces(self, index: int) -> tuple[str, str]:
        return (
            '{"text":',
            f',"index":{index},"logprobs":null,"finish_reason":null,"stop_reason":null}}',
        )

    def chunk(self, delta: Delta, usage: UsageField) -> CompletionResponse:
        offset = self._offsets.get(delta.index, 0)
        choice = CompletionChoice(
            text=delta.text,
            index=delta.index,
            logprobs=self._logprobs(delta.tokens, delta.logprobs, offset),
            finish_reason=finish_reason(delta.ending),
            stop_reason=self.stop_reason(delta.ending),
            token_ids=delta.tokens if self._form.token_ids else UNSET,
        )
        if choice.logprobs is not None:
            ends = choice.logprobs.text_offset[-1] + len(choice.logprobs.tokens[-1])
            self._offsets[delta.index] = ends
        return self._response([choice], usage)

    def usage_chunk(self, usage: UsageBody) -> CompletionResponse:
        return self._response([], usage)

    def whole(self, answers: Sequence[Joined], usage: UsageBody) -> CompletionResponse:
        return self._response([*map(self._whole_choice, answers)], usage)

    def _whole_choice(self, answer: Joined) -> CompletionChoice:
        prompt_tokens = answer.prompt_tokens
        echo = self._form.echo_of(answer.index, prompt_tokens, self._tokenizer)
        return CompletionChoice(
            text=echo + answer.text,
            index=answer.index,
            logprobs=self._logprobs(answer.tokens, answer.logprobs, 0),
            finish_reason=finish_reason(answer.ending),
            stop_reason=self.stop_reason(answer.ending),
            token_ids=answer.tokens if self._form.token_ids else UNSET,
            prompt_token_ids=prompt_tokens if self._form.token_ids else UNSET,
        )

    def _response(self, choices: list[CompletionChoice], usage: UsageField) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _logprobs(
        self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob], offset: int
    ) -> CompletionLogprobs | None:
        if not logprobs:
            return None
        texts = [self._tokenizer.token_text(token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return CompletionLogprobs(
            tokens=texts,
            token_logprobs=[each.logprob for each in logprobs],
            top_logprobs=[
                {
                    self._tokenizer.token_text(token): logprob
                    for token, logprob in zip(each.top_ids, each.top_logprobs, strict=True)
                }
                for each in logprobs
            ],
            text_offset=offsets,
        )
