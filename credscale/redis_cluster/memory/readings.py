"""How full the nodes are, and what is dangerous about it: the doctor's rules and the alerts of §1.10. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import by_id
from credscale.redis_cluster.cluster.slots import count

if TYPE_CHECKING:
    from credscale.redis_cluster.cluster.views import Look, NodeView

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Rates:
    """What happened between two looks at a node; keys and connections per second."""

    seconds: float
    evicted: float
    expired: float
    rejected: float


@dataclass(frozen=True)
class NodeMemory:
    """One node's memory and what belongs to it.

    Args:
        address: as it was asked.
        id: its node id.
        role: primary or replica.
        shard: the address of the shard's primary, its own for a primary.
        host: the announced address.
        slots: how many slots its shard owns.
        memory: INFO's section.
        stats: INFO's section.
        persistence: INFO's section.
        replication: INFO's section.
        keyspace: keys of all databases.
        rates: None without a second look.
    """

    address: str
    id: str
    role: str
    shard: str
    host: str
    slots: int
    memory: facts.Memory
    stats: facts.Stats
    persistence: facts.Persistence
    replication: facts.Replication
    keyspace: facts.Keyspace
    rates: Rates | None = None

    @property
    def share(self) -> float | None:
        """How much of maxmemory is used, 0 to 1 and above; None without a limit."""
        used, maximum = self.memory.used, self.memory.maximum
        return used / maximum if used is not None and maximum else None

    @property
    def bytes_per_key(self) -> int | None:
        """Bytes of data and their overhead per key; None without keys or figures."""
        used, startup = self.memory.used, self.memory.startup
        if used is None or startup is None or not self.keyspace.keys:
            return None
        return max(0, used - startup) // self.keyspace.keys

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table; sizes are bytes."""
        rates, share, ttl = self.rates, self.share, self.keyspace.average_ttl
        return {
            "node": self.address, "role": self.role, "shard": self.shard, "used": self.memory.used,
            "max_bytes": self.memory.maximum, "full": f"{share:.0%}" if share is not None else "no limit",
            "policy": self.memory.policy, "peak_bytes": self.memory.peak, "rss_bytes": self.memory.rss,
            "fragmentation": self.memory.fragmentation, "dataset_bytes": self.memory.dataset,
            "overhead_bytes": self.memory.overhead, "keys": self.keyspace.keys, "expiring": self.keyspace.expires,
            "average ttl (s)": ttl // 1000 if ttl else None, "bytes_per_key": self.bytes_per_key,
            "evicted": self.stats.evicted, "evicted/s": round(rates.evicted, 1) if rates is not None else None,
            "expired/s": round(rates.expired, 1) if rates is not None else None, "ops/s": self.stats.operations,
            "clients": self.stats.clients, "lag_bytes": self.lag,
        }  # fmt: skip

    @property
    def lag(self) -> int | None:
        """The largest number of bytes that an attached replica has not acknowledged; None for none attached."""
        offset = self.replication.offset
        attached = self.replication.attached
        return max((offset - each.offset for each in attached), default=None) if offset is not None else None


def node_memory(found: Look, later: Look | None = None) -> tuple[NodeMemory, ...]:
    """Return the memory of every node that answered, primaries first, each followed by its replicas.

    Args:
        found: one look.
        later: a second one, for rates.
    """
    known = by_id(found.topology)
    rows = []
    for node in found.answering:
        me = known.get(node.id) or node.me
        if me is None:
            continue
        owner = known.get(me.primary_id, me) if me.is_replica else me
        after = later.asked(node.id) if later is not None else None
        rows.append(
            NodeMemory(
                address=node.address, id=node.id, role=me.role, shard=found.name(owner.id), host=me.host,
                slots=count(owner.slots), memory=facts.memory(node.info), stats=facts.stats(node.info),
                persistence=facts.persistence(node.info), replication=facts.replication(node.info),
                keyspace=facts.keyspace(node.info), rates=rates(node, after) if after is not None else None,
            )
        )  # fmt: skip
    order = {node.id: (node.slots or ((1 << 20, 0),)) for node in known.values()}
    first = {row.address: order.get(row.id, ()) for row in rows if row.role == "primary"}
    return tuple(sorted(rows, key=lambda row: (first.get(row.shard, ()), row.shard, row.role, row.address)))


def rates(before: NodeView, after: NodeView) -> Rates | None:
    """Return what happened to a node between two looks; None when it restarted or did not answer again."""
    one, two = facts.stats(before.info), facts.stats(after.info)
    seconds = (_clock(after) - _clock(before)) / 1e6
    if after.error or seconds <= 0 or before.server.run_id != after.server.run_id:
        return None

    def rate(first: int | None, second: int | None) -> float:
        return max(0, (second or 0) - (first or 0)) / seconds

    return Rates(
        round(seconds, 3), rate(one.evicted, two.evicted), rate(one.expired, two.expired),
        rate(one.rejected, two.rejected),
    )  # fmt: skip


def _clock(node: NodeView) -> int:
    return int(node.info.get("server_time_usec", 0))


def totals(nodes: tuple[NodeMemory, ...]) -> dict[str, Any]:
    """Return the cluster's totals over primaries as a row; ``headroom`` is None unless all have a limit."""
    owners = [node for node in nodes if node.role == "primary"]
    used = sum(node.memory.used or 0 for node in owners)
    limits = [node.memory.maximum for node in owners]
    total = sum(limit or 0 for limit in limits)
    return {
        "primaries": len(owners), "used": used, "max_bytes": total if limits and all(limits) else None,
        "headroom_bytes": total - used if limits and all(limits) else None,
        "keys": sum(node.keyspace.keys for node in owners), "expiring": sum(node.keyspace.expires for node in owners),
        "ops/s": sum(node.stats.operations or 0 for node in owners),
        "evicted": sum(node.stats.evicted or 0 for node in owners),
    }  # fmt: skip
