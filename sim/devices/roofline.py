"""Step times from a data sheet: what memory and arithmetic take, as if one followed the other.

Kernels overlap the two only in part, so that their sum is nearer to measured steps than the larger
of them, and it is linear in a step's work. (Williams, Waterman, Patterson: Roofline, CACM 2009)
"""

from __future__ import annotations

import msgspec

from sim.devices.device import Coefficients, Device
from sim.devices.errors import BadDevice, DoesNotFit
from sim.devices.fit import fit_steps
from sim.devices.model_shape import ModelShape
from sim.machine import LAYOUT, MachineModel
from wire.layout import DTYPE_BYTES, KvLayout

GB = 1e9
TERA = 1e12
BLOCK_TOKENS = 512
ALL_REDUCES = 2
"""In each layer: one behind attention, one behind the feed-forward."""


def machine_of(
    device: Device, shape: ModelShape | None = None, tensor_parallel: int = 1
) -> MachineModel:
    """The coefficients of a worker that has `tensor_parallel` of these devices.

    Without a shape the device must have coefficients, and their pool's size. Raises DoesNotFit, and
    BadDevice where the device's file lacks what is needed.
    """
    if shape is not None and device.computes_in is not None:
        shape = msgspec.structs.replace(shape, dtype=device.computes_in)
    coefficients = _coefficients(device, shape, tensor_parallel)
    pool_tokens = coefficients.pool_tokens
    if pool_tokens is None:
        pool_tokens = _pool_tokens(device, _needed(device, shape), tensor_parallel)
    return MachineModel(
        step_s=coefficients.step_s,
        sequence_s=coefficients.sequence_s,
        context_token_s=coefficients.context_token_s,
        prompt_token_s=coefficients.prompt_token_s,
        prompt_pair_s=coefficients.prompt_pair_s,
        device=device.name if tensor_parallel == 1 else f"{tensor_parallel} × {device.name}",
        noise=coefficients.noise,
        pool_tokens=pool_tokens,
        max_model_len=MachineModel().max_model_len if shape is None else shape.max_model_len,
        layout=LAYOUT if shape is None else layout_of(shape),
        bytes_per_s=tensor_parallel * device.network_gb_per_s * GB * device.efficiency.network,
        latency_s=device.network_latency_s,
    )


def layout_of(shape: ModelShape, block_size: int = BLOCK_TOKENS) -> KvLayout:
    """The KV cache of a whole worker."""
    return KvLayout(
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.head_size,
        block_size=block_size,
        dtype=shape.kept_dtype,
    )


def roofline(device: Device, shape: ModelShape, tensor_parallel: int = 1) -> Coefficients:
    """Coefficients from the device's figures and the model's shape.

    Raises BadDevice where the figures are missing, DoesNotFit where heads cannot be divided.
    """
    if shape.num_heads % tensor_parallel:
        heads = f"{shape.num_heads} attention heads"
        raise DoesNotFit(f"{heads} cannot be divided among {tensor_parallel} devices")
    flops = _flops(device, shape.dtype) * device.efficiency.compute * tensor_parallel
    bytes_per_s = _bytes_per_s(device) * tensor_parallel
    fixed_s, token_s = _all_reduce(device, shape, tensor_parallel)
    return Coefficients(
        step_s=shape.read_bytes / bytes_per_s + device.launch_s + fixed_s,
        sequence_s=(shape.token_flops + shape.logits_flops) / flops + token_s,
        context_token_s=layout_of(shape).token_bytes / bytes_per_s,
        prompt_token_s=shape.token_flops / flops + token_s,
        prompt_pair_s=shape.pair_flops / flops,
        tensor_parallel=tensor_parallel,
    )


def _coefficients(device: Device, shape: ModelShape | None, tensor_parallel: int) -> Coefficients:
    for each in device.coefficients:
        if each.tensor_parallel == tensor_parallel:
            return each
    if device.steps and tensor_parallel == 1:
        return fit_steps(device.steps)
    return roofline(device, _needed(device, shape), tensor_parallel)


def _needed(device: Device, shape: ModelShape | None) -> ModelShape:
    if shape is None:
        wanted = "coefficients with pool_tokens for this tensor parallelism"
        raise BadDevice(f"{device.name}: without a model's shape it needs {wanted}")
    return shape


def _pool_tokens(device: Device, shape: ModelShape, tensor_parallel: int) -> int:
    """Tokens that fit into what weights and activations leave."""
    if device.memory_gb is None:
        raise BadDevice(f"{device.name}: needs memory_gb, or pool_tokens in its coefficients")
    usable = device.memory_gb * GB * device.efficiency.memory - device.activations_gb * GB
    layout, weights = layout_of(shape), shape.weight_bytes
    least = layout.block_bytes
    tokens = int((usable * tensor_parallel - weights) / layout.token_bytes)
    if tokens < layout.block_size:
        num_wanted = int(-(-(weights + least) // max(1.0, usable)))
        raise DoesNotFit(
            f"{weights / GB:.1f} GB of weights and a KV cache do not fit into {tensor_parallel} × "
            f"{device.memory_gb:g} GB of {device.name}"
            + (f": at least {num_wanted} are needed" if usable > 0 else "")
        )
    return tokens


def _flops(device: Device, dtype: str) -> float:
    if dtype not in device.tflops:
        given = ", ".join(device.tflops) or "none"
        raise BadDevice(f"{device.name}: tflops for {dtype} are missing (there are: {given})")
    return device.tflops[dtype] * TERA


def _bytes_per_s(device: Device) -> float:
    if device.memory_gb_per_s is None:
        raise BadDevice(f"{device.name}: memory_gb_per_s is missing")
    return device.memory_gb_per_s * GB * device.efficiency.bandwidth


def _all_reduce(device: Device, shape: ModelShape, tensor_parallel: int) -> tuple[float, float]:
    """Seconds of all all-reduces of a step, and of a token in them; of rings, as in NCCL."""
    if tensor_parallel == 1:
        return 0.0, 0.0
    if device.interconnect_gb_per_s is None:
        raise DoesNotFit(f"{device.name} has no interconnect: a worker can have one device")
    count = ALL_REDUCES * shape.num_layers
    share = 2 * (tensor_parallel - 1) / tensor_parallel
    hidden_bytes = shape.hidden_size * max(2, DTYPE_BYTES[shape.dtype])
    token_s = share * hidden_bytes / (device.interconnect_gb_per_s * GB)
    return count * device.interconnect_latency_s, count * token_s
