"""The models of a router. Each has its own tokenizer, workers and queue: none waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from router.answers.structured import Structured
from router.config import Roles, RouterConfig
from router.errors import InvalidRequest, ModelNotFound, StartError
from router.fleet.fleet import Fleet
from router.intake.draft_checks import check_sampling, check_template, check_token_ids
from router.intake.generation_defaults import generation_defaults, tell
from router.intake.validation import Bounds, build_request, check_draft, tokenize
from router.queueing.admission_queue import AdmissionQueue
from router.requests.prompts import ChatPrompt, Prompt, num_chars
from router.requests.request import GenerateRequest, RequestDraft
from router.roles.model_status import ModelStatus
from router.roles.role_keeper import RoleKeeper
from router.roles.watcher import ModelWatcher
from router.text.model_card import ModelCard
from router.text.tokenizer import Tokenizer

LONG_PROMPT_CHARS = 2048
"""Longer prompts are tokenized in a thread, so that they do not block other requests."""


class ServedModel:
    """One model. `config` is the router's, with what this model has of its own put in.

    Raises StartError for settings that cannot be honoured.
    """

    def __init__(
        self, config: RouterConfig, card: ModelCard, tokenizer: Tokenizer, fleet: Fleet
    ) -> None:
        self.config = config
        self.card = card
        self.tokenizer = tokenizer
        self.fleet = fleet
        self.admission_queue = AdmissionQueue(fleet, config)
        self.role_keeper = RoleKeeper(fleet, follows=config.roles is Roles.FOLLOW)
        self.watcher = ModelWatcher(
            fleet, config, self.role_keeper.controller, self.admission_queue.__len__
        )
        self.structured = Structured(config, card, tokenizer)
        self.num_admitted = 0
        """Answers that are being made, or wait."""
        self._from_model = generation_defaults(card.generation, config.generation_config, card.name)
        self._defaults = {**self._from_model.sampling, **_sampling_defaults(config, card.name)}
        tell(self._from_model, card.name)
        self._last_bounds = self._make_bounds(self.max_model_len)

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def ready(self) -> bool:
        """Whether a worker can serve it."""
        return self.fleet.ready

    @property
    def max_model_len(self) -> int:
        """The model's maximum, or less: see Fleet.max_model_len."""
        return min(self.card.max_model_len, self.fleet.max_model_len or self.card.max_model_len)

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """Sampling parameters of requests that leave them open: the configuration's, or else the
        model's."""
        return self._defaults

    def status(self) -> ModelStatus:
        """Its workers' load, its bottleneck, and whether targets are met."""
        return self.watcher.status()

    async def prepare(self, draft: RequestDraft) -> GenerateRequest:
        """Check and tokenize a draft. Raises InvalidRequest."""
        bounds = self._bounds()
        draft = self._with_defaults(draft)
        check_draft(draft, bounds)
        longest = bounds.max_model_len if draft.truncate_prompt_tokens is None else None
        tokens = await self._tokenize(draft.prompt, longest)
        request = build_request(draft, tokens, bounds, self.tokenizer)
        return await self.structured.apply(request, draft)

    async def tokenize(self, prompt: Prompt | None) -> list[int]:
        """Raises InvalidRequest."""
        if isinstance(prompt, ChatPrompt):
            check_template(prompt, trusts_templates=self.config.trust_request_templates)
        return await self._tokenize(prompt, None)

    async def _tokenize(self, prompt: Prompt | None, max_model_len: int | None) -> list[int]:
        if num_chars(prompt) < LONG_PROMPT_CHARS:
            return tokenize(prompt, self.tokenizer, max_model_len)
        return await asyncio.to_thread(tokenize, prompt, self.tokenizer, max_model_len)

    def detokenize(self, tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Raises InvalidRequest."""
        check_token_ids(tokens, self.card.vocab_size, "token_ids")
        return self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    async def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """Each token as text for display, computed in a thread."""
        return await asyncio.to_thread(lambda: [*map(self.tokenizer.token_text, tokens)])

    def _with_defaults(self, draft: RequestDraft) -> RequestDraft:
        """Fill what the client left open with the defaults of this model."""
        left_open = {
            name: value for name, value in self._defaults.items() if getattr(draft, name) is None
        }
        return msgspec.structs.replace(draft, **left_open) if left_open else draft

    def _bounds(self) -> Bounds:
        """The bounds of requests, which change only when workers join or leave."""
        max_model_len = self.max_model_len
        if self._last_bounds.max_model_len != max_model_len:
            self._last_bounds = self._make_bounds(max_model_len)
        return self._last_bounds

    def _make_bounds(self, max_model_len: int) -> Bounds:
        return Bounds(
            vocab_size=self.card.vocab_size,
            max_model_len=max_model_len,
            default_max_tokens=self.config.default_max_tokens,
            longest_answer=self._from_model.max_tokens,
            request_timeout_s=self.config.request_timeout_s,
            ttft_target_s=self.config.ttft_target_s,
            tpot_target_s=self.config.tpot_target_s,
            max_n=self.config.max_n,
            trusts_templates=self.config.trust_request_templates,
        )


def _sampling_defaults(config: RouterConfig, model: str) -> dict[str, float]:
    """The configured defaults. Raises StartError for values that no request could ask for."""
    given = msgspec.structs.asdict(config.models[model].sampling)
    defaults = {name: value for name, value in given.items() if value is not None}
    try:
        check_sampling(RequestDraft(request_id="", prompt=None, **defaults), config.max_n)
    except InvalidRequest as error:
        raise StartError(f"the defaults of sampling of model {model!r}: {error}") from error
    return defaults


class Models:
    """All models that a router serves, in the order of its configuration; at least one."""

    def __init__(self, served: Sequence[ServedModel]) -> None:
        assert served, "a router without models does not start"
        self._by_name: Mapping[str, ServedModel] = {model.name: model for model in served}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def find(self, name: str | None) -> ServedModel:
        """The model of this name; a router of one model needs none. Raises ModelNotFound,
        InvalidRequest."""
        if name is None:
            if len(self._by_name) > 1:
                raise InvalidRequest(f"name a model: {self._names()} are served here", "model")
            return next(iter(self))
        found = self._by_name.get(name)
        if found is None:
            verb = "are" if len(self._by_name) > 1 else "is"
            text = f"model {name!r} is not served here, {self._names()} {verb}"
            raise ModelNotFound(text, "model")
        return found

    def _names(self) -> str:
        *others, last = map(repr, self._by_name)
        return f"{', '.join(others)} and {last}" if others else last
