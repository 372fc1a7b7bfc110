"""What an image installs: the project's dependencies, for routers less what only workers load.

`python docker/requirements.py router|worker pyproject.toml` prints one requirement a line. For
workers `--cuda 12` takes the NIXL for CUDA 12, and `--extra gpu` adds an extra of the project.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

WORKERS_ONLY = {"torch", "nixl-cu13", "ray", "safetensors", "rich"}


def requirements(kind: str, project: str, cuda: str = "13", extra: str = "") -> list[str]:
    declared = tomllib.loads(project)["project"]
    if kind == "router":
        return [it for it in declared["dependencies"] if name_of(it) not in WORKERS_ONLY]
    wanted = declared["dependencies"] + (declared["optional-dependencies"][extra] if extra else [])
    return [it.replace("nixl-cu13", f"nixl-cu{cuda}") for it in wanted]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("router", "worker"))
    parser.add_argument("project", type=Path)
    parser.add_argument("--cuda", choices=("12", "13"), default="13")
    parser.add_argument("--extra", default="")
    given = parser.parse_args()
    wanted = requirements(given.kind, given.project.read_text(), given.cuda, given.extra)
    sys.stdout.write("\n".join(wanted) + "\n")
