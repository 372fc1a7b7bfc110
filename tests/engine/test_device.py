"""Which device "auto" is, and when it is none."""

from __future__ import annotations

import pytest
import torch

from engine.device.device import choose_device
from engine.errors import ConfigError

pytestmark = pytest.mark.quick


def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert choose_device("auto", list, lambda: "no driver") == torch.device("cpu")


def test_gpus_that_pytorch_cannot_use_are_an_error_with_its_reason_and_a_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"2 NVIDIA GPUs.*none: driver too old; .*device to \"cpu"
    ):
        choose_device("auto", lambda: ["0", "1"], lambda: "driver too old")
    assert choose_device("cpu", lambda: ["0", "1"], lambda: "driver too old") == torch.device("cpu")
