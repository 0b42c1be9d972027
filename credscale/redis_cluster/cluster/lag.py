"""How far a replica is behind its primary. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster import facts

if TYPE_CHECKING:
    from credscale.redis_cluster.cluster.views import Look, NodeView


def lag_bytes(found: Look, replica: NodeView) -> int | None:
    """Return the bytes of the replication stream that a replica has not processed yet; None where one of two is silent.

    Both were asked within milliseconds and not at the same moment, so under load some bytes of it are only that.

    Args:
        found: the look that the replica's answer belongs to.
        replica: whose; a primary has none.
    """
    primary = found.asked(replica.me.primary_id) if replica.me is not None and replica.me.primary_id else None
    if primary is None or primary.error:
        return None
    return bytes_between(primary, replica)


def bytes_between(primary: NodeView, replica: NodeView) -> int | None:
    """Return the bytes that one node has written and another has not processed yet; None where one does not tell."""
    written, processed = facts.replication(primary.info).offset, facts.replication(replica.info).replica_offset
    return max(0, written - processed) if written is not None and processed is not None else None
