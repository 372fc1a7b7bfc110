"""A kind of device: its data sheet, or what was measured on it, and its price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from sim.devices.errors import BadDevice

FIGURES = Path(__file__).parent / "figures"
SUFFIXES = (".yaml", ".yml", ".json")


class Efficiency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of the data sheet's figures that a well-made engine reaches.

    The defaults are round numbers between what published kernels reach for large matrices and what
    whole engines do; `python -m benchmarks.published silicon` says how far off they are.
    """

    bandwidth: float = 0.8
    """Of the memory's bandwidth, for weights and cached tokens."""
    compute: float = 0.6
    """Of the arithmetic, for prompts."""
    memory: float = 0.9
    """Of the memory, for weights, activations and the KV cache together."""
    network: float = 0.85


class Coefficients(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds for the parts of a step, fitted or measured with one model; see
    `sim.machine.MachineModel`."""

    step_s: float
    sequence_s: float
    context_token_s: float
    prompt_token_s: float
    prompt_pair_s: float = 0.0
    noise: float = 0.03
    pool_tokens: int | None = None
    """Capacity of the KV cache; None: what the memory leaves, for which a shape is needed."""
    tensor_parallel: int = 1
    """Number of devices in the worker that was measured."""


class MeasuredStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of a table: a step's work, and how long it took."""

    seconds: float
    num_decoding: int = 0
    context_tokens: int = 0
    """Cached tokens of the decoding sequences, over all of them."""
    prompt_tokens: int = 0
    prompt_pairs: int = 0
    """Pairs of a prompt token and a token that it attends to."""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of device. Gigabytes are 10^9 bytes, and figures those of one device.

    The step times of a worker come from `coefficients` for its tensor parallelism where there are
    any, else from `steps`, a table that coefficients are fitted to (one device), else from the
    figures by roofline.
    """

    name: str
    price_per_hour: float = 0.0
    """In any currency, the same for all devices that are compared."""
    memory_gb: float | None = None
    memory_gb_per_s: float | None = None
    tflops: dict[str, float] = {}
    """Dense arithmetic by dtype: float32, bfloat16, float16, float8_e4m3fn."""
    computes_in: str | None = None
    """Dtype of weights and arithmetic whatever the checkpoint has; None: the checkpoint's."""
    network_gb_per_s: float = 25.0
    """What the network interface sends."""
    network_latency_s: float = 1e-4
    """From a write's last byte until its source knows that it has arrived."""
    interconnect_gb_per_s: float | None = None
    """Between the devices of a tensor-parallel worker, in one direction; None: it has none."""
    interconnect_latency_s: float = 1e-5
    """Of one all-reduce of few bytes."""
    launch_s: float = 1e-3
    """Of a step, for what neither memory nor arithmetic does: scheduling, launches, sampling."""
    activations_gb: float = 2.0
    """Memory of the largest step's intermediate results, and of the engine itself."""
    efficiency: Efficiency = Efficiency()
    coefficients: tuple[Coefficients, ...] = ()
    steps: tuple[MeasuredStep, ...] = ()

    def __post_init__(self) -> None:
        figures = (self.memory_gb, self.memory_gb_per_s, self.tflops or None)
        if None in figures and not (self.coefficients or self.steps):
            raise ValueError(
                "needs memory_gb, memory_gb_per_s and tflops, or coefficients, or steps"
            )
        positive = {
            "memory_gb": self.memory_gb,
            "memory_gb_per_s": self.memory_gb_per_s,
            "network_gb_per_s": self.network_gb_per_s,
            "interconnect_gb_per_s": self.interconnect_gb_per_s,
            **{f"tflops.{dtype}": value for dtype, value in self.tflops.items()},
            **{f"efficiency.{k}": v for k, v in msgspec.structs.asdict(self.efficiency).items()},
        }
        for key, value in positive.items():
            if value is not None and value <= 0:
                raise ValueError(f"{key} is {value:g}: it must be above 0")


def read_device(path: str | Path) -> Device:
    """The device in a file of YAML or JSON, or the known one of that name, such as "h100".

    Raises BadDevice when the file is missing, broken, or has more than one device.
    """
    devices = read_devices(path)
    if len(devices) > 1:
        names = ", ".join(device.name for device in devices)
        raise BadDevice(f"{path} has several devices ({names}): one is wanted here")
    return devices[0]


def read_devices(path: str | Path) -> list[Device]:
    """The devices of a file, which has one or a list of them, or of all files in a directory.

    Raises BadDevice, which names the file and the key, and what is wrong with it.
    """
    path = _find(Path(path))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if not files:
            raise BadDevice(f"{path} has no device files ({', '.join(SUFFIXES)})")
        return [device for file in files for device in read_devices(file)]
    tree = _read(path)
    rows = tree if isinstance(tree, list) else [tree]
    if not rows:
        raise BadDevice(f"{path} has no devices")
    return [_device(row, path) for row in rows]


def known_devices() -> list[str]:
    """Names of the devices that need no file."""
    return sorted(file.stem for file in FIGURES.glob("*.yaml"))


def _find(path: Path) -> Path:
    known = FIGURES / f"{path.name.lower()}.yaml"
    if path.exists():
        return path
    if path.parent == Path() and known.exists():
        return known
    names = ", ".join(known_devices())
    raise BadDevice(f"{path}: no such file, nor one of the known devices ({names})")


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadDevice(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadDevice(f"{path} is neither YAML nor JSON: {error}") from error


def _device(row: Any, path: Path) -> Device:
    """YAML takes 6e-3, which has no point, for a string: numbers are read from those too."""
    if not isinstance(row, dict):
        raise BadDevice(f"{path}: a device is a mapping, found {type(row).__name__}")
    try:
        return msgspec.convert({"name": path.stem, **row}, Device, strict=False)
    except msgspec.ValidationError as error:
        raise BadDevice(f"{path}: {error}") from error
