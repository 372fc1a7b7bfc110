"""Writes docs/configuration.md from the structs that configurations are decoded into.

`python -m tools.config_reference` refreshes the file, and the settings in the chart's schema
(tools/chart_schema.py); tests compare them with what this makes.
"""

from __future__ import annotations

import ast
import enum
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cluster.config import ClusterConfig
from cluster.pools import PoolSettings
from cluster.ray_config import RayConfig, RouterNodes
from engine.runners.played_costs import PlayedCosts
from router.access.keys import KeyEntry
from router.config import RouterConfig, SamplingDefaults, ServedModelConfig
from runtime.tls import MutualTls, ServerTls
from tools import chart_schema
from worker.config import WorkerConfig

Config = type[msgspec.Struct]
FILE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
MIB = 1024 * 1024
SECTIONS: dict[Config, tuple[str, str]] = {
    ClusterConfig: ("The file", ""),
    ServedModelConfig: ("A model", "models.NAME"),
    SamplingDefaults: ("A model's sampling", "models.NAME.sampling"),
    PoolSettings: ("A pool", "prefill, decode, pools.NAME"),
    WorkerConfig: ("A worker", "worker, prefill.worker, decode.worker, pools.NAME.worker"),
    RouterConfig: ("A router", "router"),
    RayConfig: ("Ray", "ray"),
    RouterNodes: ("Nodes of routers", "ray.routers"),
    PlayedCosts: ("Steps that are played", "worker.step_costs"),
    MutualTls: ("TLS between processes", "tls"),
    ServerTls: ("TLS of the doors", "router.door_tls"),
    KeyEntry: ("A key", "NAME, in the file that router.keys_file names"),
}
"""Sections of the page, each with its title and its path in the file."""
COMPOSED = {
    ClusterConfig: {"pools"},
    RouterConfig: {"models"},
    WorkerConfig: {"model", "model_name"},
}
"""Fields that are composed from elsewhere; see INTRODUCTION."""
INTRODUCTION = """\
# Configuration

Made from the code by `python -m tools.config_reference`; do not edit it by hand.

`tandem up -c cluster.yaml` reads one YAML file. Every key may be left out; a key that is not known
is an error that names its path. `--set path.to.key=value` overrides a key for one run. Single
processes (`python -m router`, `python -m prefill_worker`, `python -m decode_worker`) take the keys
of their section as JSON, by `--settings`. What is called None below is `null` in a file, or a key
left out.

One model is written short:

```yaml
model: /models/Llama-3.1-8B-Instruct      # a Hugging Face directory, or a name on its hub, as
                                          # org/name@revision; without it, the bundled model
model_name: llama                         # what clients call it; the directory's name without it
worker: {max_sequences: 128}              # of both pools
prefill: {replicas: 2, num_gpus: 1}       # what its workers do otherwise stands in prefill.worker
decode: {replicas: 2, num_gpus: 1}
```

Several models have names, and so have their pools:

```yaml
models:
  llama: /models/Llama-3.1-8B-Instruct    # or {path: …, and what else a model has below}
  small: {path: /models/Qwen3-0.6B, default_max_tokens: 512}
pools:
  llama-prefill: {role: prefill, model: llama, replicas: 2, num_gpus: 1}
  llama-decode: {role: decode, model: llama, replicas: 2, num_gpus: 1}
  small: {role: decode, model: small}     # pools of one role: each worker serves by itself
```

`models` stands for `model` and `model_name`; `pools` for `prefill` and `decode`, whose roles are
their names.
"""


def reference() -> str:
    """The whole page. Raises LookupError, which names all fields that lack a docstring."""
    missing = [f"{kind.__name__}.{field}" for kind in SECTIONS for field in undocumented(kind)]
    if missing:
        raise LookupError(f"no docstring under {', '.join(missing)}")
    return INTRODUCTION + "".join(map(_section, SECTIONS))


def undocumented(kind: Config) -> list[str]:
    texts = docstrings(kind)
    return [field.name for field in _fields(kind) if field.name not in texts]


def reachable(kind: Config, found: set[Config] | None = None) -> set[Config]:
    """The structs in a configuration of this kind, itself included."""
    found = set() if found is None else found
    if kind not in found:
        found.add(kind)
        for field in _fields(kind):
            for part in _parts(field.type):
                if isinstance(part, type) and issubclass(part, msgspec.Struct):
                    reachable(part, found)
    return found


def docstrings(kind: Config) -> dict[str, str]:
    """The docstring of each field, as one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            found |= _own_docstrings(base)
    return found


def _own_docstrings(kind: Config) -> dict[str, str]:
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    found = {}
    for statement, following in zip(made.body, made.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def _fields(kind: Config) -> list[msgspec.structs.FieldInfo]:
    hidden = COMPOSED.get(kind, set())
    return [field for field in msgspec.structs.fields(kind) if field.name not in hidden]


def _section(kind: Config) -> str:
    title, where = SECTIONS[kind]
    told = f"`{where}`. " if where and "," not in where else f"{_quoted(where)}. " if where else ""
    text = inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0]
    texts = docstrings(kind)
    rows = [_row(field, texts[field.name]) for field in _fields(kind)]
    table = "\n".join(["| key | value | default | |", "|---|---|---|---|", *rows])
    return f"\n## {title}\n\n{told}{' '.join(text.split())}\n\n{table}\n"


def _quoted(where: str) -> str:
    *paths, last = where.split(", ")
    if " " in last:
        return f"`{', '.join(paths)}`, {last}"
    return ", ".join(f"`{path}`" for path in (*paths, last))


def _row(field: msgspec.structs.FieldInfo, text: str) -> str:
    cells = (f"`{field.name}`", _type_text(field.type), _default_text(field), text)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    for part in typing.get_args(kind):
        yield from _parts(part)


def _type_text(kind: Any) -> str:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(part) for part in parts if part is not type(None))
    if origin is typing.Annotated:
        return _type_text(parts[0])
    if origin is dict:
        return "mapping"
    if origin is tuple:
        return f"list of {_type_text(parts[0])}"
    if issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if issubclass(kind, msgspec.Struct):
        return _link(kind)
    return {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}[kind]


def _link(kind: Config) -> str:
    title, _ = SECTIONS[kind]
    return f"[{title.lower()}](#{title.lower().replace(' ', '-').replace(chr(39), '')})"


def _default_text(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "" if SECTIONS.get(field.type) else "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is None or value in ({}, ()) or isinstance(value, msgspec.Struct):
        return ""
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if isinstance(value, int) and value and value % MIB == 0:
        return f"`{value}` ({value // MIB} MiB)"
    return f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    try:
        FILE.write_text(reference())
    except LookupError as error:
        sys.exit(f"error: {error}")
    chart_schema.main()
