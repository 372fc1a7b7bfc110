"""Response bodies and chunks of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, UnsetType

from router.openai.complete_answer import CompleteAnswer
from router.openai.logprobs import prompt_logprobs
from router.openai.response_bodies import (
    ChatChoice,
    ChatDelta,
    ChatLogprobs,
    ChatMessageAnswer,
    ChatResponse,
    FunctionBody,
    PromptLogprobs,
    TokenLogprobBody,
    ToolCallAnswer,
    TopLogprobBody,
    UsageBody,
)
from router.openai.response_writer import ResponseWriter, UsageField, finish_reason
from router.requests.request import Delta, ToolCallDelta
from wire.sampling import TokenLogprob


class ChatWriter(ResponseWriter):
    id_prefix = "chatcmpl-"
    chunk_object = "chat.completion.chunk"

    def opening(self, delta: Delta, usage: UsageField) -> ChatResponse:
        choice = ChatChoice(index=delta.index, delta=ChatDelta(role="assistant", content=""))
        told = (delta.prompt_tokens or ()) if self._options.token_ids else UNSET
        return self._response(self.chunk_object, [choice], usage, told)

    def text_chunk_parts(self, index: int) -> tuple[str, str]:
        return (
            f'{{"index":{index},"delta":{{"content":',
            '},"logprobs":null,"finish_reason":null,"stop_reason":null}',
        )

    def chunk(self, delta: Delta, usage: UsageField) -> ChatResponse:
        choice = ChatChoice(
            index=delta.index,
            delta=ChatDelta(
                content=delta.text or None,
                reasoning_content=delta.reasoning or None,
                tool_calls=[*map(_call_chunk, delta.tool_calls)] or None,
            ),
            logprobs=self._logprobs(delta.tokens, delta.logprobs) if delta.logprobs else None,
            finish_reason=finish_reason(delta.ending),
            stop_reason=self.stop_reason(delta.ending),
            token_ids=delta.tokens if self._options.token_ids else UNSET,
        )
        return self._response(self.chunk_object, [choice], usage)

    def usage_chunk(self, usage: UsageBody) -> ChatResponse:
        return self._response(self.chunk_object, [], usage)

    def whole(self, answers: Sequence[CompleteAnswer], usage: UsageBody) -> ChatResponse:
        first = answers[0]
        return self._response(
            "chat.completion",
            [*map(self._whole_choice, answers)],
            usage,
            first.prompt_tokens if self._options.token_ids else UNSET,
            prompt_logprobs(first.prompt_tokens, first.prompt_logprobs, self._tokenizer)
            if self._options.prompt_logprobs
            else UNSET,
        )

    def _whole_choice(self, answer: CompleteAnswer) -> ChatChoice:
        calls = [
            ToolCallAnswer(
                id=call.id or "",
                type="function",
                function=FunctionBody(name=call.name, arguments=call.arguments),
            )
            for call in answer.tool_calls
        ]
        message = ChatMessageAnswer(
            content=answer.text or (None if calls or answer.reasoning else ""),
            reasoning_content=answer.reasoning or UNSET,
            tool_calls=calls or UNSET,
        )
        return ChatChoice(
            index=answer.index,
            message=message,
            logprobs=self._logprobs(answer.tokens, answer.logprobs) if answer.logprobs else None,
            finish_reason=finish_reason(answer.ending),
            stop_reason=self.stop_reason(answer.ending),
            token_ids=answer.tokens if self._options.token_ids else UNSET,
        )

    def _response(
        self,
        kind: str,
        choices: list[ChatChoice],
        usage: UsageField,
        prompt_token_ids: tuple[int, ...] | UnsetType = UNSET,
        prompt_logprobs: PromptLogprobs | UnsetType = UNSET,
    ) -> ChatResponse:
        return ChatResponse(
            id=self._id,
            object=kind,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=usage,
            prompt_token_ids=prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
        )

    def _logprobs(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
        return ChatLogprobs(content=[*map(self._token_logprob, tokens, logprobs)])

    def _token_logprob(self, token: int, logprob: TokenLogprob) -> TokenLogprobBody:
        tops = zip(logprob.top_ids, logprob.top_logprobs, strict=True)
        return TokenLogprobBody(
            token=self._tokenizer.token_text(token),
            logprob=logprob.logprob,
            bytes=[*self._tokenizer.token_bytes(token)],
            top_logprobs=[
                TopLogprobBody(
                    token=self._tokenizer.token_text(top),
                    logprob=value,
                    bytes=[*self._tokenizer.token_bytes(top)],
                )
                for top, value in tops
            ],
        )


def _call_chunk(call: ToolCallDelta) -> ToolCallAnswer:
    """A chunk of a tool call; the first one has its id, type and name."""
    begins = call.id is not None
    return ToolCallAnswer(
        index=call.index,
        id=UNSET if call.id is None else call.id,
        type="function" if begins else UNSET,
        function=FunctionBody(name=call.name, arguments=call.arguments),
    )
