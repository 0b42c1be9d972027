"""One look at everything: shards, chunks, balancer, replica sets, Redis nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.mongo.steps import cluster_status as mongo_status
from credscale.redis_cluster.steps import redis_status

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(reads_only=True, keep_going=True)
def cluster_status(ctx: Context, *, verbose: bool = False) -> None:
    """Show the state of the clusters on one screen, and exit 1 with the reasons when one is not healthy.

    MongoDB: routers, config servers, shards and their members, disks, balancer and window, sharded collections, moves
    of the last day with the reasons of those that failed. Redis Cluster: what every node says, and where they disagree.
    Quick on a big cluster: what is asked does not depend on the number of chunks. One that is down does not hide the
    other. Reads only; `--watch` repeats it.

    Args:
        verbose: show everything, also what is in order
    """
    # ## MongoDB
    if ctx.environment.mongo is not None:
        mongo_status(ctx, verbose=verbose)
    # ## Redis Cluster
    if ctx.environment.redis is not None:
        redis_status(ctx)
