"""What a follower does for rank 0 beside computing steps: its blocks leave, and others arrive."""

from __future__ import annotations

from kv_transfer.rank_service import RankService
from wire.identity import draw_incarnation
from worker.build import NUM_SCRATCH_BLOCKS
from worker.endpoints import make_rank_endpoint, worker_layout
from worker.ranks.post import Post, Services


def make_services(post: Post) -> Services:
    """Called once, when the cache is there. Raises ConfigError for the transport."""
    endpoint = make_rank_endpoint(
        post.config,
        f"{post.config.worker_id or 'worker'}/{post.rank}#{draw_incarnation():x}",
        post.runner,
        post.region,
        post.num_blocks - NUM_SCRATCH_BLOCKS,
        worker_layout(post.runner.layout, post.size),
        post.rank,
    )
    return RankService(endpoint, post.notify, post.crash)
