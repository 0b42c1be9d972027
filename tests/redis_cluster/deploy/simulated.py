"""Simulated nodes that make the moves of a creation as servers do, at any point of which one may stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster.facts import Link, parse_cluster_info
from credscale.redis_cluster.cluster.nodes import Node
from credscale.redis_cluster.cluster.slots import SLOTS, Ranges, count, overlap, union
from credscale.redis_cluster.cluster.views import Look, NodeView
from credscale.redis_cluster.deploy.plan import ADD_SLOTS, KNOCK, MEET, REPLICATE, SET_EPOCH, TELL, Move
from tests.redis_cluster.fakes import info, node_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass
class Server:
    """One node's own truth; ``others`` is whom it knows."""

    address: str
    host: str
    id: str
    epoch: int = 0
    slots: Ranges = ()
    primary: str = ""
    keys: int = 0
    others: set[str] = field(default_factory=set)


class Servers:
    """Nodes of a cluster to be, by address; ``gossip`` joins whom anybody knows."""

    def __init__(self, hosts: Sequence[str], first_id: int = 1) -> None:
        self.all = {
            f"{host}:{7000 + number}": Server(f"{host}:{7000 + number}", host, node_id(first_id + number))
            for number, host in enumerate(hosts)
        }

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self.all)

    def make(self, move: Move, peers: int | None = None) -> None:
        """Make a move as servers would, who refuse what is not allowed; only so many meetings where that is given."""
        server = self.all.get(move.address)
        if move.kind in (TELL, KNOCK):
            assert server is None
            return
        assert server is not None
        if move.kind == SET_EPOCH:
            assert not server.others
            assert not server.epoch
            server.epoch = move.epoch
        elif move.kind == ADD_SLOTS:
            for other in self.all.values():
                assert not overlap(other.slots, move.slots), "a slot given twice"
            assert not server.primary
            server.slots = union(server.slots, move.slots)
        elif move.kind == MEET:
            for peer in move.peers[:peers]:
                server.others.add(peer)
                self.all[peer].others.add(server.address)
        else:
            assert move.kind == REPLICATE
            assert not server.slots
            assert not server.primary
            assert not self.all[move.primary].primary
            assert move.primary in server.others
            server.primary = move.primary

    def gossip(self) -> None:
        """Let everybody know whom those know whom he knows, and these know him."""
        for _ in self.all:
            for server in self.all.values():
                for other in list(server.others):
                    server.others |= self.all[other].others - {server.address}
                    self.all[other].others.add(server.address)

    def look(self) -> Look:
        """Return what all nodes say."""
        return Look(tuple(self._view(server) for server in self.all.values()))

    def _view(self, server: Server) -> NodeView:
        seen = [server, *(self.all[each] for each in sorted(server.others))]
        nodes = tuple(self._node(each, viewer=server) for each in seen)
        slots = sum(count(each.slots) for each in seen)
        text = "".join(
            f"cluster_{name}:{value}\r\n"
            for name, value in {
                "state": "ok" if slots == SLOTS else "fail", "slots_assigned": slots, "known_nodes": len(seen),
                "size": sum(bool(each.slots) for each in seen), "my_epoch": server.epoch,
            }.items()
        )  # fmt: skip
        told = info(nodes, nodes[0])
        told["db0"] = {"keys": server.keys, "expires": 0, "avg_ttl": 0}
        links = tuple(Link(way, node.id) for node in nodes[1:] for way in ("to", "from"))
        return NodeView(
            server.address, ip=server.host, id=server.id, view=nodes, cluster=parse_cluster_info(text), info=told,
            links=links,
        )  # fmt: skip

    def _node(self, server: Server, viewer: Server) -> Node:
        role = "slave" if server.primary else "master"
        primary = self.all[server.primary] if server.primary else None
        return Node(
            id=server.id, host=server.host, port=int(server.address.rpartition(":")[2]), bus_port=17000,
            flags=("myself", role) if server is viewer else (role,), primary_id=primary.id if primary else "",
            epoch=(primary or server).epoch, slots=server.slots,
        )  # fmt: skip

    def result(self) -> list[tuple[str, Ranges, str]]:
        """Return what is to be the same in the end."""
        return [(server.address, server.slots, server.primary) for server in self.all.values()]


def carry_out(servers: Servers, moves: Iterable[Move]) -> None:
    """Make all moves; those that meet have joined before the first replica is made."""
    for move in moves:
        if move.kind == REPLICATE:
            servers.gossip()
        servers.make(move)
