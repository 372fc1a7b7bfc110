"""What a scrape must be like: the rules of `promtool check metrics` that matter, and a few more."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
NO_BASE_UNITS = {"milliseconds", "ms", "minutes", "hours", "kilobytes", "megabytes", "percent"}
OF_THEIR_KIND = {"le": "histogram", "quantile": "summary"}
PROMTOOL = "PROMTOOL"
"""Environment variable with the path of promtool, where it is not on PATH."""


def problems(scrape: str) -> list[str]:
    """One line for each broken rule. Raises ValueError for what is no scrape at all."""
    families = list(text_string_to_metric_families(scrape))
    found = [line for family in families for line in _family_problems(family)]
    return [*found, *_repeated(scrape)]


def promtool() -> str | None:
    """Where it is; None where there is none."""
    return os.environ.get(PROMTOOL) or shutil.which("promtool")


def promtool_problems(tool: str, scrape: str) -> str:
    """What `promtool check metrics` has to say; empty when nothing."""
    ran = subprocess.run(
        [tool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False
    )
    said = ran.stdout + ran.stderr
    return said or (f"exit status {ran.returncode}" if ran.returncode else "")


def _family_problems(family: Metric) -> Iterator[str]:
    name = family.name
    if not NAME.match(name):
        yield f"{name}: must be lower case words joined by _"
    if not family.documentation.strip():
        yield f"{name}: has no HELP"
    if family.type in ("unknown", "untyped"):
        yield f"{name}: has no TYPE"
    if family.type != "counter" and name.endswith("_total"):
        yield f"{name}: only counters end in _total"
    if family.type != "histogram" and name.endswith(("_count", "_bucket", "_sum")):
        yield f"{name}: only histograms have these names"
    if units := NO_BASE_UNITS.intersection(name.split("_")):
        yield f"{name}: {units.pop()} is no base unit"
    if family.type in name.split("_"):
        yield f"{name}: says its type"
    for sample in family.samples:
        if family.type == "counter" and not sample.name.endswith(("_total", "_created")):
            yield f"{sample.name}: a counter ends in _total"
        for label in sample.labels:
            if OF_THEIR_KIND.get(label, family.type) != family.type:
                yield f"{sample.name}: a {family.type} has no label {label}"
            if not NAME.match(label):
                yield f"{sample.name}: the label {label} is not lower case"


def _repeated(scrape: str) -> Iterator[str]:
    lines = scrape.splitlines()
    types = Counter(line.split()[2] for line in lines if line.startswith("# TYPE"))
    samples = Counter(line.rpartition(" ")[0] for line in lines if not line.startswith("#"))
    for name, times in (types | samples).items():
        if times > 1:
            yield f"{name}: is told {times} times"
