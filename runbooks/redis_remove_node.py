"""A node less in a Redis Cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.resharding.leaving import remove_node
from credscale.redis_cluster.resharding.steps import repair_open_slots

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(target="redis")
def redis_remove_node(
    ctx: Context, *, node: str, accept_risk: bool = False, max_key_mb: int = 64, timeout: float = 60.0
) -> None:
    """Take a node out of the cluster; a primary gives its slots, with their keys, to the others first.

    Then its replicas follow other primaries, all the others forget it, and it forgets them. Its process goes on to run,
    as an empty node.

    Args:
        node: host:port of the node
        accept_risk: remove it though fewer than 3 primaries stay, or a shard without a replica, or one host with a
            majority of the primaries
        max_key_mb: the largest key that may hold up its node while it moves
        timeout: seconds to wait for all nodes to agree
    """
    # ## What an earlier run left
    repair_open_slots(ctx, max_key_mb=max_key_mb)
    # ## The node
    #
    # Its keys go first, and it is forgotten only when it owns nothing.
    remove_node(ctx, node=node, accept_risk=accept_risk, max_key_mb=max_key_mb, timeout=timeout)
