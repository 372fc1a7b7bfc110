"""Reading checkpoint directories: what is understood, and what every refusal says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import CheckpointError
from engine.model.config import read_config
from engine.model.weights import find_weights, model_hash
from engine.runners.torch_loading import load_torch_runner
from tests.engine.checkpoints import edit_json

Checkpoints = Callable[[str], Path]


@pytest.fixture
def copy(checkpoint: Checkpoints, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a checkpoint that the test may damage."""
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name)


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_torch_runner(directory, device="cpu")
    return str(caught.value)


def change(directory: Path, **changes: object) -> Path:
    """Set keys of config.json; None is written as null."""
    edit_json(directory / "config.json", lambda config: config.update(changes))
    return directory


def drop(directory: Path, *keys: str) -> Path:
    edit_json(directory / "config.json", lambda config: [config.pop(key, None) for key in keys])
    return directory


def test_a_path_that_is_no_directory_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'}: is not a directory with a model checkpoint"
    )


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path / 'config.json'}: no such file"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"architectures": [', "is not valid JSON: Expecting value"),
        ("[1, 2]", "expected a JSON object, found list"),
        ("\udc80", "is not valid JSON: 'utf-8' codec can't decode"),
    ],
)
def test_a_config_that_is_no_json_object_is_named(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert reason in refusal(tmp_path)
    assert str(tmp_path / "config.json") in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "key 'architectures': expected one of LlamaForCausalLM, MistralForCausalLM, "
            'Qwen2ForCausalLM, Qwen3ForCausalLM, found ["GPT2LMHeadModel"]',
        ),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"hidden_size": "big"}, "'hidden_size': expected an integer of at least 1, found \"big\""),
        ({"num_hidden_layers": True}, "'num_hidden_layers': expected an integer of at least 1"),
        ({"vocab_size": 0}, "'vocab_size': expected an integer of at least 1, found 0"),
        ({"rms_norm_eps": -1}, "'rms_norm_eps': expected a number above 0, found -1"),
        ({"mlp_bias": "no"}, "'mlp_bias': expected true or false, found \"no\""),
        ({"hidden_act": "gelu"}, "'hidden_act': expected \"silu\", the only supported activation"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads': expected a divisor of the 4"),
        ({"head_dim": 7}, "'head_dim': expected an even number"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config': expected none"),
        ({"eos_token_id": "</s>"}, "'eos_token_id': expected a token id or a list of token ids"),
        ({"rope_parameters": 5}, "'rope_parameters': expected an object, found 5"),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "'rope_parameters.rope_type': expected one of default, linear, dynamic, llama3, "
            'yarn, found "longrope"',
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "su"}},
            "'rope_scaling.type': expected one of default, linear, dynamic, llama3, yarn",
        ),
        (
            {"rope_parameters": {"rope_type": "linear"}},
            "key 'rope_parameters.factor' is missing",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            "key 'rope_parameters.low_freq_factor' is missing",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 1.0,
                }
            },
            "'rope_parameters.high_freq_factor': expected a number above low_freq_factor",
        ),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor': expected 1"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "'rope_parameters.full_attention': RoPE settings that differ between layers",
        ),
    ],
)
def test_an_unsupported_config_names_its_key(
    changes: dict[str, object], reason: str, copy: Callable[[str], Path]
) -> None:
    directory = change(copy("llama"), **changes)
    (directory / "generation_config.json").unlink()
    assert reason in refusal(directory)
    assert str(directory / "config.json") in refusal(directory)


@pytest.mark.parametrize(
    "layer_types", [["full_attention"], ["full_attention", "chunked"], "full_attention"]
)
def test_layer_types_that_do_not_fit_are_named(
    layer_types: object, copy: Callable[[str], Path]
) -> None:
    directory = change(copy("qwen3-windows"), layer_types=layer_types)
    wanted = "'layer_types': expected 2 entries out of full_attention, sliding_attention"
    assert wanted in refusal(directory)


def test_sliding_layers_without_a_window_are_refused(copy: Callable[[str], Path]) -> None:
    directory = change(copy("qwen3-windows"), use_sliding_window=False)
    assert "'layer_types': expected 2 entries out of full_attention, found" in refusal(directory)


def test_absent_keys_mean_what_the_architecture_says(copy: Callable[[str], Path]) -> None:
    llama = read_config(
        drop(copy("llama"), "num_key_value_heads", "head_dim", "rope_parameters", "rms_norm_eps")
    )
    assert (llama.num_kv_heads, llama.head_size, llama.rope.theta) == (4, 8, 10000.0)
    assert llama.rms_norm_eps == 1e-6
    assert read_config(drop(copy("mistral"), "sliding_window")).windows == (4096, 4096)
    windows = drop(copy("qwen2-windows"), "layer_types")
    assert read_config(windows).windows == (None, 11)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [(2, None, {2}), (2, 5, {5}), ([2, 3], None, {2, 3}), (2, [5, 6], {5, 6}), (None, None, set())],
)
def test_eos_comes_from_the_generation_config_first(
    in_config: object, in_generation: object, expected: set[int], copy: Callable[[str], Path]
) -> None:
    directory = change(copy("llama"), eos_token_id=in_config)
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": in_generation}))
    assert load_torch_runner(directory, device="cpu").eos_token_ids == expected


def test_model_lengths_follow_the_scaling(checkpoint: Checkpoints) -> None:
    """As vLLM derives them: linear and dynamic scaling multiply what config.json says."""
    lengths = {
        name: read_config(checkpoint(name)).max_model_len
        for name in ("llama", "llama-linear", "llama-dynamic", "llama-yarn", "llama-llama3")
    }
    assert lengths == {
        "llama": 256,
        "llama-linear": 1024,
        "llama-dynamic": 192,
        "llama-yarn": 256,
        "llama-llama3": 256,
    }


def test_yarn_of_an_unextended_config_extends_it(copy: Callable[[str], Path]) -> None:
    config = read_config(change(copy("llama-yarn"), max_position_embeddings=64))
    assert config.max_model_len == 256


def rewrite(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_a_missing_tensor_is_named_with_the_files_searched(copy: Callable[[str], Path]) -> None:
    directory = copy("llama")
    name = "model.layers.1.self_attn.k_proj.weight"
    rewrite(directory / "model.safetensors", lambda tensors: tensors.pop(name))
    assert refusal(directory) == f"{directory}: tensor '{name}' is missing from model.safetensors"


def test_a_wrong_shape_is_named_with_both_shapes(copy: Callable[[str], Path]) -> None:
    directory = copy("llama")
    name = "model.layers.0.mlp.down_proj.weight"
    rewrite(
        directory / "model.safetensors",
        lambda tensors: tensors.update({name: torch.zeros(32, 40)}),
    )
    assert refusal(directory) == (
        f"{directory / 'model.safetensors'}: tensor '{name}': expected shape [32, 48], "
        "found [32, 40]"
    )


def test_an_unsupported_storage_is_named(copy: Callable[[str], Path]) -> None:
    directory = copy("llama")
    rewrite(
        directory / "model.safetensors",
        lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
    )
    wanted = "tensor 'model.norm.weight' is stored as I8; supported: F32, BF16, F16"
    assert wanted in refusal(directory)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_shard_is_named(keep: int, copy: Callable[[str], Path]) -> None:
    path = copy("llama") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert re.search(f"^{re.escape(str(path))}: truncated", refusal(path.parent))


def test_a_truncated_shard_among_many_is_named(copy: Callable[[str], Path]) -> None:
    directory = copy("llama-shards")
    path = sorted(directory.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-7])
    assert refusal(directory).startswith(f"{path}: truncated or corrupt: expected ")


@pytest.mark.parametrize(
    "header", [b"{", b"[]", b'{"a":{"dtype":"F32"}}', b'{"a":{"dtype":4,"shape":[],"d":[]}}']
)
def test_a_corrupt_header_is_named(header: bytes, copy: Callable[[str], Path]) -> None:
    path = copy("llama") / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert refusal(path.parent).startswith(f"{path}: corrupt safetensors header: ")


def test_a_missing_shard_is_named(copy: Callable[[str], Path]) -> None:
    directory = copy("llama-shards")
    first, _, path, *others = sorted(directory.glob("*.safetensors"))
    path.unlink()
    text = refusal(directory)
    index = directory / "model.safetensors.index.json"
    assert text.startswith(f"{index}: names {3 + len(others)} files, of which {path.name} is ")
    first.unlink()
    assert f"of which {first.name}, {path.name} are missing" in refusal(directory)


def test_a_whole_file_wins_over_the_index_of_an_earlier_save(copy: Callable[[str], Path]) -> None:
    """As in transformers, whether the index names files that are still there or not."""
    directory, sharded = copy("llama"), copy("llama-shards")
    index = "model.safetensors.index.json"
    (directory / index).write_bytes((sharded / index).read_bytes())
    weights = find_weights(directory)
    assert [shard.path.name for shard in weights.shards] == ["model.safetensors"]
    for shard in sharded.glob("model-*.safetensors"):
        (directory / shard.name).write_bytes(b"stale")
    assert find_weights(directory).holders == weights.holders


def test_a_missing_index_is_named_with_what_is_there(copy: Callable[[str], Path]) -> None:
    directory = copy("llama-shards")
    (directory / "model.safetensors.index.json").unlink()
    assert (
        "expected model.safetensors or model.safetensors.index.json, found only model-00001-of"
        in (refusal(directory))
    )


def test_a_directory_without_weights_says_so(copy: Callable[[str], Path]) -> None:
    directory = copy("llama")
    (directory / "model.safetensors").unlink()
    assert refusal(directory).endswith("found no .safetensors file")


def test_an_index_that_points_to_the_wrong_shard_is_named(copy: Callable[[str], Path]) -> None:
    directory = copy("llama-shards")
    first, *_, last = sorted(path.name for path in directory.glob("*.safetensors"))
    name = next(iter(load_file(directory / first)))
    edit_json(
        directory / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({name: last}),
    )
    assert refusal(directory).startswith(f"{directory / last}: tensor '{name}' is missing")


def test_extra_tensors_are_left_alone(copy: Callable[[str], Path]) -> None:
    directory = copy("llama")
    rewrite(
        directory / "model.safetensors",
        lambda tensors: tensors.update(
            {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4, dtype=torch.float64)}
        ),
    )
    assert load_torch_runner(directory, device="cpu").vocab_size == 101


@pytest.mark.parametrize("name", ["llama", "llama-shards", "llama-bf16", "llama-tied"])
def test_progress_counts_every_stored_byte_once(name: str, checkpoint: Checkpoints) -> None:
    calls: list[tuple[int, int]] = []
    load_torch_runner(
        checkpoint(name), device="cpu", progress=lambda loaded, total: calls.append((loaded, total))
    )
    stored = sum(
        tensor.nbytes
        for path in checkpoint(name).glob("*.safetensors")
        for tensor in load_file(path).values()
    )
    assert [loaded for loaded, _ in calls] == sorted(loaded for loaded, _ in calls)
    assert {total for _, total in calls} == {stored}
    assert calls[-1][0] == stored


def hash_of(directory: Path) -> str:
    return model_hash(find_weights(directory), read_config(directory))


def test_copies_of_a_model_have_one_hash(
    checkpoint: Checkpoints, copy: Callable[[str], Path]
) -> None:
    assert hash_of(copy("llama-shards")) == hash_of(checkpoint("llama-shards"))


def test_models_that_differ_have_different_hashes(
    checkpoint: Checkpoints, copy: Callable[[str], Path]
) -> None:
    original = hash_of(checkpoint("llama"))
    tuned = copy("llama")
    rewrite(
        tuned / "model.safetensors",
        lambda tensors: tensors["model.layers.1.self_attn.q_proj.weight"].mul_(1.01),
    )
    assert hash_of(tuned) != original
    assert hash_of(change(copy("qwen3"), rms_norm_eps=1e-3)) != hash_of(checkpoint("qwen3"))


MEASURE = """
import sys
from pathlib import Path
from engine.runners.torch_loading import load_torch_runner

def peak():
    fields = dict(l.split(":", 1) for l in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024

load_torch_runner(sys.argv[1], device="cpu", threads=1, dtype=sys.argv[3])
before = peak()
runner = load_torch_runner(sys.argv[2], device="cpu", threads=1, dtype=sys.argv[3])
print(peak() - before)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_never_holds_two_copies(
    dtype: str, checkpoint: Checkpoints, copy: Callable[[str], Path]
) -> None:
    directory = change(copy("llama"), vocab_size=300_000, tie_word_embeddings=True)
    embedding = torch.zeros(300_000, 32).fill_(0.5)
    rewrite(
        directory / "model.safetensors",
        lambda tensors: tensors.update({"model.embed_tokens.weight": embedding}),
    )
    command = [sys.executable, "-c", MEASURE, str(checkpoint("llama")), str(directory), dtype]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
    kept = embedding.nbytes if dtype == "float32" else embedding.nbytes // 2
    assert kept * 0.9 < int(result.stdout) < kept + (24 << 20)
