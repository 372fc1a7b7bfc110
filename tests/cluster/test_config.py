from pathlib import Path
from typing import Any

import pytest

from cluster.bundled import BUNDLED_MODEL
from cluster.config import load_config, parse_override
from cluster.errors import BadConfig
from router.config import ServedModelConfig
from worker.config import RunnerKind

pytestmark = pytest.mark.quick


def a_file(folder: Path, text: str) -> str:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return str(path)


def test_nothing_at_all_serves_the_bundled_model_with_one_worker_a_pool() -> None:
    config = load_config(None, {})
    assert config.models == {"tiny-python": ServedModelConfig(path=str(BUNDLED_MODEL))}
    assert [(it.name, it.role.value, it.replicas) for it in config.pools] == [
        ("prefill", "prefill", 1),
        ("decode", "decode", 1),
    ]
    assert {pool.worker.model for pool in config.pools} == {str(BUNDLED_MODEL)}
    assert {pool.worker.model_name for pool in config.pools} == {"tiny-python"}


def test_shared_worker_settings_hold_for_both_pools_and_a_pool_s_own_win(tmp_path: Path) -> None:
    path = a_file(tmp_path, "worker: {block_size: 32}\ndecode: {worker: {block_size: 64}}")
    config = load_config(path, {})
    assert [pool.worker.block_size for pool in config.pools] == [32, 64]


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = a_file(tmp_path, "prefill: {replicas: 2}\nmodel_name: from-file")
    config = load_config(path, {"prefill.replicas": 3, "worker.runner": "arithmetic"})
    assert config.pool("prefill").replicas == 3
    assert list(config.models) == ["from-file"]
    assert config.pool("decode").worker.runner is RunnerKind.ARITHMETIC


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prefil: {replicas: 2}", r"unknown field `prefil`"),
        ("prefill: {replica: 2}", r"unknown field `replica` - at `\$.prefill`"),
        ("decode: {worker: {blocksize: 1}}", r"unknown field `blocksize` - at `\$.decode.worker`"),
        ("prefill: {replicas: many}", r"Expected `int`, got `str` - at `\$.prefill.replicas`"),
        ("prefill: {replicas: -1}", "prefill.replicas is -1"),
        ("prefill: {replicas: 0}\ndecode: {replicas: 0}", "decode.replicas: 0, so nobody"),
        ("prefill: 3", "prefill: must be a mapping"),
        ("- a\n- b", "must be a mapping of keys, is a list"),
        ("a: [", "is not YAML"),
        ("prefill: {num_gpus: 1.5}", "prefill.num_gpus is 1.5: more than 1 must be whole"),
        ("prefill: {resources: {GPU: 1}}", "write prefill.num_gpus instead"),
        ("decode: {labels: {rack: 'in()'}}", r"decode.labels.rack: 'in\(\)' is none of"),
        ("decode: {placement: near}", r"Invalid enum value 'near' - at `\$.decode.placement`"),
        ("ray: {routers: {resources: {x: -1}}}", "ray.routers.resources.x is -1"),
        ("name: a b", "name: 'a b' must be"),
        ("model: /no/such/model", "'/no/such/model' is no directory"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadConfig, match=complaint):
        load_config(a_file(tmp_path, text), {})


def test_a_missing_file_is_named() -> None:
    with pytest.raises(BadConfig, match=r"/no/such.yaml: No such file"):
        load_config("/no/such.yaml", {})


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("a.b=2", ("a.b", 2)),
        ("a=x=y", ("a", "x=y")),
        ("a={b: 1}", ("a", {"b": 1})),
    ],
)
def test_override_values_are_yaml(text: str, parsed: tuple[str, Any]) -> None:
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["replicas", "=3", "a=["])
def test_a_malformed_override_says_how_to_write_it(text: str) -> None:
    with pytest.raises(BadConfig, match="--set"):
        parse_override(text)
