"""What the deployment guide tells to write and to run is there."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.blocks import blocks
from tests.helm.documents import ci_values
from tests.helm.engines import CHART, ROOT, Helm3
from tests.helm.gates import chart_problems

GUIDE = (ROOT / "docs" / "kubernetes.md").read_text()
YAML = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)


@pytest.mark.parametrize("number", range(len(YAML)))
def test_values_in_the_guide_pass_every_gate(number: int, helm3: Helm3) -> None:
    problems = list(chart_problems(helm3, CHART, yaml.safe_load(YAML[number])))
    if "runAsNonRoot: false" in YAML[number]:  # told as what it is: a last resort
        problems = [it for it in problems if "may run as root" not in it]
    assert problems == []


def test_the_guide_names_only_what_is_there() -> None:
    for path in re.findall(r"\]\(\.\./([\w/.-]+)\)", GUIDE):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:-f|-f=) (helm/\S+|docker/\S+)", GUIDE):
        assert (ROOT / path).is_file(), path
    assert "cpu" in ci_values()


def test_commands_that_need_more_than_this_machine_are_marked() -> None:
    for block in blocks(ROOT / "docs" / "kubernetes.md"):
        if re.search(r"^(kubectl|helm|docker) ", block.text, re.M):
            assert (block.mark or "").startswith("not run: needs a c"), block.place
