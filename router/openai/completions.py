"""Response bodies and chunks of /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from router.openai.complete_answer import CompleteAnswer
from router.openai.logprobs import (
    TextOffsets,
    completion_logprobs,
    joined_logprobs,
    prompt_logprobs,
)
from router.openai.response_bodies import (
    CompletionChoice,
    CompletionLogprobs,
    CompletionResponse,
    PromptLogprobs,
    UsageBody,
)
from router.openai.response_writer import ResponseOptions, ResponseWriter, UsageField, finish_reason
from router.requests.request import Delta
from router.text.detokenizer import Detokenizer
from router.text.tokenizer import Tokenizer
from wire.sampling import TokenLogprob


class CompletionWriter(ResponseWriter):
    id_prefix = "cmpl-"
    chunk_object = "text_completion"

    def __init__(
        self, request_id: str, model: str, tokenizer: Tokenizer, options: ResponseOptions
    ) -> None:
        super().__init__(request_id, model, tokenizer, options)
        self._starts: dict[int, tuple[Sequence[int], int]] = {}
        self._offsets: dict[int, TextOffsets] = {}
        self._scored: dict[int, Sequence[TokenLogprob]] = {}

    def opening(self, delta: Delta, usage: UsageField) -> CompletionResponse | None:
        """The chunk with the prompt, if it is echoed or its token ids are requested."""
        prompt_tokens = delta.prompt_tokens or ()
        text = self._begin(delta.index, prompt_tokens)
        told = self._prompt_logprobs(delta.index, prompt_tokens, delta.prompt_logprobs)
        if not (self._options.echo or self._options.token_ids):
            return None
        choice = CompletionChoice(
            text=text,
            index=delta.index,
            logprobs=told,
            token_ids=() if self._options.token_ids else UNSET,
            prompt_token_ids=prompt_tokens if self._options.token_ids else UNSET,
        )
        return self._response([choice], usage)

    def text_chunk_parts(self, index: int) -> tuple[str, str]:
        return (
            '{"text":',
            f',"index":{index},"logprobs":null,"finish_reason":null,"stop_reason":null}}',
        )

    def chunk(self, delta: Delta, usage: UsageField) -> CompletionResponse:
        choice = CompletionChoice(
            text=delta.text,
            index=delta.index,
            logprobs=self._logprobs(delta.index, delta.tokens, delta.logprobs),
            finish_reason=finish_reason(delta.ending),
            stop_reason=self.stop_reason(delta.ending),
            token_ids=delta.tokens if self._options.token_ids else UNSET,
        )
        return self._response([choice], usage)

    def usage_chunk(self, usage: UsageBody) -> CompletionResponse:
        return self._response([], usage)

    def whole(self, answers: Sequence[CompleteAnswer], usage: UsageBody) -> CompletionResponse:
        return self._response([*map(self._whole_choice, answers)], usage)

    def _whole_choice(self, answer: CompleteAnswer) -> CompletionChoice:
        prompt_tokens = answer.prompt_tokens
        echo = self._begin(answer.index, prompt_tokens)
        told = self._prompt_logprobs(answer.index, prompt_tokens, answer.prompt_logprobs)
        own = self._logprobs(answer.index, answer.tokens, answer.logprobs)
        return CompletionChoice(
            text=echo + answer.text,
            index=answer.index,
            logprobs=joined_logprobs(told, own) if told and own else told or own,
            finish_reason=finish_reason(answer.ending),
            stop_reason=self.stop_reason(answer.ending),
            token_ids=answer.tokens if self._options.token_ids else UNSET,
            prompt_token_ids=prompt_tokens if self._options.token_ids else UNSET,
            prompt_logprobs=self._vllm_prompt_logprobs(answer),
        )

    def _vllm_prompt_logprobs(self, answer: CompleteAnswer) -> PromptLogprobs | UnsetType:
        if not self._options.prompt_logprobs:
            return UNSET
        known = self._scores(answer.index, answer.prompt_logprobs)
        return prompt_logprobs(answer.prompt_tokens, known, self._tokenizer)

    def _begin(self, index: int, prompt_tokens: Sequence[int]) -> str:
        """The echoed prompt; empty without `echo`."""
        echo = self._options.echo_of(index, prompt_tokens, self._tokenizer)
        self._starts[index] = prompt_tokens, len(echo)
        return echo

    def _offsets_of(self, index: int) -> TextOffsets:
        """Text offsets of an answer's own tokens."""
        if index not in self._offsets:
            context, start = self._starts[index]
            self._offsets[index] = TextOffsets(self._stream(context), start)
        return self._offsets[index]

    def _stream(self, context: Sequence[int] = ()) -> Detokenizer:
        skips = self._options.skip_special_tokens
        return self._tokenizer.detokenizer(skip_special_tokens=skips, context=context)

    def _response(self, choices: list[CompletionChoice], usage: UsageField) -> CompletionResponse:
        return CompletionResponse(
            id=self._id, created=self._created, model=self._model, choices=choices, usage=usage
        )

    def _logprobs(
        self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> CompletionLogprobs | None:
        if not logprobs:
            return None
        return completion_logprobs(tokens, logprobs, self._offsets_of(index), self._tokenizer)

    def _prompt_logprobs(
        self, index: int, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> CompletionLogprobs | None:
        """Log-probabilities of an echoed prompt."""
        options = self._options
        if not (options.echo and options.logprobs):
            return None
        known = self._scores(index, logprobs)
        offsets = TextOffsets(self._stream())
        return completion_logprobs(tokens, [None, *known], offsets, self._tokenizer)

    def _scores(self, index: int, logprobs: Sequence[TokenLogprob]) -> Sequence[TokenLogprob]:
        """A prompt's log-probabilities, which come with the first of its answers."""
        return self._scored.setdefault(index // self._options.n, logprobs)
