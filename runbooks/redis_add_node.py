"""A node more in a Redis Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.resharding.joining import add_node
from credscale.redis_cluster.resharding.steps import repair_open_slots

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(target="redis")
def redis_add_node(ctx: Context, *, node: str, replica_of: str = "", timeout: float = 60.0) -> None:
    """Let an empty, running node join the cluster, as a primary without slots or as a replica.

    Nothing is ever emptied: a node with keys, or of another cluster, is refused. A new primary gets slots by
    `redis-rebalance --use-empty`.

    Args:
        node: host:port of the node
        replica_of: host:port of the primary that it shall replicate, or "auto" for the one with the fewest replicas,
            best on another host; "" to stay a primary
        timeout: seconds to wait for it to be known everywhere, and for its first copy of the data
    """
    # ## What an earlier run left
    repair_open_slots(ctx)
    # ## The node
    #
    # It greets all the others, they all have to know it, and a replica has to be in sync.
    add_node(ctx, node=node, replica_of=replica_of, timeout=timeout)
