"""Several models in one file: what of it comes to which pool, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.bundled import BUNDLED_MODEL
from cluster.config import ClusterConfig, load_config
from cluster.demands import pairing, worker_demand
from cluster.errors import BadConfig
from router.config import SamplingDefaults, ServedModelConfig
from wire.identity import Role

pytestmark = pytest.mark.quick

HERE = str(BUNDLED_MODEL)
SHORT = "model: /m\nworker: {runner: arithmetic}\n"
TWO = """
models:
  Chat-3.1: {path: /models/chat, tool_parser: hermes, sampling: {temperature: 0.6}}
  small: /models/small
worker: {runner: arithmetic, block_size: 32}
pools:
  chat-prefill: {role: prefill, model: Chat-3.1, replicas: 2, worker: {stamp: 1}}
  chat-decode: {role: decode, model: Chat-3.1, num_gpus: 2, worker: {block_size: 64}}
  small: {role: decode, model: small}
"""


def loaded(folder: Path, text: str, **overrides: Any) -> ClusterConfig:
    path = folder / "cluster.yaml"
    path.write_text(text)
    return load_config(str(path), overrides)


def test_named_pools_come_with_their_models_and_settings(tmp_path: Path) -> None:
    config = loaded(tmp_path, TWO)
    assert config.models == {
        "Chat-3.1": ServedModelConfig(
            path="/models/chat", tool_parser="hermes", sampling=SamplingDefaults(temperature=0.6)
        ),
        "small": ServedModelConfig(path="/models/small"),
    }
    told = [(it.name, it.role, it.model, it.worker.model, it.replicas) for it in config.pools]
    assert told == [
        ("chat-prefill", Role.PREFILL, "Chat-3.1", "/models/chat", 2),
        ("chat-decode", Role.DECODE, "Chat-3.1", "/models/chat", 1),
        ("small", Role.DECODE, "small", "/models/small", 1),
    ]
    assert [pool.worker.model_name for pool in config.pools] == ["Chat-3.1", "Chat-3.1", "small"]
    assert [pool.worker.block_size for pool in config.pools] == [32, 64, 32]


def test_the_short_form_is_two_pools_of_one_model(tmp_path: Path) -> None:
    short = loaded(tmp_path, SHORT + "model_name: mine\nprefill: {replicas: 3}")
    named = loaded(
        tmp_path,
        "models: {mine: /m}\nworker: {runner: arithmetic}\n"
        "pools: {prefill: {role: prefill, replicas: 3}, decode: {role: decode}}",
    )
    assert short.models == named.models
    assert [pool.keys for pool in short.pools] == ["prefill", "decode"]
    assert [pool.keys for pool in named.pools] == ["pools.prefill", "pools.decode"]
    for one, other in zip(short.pools, named.pools, strict=True):
        assert (one.name, one.replicas, one.worker) == (other.name, other.replicas, other.worker)


def test_every_setting_can_be_overridden_inside_named_pools_and_models(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        TWO,
        **{
            "pools.small.replicas": 4,
            "pools.chat-decode.worker.max_sequences": 7,
            "models.Chat-3.1.tool_parser": "mistral",
            "models.small": {"path": "/elsewhere"},
        },
    )
    assert config.pool("small").replicas == 4
    assert config.pool("small").worker.model == "/elsewhere"
    assert config.pool("chat-decode").worker.max_sequences == 7
    assert config.models["Chat-3.1"].tool_parser == "mistral"


def test_a_model_may_have_pools_on_several_kinds_of_machines(tmp_path: Path) -> None:
    pools = "{old: {role: decode, accelerator_type: A100}, new: {role: decode, num_gpus: 1}}"
    config = loaded(tmp_path, SHORT + f"pools: {pools}")
    assert [pool.model for pool in config.pools] == ["m", "m"]
    assert [name for pool, index in config.workers() for name in [f"{pool.name}-{index}"]] == [
        "old-0",
        "new-0",
    ]


def test_only_the_pools_of_one_model_are_to_be_near_each_other(tmp_path: Path) -> None:
    config = loaded(tmp_path, TWO, **{"ray.near": "rack"})
    near = pairing(config, "Chat-3.1")
    assert near is not None
    assert near.replicas == {"chat-prefill": 2, "chat-decode": 1}
    assert worker_demand(config.pool("chat-decode")).bundle == {"CPU": 1, "GPU": 2}
    assert worker_demand(config.pool("small")).kind == "small"


def test_the_bundled_model_has_its_settings_in_a_named_pool_too() -> None:
    config = load_config(None, {"pools.all.role": "decode"})
    assert config.pool("all").worker.chunk_tokens == 128
    assert config.pool("all").worker.model == HERE


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"pools.small.role": None}, r"Expected `str`, got `null` - at `\$.pools.small.role`"),
        ({"pools.small.role": "both"}, r"Invalid enum value 'both' - at `\$.pools.small.role`"),
        ({"pools.small.rolle": "decode"}, r"unknown field `rolle` - at `\$.pools.small`"),
        ({"pools.small.keys": "a"}, r"unknown field `keys` - at `\$.pools.small`"),
        ({"pools.small.worker.stampp": 1}, r"`stampp` - at `\$.pools.small.worker`"),
        ({"pools.small.model": "tiny"}, r"pools.small.model is 'tiny', must be one of .*small"),
        ({"pools.small.model": None}, r"pools.small.model is None, must be one of"),
        ({"pools.small.replicas": 0}, r"pools.small.replicas: 0, so nobody would serve .*'small'"),
        ({"pools.small.replicas": -1}, r"pools.small.replicas is -1"),
        ({"pools.small.labels": {"rack": "in()"}}, r"pools.small.labels.rack"),
        ({"pools.small": 3}, r"pools.small: must be a mapping"),
        ({"pools.router": {"role": "decode"}}, r"pools.router: the name of a pool must be"),
        ({"models.third": "/third"}, r"models.third: none of pools has it"),
        ({"models.small": {"paht": "/s"}}, r"unknown field `paht` - at `\$.models.small`"),
        ({"models.small": {"path": "/s", "x": 1}}, r"unknown field `x` - at `\$.models.small`"),
        ({"models": {}}, r"models is empty"),
        ({"pools": None}, r"models are Chat-3.1, small: name the pools of each under pools"),
        ({"prefill.replicas": 2}, r"prefill: pools names all of them already"),
        ({"model": "/m"}, r"model: models names all of them already"),
        ({"router.models": {}}, r"router.models: write models instead"),
        ({"worker.runner": "torch"}, r"model 'Chat-3.1': '/models/chat' is no directory"),
    ],
)
def test_a_mistake_is_named_with_its_key(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BadConfig, match=complaint):
        loaded(tmp_path, TWO, **changes)


def test_a_pool_without_a_role_is_asked_for_one(tmp_path: Path) -> None:
    tree = yaml.safe_load(TWO)
    del tree["pools"]["small"]["role"]
    with pytest.raises(BadConfig, match=r"required field `role` - at `\$.pools.small`"):
        loaded(tmp_path, yaml.safe_dump(tree))
