"""Sampling defaults from the model's generation_config.json, for what requests and the router's
configuration leave open. The keys are those that vLLM reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from router.config import GenerationConfig
from router.errors import InvalidRequest
from router.intake.draft_checks import check_sampling
from router.requests.request import RequestDraft

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
LENGTH = "max_new_tokens"
log = logging.getLogger("tandem.router")


class GenerationDefaults(msgspec.Struct, frozen=True):
    """`sampling` by the names of a draft; no answer is longer than `max_tokens`."""

    sampling: dict[str, float] = {}
    max_tokens: int | None = None


def generation_defaults(
    config: Mapping[str, Any], use: GenerationConfig, model: str
) -> GenerationDefaults:
    """Read a generation_config.json. Values that no request could ask for are left out with a
    warning."""
    if use is GenerationConfig.IGNORE:
        return GenerationDefaults()
    given = {name: config[name] for name in (*SAMPLING, LENGTH) if config.get(name) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = 0  # both mean "all"
    sound = {name: value for name, value in given.items() if _is_sound(name, value, model)}
    length = sound.pop(LENGTH, None)
    return GenerationDefaults(sound, length)


def tell(defaults: GenerationDefaults, model: str) -> None:
    """Log the defaults, if any."""
    told = [f"{name} {value:g}" for name, value in defaults.sampling.items()]
    if defaults.max_tokens is not None:
        told.append(f"at most {defaults.max_tokens} tokens an answer")
    if told:
        log.info(
            "model %s: generation_config.json sets %s for requests that leave it open; "
            "generation_config: ignore switches that off", model, ", ".join(told),
        )  # fmt: skip


def _is_sound(name: str, value: Any, model: str) -> bool:
    field = "max_tokens" if name == LENGTH else name
    whole = field in ("max_tokens", "top_k")
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        problem = f"is {value!r}, which is no {'whole ' if whole else ''}number"
    else:
        try:
            draft: dict[str, Any] = {field: value}
            check_sampling(RequestDraft(request_id="", prompt=None, **draft), 1)
        except InvalidRequest as error:
            problem = str(error)
        else:
            return True
    log.warning("model %s: generation_config.json: %s %s: not used", model, name, problem)
    return False
