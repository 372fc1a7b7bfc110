"""Every field of HTTP has its place in gRPC, and the documentation says which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor

from router.openai.request_bodies import ChatBody, CompletionBody
from wire import inference_pb2 as pb

pytestmark = pytest.mark.quick

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
NO_FIELD = ("always", "refused", "`usage` comes")


def rows(document: str) -> list[tuple[list[str], str]]:
    """Fields of HTTP, and what is said of gRPC, of the table of requests."""
    table = document.partition("| HTTP | gRPC |\n|---|---|\n")[2].partition("\n\n")[0]
    cells = (line.strip("| ").split(" | ") for line in table.splitlines())
    return [(named(http), grpc) for http, grpc in cells]


def named(cell: str) -> list[str]:
    return re.findall(r"`([a-z_.0-9]+)`", cell)


def find(path: str) -> bool:
    """Whether GenerateRequest has it."""
    message: Descriptor | None = pb.GenerateRequest.DESCRIPTOR
    for name in path.split("."):
        if message is None or name not in message.fields_by_name:
            return False
        message = message.fields_by_name[name].message_type
    return True


TABLE = rows(DOCUMENT.read_text())


def test_every_field_of_http_is_in_the_table_once() -> None:
    listed = [field for fields, _ in TABLE for field in fields]
    assert sorted(listed) == sorted(
        {*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__}
    )


@pytest.mark.parametrize(("fields", "grpc"), TABLE)
def test_what_the_table_names_is_in_the_contract(fields: list[str], grpc: str) -> None:
    if grpc.startswith(NO_FIELD):
        return
    paths = named(grpc.partition(":")[0].partition(";")[0])
    assert paths
    assert [path for path in paths if not find(path)] == []


def test_every_field_of_the_contract_has_one_in_http() -> None:
    reached = {path.split(".")[0] for _, grpc in TABLE for path in named(grpc)}
    assert {*pb.GenerateRequest.DESCRIPTOR.fields_by_name} - reached - {"chat"} == set()
    paths = [path for _, grpc in TABLE for path in named(grpc)]
    sampling = {path.partition(".")[2] for path in paths if path.startswith("sampling.")}
    assert sampling == {*pb.Sampling.DESCRIPTOR.fields_by_name}
