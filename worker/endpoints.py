"""Makes a worker's end of its links: of its only rank, or of all of them."""

from __future__ import annotations

import msgspec

from engine.errors import ConfigError
from engine.runner import Runner
from kv_transfer.endpoint import Endpoint
from kv_transfer.joint_endpoint import JointEndpoint
from kv_transfer.rank_endpoint import RankEndpoint
from kv_transfer.rank_messages import StrandFailed
from kv_transfer.region import CacheRegion
from kv_transfer.remote_rank import RemoteRank
from wire.identity import ProcessRef
from wire.layout import KvLayout
from worker.build import NUM_SCRATCH_BLOCKS, make_staging, make_transport
from worker.config import WorkerConfig
from worker.guard import this_process
from worker.ranks.team import Team


def make_endpoint(
    config: WorkerConfig, name: str, runner: Runner, region: CacheRegion, num_blocks: int
) -> Endpoint:
    """`num_blocks` are those in use. Raises ConfigError for a transport that is not to be had."""
    team = team_of(runner)
    if team is not None and config.transport == "memory":
        raise ConfigError(
            f"transport is 'memory', which stays within one process; with tensor_parallel_size "
            f"{team.size} it must be 'nixl' or 'ucx'"
        )
    layout = worker_layout(runner.layout, 1 if team is None else team.size)
    own = make_rank_endpoint(config, name, runner, region, num_blocks, layout, 0)
    return own if team is None else JointEndpoint(own, _others(team))


def team_of(runner: Runner) -> Team | None:
    """The other ranks, where there are some."""
    team = getattr(runner, "team", None)
    return team if isinstance(team, Team) else None


def processes_of(runner: Runner) -> tuple[ProcessRef, ...]:
    """Of all ranks, this one first."""
    own, team = this_process(), team_of(runner)
    others = () if team is None else team.followers
    return (own, *(ProcessRef(own.host, other.pid) for other in others))


def worker_layout(layout: KvLayout, num_ranks: int) -> KvLayout:
    """Of all ranks together, from that of one of them."""
    if num_ranks == 1:
        return layout
    return msgspec.structs.replace(
        layout,
        num_kv_heads=layout.model_kv_heads,
        first_kv_head=0,
        total_kv_heads=None,
        num_ranks=num_ranks,
    )


def _others(team: Team) -> list[RemoteRank]:
    ranks = {follower.rank: RemoteRank(follower) for follower in team.followers}

    def hear(rank: int, message: StrandFailed) -> None:
        ranks[rank].heard(message)

    team.on_notice(StrandFailed, hear)
    return list(ranks.values())


def make_rank_endpoint(
    config: WorkerConfig,
    name: str,
    runner: Runner,
    region: CacheRegion,
    num_blocks: int,
    layout: KvLayout,
    rank: int,
) -> RankEndpoint:
    """The same for one rank of a worker of that layout; `name` is the rank's own."""
    staging = make_staging(config, region)
    transport = make_transport(config, name)
    transport.register(region, num_blocks + NUM_SCRATCH_BLOCKS, staging)
    return RankEndpoint(
        layout,
        rank,
        num_blocks,
        region,
        staging,
        runner.digest,
        transport,
        max_bytes_in_flight=config.max_bytes_in_flight,
    )
