"""What the loss of a host would do: pure questions about a topology (§1.1, §1.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.slots import Ranges, count, union

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from credscale.redis_cluster.cluster.nodes import Node


@dataclass(frozen=True)
class HostLoss:
    """What happens when a host disappears with all its nodes.

    Args:
        host: its address.
        nodes: how many nodes are on it.
        primaries: ids of those that own slots.
        quorum: whether the primaries that stay are a majority, without which no replica is promoted.
        promoted: by the id of a lost primary, the ids of the replicas that could take over.
        orphaned: ids of lost primaries that nobody can take over from.
        uncovered: the slots that nobody would serve.
    """

    host: str
    nodes: int
    primaries: tuple[str, ...]
    quorum: bool
    promoted: Mapping[str, tuple[str, ...]]
    orphaned: tuple[str, ...]
    uncovered: Ranges

    @property
    def survived(self) -> bool:
        """Whether every slot is served again by itself."""
        return not self.uncovered

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {
            "host lost": self.host, "nodes": self.nodes, "primaries lost": len(self.primaries),
            "majority stays": self.quorum, "shards without replica": len(self.orphaned),
            "slots without owner": count(self.uncovered), "heals itself": self.survived,
        }  # fmt: skip


def hosts(topology: Iterable[Node]) -> tuple[str, ...]:
    """Return the hosts of a topology, by their addresses."""
    return tuple(sorted({node.host for node in topology if node.host}))


def lose_host(topology: Sequence[Node], host: str) -> HostLoss:
    """Return what happens when every node of a host is gone at once."""
    owners = primaries(topology)
    lost = [node for node in owners if node.host == host]
    quorum = len(owners) - len(lost) > len(owners) // 2
    promoted, orphaned, uncovered = {}, [], []
    for primary in lost:
        rest = tuple(
            replica.id
            for replica in replicas_of(topology, primary.id)
            if replica.host != host and not replica.bad_flags and "nofailover" not in replica.flags
        )
        if rest:
            promoted[primary.id] = rest
        else:
            orphaned.append(primary.id)
        if not rest or not quorum:
            uncovered.append(primary.slots)
    nodes = sum(node.host == host for node in topology)
    ids = tuple(node.id for node in lost)
    return HostLoss(host, nodes, ids, quorum, promoted, tuple(orphaned), union(*uncovered))


def losses(topology: Sequence[Node]) -> tuple[HostLoss, ...]:
    """Return the loss of each host in turn."""
    return tuple(lose_host(topology, host) for host in hosts(topology))
