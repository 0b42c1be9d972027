"""Break a Redis node on purpose, measure what clients see, put it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.drill.steps import break_primary, drill_allowed, restore_nodes

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(target="redis", afterwards=(restore_nodes,))
def redis_drill(ctx: Context, *, fault: str = "kill", primary: str = "", hold: float = 0.0) -> None:
    """Break a Redis primary on purpose, and measure what clients see until all is well again.

    Only where the environment allows it: a lab, staging, or policy.allow_drills. Two clients per shard write all the
    time; reported are the takeover, the longest time without an acknowledged write, and acknowledged writes that are
    gone. The node is put back whatever happens, at the latest by the next run.

    Args:
        fault: kill, freeze, freeze-briefly, partition or kill-replica
        primary: host:port of the shard's primary; "" for the first one
        hold: seconds for which the node stays broken at least; 0 for as long as the fault needs
    """
    # ## Is it allowed here?
    drill_allowed(ctx)
    # ## What an earlier drill has left
    #
    # A run that was killed in the middle may have left a node frozen, dead or cut off.
    restore_nodes(ctx)
    # ## The drill
    #
    # A healthy cluster, a replica for each shard and a node that can be put back are needed before anything is broken.
    break_primary(ctx, fault=fault, primary=primary, hold=hold)
