"""The corpus: the Python standard library's own sources, split by file.

The split depends on nothing but a file's path inside the library, so that the
tokenizer, the model and the trigram baseline agree on what they may not see.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from dataclasses import dataclass
from pathlib import Path

# Tests and generated tables teach a model nothing about how a library is written.
SKIPPED_FOLDERS = frozenset(
    {
        "__phello__", "__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test",
        "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests", "turtledemo",
    }
)  # fmt: skip

# Tables again, and one file whose authors offer it under a choice of licences.
SKIPPED_FILES = frozenset(
    {"html/entities.py", "locale.py", "stringprep.py", "urllib/robotparser.py"}
)

# Written while Python is built: they describe one machine, not a library.
SKIPPED_PREFIXES = ("_sysconfigdata", "config-")

HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class SourceFile:
    """One source file: its path inside the library, and its text."""

    path: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the file is kept from all training (about one file in twenty)."""
        digest = hashlib.sha256(self.path.encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Corpus:
    """The two sides of the split."""

    train: list[SourceFile]
    held_out: list[SourceFile]


def stdlib_root() -> Path:
    """Where this interpreter keeps its library."""
    return Path(sysconfig.get_path("stdlib"))


def wanted(relative: Path) -> bool:
    """Whether a file of the library belongs to the corpus."""
    if relative.as_posix() in SKIPPED_FILES or SKIPPED_FOLDERS & set(relative.parts):
        return False
    return not relative.parts[0].startswith(SKIPPED_PREFIXES)


def read_source(path: Path) -> str:
    """A file's text, in the encoding that the file itself declares."""
    with tokenize.open(path) as stream:
        return stream.read()


def load_corpus(root: Path | None = None) -> Corpus:
    """Reads the library; sorted by path, so that a seed means the same everywhere."""
    root = root or stdlib_root()
    found = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    files = [SourceFile(p.as_posix(), read_source(root / p)) for p in found if wanted(p)]
    files = [file for file in files if file.text.strip()]
    return Corpus(
        train=[file for file in files if not file.held_out],
        held_out=[file for file in files if file.held_out],
    )
