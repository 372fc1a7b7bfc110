"""Which shared libraries those of an installed package need, and which they bring."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from elftools.elf.elffile import ELFFile

SYSTEM = {
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"),
    *("ld-linux-x86-64.so.2", "libgcc_s.so.1", "libstdc++.so.6"),
    *("libz.so.1", "libssl.so.3", "libcrypto.so.3"),  # Python itself needs them
}
"""Libraries that every machine with Python has, the images' included."""
DRIVER = {"libcuda.so.1", "libnvidia-ml.so.1"}
"""Libraries of NVIDIA's driver, which a node brings."""


class Libraries:
    """The shared libraries in some folders."""

    def __init__(self, folders: Iterable[Path]) -> None:
        found = [file for folder in folders for file in folder.rglob("*.so*") if file.is_file()]
        self._files = {file.name: file for file in found}

    def missing(self, roots: Iterable[str]) -> set[str]:
        """What these libraries need, directly or by others, and neither the folders nor the system
        bring. A root is the beginning of a file's name."""
        todo = [name for root in roots for name in self._files if name.startswith(root)]
        assert todo, f"none of {sorted(roots)} is there"
        seen: set[str] = set()
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += needed(self._files[name]) if name in self._files else ()
        return seen - self._files.keys() - SYSTEM


def needed(file: Path) -> list[str]:
    with file.open("rb") as opened:
        section = ELFFile(opened).get_section_by_name(".dynamic")
        return [tag.needed for tag in section.iter_tags("DT_NEEDED")]


def package_folder(module: str) -> Path:
    """Where a module lies; it is not imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
