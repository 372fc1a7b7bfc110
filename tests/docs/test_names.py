"""Files, modules and names that pages speak of are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages
from tools.structure import ROOMS

pytestmark = pytest.mark.quick

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
REPLACED = re.compile(r"^Replaced by \[decision", re.M)
"""Said of a decision that is history, with the names of its time."""
PAGES = [it for it in (*pages(), ROOT / "CHANGELOG.md") if REPLACED.search(it.read_text()) is None]
FOLDERS = {it.name for it in ROOT.iterdir() if it.is_dir() and it.name[0] != "."} | {".github"}
SECTIONS = {"cluster", "router", "worker"}
"""Rooms whose names are also sections of the configuration, or begin the name of a file of it."""
CODES = {".py", ".proto", ".yaml", ".tpl", ".toml"}
OF_OTHERS = {"SeedOssForCausalLM"}
"""What docs/add-a-model.md adds."""
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
MODULE = re.compile(r"[a-z_]+(?:\.\w+)+")
RUN_MODULE = re.compile(r"python -m ([a-z_.]+)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
IN_FILE = re.compile(r"`(\w+(?:\.\w+)?)` in `([\w/.-]+\.\w+)`")
CLASS = re.compile(r"(?:[A-Z][a-z0-9]+){2,}(?:\.\w+)?")
SOURCES = [it for room in sorted(FOLDERS) for it in (ROOT / room).rglob("*") if it.suffix in CODES]
DECISIONS = re.compile(r"^(\d{4})-")


def spoken_of(page: Path) -> set[str]:
    """What stands in code marks outside of fenced blocks."""
    return set(CODE.findall(FENCED.sub("", page.read_text())))


def is_module(name: str) -> bool:
    """Whether it is a module, or a name that its module has."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:end])
        files = [base.with_suffix(".py"), base / "__init__.py"]
        found = next((file for file in files if file.is_file()), None)
        if found is not None:
            return all(re.search(rf"\b{part}\b", found.read_text()) for part in parts[end:])
    return base.is_dir()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_are_there(page: Path) -> None:
    paths = {it for it in spoken_of(page) if PATH.fullmatch(it) and "/" in it}
    ours = {it for it in paths if it.split("/")[0] in FOLDERS and "NAME" not in it}
    assert sorted(it for it in ours if not (ROOT / it).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_are_there(page: Path) -> None:
    named = {it for it in spoken_of(page) if MODULE.fullmatch(it)}
    ours = {it for it in named if it.split(".")[0] in FOLDERS - SECTIONS}
    run = {it.rstrip(".") for it in RUN_MODULE.findall(page.read_text())}
    ours |= {it for it in run if it.split(".")[0] in FOLDERS}
    assert sorted(it for it in ours if not is_module(it)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(FENCED.sub("", page.read_text()))
    assert sorted(it for it in links if not (page.parent / it).exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_are_in_the_files_that_are_said_to_have_them(page: Path) -> None:
    missing = [
        f"{name} in {file}"
        for name, file in IN_FILE.findall(page.read_text())
        if file.split("/")[0] in FOLDERS
        and not all(re.search(rf"\b{it}\b", (ROOT / file).read_text()) for it in name.split("."))
    ]
    assert missing == []


def test_classes_are_there() -> None:
    named = {it: page.name for page in PAGES for it in spoken_of(page) if CLASS.fullmatch(it)}
    known = set(re.findall(r"\w+", "\n".join(file.read_text() for file in SOURCES)))
    gone = {it: page for it, page in named.items() if not set(it.split(".")) <= known | OF_OTHERS}
    assert gone == {}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    names = {it.name for it in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(name for name in names if f"]({name})" not in index) == []


def test_decisions_are_numbered_once_each() -> None:
    names = [it.name for it in (ROOT / "docs" / "decisions").glob("*.md")]
    numbers = [DECISIONS.findall(name)[0] for name in names]
    assert len(set(numbers)) == len(numbers)


def test_contributors_find_every_room_and_every_shelf() -> None:
    rows = [line.split("|") for line in CONTRIBUTING.read_text().splitlines() if line[:3] == "| `"]
    told = {room: set(CODE.findall(row[3])) for row in rows for room in CODE.findall(row[1])}
    assert set(told) == set(ROOMS)
    there = {room: {it.parent.name for it in (ROOT / room).glob("*/__init__.py")} for room in ROOMS}
    assert told == there
