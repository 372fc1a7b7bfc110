"""Numbers of workers within bounds, as routers want them; and bounds that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.bundled import BUNDLED_MODEL
from cluster.config import ClusterConfig, load_config
from cluster.errors import BadConfig
from cluster.scaling import replicas_for, scales, with_replicas
from wire.identity import Role

pytestmark = pytest.mark.quick


def config(tmp_path: Path, roles: str = "fixed", **pools: dict[str, object]) -> ClusterConfig:
    tree = {"models": {"m": str(BUNDLED_MODEL)}, "pools": pools, "router": {"roles": roles}}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_config(str(path), {})


def pool(role: str, replicas: int, most: int | None = None, fewest: int = 1) -> dict[str, object]:
    bounds = {} if most is None else {"min_workers": fewest, "max_workers": most}
    return {"role": role, "replicas": replicas, **bounds}


def wanted(prefill: int, decode: int) -> dict[tuple[str, Role], int]:
    return {("m", Role.PREFILL): prefill, ("m", Role.DECODE): decode}


def test_a_pool_without_a_maximum_is_as_large_as_configured(tmp_path: Path) -> None:
    fixed = config(tmp_path, p=pool("prefill", 1), d=pool("decode", 2))
    assert not scales(fixed)
    assert replicas_for(fixed, wanted(5, 5), {}) == {}
    assert with_replicas(fixed, {"p": 7, "d": 7}) == fixed


def test_the_number_wanted_is_kept_within_bounds(tmp_path: Path) -> None:
    scaled = config(tmp_path, p=pool("prefill", 2, 3, 2), d=pool("decode", 1, 4))
    assert replicas_for(scaled, wanted(9, 3), {}) == {"p": 3, "d": 3}
    assert replicas_for(scaled, wanted(0, 0), {}) == {"p": 2, "d": 1}


def test_a_model_of_which_nothing_is_known_keeps_what_it_has(tmp_path: Path) -> None:
    scaled = config(tmp_path, d=pool("decode", 1, 4))
    assert replicas_for(scaled, {}, {"d": 3}) == {"d": 3}


def test_pools_of_one_role_fill_in_the_order_of_the_file(tmp_path: Path) -> None:
    pools = {"d1": pool("decode", 1, 2), "d2": pool("decode", 1, 4), "d3": pool("decode", 2)}
    scaled = config(tmp_path, **pools)
    assert replicas_for(scaled, wanted(0, 7), {}) == {"d1": 2, "d2": 3}
    assert replicas_for(scaled, wanted(0, 5), {}) == {"d1": 2, "d2": 1}


def test_where_roles_follow_the_load_the_other_pool_takes_what_exceeds_a_bound(
    tmp_path: Path,
) -> None:
    pools = {"p": pool("prefill", 1, 4), "d": pool("decode", 1, 2)}
    assert replicas_for(config(tmp_path, **pools), wanted(1, 4), {}) == {"p": 1, "d": 2}
    follow = config(tmp_path, "follow", **pools)
    assert replicas_for(follow, wanted(1, 4), {}) == {"p": 3, "d": 2}
    assert replicas_for(follow, wanted(3, 9), {}) == {"p": 4, "d": 2}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"decode.max_workers": 0}, "decode: min_workers is 1 and max_workers 0"),
        ({"decode.max_workers": 2, "decode.min_workers": 3}, "the first not above the second"),
        ({"decode.max_workers": 2, "decode.replicas": 3}, "decode.replicas is 3, must be 1 to 2"),
        (
            {"decode.max_workers": 2, "num_routers": 0, "worker.routers": ["127.0.0.1:1"]},
            "scale this pool elsewhere, by tandem_wanted_workers",
        ),
    ],
)
def test_bounds_that_are_none_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load_config(None, settings)
    assert said in str(caught.value)
