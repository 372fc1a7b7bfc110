"""Models on a hub, named `org/name` or `org/name@revision`: downloaded once, then cached."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.errors import BadConfig
from cluster.interruptible import call_interruptibly

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
NEEDED = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")
NOT_NEEDED = ("original/*", "onnx/*", "openvino/*", "metal/*", "consolidated*", "*.pth")
"""Other formats of the same weights; "*" also matches "/"."""


def served_name(path: str) -> str:
    """The default name of a served model: the hub's name, or the last part of the directory."""
    found = _NAME.fullmatch(path)
    return found[1] if found and not Path(path).exists() else Path(path).name


def find_model(path: str) -> str:
    """The absolute directory of a model on this machine: the path itself, or a hub's snapshot.

    The hub is HF_ENDPOINT, the cache HF_HOME, the token HF_TOKEN or that of `hf auth login`.
    Without a network, or with HF_HUB_OFFLINE=1, the cached snapshot is used. A path that is neither
    a directory nor a hub's name is returned unchanged. Raises BadConfig when the download fails.
    """
    directory = Path(path).expanduser()
    if directory.is_dir():
        return str(directory.absolute())
    found = _NAME.fullmatch(path)
    return path if found is None else _fetch(found[1], found[2])


def _fetch(repository: str, revision: str | None) -> str:
    from huggingface_hub import constants, snapshot_download  # this import takes half a second
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError

    def fetch() -> str:
        return snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(NEEDED),
            ignore_patterns=list(NOT_NEEDED),
        )

    try:
        return call_interruptibly(fetch)
    except (OSError, HFValidationError, IncompleteSnapshotError) as error:
        where = f"{repository!r} is no directory here, and {constants.ENDPOINT} does not give it"
        raise BadConfig(f"model {where}: {_cause(error, repository, revision)}") from error


def _cause(error: Exception, repository: str, revision: str | None) -> str:
    """The reason for a failed download, and what to do about it."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            "its owner asks who you are: accept the terms on its page there, then `hf auth login` "
            "or set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "it has no such model, or not for you: check the name, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision or 'main'!r}"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError)):
        return (
            "it is not reachable, or HF_HUB_OFFLINE is set, and the cache does not have the whole "
            f"model: run `hf download {repository}` where there is a network, or give a directory"
        )
    return str(error).strip().splitlines()[0]
