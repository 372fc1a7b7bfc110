"""`tandem simulate`: what people and programs read, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster.commands import app
from sim.policies import ServingPolicy

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--rate", "20", "--count", "20", "--prefill", "1", "--decode", "1")
DEVICE = """
name: small
price_per_hour: 2.5
coefficients:
  - {step_s: 0.005, sequence_s: 2.0e-5, context_token_s: 4.0e-8, prompt_token_s: 3.0e-5,
     pool_tokens: 200000}
"""


def simulate(*options: str, trace: str = "poisson:600/20") -> Result:
    return CliRunner().invoke(app, ["simulate", "--trace", trace, *options], env={"COLUMNS": "100"})


def figures(*options: str, trace: str = "poisson:600/20") -> dict[str, Any]:
    ended = simulate(*options, "--json", trace=trace)
    assert ended.exit_code == 0, ended.output
    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def error(*options: str, trace: str = "poisson:600/20") -> str:
    ended = simulate(*options, trace=trace)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    return ended.stderr


@pytest.mark.quick
def test_the_same_line_is_printed_twice_and_another_with_another_seed() -> None:
    options = (*SMALL, "--ttft", "1", "--tpot", "20ms", "--json")
    one, other = (simulate(*options).stdout for _ in range(2))
    assert one == other
    assert simulate(*options, "--seed", "2").stdout != one


@pytest.mark.quick
@pytest.mark.parametrize("policy", [policy.value for policy in ServingPolicy])
def test_a_line_of_json_has_the_figures(policy: str) -> None:
    found = figures(*SMALL, "--ttft", "1", "--tpot", "0.02", "--policy", policy)
    assert found["policy"] == policy
    assert found["num_requests"] == 20
    assert 0 <= found["goodput"] <= found["ttft_attainment"] <= 1
    assert 0 < found["ttft_s"]["p50"] <= found["ttft_s"]["p90"] <= found["ttft_s"]["p99"]
    assert found["split_share"] == {"always": 1, "round-robin": 1, "never": 0}.get(
        policy, found["split_share"]
    )
    assert set(found["busy_share"]) == {"prefill", "decode"}
    assert found["cost_per_hour"] is None


@pytest.mark.quick
def test_people_see_a_row_for_each_figure_and_a_column_for_each_policy() -> None:
    ended = simulate(*SMALL, "--ttft", "1", "--policy", "never", "--policy", "round-robin")
    assert ended.exit_code == 0, ended.output
    head, columns, goodput, *rows = ended.stdout.splitlines()
    assert head.startswith("poisson:600/20: 20 requests, ")
    assert columns.split() == ["never", "round-robin"]
    assert goodput.split()[0] == "goodput"
    labels = {row[:22].strip() for row in rows}
    assert {"TTFT within 1.00 s", "TTFT p50", "split", "refused", "role changes"} <= labels
    assert not any("cost" in label or "TPOT within" in label for label in labels)


@pytest.mark.quick
def test_devices_bring_step_times_and_costs(tmp_path: Path) -> None:
    small, fast = tmp_path / "small.yaml", tmp_path / "fast.yaml"
    small.write_text(DEVICE)
    fast.write_text(DEVICE.replace("0.005", "0.001").replace("2.5", "10"))
    slow = figures(*SMALL, "--device", str(small))
    assert slow["cost_per_hour"] == 5
    assert slow["cost_per_million_tokens"] > 0
    unlike = figures(
        *SMALL, "--device", str(small), "--decode-device", str(fast), "--policy", "always"
    )
    assert unlike["cost_per_hour"] == 12.5
    assert unlike["tpot_s"]["p50"] < slow["tpot_s"]["p50"] / 2


@pytest.mark.quick
def test_a_terminal_shows_how_far_each_run_is() -> None:
    options = ["simulate", "--trace", "poisson:600/20", *SMALL, "--policy", "never", "--json"]
    ended = CliRunner().invoke(app, options, env={"FORCE_COLOR": "1", "COLUMNS": "100"})
    assert "never" in ended.stderr
    assert "100%" in ended.stderr
    assert json.loads(ended.stdout)["num_requests"] == 20


@pytest.mark.quick
def test_why_requests_were_lost_is_said(tmp_path: Path) -> None:
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(DEVICE.replace("200000", "2048"))
    ended = simulate(*SMALL, "--device", str(tiny), trace="poisson:3000/20,sigma=0")
    assert ended.stdout.splitlines()[-1] == (
        "auto lost 20, the first since: 3020 tokens are wanted, the largest worker holds 2048"
    )


@pytest.mark.quick
def test_turns_of_a_conversation_find_what_was_said_in_the_cache() -> None:
    spec = "conversation:turns=4,prefix=1000,append=50,answer=20,think=2s"
    fine = figures(*SMALL, "--count", "60", trace=spec)
    coarse = figures(*SMALL, "--count", "60", "--block-tokens", "512", trace=spec)
    assert fine["cached_share"] > coarse["cached_share"] > 0.3


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "atuo"), "--policy: unknown policy atuo; did you mean auto? (known: auto,"),
        (("--ttft", "soon"), "--ttft: wanted seconds above 0, such as 0.5 or 500ms, not soon"),
        (("--tpot", "0"), "--tpot: wanted seconds above 0"),
        (("--prefill", "0", "--decode", "0"), "--prefill or --decode must be above 0"),
        (("--from-status", "none.json"), "none.json cannot be read: No such file"),
        (("--device", "h1000"), "h1000: no such file, nor one of the known devices"),
        (("--device", "h100"), "--model names the directory of one"),
        (("--model", str(ROOT / "models" / "tiny-python")), "--model needs --device"),
        (("--device", "h100", "--model", "nowhere"), "nowhere/config.json: no such file"),
    ],
)
def test_a_mistake_is_one_line(options: tuple[str, ...], said: str) -> None:
    (line,) = error("--rate", "5", *options).splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.quick
def test_a_mistake_in_a_spec_is_shown_where_it_is() -> None:
    assert error("--rate", "5", trace="gamma:600/20,sgma=2").splitlines() == [
        "error: unknown option of gamma 'sgma'; did you mean sigma? (known: sigma, cv, rate)",
        "  gamma:600/20,sgma=2",
        "               ^",
    ]


@pytest.mark.quick
def test_a_trace_without_requests_and_one_without_a_rate_are_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("prompt,answer\n")
    assert f"{empty} has no requests" in error(trace=str(empty))
    assert "how many requests a second? (--rate" in error()


def test_other_processes_print_the_same_line() -> None:
    """No order of a set of names, which Python draws anew for each process, is in the figures."""
    command = [sys.executable, "-m", "cluster", "simulate", "--trace", "mix:600/20@2s,60/40@1s"]
    command += ["--rate", "20", "--prefill", "2", "--decode", "2", "--tpot", "9ms", "--json"]
    lines = {
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(lines) == 1


def test_it_starts_without_torch_and_ray() -> None:
    """Both take seconds to import, and nothing in virtual time needs them."""
    command = "import sys, cluster.commands, cluster.scenario, cluster.summary_table; "
    command += "print(sorted({'torch', 'ray', 'nixl', 'transformers'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"
