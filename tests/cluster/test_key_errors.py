"""What is said of a key that is not known, or has a value that it cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.errors import BadConfig

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prefil: {replicas: 2}", r"field `prefil` - at `\$`; did you mean `prefill`\?"),
        ("modle: /m", r"field `modle` - at `\$`; did you mean `model`\?"),
        ("router: {http_prot: 1}", r"`http_prot` - at `\$\.router`; did you mean `http_port`\?"),
        ("router: {door_tls: {crt: a}}", r"at `\$\.router\.door_tls`; did you mean `cert`\?"),
        (
            "prefill: {worker: {chunk_tokns: 3}}",
            r"\.worker`; did you mean `chunk_tokens`\?",
        ),
        ("models: {a: {path: /m, sampling: {temprature: 1}}}", r"did you mean `temperature`\?"),
        ("ray: {routers: {labls: {}}}", r"at `\$\.ray\.routers`; did you mean `labels`\?"),
        ("router: {wholly: 1}", r"unknown field `wholly` - at `\$\.router`$"),
        ("router: {http_port: 99999}", r"<= 65535 - at `\$\.router\.http_port`$"),
        ("prefill: {num_gpus: -1}", r"prefill: num_cpus and num_gpus must not be negative"),
    ],
)
def test_the_file_the_path_and_the_key_that_was_meant_are_named(
    tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(BadConfig, match=rf"^{file}: .*{complaint}"):
        load_config(str(file), {})


def test_of_an_override_the_file_is_not_blamed(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("router: {http_port: 1}")
    with pytest.raises(BadConfig, match=r"^router\.http_port=99999: Expected"):
        load_config(str(file), {"router.http_port": 99999})
    with pytest.raises(BadConfig, match=r"^prefill\.replica=2: .*did you mean `replicas`"):
        load_config(str(file), {"prefill.replica": 2})
