"""One look at everything: shards, chunks, balancer, replica sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.mongo.steps import cluster_status as mongo_status

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(reads_only=True)
def cluster_status(ctx: Context, *, verbose: bool = False) -> None:
    """Show the state of the cluster on one screen, and exit 1 with the reasons when it is not healthy.

    Routers, config servers, shards and their members, disks, balancer and window, sharded collections, moves of the
    last day with the reasons of those that failed. Quick on a big cluster: what is asked does not depend on the number
    of chunks. Reads only; `--watch` repeats it.

    Args:
        verbose: show everything, also what is in order
    """
    mongo_status(ctx, verbose=verbose)
