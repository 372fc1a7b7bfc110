"""Every command in the documentation is run by a test, or says why not."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT, SHELL, TRANSCRIPT, Block, blocks, pages
from tests.system.shells import BIN, a_free_port

ALL = [block for page in pages() for block in blocks(page)]
LANGUAGES = {SHELL, TRANSCRIPT, "text", "yaml", "json", "python", "toml"}
FIRST, RUN, RUN_BY, NOT_RUN = "run first", "run", "run by ", "not run: "
RUN_HERE = sorted({block.page for block in ALL if block.mark in (FIRST, RUN)})
PORTS = ("8000", "8001", "9000")
TIMEOUT_S = 300
PREAMBLE = """
set -euo pipefail
stop() { kill "$(cat up.pid)" && while kill -0 "$(cat up.pid)"; do sleep 0.1; done; }
trap '[ ! -e up.pid ] || stop 2> /dev/null || true' EXIT
curl() { command curl --silent --show-error --fail-with-body "$@"; }
tandem() {  # `up` serves beside what follows
  if [ "$1" != up ]; then command tandem "$@"; return; fi
  command tandem "$@" > up.log 2>&1 &
  echo $! > up.pid
  until grep -q '^ready' up.log; do
    kill -0 "$(cat up.pid)" || { cat up.log; exit 1; }
    sleep 0.2
  done
}
"""


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.place)
def test_every_block_says_what_it_is(block: Block) -> None:
    assert block.language in LANGUAGES, f"{block.place}: name one of {sorted(LANGUAGES)}"
    if block.language in (SHELL, TRANSCRIPT):
        assert block.mark is not None, f"{block.place}: see tests/docs/blocks.py"
    if block.mark is None or block.mark in (FIRST, RUN):
        return
    if block.mark.startswith(RUN_BY):
        (named,) = _tests(block.mark)
        assert Path(block.page).name in _with_helpers(named), f"{named} does not read {block.page}"
    else:
        assert block.mark.startswith(NOT_RUN), f"{block.place}: {block.mark}"
        assert all((ROOT / named).is_file() for named in _tests(block.mark)), block.mark


def _tests(mark: str) -> list[str]:
    return re.findall(r"tests/[\w/]+\.py", mark)


def _with_helpers(test: str) -> str:
    """The text of a test, and of what lies beside it."""
    return "".join(file.read_text() for file in (ROOT / test).parent.glob("*.py"))


@pytest.mark.timeout(TIMEOUT_S + 30)
@pytest.mark.parametrize("page", RUN_HERE)
def test_commands_do_what_the_page_says(page: str, tmp_path: Path) -> None:
    given = [block for block in ALL if block.page == page and block.mark in (FIRST, RUN)]
    given.sort(key=lambda block: block.mark != FIRST)
    _run("\n".join(_step(block) for block in given), tmp_path)


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_the_readme_serves_without_ray_too(tmp_path: Path) -> None:
    readme = ROOT / "README.md"
    given = [block for block in blocks(readme) if block.mark == RUN]
    with_ray, without = ".venv/bin/tandem up --http-port", "tandem up --without-ray --http-port"
    assert [with_ray in block.text for block in given].count(True) == 1
    assert "`tandem up --without-ray`" in readme.read_text()
    said = _run("\n".join(map(_step, given)).replace(with_ray, without), tmp_path)
    assert "64 tokens, FINISH_REASON_LENGTH" in said or "FINISH_REASON_STOP" in said
    assert re.search(r"^prefilled by \S+, decoded by \S+$", said, re.M)
    assert re.search(r'^get_temperature\(\{.*\}\) -> \{"city": .*"temperature": \d+\}$', said, re.M)


def _run(steps: str, folder: Path) -> str:
    """The steps as they stand, but for ports that are free. Returns what they print."""
    (folder / "examples").symlink_to(ROOT / "examples")
    script = (PREAMBLE + steps).replace(".venv/bin/", "")
    for port in PORTS:
        script = re.sub(rf"\b{port}\b", str(a_free_port()), script)
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def _step(block: Block) -> str:
    """In a shell of its own, which may change its directory."""
    if block.language == "yaml":
        (name,) = re.findall(r"\A# (\S+\.yaml)$", block.text, re.M)
        return f"cat > {name} <<'END'\n{block.text}END\n"
    if block.language == "python":
        return f"python - <<'END'\n{block.text}END\n"
    return f"(\n{block.text})\n"


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_the_demo_streams_an_answer_and_tells_where_its_time_went() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "$(BIN)/tandem demo\n" in makefile
    ended = subprocess.run(
        [str(BIN / "tandem"), "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    for stage in ("queue", "prefill", "transfer", "decode", "TTFT", "TPOT"):
        assert stage in ended.stdout


@pytest.mark.parametrize(
    "block", [it for it in ALL if it.language == "yaml"], ids=lambda block: block.place
)
def test_yaml_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text)
