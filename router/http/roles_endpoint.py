"""GET and POST /roles: the workers' roles, and a change that an operator asks for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from router.errors import ClientGone, InvalidRequest
from router.fleet.member import Member
from router.http.asgi import read_body
from router.http.text_endpoints import CLIENT_CLOSED
from router.models import ServedModel
from router.openai.body_parsing import parse_body
from wire.identity import Role

MAX_BODY_BYTES = 4096


class AskedRole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a change."""

    worker: str
    role: Role


class WorkerRole(msgspec.Struct, frozen=True):
    """A worker and its role, which is the last that it reported."""

    worker: str
    model: str
    role: Role
    state: str


class RoleList(msgspec.Struct, frozen=True):
    workers: list[WorkerRole]


class RolesEndpoint:
    """Shows and changes roles. Errors are raised as RouterError."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = models

    async def show(self, request: Request) -> Response:
        """All workers of all models."""
        shown = [
            _shown(model, member) for model in self._models for member in model.fleet.members()
        ]
        return _json(RoleList(workers=shown))

    async def change(self, request: Request) -> Response:
        """Tell a worker to take a role; it does with its next step, and reports it then.

        Raises InvalidRequest if there is no such worker, or roles follow the load.
        """
        try:
            content = await read_body(request.scope, request.receive, MAX_BODY_BYTES)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED)
        asked = parse_body(content, AskedRole)
        model, member = self._find(asked.worker)
        model.role_keeper.ask(member, asked.role)
        return _json(_shown(model, member), 202)

    def _find(self, worker_id: str) -> tuple[ServedModel, Member]:
        found = {
            member.ref.worker_id: (model, member)
            for model in self._models
            for member in model.fleet.members()
        }
        if worker_id not in found:
            known = ", ".join(sorted(found)) or "none"
            raise InvalidRequest(
                f"there is no worker {worker_id!r} now; these have joined: {known}", "worker"
            )
        return found[worker_id]


def _shown(model: ServedModel, member: Member) -> WorkerRole:
    return WorkerRole(member.ref.worker_id, model.name, member.role, member.state.value)


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
