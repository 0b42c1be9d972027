"""The reply of CLUSTER NODES: one node's view of its cluster.

redis-py's parser is keyed by address, under which nodes without one (noaddr, handshake) overwrite each other, and drops
bus ports and hostnames (§1.5); this one is keyed by node id and keeps everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from credscale.redis_cluster.cluster.slots import Ranges, ranges_of

if TYPE_CHECKING:
    from collections.abc import Iterable

BUS_OFFSET = 10_000
PRIMARY_FLAGS, REPLICA_FLAGS = frozenset({"master", "primary"}), frozenset({"slave", "replica"})
BAD_FLAGS = ("fail", "fail?", "handshake", "noaddr")


@dataclass(frozen=True)
class OpenSlot:
    """A slot on its way: it leaves for ``peer`` (migrating) or comes from there (importing); a node id."""

    slot: int
    direction: Literal["migrating", "importing"]
    peer: str


@dataclass(frozen=True)
class Node:
    """A node as one node sees it.

    Args:
        id: 40 hex characters, for the node's life.
        host: the address it announces; empty for noaddr, and for ``myself`` before the first MEET.
        port: where clients connect.
        bus_port: where the other nodes connect.
        hostname: what it announces besides; empty for none.
        aux: further fields of its address, such as ``shard-id`` (7.2+), as pairs.
        flags: in the server's words: myself, master, slave, fail?, fail, handshake, noaddr, nofailover.
        primary_id: whom it replicates; empty for a primary.
        ping_sent: milliseconds since 1970 of a ping without an answer yet; 0 for none.
        pong_received: milliseconds since 1970 of the last answer.
        epoch: the configuration epoch, of its primary for a replica.
        link: of the bus from the viewer: connected or disconnected.
        slots: which it owns.
        open_slots: which are on their way; only the viewer's own line has them.
    """

    id: str
    host: str
    port: int
    bus_port: int
    flags: tuple[str, ...]
    hostname: str = ""
    aux: tuple[tuple[str, str], ...] = ()
    primary_id: str = ""
    ping_sent: int = 0
    pong_received: int = 0
    epoch: int = 0
    link: str = "connected"
    slots: Ranges = ()
    open_slots: tuple[OpenSlot, ...] = field(default=())

    @property
    def address(self) -> str:
        """``host:port`` as announced; empty when it announces none."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.host and self.port else ""

    @property
    def is_myself(self) -> bool:
        """Whether it is the viewer."""
        return "myself" in self.flags

    @property
    def is_primary(self) -> bool:
        """Whether it is a primary in this view."""
        return not PRIMARY_FLAGS.isdisjoint(self.flags)

    @property
    def is_replica(self) -> bool:
        """Whether it is a replica in this view."""
        return not REPLICA_FLAGS.isdisjoint(self.flags)

    @property
    def role(self) -> str:
        """primary, replica, or unknown, as in a handshake."""
        return "primary" if self.is_primary else "replica" if self.is_replica else "unknown"

    @property
    def bad_flags(self) -> tuple[str, ...]:
        """Those of its flags that no healthy cluster has."""
        return tuple(flag for flag in BAD_FLAGS if flag in self.flags)


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Understand the reply of CLUSTER NODES, or of CLUSTER REPLICAS joined by newlines, or a nodes.conf.

    Raises:
        ValueError: a line that is no node's; the message holds it.
    """
    return tuple(_parse_line(line) for line in text.splitlines() if line.strip() and not line.startswith("vars "))


def _parse_line(line: str) -> Node:
    parts = line.split()
    try:
        node_id, where, flags, primary, ping, pong, epoch, link, *slots = parts
        place, *extras = where.split(",")
        hostname = "" if not extras or "=" in extras[0] else extras[0]
        pairs = [extra.partition("=") for extra in extras if "=" in extra]
        front, _, bus = place.partition("@")
        host, _, port = front.rpartition(":")
        owned, opened = _parse_slots(slots)
        return Node(
            id=node_id, host=host, port=int(port), bus_port=int(bus) if bus else int(port) + BUS_OFFSET,
            hostname=hostname, aux=tuple((name, value) for name, _, value in pairs), flags=tuple(flags.split(",")),
            primary_id="" if primary == "-" else primary, ping_sent=int(ping), pong_received=int(pong),
            epoch=int(epoch), link=link, slots=owned, open_slots=opened,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"not a line of CLUSTER NODES ({error}): {line!r}") from None


def _parse_slots(words: Iterable[str]) -> tuple[Ranges, tuple[OpenSlot, ...]]:
    pairs, opened = [], []
    for word in words:
        if word.startswith("["):
            slot, sign, peer = word.strip("[]").partition("->-")
            if sign:
                opened.append(OpenSlot(int(slot), "migrating", peer))
                continue
            slot, sign, peer = word.strip("[]").partition("-<-")
            if not sign:
                raise ValueError(f"{word} is no slot")
            opened.append(OpenSlot(int(slot), "importing", peer))
        else:
            first, _, last = word.partition("-")
            pairs.append((int(first), int(last or first)))
    return ranges_of(pairs), tuple(opened)


def by_id(nodes: Iterable[Node]) -> dict[str, Node]:
    """Return nodes by their id."""
    return {node.id: node for node in nodes}


def primaries(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Return the primaries that own slots, which are those that vote, in the order of their slots."""
    found = [node for node in nodes if node.is_primary and node.slots]
    return tuple(sorted(found, key=lambda node: node.slots))


def replicas_of(nodes: Iterable[Node], primary_id: str) -> tuple[Node, ...]:
    """Return the replicas of a primary, by address."""
    found = [node for node in nodes if node.is_replica and node.primary_id == primary_id]
    return tuple(sorted(found, key=lambda node: (node.host, node.port)))


def moving(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Return the primaries with slots on their way; in Valkey 8 and later their replicas show the same slots."""
    return tuple(node for node in nodes if node.is_primary and node.open_slots)
