"""What an image installs: the project's dependencies, for routers less what only workers load.

`python docker/requirements.py router|worker pyproject.toml` prints one requirement a line.
"""

import re
import sys
import tomllib
from pathlib import Path

WORKERS_ONLY = {"torch", "nixl-cu13", "ray", "safetensors", "rich"}


def requirements(kind: str, project: str) -> list[str]:
    declared = tomllib.loads(project)["project"]["dependencies"]
    if kind == "worker":
        return list(declared)
    return [it for it in declared if name_of(it) not in WORKERS_ONLY]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower()


if __name__ == "__main__":
    kind, file = sys.argv[1:]
    sys.stdout.write("\n".join(requirements(kind, Path(file).read_text())) + "\n")
