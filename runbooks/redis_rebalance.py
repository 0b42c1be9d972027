"""Slots moved until every primary of a Redis Cluster owns its share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core.runbook import runbook
from credscale.redis_cluster.resharding.steps import rebalance_slots, repair_open_slots
from credscale.redis_cluster.status import redis_status

if TYPE_CHECKING:
    from credscale.core.context import Context


@runbook(target="redis")
def redis_rebalance(
    ctx: Context,
    *,
    weights: str = "",
    use_empty: bool = False,
    threshold: float = 2.0,
    max_key_mb: int = 64,
    prefer_owner: bool = False,
) -> None:
    """Move slots with their keys until every primary owns its share, while clients go on.

    A killed run is finished by the next one: slots that are open are moved on or closed first, and no key is lost.

    Args:
        weights: such as "redis1:7000=2 redis2:7000=0": shares other than 1; 0 takes all slots away; "" for none
        use_empty: also give slots to primaries that own none
        threshold: percent by which some primary must be off its share, else nothing moves
        max_key_mb: the largest key that may hold up its node while it moves; a key moves whole
        prefer_owner: of a key with two values, after a failover in mid-move, keep the owner's
    """
    # ## What an earlier run left
    repair_open_slots(ctx, max_key_mb=max_key_mb, prefer_owner=prefer_owner)
    # ## Slots
    #
    # Slot by slot: opened on both ends, emptied by MIGRATE in small portions, handed over to the target first.
    rebalance_slots(ctx, weights=weights, use_empty=use_empty, threshold=threshold, max_key_mb=max_key_mb)
    # ## Proof
    redis_status(ctx)
