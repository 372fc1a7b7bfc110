"""Devices from files, models from checkpoints, and the step times that follow from both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.model_shapes import LLAMA_8B, LLAMA_70B
from sim.devices.device import Device, MeasuredStep, known_devices, read_device, read_devices
from sim.devices.errors import BadDevice, BadFit, BadShape, DoesNotFit
from sim.devices.fit import fit_steps, machine_of_report
from sim.devices.model_shape import shape_of
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from wire.reports import StepCosts

pytestmark = pytest.mark.quick

MIXTURE = {
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 262144,
    "torch_dtype": "bfloat16",
}


def written(directory: Path, text: str, name: str = "device.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_every_known_device_is_read_by_its_name() -> None:
    assert [read_device(name).name for name in known_devices()] == known_devices()
    assert "h100" in known_devices()


def test_shapes_have_the_published_numbers_of_parameters(tmp_path: Path) -> None:
    assert LLAMA_8B.num_parameters == pytest.approx(8.03e9, rel=0.001)
    assert LLAMA_70B.num_parameters == pytest.approx(70.55e9, rel=0.001)
    (tmp_path / "config.json").write_text(json.dumps(MIXTURE))
    mixture = shape_of(tmp_path)
    assert mixture.num_parameters == pytest.approx(30.5e9, rel=0.01)
    active = mixture.token_flops / 2 + 2 * mixture.head_parameters
    assert active == pytest.approx(3.3e9, rel=0.03)


def test_a_checkpoints_shape_comes_from_its_own_file() -> None:
    shape = shape_of("models/tiny-python")
    assert (shape.num_layers, shape.num_kv_heads, shape.head_size) == (4, 4, 32)
    assert shape.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"torch_dtype": "int3"}, "int3"),
    ],
)
def test_a_broken_configuration_names_the_key(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**MIXTURE, **change}))
    with pytest.raises(BadShape, match=named):
        shape_of(tmp_path)


def test_a_step_reads_the_weights_once_and_a_prompt_computes_each_of_them() -> None:
    device = Device(name="d", memory_gb=80, memory_gb_per_s=1000, tflops={"bfloat16": 100})
    machine = machine_of(device, LLAMA_8B)
    weights_s = 2 * (8.03e9 - 128256 * 4096) / (0.8 * 1e12)
    assert machine.step_s == pytest.approx(weights_s + device.launch_s, rel=0.001)
    assert machine.prompt_token_s == pytest.approx(2 * 6.98e9 / (0.6 * 1e14), rel=0.001)
    assert machine.context_token_s == pytest.approx(131072 / 0.8e12)
    assert machine.pool_tokens == pytest.approx((72e9 - 2e9 - 16.06e9) / 131072, rel=0.001)
    assert machine.layout.token_bytes == 131072


def test_tensor_parallelism_divides_a_step_and_pays_for_its_all_reduces() -> None:
    one = machine_of(read_device("h200"), LLAMA_70B, 2)
    two = machine_of(read_device("h200"), LLAMA_70B, 4)
    assert 0.5 < two.step_s / one.step_s < 0.6
    assert 0.5 < two.prompt_token_s / one.prompt_token_s < 0.65
    assert two.pool_tokens > 2 * one.pool_tokens
    assert two.bytes_per_s == 2 * one.bytes_per_s


def test_a_model_that_does_not_fit_says_how_many_devices_it_takes() -> None:
    with pytest.raises(DoesNotFit, match=r"141\.1 GB of weights .* at least 3"):
        machine_of(read_device("h100"), LLAMA_70B)
    with pytest.raises(DoesNotFit, match="cannot be divided among 3"):
        machine_of(read_device("h100"), LLAMA_70B, 3)
    alone = Device(name="alone", memory_gb=80, memory_gb_per_s=900, tflops={"bfloat16": 9})
    with pytest.raises(DoesNotFit, match="no interconnect"):
        machine_of(alone, LLAMA_8B, 2)


def test_coefficients_win_over_figures_and_need_no_model(tmp_path: Path) -> None:
    text = """
    price_per_hour: 2
    coefficients:
      - {step_s: 6e-3, sequence_s: 3e-5, context_token_s: 4.4e-8, prompt_token_s: 3.2e-5,
         pool_tokens: 1000}
    """
    machine = machine_of(read_device(written(tmp_path, text, "mine.yaml")))
    assert (machine.step_s, machine.pool_tokens) == (6e-3, 1000)
    with pytest.raises(BadDevice, match="mine: without a model's shape"):
        machine_of(read_device(tmp_path / "mine.yaml"), tensor_parallel=2)


def test_a_table_of_steps_gives_the_coefficients_that_made_it() -> None:
    truth = MachineModel()
    kinds = [(0, 0, 512, 1 << 17), (8, 4000, 0, 0), (64, 9000, 0, 0), (16, 8000, 2048, 1 << 20)]
    kinds += [(1, 10, 16, 400), (32, 90000, 100, 99999), (0, 0, 4096, 1 << 23)]
    steps = [
        MeasuredStep(
            num_decoding=decoding,
            context_tokens=context,
            prompt_tokens=tokens,
            prompt_pairs=pairs,
            seconds=truth.step_s
            + truth.sequence_s * decoding
            + truth.context_token_s * context
            + truth.prompt_token_s * tokens
            + truth.prompt_pair_s * pairs,
        )
        for decoding, context, tokens, pairs in kinds
    ]
    found = fit_steps(steps)
    for name in ("step_s", "sequence_s", "context_token_s", "prompt_token_s", "prompt_pair_s"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-3)
    assert found.noise < 1e-6
    with pytest.raises(BadFit, match="2 steps with 5 kinds"):
        fit_steps(steps[3:4] * 2)


def test_no_coefficient_is_negative_however_noisy_the_steps() -> None:
    steps = [
        MeasuredStep(seconds=0.01 - 1e-6 * n + 1e-5 * (n % 3), num_decoding=n, context_tokens=n)
        for n in range(1, 100)
    ]
    found = fit_steps(steps)
    assert min(found.step_s, found.sequence_s, found.context_token_s) >= 0


def test_a_workers_own_report_is_a_machine_once_it_is_complete() -> None:
    costs = StepCosts(
        step_s=1e-3, sequence_s=1e-4, context_token_s=1e-7, prompt_token_s=2e-4, prompt_pair_s=None
    )
    with pytest.raises(BadFit, match="prompt_pair_s"):
        machine_of_report(costs)
    told = StepCosts(
        step_s=1e-3, sequence_s=1e-4, context_token_s=1e-7, prompt_token_s=2e-4, prompt_pair_s=0.0
    )
    base = MachineModel(pool_tokens=77)
    machine = machine_of_report(told, base)
    assert (machine.step_s, machine.prompt_token_s, machine.pool_tokens) == (1e-3, 2e-4, 77)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("memory_gb: 80", "needs memory_gb, memory_gb_per_s and tflops"),
        ("{memory_gb: 80, memory_gb_per_s: -1, tflops: {bfloat16: 1}}", "memory_gb_per_s is -1"),
        ("memory: 80", "unknown field `memory`"),
        ("memory_gb: much", r"\$\.memory_gb"),
        ("- 7", "a device is a mapping, found int"),
        ("[]", "has no devices"),
        ("a: [", "neither YAML nor JSON"),
    ],
)
def test_a_bad_device_file_says_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(BadDevice, match=named):
        read_device(written(tmp_path, text))


def test_files_have_one_device_or_several_and_directories_all_of_them(tmp_path: Path) -> None:
    row = "memory_gb: 1, memory_gb_per_s: 1, tflops: {float32: 1}"
    path = written(tmp_path, f"- {{name: a, {row}}}\n- {{name: b, {row}}}")
    written(tmp_path, json.dumps({"coefficients": [], "steps": [{"seconds": 1}]}), "c.json")
    assert [device.name for device in read_devices(path)] == ["a", "b"]
    assert [device.name for device in read_devices(tmp_path)] == ["c", "a", "b"]
    with pytest.raises(BadDevice, match=r"several devices \(a, b\)"):
        read_device(path)
    with pytest.raises(BadDevice, match="nor one of the known devices"):
        read_device("h1000")
    with pytest.raises(BadDevice, match=r"tflops for bfloat16 are missing \(there are: float32\)"):
        machine_of(read_devices(path)[0], LLAMA_8B)
