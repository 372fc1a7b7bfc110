"""What a cluster does about processes that die, with a launcher that starts none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cluster.backoff import FIRST_S, HEALTHY_S, LONGEST_S, Backoff
from cluster.config import ClusterConfig, load_config
from cluster.errors import NoStatus, StartFailed
from cluster.launcher import WorkerStatus
from cluster.pools import PoolConfig
from cluster.running import RunningCluster
from router.config import RouterAddresses, RouterConfig
from router.roles.attainment import Attainment
from router.roles.model_status import ModelStatus, QueueView, StatusBody
from router.roles.scaling import WantedWorkers
from wire.identity import Role
from worker.config import WorkerConfig

pytestmark = pytest.mark.quick


@dataclass
class APretender:
    """A process that is not there; it has died once `error_text` says why."""

    name: str
    config: RouterConfig | WorkerConfig
    at: RouterAddresses
    on_wait: Callable[[], None]
    error_text: str | None = None
    waits_for: str | None = None
    stopped: bool = False
    drained: bool = False
    busy: bool = False
    """It drains for as long as this is set."""
    serves: bool = True
    wanted: dict[Role, int] = field(default_factory=dict)
    why_no_status: str | None = None

    @property
    def fleet(self) -> str:
        return self.at.fleet

    @property
    def addresses(self) -> RouterAddresses:
        self.on_wait()
        return self.at

    def error(self) -> str | None:
        return self.error_text

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            address="127.0.0.1:1" if self.serves else None,
            process_id=1,
            error=self.error_text,
            waits_for=self.waits_for,
        )

    def drain(self, timeout_s: float) -> None:
        self.drained = True

    def model_status(self) -> StatusBody:
        if self.why_no_status is not None:
            raise NoStatus(self.why_no_status)
        wanted = WantedWorkers(counts=self.wanted, why="much comes")
        queues = QueueView(num_in_router=0, num_prompts=0, prompt_tokens=0, prompt_s=0.0)
        model = ModelStatus(
            name="tiny-python", attainment=Attainment(window_s=1), queues=queues, wanted=wanted
        )
        return StatusBody(router_id=self.name, version="0", models=(model,))

    def has_stopped(self) -> bool:
        return self.drained and not self.busy

    def wait_stopped(self, timeout_s: float) -> None:
        self.stopped = True


@dataclass
class APretendingLauncher:
    """Ports that were to be free are numbered from 5000; starts fail while `broken` says why."""

    started: list[APretender] = field(default_factory=list)
    broken: str | None = None
    last_port: int = 4999
    adopted: list[ClusterConfig] = field(default_factory=list)
    started_before_waits: list[list[str]] = field(default_factory=list)
    """Whom it had started, each time that somebody waited for a router."""

    def start_router(self, name: str, config: RouterConfig) -> APretender:
        addresses = RouterAddresses(
            router_id=name,
            models=("tiny",),
            grpc=self._at(config.grpc_port),
            http=self._at(config.http_port),
            fleet=self._at(config.fleet_port),
            admin=None if config.admin_port is None else self._at(config.admin_port),
        )
        return self._start(APretender(name, config, addresses, self._waited_for))

    def start_worker(self, pool: PoolConfig, name: str, config: WorkerConfig) -> APretender:
        nowhere = RouterAddresses(router_id="", models=(), grpc="", http="", fleet="")
        return self._start(APretender(name, config, nowhere, self._waited_for))

    def adopt(self, config: ClusterConfig) -> None:
        self.adopted.append(config)

    def close(self) -> None:
        pass

    def _waited_for(self) -> None:
        self.started_before_waits.append([process.name for process in self.started])

    def _at(self, port: int) -> str:
        self.last_port += port == 0
        return f"127.0.0.1:{port or self.last_port}"

    def _start(self, process: APretender) -> APretender:
        if self.broken is not None:
            raise StartFailed(self.broken)
        self.started.append(process)
        return process


class ACluster:
    """One that runs, its launcher, its clock, and what it told."""

    def __init__(self, num_routers: int = 1, **settings: object) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.launcher = APretendingLauncher()
        config = load_config(None, {"num_routers": num_routers, **settings})
        self.cluster = RunningCluster(config, self.launcher, self.told.append, lambda: self.now)
        self.cluster.start()

    def named(self, name: str) -> list[APretender]:
        return [process for process in self.launcher.started if process.name == name]


def test_a_dead_worker_is_replaced_at_once_under_another_id() -> None:
    run = ACluster()
    run.named("decode-0")[0].error_text = "killed by signal 9"
    run.cluster.watch()
    first, second = run.named("decode-0")
    assert first.stopped
    assert isinstance(second.config, WorkerConfig)
    assert second.config.worker_id == "decode-0.2"
    assert "decode-0   died: killed by signal 9; another starts now" in run.told


def test_workers_load_while_the_router_does() -> None:
    first_wait = ACluster().launcher.started_before_waits[0]
    assert first_wait == ["router-0", "prefill-0", "decode-0"]


def test_every_router_has_an_admin_port_of_its_own_and_keeps_it() -> None:
    run = ACluster(num_routers=2, **{"router.admin_port": 9000})
    first, second = (run.named(f"router-{n}")[0].addresses.admin for n in range(2))
    assert (first, second) == ("127.0.0.1:9000", "127.0.0.1:9001")
    assert run.cluster.warnings() == []
    assert any(f"admin {second}" in line for line in run.told)
    run.named("router-1")[0].error_text = "gone"
    run.cluster.watch()
    assert run.named("router-1")[1].addresses.admin == second


def test_routers_that_share_a_door_need_admin_ports_for_their_metrics() -> None:
    (warning,) = ACluster(num_routers=2).cluster.warnings()
    assert "set router.admin_port" in warning
    assert ACluster().cluster.warnings() == []


def test_a_dead_router_comes_back_at_the_ports_that_it_had() -> None:
    run = ACluster()
    addresses = run.cluster.addresses
    run.named("router-0")[0].error_text = "gone"
    run.cluster.watch()
    assert len(run.named("router-0")) == 2
    assert run.cluster.addresses == addresses


def test_a_worker_that_dies_at_every_start_is_started_less_and_less_often() -> None:
    run = ACluster()
    starts = []
    for second in range(200):
        run.now = float(second)
        num_started = len(run.named("decode-0"))
        run.named("decode-0")[-1].error_text = "out of memory"
        run.cluster.watch()
        starts += [second] * (len(run.named("decode-0")) - num_started)
    assert starts[:6] == [0, 2, 5, 10, 19, 36]
    assert len(starts) < 10


def test_where_no_room_is_left_for_a_replacement_the_cluster_goes_on_and_tries_again() -> None:
    run = ACluster()
    run.named("decode-0")[0].error_text = "its node died"
    run.launcher.broken = "the Ray cluster had no room"
    run.cluster.watch()
    assert any("the Ray cluster had no room; another starts in" in line for line in run.told)
    run.launcher.broken = None
    run.now = 2 * FIRST_S
    run.cluster.watch()
    assert len(run.named("decode-0")) == 2


def test_both_pools_grow_evenly_and_who_waits_for_room_says_so_once() -> None:
    run = ACluster(**{"prefill.replicas": 2, "decode.replicas": 3})
    workers = [it.name for it in run.launcher.started if isinstance(it.config, WorkerConfig)]
    assert workers == ["prefill-0", "decode-0", "decode-1", "prefill-1", "decode-2"]
    run.named("decode-0")[0].waits_for = "wants {'GPU': 1}"
    run.cluster.watch()
    run.cluster.watch()
    assert run.told.count("decode-0   waits for resources: it wants {'GPU': 1}") == 1


def test_several_routers_share_the_doors_and_every_worker_announces_itself_to_each() -> None:
    run = ACluster(num_routers=3)
    configs = [run.named(f"router-{n}")[0].config for n in range(3)]
    addresses = [run.named(f"router-{n}")[0].addresses for n in range(3)]
    assert all(isinstance(it, RouterConfig) and it.share_ports for it in configs)
    assert [getattr(it, "join_ports", None) for it in configs] == [False, True, True]
    assert len({it.http for it in addresses}) == len({it.grpc for it in addresses}) == 1
    worker = run.named("prefill-0")[0].config
    assert isinstance(worker, WorkerConfig)
    assert worker.routers == tuple(it.fleet for it in addresses)
    assert len(set(worker.routers)) == 3


def test_stopping_ends_all_but_those_that_are_dead_already() -> None:
    run = ACluster()
    run.named("decode-0")[0].error_text = "gone"
    run.launcher.broken = "no room"
    run.cluster.watch()
    run.cluster.stop()
    assert all(process.stopped for process in run.launcher.started)


def test_who_lived_long_is_not_made_to_wait() -> None:
    backoff = Backoff(0.0)
    assert backoff.restart_at(1.0) == 1.0
    assert backoff.restart_at(2.0) == 2.0 + FIRST_S
    assert backoff.restart_at(3.0 + HEALTHY_S) == 3.0 + HEALTHY_S


def test_workers_announce_themselves_to_routers_that_run_elsewhere() -> None:
    launcher = APretendingLauncher()
    elsewhere = {"num_routers": 0, "worker": {"routers": ["routers.example:8002"]}}
    RunningCluster(load_config(None, elsewhere), launcher, lambda line: None).start()
    configs = [process.config for process in launcher.started]
    assert [type(config) for config in configs] == [WorkerConfig, WorkerConfig]
    assert all(config.routers == ("routers.example:8002",) for config in configs)


def test_no_wait_is_longer_than_the_longest() -> None:
    backoff, now = Backoff(0.0), 0.0
    for _ in range(20):
        again = backoff.restart_at(now)
        assert again - now <= LONGEST_S
        now = again


def test_a_number_of_routers_that_makes_no_sense_is_named() -> None:
    with pytest.raises(Exception, match="num_routers is 0, must be 1 to 64"):
        load_config(None, {"num_routers": 0})


def changed(run: ACluster, **settings: object) -> bool:
    return run.cluster.change(load_config(None, settings))


def test_a_worker_more_starts_and_one_that_is_too_many_ends_when_it_has_drained() -> None:
    run = ACluster()
    assert changed(run, **{"decode.replicas": 2})
    run.cluster.watch()
    (added,) = run.named("decode-1")
    assert not run.named("decode-0")[0].drained
    assert "the configuration has changed: it adds decode-1" in run.told
    added.busy = True
    assert changed(run)
    run.cluster.watch()
    run.cluster.watch()
    assert added.drained
    assert not added.stopped, "a request runs there"
    added.busy = False
    run.cluster.watch()
    assert added.stopped
    assert not run.cluster.changing


def test_a_worker_that_does_not_end_in_its_time_is_ended() -> None:
    run = ACluster()
    run.named("decode-0")[0].busy = True
    changed(run, **{"decode.replicas": 0})
    run.cluster.watch()
    run.now = 29.0
    run.cluster.watch()
    assert not run.named("decode-0")[0].stopped
    run.now = 36.0
    run.cluster.watch()
    assert run.named("decode-0")[0].stopped


def test_workers_with_other_settings_are_replaced_one_after_the_other_under_new_ids() -> None:
    run = ACluster(**{"decode.replicas": 2})
    changed(run, **{"decode.replicas": 2, "decode.worker.max_sequences": 8})
    first, second = run.named("decode-0")[0], run.named("decode-1")[0]
    run.cluster.watch()
    assert (first.drained, second.drained) == (True, False)
    run.cluster.watch()
    new = run.named("decode-0")[1]
    assert isinstance(new.config, WorkerConfig)
    assert (new.config.worker_id, new.config.max_sequences) == ("decode-0.2", 8)
    new.serves = False
    run.cluster._workers[-1].reported_ready = False
    run.cluster.watch()
    assert not second.drained, "the first of the new ones still loads"
    new.serves = True
    run.cluster.watch()
    run.cluster.watch()
    assert second.drained
    while run.cluster.changing:
        run.cluster.watch()
    assert len(run.named("decode-1")) == 2
    assert len(run.named("prefill-0")) == len(run.named("router-0")) == 1


def test_a_change_that_takes_a_restart_changes_nothing() -> None:
    run = ACluster()
    assert not changed(run, **{"decode.replicas": 2, "router.http_port": 9999})
    run.cluster.watch()
    assert run.named("decode-1") == []
    assert run.launcher.adopted == []
    assert any("the change is refused: router.http_port" in line for line in run.told)


def test_a_worker_without_room_is_tried_again_and_the_others_go_on() -> None:
    run = ACluster()
    changed(run, **{"decode.replicas": 2})
    run.launcher.broken = "no room"
    run.cluster.watch()
    assert any("decode-1   died: no room" in line for line in run.told)
    run.launcher.broken = None
    run.now = 60.0
    run.cluster.watch()
    assert len(run.named("decode-1")) == 1
    assert run.launcher.adopted == [run.cluster.config]


def test_stopping_also_ends_those_that_are_leaving() -> None:
    run = ACluster()
    run.named("decode-0")[0].busy = True
    changed(run, **{"decode.replicas": 0})
    run.cluster.watch()
    run.cluster.stop()
    assert run.named("decode-0")[0].stopped


def scaled_cluster(num_routers: int = 1) -> ACluster:
    return ACluster(
        num_routers, **{"decode.max_workers": 4, "prefill.max_workers": 2, "router.admin_port": 0}
    )


def names_that_run(run: ACluster) -> set[str]:
    started = {process.name for process in run.launcher.started if not process.drained}
    return {name for name in started if not name.startswith("router")}


def watch_for(run: ACluster, seconds: int) -> None:
    for _ in range(seconds):
        run.now += 1
        run.cluster.watch()


def test_workers_come_and_go_as_routers_want_them_within_bounds() -> None:
    run = scaled_cluster()
    (router,) = run.named("router-0")
    router.wanted = {Role.DECODE: 9, Role.PREFILL: 1}
    watch_for(run, 6)
    assert names_that_run(run) == {"prefill-0", "decode-0", "decode-1", "decode-2", "decode-3"}
    assert "scales decode from 1 to 4 workers: much comes" in run.told
    router.wanted = {Role.DECODE: 2, Role.PREFILL: 0}
    watch_for(run, 6)
    assert names_that_run(run) == {"prefill-0", "decode-0", "decode-1"}
    assert run.named("decode-3")[0].drained


def test_of_several_routers_the_one_that_wants_most_is_followed() -> None:
    run = scaled_cluster(num_routers=2)
    for number, count in enumerate((1, 3)):
        run.named(f"router-{number}")[0].wanted = {Role.DECODE: count}
    watch_for(run, 6)
    assert "decode-2" in names_that_run(run)


def test_a_router_that_does_not_tell_is_told_of_once_and_changes_nothing() -> None:
    run = scaled_cluster()
    run.named("router-0")[0].why_no_status = "it wants an API key"
    watch_for(run, 30)
    assert names_that_run(run) == {"prefill-0", "decode-0"}
    assert run.told.count("pools are not scaled: it wants an API key") == 1


def test_a_changed_file_keeps_the_number_that_is_wanted() -> None:
    run = scaled_cluster()
    run.named("router-0")[0].wanted = {Role.DECODE: 3}
    watch_for(run, 6)
    settings = {"decode.max_workers": 2, "prefill.max_workers": 2, "router.admin_port": 0}
    assert run.cluster.change(load_config(None, settings))
    watch_for(run, 2)
    assert names_that_run(run) == {"prefill-0", "decode-0", "decode-1"}
