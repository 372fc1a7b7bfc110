"""What a worker of several ranks asks of the node that it is on."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import load_config
from cluster.demands import worker_demand
from cluster.errors import BadConfig

pytestmark = pytest.mark.quick

TWO = {"worker.tensor_parallel_size": 2}


def bundle(**settings: Any) -> dict[str, float]:
    """Of a decode worker; keys with dots are written with two underscores."""
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return worker_demand(load_config(None, {**TWO, **given}).pool("decode")).bundle


def test_each_rank_has_a_cpu_and_on_gpus_a_gpu_all_in_one_bundle() -> None:
    assert bundle() == {"CPU": 2}
    assert bundle(worker__device="cuda") == {"CPU": 2, "GPU": 2}
    assert bundle(worker__device="cuda", decode__worker__tensor_parallel_size=4) == {
        "CPU": 4,
        "GPU": 4,
    }


def test_what_is_asked_for_in_words_is_what_counts() -> None:
    asked = bundle(worker__device="cuda", decode__num_cpus=8, decode__num_gpus=0)
    assert asked == {"CPU": 8}
    assert bundle(decode__num_gpus=2, decode__num_cpus=0.5) == {"CPU": 0.5, "GPU": 2}


def test_a_worker_of_one_rank_asks_for_a_gpu_unless_it_names_the_one_that_it_takes() -> None:
    alone = {"decode__worker__tensor_parallel_size": 1}
    assert bundle(worker__device="cuda", **alone) == {"CPU": 1, "GPU": 1}
    assert bundle(worker__device="cuda:1", **alone) == {"CPU": 1}
    assert bundle(**alone) == {"CPU": 1}


def test_who_asks_for_gpus_computes_on_them_unless_told_otherwise() -> None:
    def device(**overrides: Any) -> str:
        return load_config(None, overrides).pool("decode").worker.device

    assert device(**{"decode.num_gpus": 1}) == device(**{"decode.num_gpus": 0.5}) == "cuda"
    assert device(**{"prefill.num_gpus": 1}) == device(**{"decode.num_gpus": 0}) == "auto"
    assert device(**{"decode.num_gpus": 1, "worker.device": "auto"}) == "auto"
    assert device(**{"decode.num_gpus": 2, "decode.worker.device": "cuda:1"}) == "cuda:1"


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    def fraction(**overrides: Any) -> float | None:
        return load_config(None, overrides).pool("decode").worker.cache_fraction

    assert fraction(**{"decode.num_gpus": 0.5}) == 0.425
    assert fraction(**{"decode.num_gpus": 0.5, "worker.cache_fraction": 0.3}) == 0.3
    assert fraction(**{"decode.num_gpus": 1}) is None


def test_fewer_gpus_than_ranks_are_refused() -> None:
    with pytest.raises(BadConfig) as caught:
        bundle(decode__num_gpus=1)
    assert "decode.num_gpus is 1, must be 2, one for each rank" in str(caught.value)
