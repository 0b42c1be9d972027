"""Replicas take over from their primaries, without a lost write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.failover.steps import fail_over

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(target="redis")
def redis_failover(
    ctx: Context,
    *,
    primary: str = "",
    host: str = "",
    rolling: bool = False,
    back: bool = False,
    rate: int = 200,
    accept_majority: bool = False,
) -> None:
    """Let replicas take over from their primaries without losing a write, and measure what clients see.

    For maintenance: of one node, of a host, or of all of them in turn. Exactly one of `primary`, `host` and `rolling`
    is given. Nothing is ever forced: `force-failover` is a step of its own, for when a primary is gone.

    Args:
        primary: the primary that hands over, host:port
        host: every primary on this host hands over to a replica on another one
        rolling: every primary hands over, one after the other
        back: each shard is failed back to its first primary as well; with a `primary` that is a replica now, only that
        rate: writes per second of each probe client; there are two per shard
        accept_majority: one host may end with so many primaries that its loss would leave no majority
    """
    # ## Hand over
    #
    # Each replica is checked before it is asked, and each failover confirmed by every node before the next begins.
    # Probe clients write to every shard meanwhile, and every write that was acknowledged is looked for afterwards.
    fail_over(ctx, primary=primary, host=host, rolling=rolling, back=back, rate=rate, accept_majority=accept_majority)
