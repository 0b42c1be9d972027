"""Which primaries hand over to whom, in which order. Pure: facts in, moves out.

A shard is named by its first primary: the node that was its primary when the work began. Where that node is now, and
whether its shard has already been failed over once (``away``), tells what is left, so a run that was killed anywhere is
finished by planning again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.addresses import host_of
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import by_id, primaries, replicas_of
from credscale.redis_cluster.failover.prechecks import after, lasting, majority_on_a_host, why_not

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look


@dataclass(frozen=True)
class Move:
    """One failover: ids of who hands over and who takes over; ``back`` when that restores the first primary."""

    primary: str
    replica: str
    back: bool = False


def plan_failovers(
    topology: Sequence[Node],
    first: Sequence[str],
    heirs: Mapping[str, str],
    *,
    back: bool = False,
    away: Collection[str] = (),
) -> tuple[Move, ...]:
    """Return what is left to do, shard by shard, one after the other.

    Invariant: whatever number of moves is done before a kill, planning again from the topology and ``away`` of then
    gives the rest, provided that ``away`` gets a shard's first primary after its move away and before its move back.
    A move's target is always a replica of the move's primary when its turn comes, no shard is moved twice the same way,
    and at the end every first primary is a replica, or with ``back`` a primary again.

    Args:
        topology: at present.
        first: ids of the shards' first primaries, in the order of work; those no longer in the cluster are left out.
        heirs: ids of the replicas to which a primary hands over, by the primary's id; without one there is no move.
        back: whether each shard is failed back to its first primary.
        away: first primaries whose shards have been failed over and seen so.
    """
    known = by_id(topology)
    moves: list[Move] = []
    for node_id in first:
        node = known.get(node_id)
        if node is None or (node.is_primary and (node_id in away or not node.slots)):
            continue
        if node.is_replica:
            if back:
                moves.append(Move(node.primary_id, node_id, back=True))
            continue
        heir = heirs.get(node_id)
        if heir is None:
            continue
        moves.append(Move(node_id, heir))
        if back:
            moves.append(Move(heir, node_id, back=True))
    return tuple(moves)


def choose_heirs(found: Look, first: Sequence[str], *, avoid_host: str = "") -> dict[str, str]:
    """Return the best replica of each primary with slots, by the primary's id, each as if those before had taken over.

    Args:
        found: a look.
        first: the primaries, in the order of work; nodes that are none at present are left out.
        avoid_host: as for ``best_heir``.
    """
    topology, heirs = found.topology, dict[str, str]()
    for node_id in first:
        node = by_id(topology).get(node_id)
        heir = None
        if node is not None and node.is_primary and node.slots:
            heir = best_heir(found, node_id, topology=topology, avoid_host=avoid_host)
        if heir is not None:
            heirs[node_id] = heir
            topology = after(topology, ((node_id, heir),))
    return heirs


def best_heir(found: Look, primary_id: str, *, topology: Sequence[Node] = (), avoid_host: str = "") -> str | None:
    """Return the replica that should take over; None when the primary has none that may.

    First come those against which nothing speaks, then those that leave no host with a majority of primaries, then
    those on another host than the primary, then those with the least lag.

    Args:
        found: a look.
        primary_id: who hands over.
        topology: at the time of the failover; empty for the present one.
        avoid_host: a host on which nobody may take over; empty for none.
    """
    topology = topology or found.topology
    host = by_id(topology)[primary_id].host

    def cost(node: Node) -> tuple[bool, int, bool, bool, int, str, int]:
        seen = found.asked(node.id)
        offset = facts.replication(seen.info).replica_offset if seen is not None else None
        reasons = why_not(found, node.id, primary_id=primary_id, accept_majority=True)
        majority = bool(majority_on_a_host(topology, ((primary_id, node.id),)))
        return (bool(lasting(reasons)), len(reasons), majority, node.host == host, -(offset or 0), node.host, node.port)

    candidates = [node for node in replicas_of(topology, primary_id) if not avoid_host or node.host != avoid_host]
    return min(candidates, key=cost).id if candidates else None


def primaries_on(found: Look, host: str) -> tuple[str, ...]:
    """Return the primaries with slots on a host, in the order of their slots.

    Args:
        found: a look.
        host: as nodes announce it, or as the inventory has it.
    """
    return tuple(node.id for node in primaries(found.topology) if host in hosts_of(found, node))


def hosts_of(found: Look, node: Node) -> set[str]:
    """Return every name by which people may know a node's host."""
    inventory = host_of(found.name(node.id))
    return {name for name in (node.host, node.hostname, inventory) if name}


def node_at(found: Look, address: str) -> Node | None:
    """Return the node at an address, as the inventory has it or as it announces itself; None for nobody."""
    for node in found.topology:
        named = {f"{host}:{node.port}" for host in (node.host, node.hostname) if host}
        if address in named | {node.address, found.name(node.id)}:
            return node
    return None


def pairs(moves: Sequence[Move]) -> tuple[tuple[str, str], ...]:
    """Return who hands over to whom, in order."""
    return tuple((move.primary, move.replica) for move in moves)
