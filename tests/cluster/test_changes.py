"""What a changed configuration changes, step by step, in clusters of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.bundled import BUNDLED_MODEL
from cluster.changes import SlotState, difference, needs_replacing, next_step
from cluster.config import ClusterConfig, load_config
from cluster.errors import BadConfig
from cluster.watched_file import WatchedFile

pytestmark = pytest.mark.quick

ELSEWHERE = {"num_routers": 0, "worker.routers": ["routers.example:8002"]}


def config(**settings: Any) -> ClusterConfig:
    """Keys with two underlines for each dot."""
    return load_config(None, {key.replace("__", "."): value for key, value in settings.items()})


def test_more_and_fewer_workers_change_those_alone() -> None:
    found = difference(config(decode__replicas=1), config(decode__replicas=3))
    assert (found.added, found.drained, found.replaced) == (("decode-1", "decode-2"), (), ())
    assert str(found) == "adds decode-1, decode-2"
    back = difference(config(decode__replicas=3), config(decode__replicas=1))
    assert (back.added, back.drained, back.replaced) == ((), ("decode-1", "decode-2"), ())
    assert found.refused == back.refused == ()


def test_other_settings_of_one_pool_replace_its_workers_and_no_others() -> None:
    found = difference(config(), config(decode__worker__max_sequences=8))
    assert (found.added, found.drained, found.replaced) == ((), (), ("decode-0",))
    both = difference(config(), config(worker__chunk_tokens=64))
    assert sorted(both.replaced) == ["decode-0", "prefill-0"]


def test_how_workers_share_nodes_and_how_long_starts_may_take_replaces_nobody() -> None:
    found = difference(
        config(), config(decode__placement="spread", start_timeout_s=5, ray__place_timeout_s=9)
    )
    assert str(found) == "concerns no worker"
    assert found.refused == ()


def test_pools_come_and_go() -> None:
    pools = {"pools": {"both": {"role": "decode", "replicas": 2}}}
    found = difference(config(), config(**pools))
    assert found.added == ("both-0", "both-1")
    assert sorted(found.drained) == ["decode-0", "prefill-0"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "other"}, "name"),
        ({"num_routers": 2}, "num_routers"),
        ({"router.http_port": 8000}, "router.http_port"),
        ({"ray.address": "elsewhere:1"}, "ray.address"),
        ({"model_name": "other"}, "models.other"),
    ],
)
def test_what_takes_a_restart_is_refused_with_its_key(change: dict[str, Any], key: str) -> None:
    found = difference(config(), config(**change))
    assert any(reason.startswith(f"{key}: ") for reason in found.refused), found.refused
    assert all(reason.endswith("restart the cluster to change it") for reason in found.refused)


def test_weights_are_exchanged_under_routers_that_go_on_unless_texts_become_other_tokens(
    tmp_path: Path,
) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    for directory in (one, two):
        directory.symlink_to(BUNDLED_MODEL)
    old, new = (config(model=str(it), model_name="m") for it in (one, two))
    found = difference(old, new)
    assert found.refused == ()
    assert sorted(found.replaced) == ["decode-0", "prefill-0"]
    asked: list[tuple[str, str]] = []

    def another(one: str, other: str) -> bool:
        asked.append((one, other))
        return False

    (reason,) = difference(old, new, another).refused
    assert asked == [(str(one), str(two))]
    assert f"tokenizer of {two} is not that of {one}" in reason


def test_where_routers_run_elsewhere_their_settings_are_not_asked_for() -> None:
    old = config(**ELSEWHERE)
    new = config(**ELSEWHERE, model_name="other", **{"router.http_port": 8000})
    found = difference(old, new)
    assert found.refused == ()
    assert sorted(found.replaced) == ["decode-0", "prefill-0"], "they serve under another name"


POOLS = st.fixed_dictionaries(
    {"decode.replicas": st.integers(0, 3), "prefill.replicas": st.integers(1, 3)},
    optional={"decode.worker.max_sequences": st.integers(1, 2), "worker.chunk_tokens": st.just(64)},
)


@given(st.lists(POOLS, min_size=1, max_size=4), st.data())
def test_every_series_of_changes_ends_with_what_was_wanted_last(
    series: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Workers start and leave after any number of steps; at most one place is empty for a
    replacement, and no place ever has two workers."""
    runs = {f"{it.name}-{n}": it for it, n in load_config(None, series[0]).workers()}
    serves, leaving = set(runs), set[str]()
    for number, settings in enumerate(series):
        wanted = {f"{it.name}-{n}": it for it, n in load_config(None, settings).workers()}
        last = number + 1 == len(series)
        for _ in range(60 if last else data.draw(st.integers(0, 4))):
            held = [
                SlotState(
                    name=name,
                    is_current=name in wanted and not needs_replacing(pool, wanted[name]),
                    serves=name in serves,
                )
                for name, pool in runs.items()
            ]
            step = next_step([*wanted], held, leaving)
            replaced = [it for it in step.drain if it in wanted and it in serves]
            assert len(replaced) <= 1
            if replaced:
                assert serves == set(runs) == set(wanted)
            assert not {*step.start} & {*runs, *leaving}
            for name in step.drain:
                runs.pop(name)
                serves.discard(name)
                leaving.add(name)
            runs.update({name: wanted[name] for name in step.start})
            serves |= {name for name in runs if last or data.draw(st.booleans())}
            leaving = {name for name in leaving if not last and data.draw(st.booleans())}
    assert runs.keys() == wanted.keys()
    assert not any(needs_replacing(runs[name], wanted[name]) for name in wanted)
    assert not leaving


def test_a_file_counts_once_it_has_been_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("decode: {replicas: 1}")
    file = WatchedFile(str(path), {"prefill.replicas": 2})
    assert file.changed() is None
    path.write_text("decode: {repl")
    assert file.changed() is None, "it may still be being written"
    path.write_text("decode: {replicas: 3}")
    assert file.changed() is None
    changed = file.changed()
    assert changed is not None
    assert {pool.name: pool.replicas for pool in changed.pools} == {"prefill": 2, "decode": 3}
    assert file.changed() is None


@pytest.mark.parametrize(
    ("content", "why"), [("", "is empty"), ("decode: {replica: 3}", "replica"), ("{", "not YAML")]
)
def test_a_file_that_cannot_be_used_is_told_once(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("decode: {replicas: 1}")
    file = WatchedFile(str(path), {})
    path.write_text(content)
    assert file.changed() is None
    with pytest.raises(BadConfig, match=why):
        file.changed()
    assert file.changed() is None
    path.unlink()
    assert file.changed() is None, "another one takes its place"
