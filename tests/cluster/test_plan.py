"""`tandem plan`: its table, its JSON, its file for `tandem up`, and what it says of mistakes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner, Result

from cluster.commands import app
from cluster.config import load_config
from router.placing.placement_request import Split
from wire.identity import Role

MODEL = {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
DEVICE = """
price_per_hour: {price}
coefficients:
  - {{step_s: 0.006, sequence_s: 3.0e-5, context_token_s: 4.0e-8, prompt_token_s: {token_s},
     pool_tokens: 200000}}
"""
LOAD = ("--trace", "poisson:2048/16", "--rate", "16", "--count", "60")
TARGETS = ("--ttft", "1s", "--tpot", "10ms", "--attainment", "0.9")
SEARCH = (*LOAD, *TARGETS, "--max-gpus", "8", "--simulate", "1")


class Planned(NamedTuple):
    folder: Path
    result: Result


def tandem_plan(folder: Path, *options: str) -> Result:
    """Run the command in a process of its own kind, with the devices and the model of `folder`."""
    model = ("--model", str(folder / "model"))
    return CliRunner().invoke(app, ["plan", *model, *options], env={"COLUMNS": "100"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plan")
    (made / "model").mkdir()
    (made / "model" / "config.json").write_text(json.dumps(MODEL))
    (made / "reader.yaml").write_text(DEVICE.format(price=4.0, token_s=3e-5))
    (made / "writer.yaml").write_text(DEVICE.format(price=1.0, token_s=5e-4))
    (made / "unpriced.yaml").write_text(DEVICE.format(price=0, token_s=3e-5))
    return made


@pytest.fixture(scope="module")
def unlike(folder: Path) -> Planned:
    """A plan for two kinds of devices, written."""
    devices = ("--device", str(folder / "reader.yaml"), "--device", str(folder / "writer.yaml:6"))
    file = str(folder / "cluster.yaml")
    return Planned(folder, tandem_plan(folder, *devices, *SEARCH, "--json", "--write", file))


def figures(planned: Planned) -> dict[str, Any]:
    assert planned.result.exit_code == 0, planned.result.output
    (line,) = planned.result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_tells_pools_costs_attainment_headroom_and_what_binds(unlike: Planned) -> None:
    found = figures(unlike)
    (best,) = found["candidates"]
    assert found["requests_per_s"] == 16
    assert best["passed"]
    assert best["prefill"] == "reader TP1"
    assert best["decode"] == "writer TP1"
    assert min(best["ttft_attainment"], best["tpot_attainment"]) >= 0.9
    prices = {"reader": 4.0, "writer": 1.0}
    hourly = sum(prices[device] * count for device, count in best["gpus"].items())
    assert best["cost_per_hour"] == hourly
    assert best["binds"] in best["why"] or best["why"].startswith("at ")
    assert found["verdict"].startswith("Split: the target of 10 ms a token is 1.6 × one step")


def test_the_written_file_starts_what_was_planned(unlike: Planned) -> None:
    (best,) = figures(unlike)["candidates"]
    config = load_config(str(unlike.folder / "cluster.yaml"), {})
    assert config.router.split is Split.ALWAYS
    (model,) = config.models
    served = config.router.for_model(model)
    assert (served.ttft_target_s, served.tpot_target_s) == (1.0, 0.01)
    prefill, decode = config.pool("prefill"), config.pool("decode")
    assert (prefill.role, decode.role) == (Role.PREFILL, Role.DECODE)
    assert prefill.replicas == best["prefill_workers"]
    assert decode.replicas == best["decode_workers"]
    assert prefill.worker.chunk_tokens == best["prefill_chunk_tokens"]
    assert prefill.labels == {"device": "reader"}
    assert decode.labels == {"device": "writer"}
    assert prefill.num_gpus == prefill.worker.tensor_parallel_size == 1


def test_a_person_reads_a_table_and_a_verdict(folder: Path) -> None:
    target = ("--ttft", "1", "--tpot", "80ms", "--attainment", "0.9")
    devices = ("--device", str(folder / "unpriced.yaml:2"))
    config = folder / "unsplit.yaml"
    ended = tandem_plan(folder, *devices, *LOAD, *target, "--simulate", "1", "--write", str(config))
    assert ended.exit_code == 0, ended.output
    assert "16 requests/s of" in ended.stdout
    assert "not split" in ended.stdout
    assert "GPU hours per 1M answer tokens" in ended.stdout
    assert "Do not split: the target of 80 ms a token is" in ended.stdout
    assert "left out: unpriced TP2: " in ended.stdout
    assert "cost per hour" not in ended.stdout
    (pool,) = load_config(str(config), {}).pools
    assert pool.role is Role.DECODE
    assert load_config(str(config), {}).router.split is Split.NEVER


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rate", "0"), "requests_per_s is 0: it must be above 0"),
        (("--tpot", "4ms"), "one step of this model on reader TP1 takes 6.1 ms, the target"),
        (("--ttft", "10ms"), "takes 0.09 s on reader TP1 alone, the target (--ttft) is 0.01 s"),
        (("--trace", "poisson:9000/100,sigma=0"), "100.0% of the trace's requests are longer than"),
        (("--trace", "azure.csv"), "neither a file nor a SPEC"),
        (("--rate", "900"), "the devices that exist serve at most some"),
        (("--attainment", "1.5"), "attainment is 1.5: it must be between 0 and 1"),
        (("--tpot", "soon"), "--tpot: wanted seconds above 0"),
        (("--device", "h900"), "no such file, nor one of the known devices"),
        (("--plot", "plot.gif"), "the name must end in .svg, .png, .pdf"),
        (("--model", "nowhere"), "config.json"),
    ],
)
def test_mistakes_are_told_in_a_line(folder: Path, options: tuple[str, ...], message: str) -> None:
    device = () if "--device" in options else ("--device", str(folder / "reader.yaml"))
    ended = tandem_plan(folder, *SEARCH, *device, *options)
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.output


def test_a_device_that_is_too_small_says_what_is_needed(folder: Path) -> None:
    small = folder / "small.yaml"
    small.write_text("{memory_gb: 4, memory_gb_per_s: 100, tflops: {bfloat16: 10}}")
    ended = tandem_plan(folder, *SEARCH, "--device", str(small))
    assert ended.exit_code == 2
    assert "no worker can hold the model" in ended.stderr
    assert "small TP1: " in ended.stderr
    assert "do not fit into 1 × 4 GB of small: at least" in ended.stderr


def test_a_device_given_twice_is_an_error(folder: Path) -> None:
    device = ("--device", str(folder / "reader.yaml"))
    ended = tandem_plan(folder, *SEARCH, *device, *device)
    assert "--device reader is given twice" in ended.stderr


def test_without_the_plotting_library_the_error_names_the_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    device = ("--device", str(folder / "reader.yaml"))
    ended = tandem_plan(folder, *SEARCH, *device, "--plot", str(folder / "plot.svg"))
    assert ended.exit_code == 2
    assert "pip install 'tandem-serve[plot]'" in ended.stderr


def test_the_plot_has_a_line_for_each_candidate(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    from sim.plan.goodput_plot import save_plot
    from sim.plan.pool_choice import Needs

    needs = Needs(requests_per_s=16, ttft_s=1, tpot_s=0.01)
    file = folder / "plot.svg"
    curves = {"1 × a unsplit": [(10, 1.0), (20, 0.4)], "2 × b unsplit": [(10, 1.0), (20, 0.9)]}
    save_plot(curves, needs, file)
    text = file.read_text()
    assert all(name in text for name in (*curves, "requests a second", "16/s wanted"))
    save_plot(curves, needs, folder / "again.svg")
    assert (folder / "again.svg").read_text() == text
