"""The order in which a Redis Cluster comes to be: pure functions of what the nodes say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from credscale.core.addresses import port_of
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import BUS_OFFSET, Node, by_id
from credscale.redis_cluster.cluster.reasons import Reason, failed
from credscale.redis_cluster.cluster.slots import ALL, Ranges, overlap, ranges_text, subtract, union
from credscale.redis_cluster.cluster.views import Look
from credscale.redis_cluster.deploy.placing import (
    LEAST_PRIMARIES,
    Seat,
    few_replicas,
    number_of_primaries,
    place,
    risks,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from credscale.redis_cluster.cluster.views import NodeView

SET_EPOCH, ADD_SLOTS, MEET, REPLICATE, TELL, KNOCK = "set_epoch", "add_slots", "meet", "replicate", "tell", "knock"
ORDER = (SET_EPOCH, ADD_SLOTS, MEET, REPLICATE, TELL, KNOCK)
GOSSIP_RULES = frozenset({"agreement", "known-nodes", "flags"})


@dataclass(frozen=True)
class Wanted:
    """The cluster that shall be.

    Args:
        addresses: of its nodes, as the inventory has them.
        replicas: how many each primary has at least.
        hosts: by address, what fails together; a node that is not named fails with those of its IP address.
        accept_one_host_majority: whether one host of several may hold so many primaries that its loss stops it all.
    """

    addresses: tuple[str, ...]
    replicas: int
    hosts: Mapping[str, str] = field(default_factory=dict)
    accept_one_host_majority: bool = False


@dataclass(frozen=True)
class Move:
    """One change, of one node or, where ``address`` is empty, of all; the other fields are those its kind needs."""

    kind: str
    address: str = ""
    epoch: int = 0
    slots: Ranges = ()
    peers: tuple[str, ...] = ()
    primary: str = ""

    @property
    def text(self) -> str:
        """The change in words."""
        return {
            SET_EPOCH: f"set the configuration epoch of {self.address} to {self.epoch}",
            ADD_SLOTS: f"give the slots {ranges_text(self.slots)} to {self.address}",
            MEET: f"let {self.address} meet {listed(self.peers)}",
            REPLICATE: f"make {self.address} a replica of {self.primary}",
            TELL: "let every node tell all others its role and slots at once",
            KNOCK: "send an empty message over every connection of the cluster bus",
        }[self.kind]


def in_order(found: Look) -> tuple[NodeView, ...]:
    """Return the nodes by IP address and port, so that two inventories that differ in their order plan the same."""
    return tuple(sorted(found.nodes, key=lambda node: (ip_address(node.ip).packed, port_of(node.address))))


def seats_of(found: Look, wanted: Wanted) -> tuple[Seat, ...]:
    """Return every node's part in the wanted cluster, by IP address and port, with what exists kept.

    Args:
        found: without ``problems_of``.
        wanted: as for ``plan_creation``.
    """
    names = {node.id: node.address for node in found.nodes}
    seats = []
    for node in in_order(found):
        me = node.me
        host = wanted.hosts.get(node.address, node.ip)
        seats.append(Seat(node.address, host, names.get(me.primary_id, "") if me else "", me.slots if me else ()))
    return place(seats, wanted.replicas)


def imagine_fresh(found: Look, addresses: Collection[str]) -> Look:
    """Return a look in which nodes that are still to be started answer as empty ones do, for a plan.

    Args:
        found: the look.
        addresses: of the nodes that will start without anything stored.
    """
    kinds = [dict(node.info) for node in found.answering] or [{"cluster_enabled": 1}]
    nodes = [
        replace(node, error="", id=node.address, info={**kinds[0], "db0": {}}, view=(_empty(node),))
        if node.error and node.address in addresses and node.ip
        else node
        for node in found.nodes
    ]
    return Look(tuple(nodes))


def _empty(node: NodeView) -> Node:
    port = port_of(node.address)
    return Node(node.address, node.ip, port, port + BUS_OFFSET, flags=("myself", "master"))


def plan_creation(found: Look, wanted: Wanted) -> tuple[Move, ...]:
    """Return what is missing, in the only order that is safe.

    Epochs come first, because a node takes one only while it knows nobody; then each slot to one node; then every pair
    meets (a full mesh joins in 0.2 s, a star in 1 to 4, §1.3); then replicas, which have to know their primary. At last
    what gossip would do within half a node timeout is done at once: nodes that meet again tell each other their roles
    and slots, and a message over each connection of the bus shows both ends who is there.

    Invariant, after every move and so at whatever point a run is killed: no slot is given to two nodes, no node that
    owns slots or is replicated becomes a replica, no replica changes its primary, and nothing is reset or deleted.
    Planning again after any number of moves gives the rest of them and ends in the same cluster.

    Args:
        found: a look at the nodes of the inventory and no others, without ``problems_of``; with problems the plan
            means nothing.
        wanted: the cluster.
    """
    seats = {seat.address: seat for seat in seats_of(found, wanted)}
    moves = [*_epochs(found)]
    for node in in_order(found):
        missing = subtract(seats[node.address].slots, node.me.slots if node.me else ())
        if missing:
            moves.append(Move(ADD_SLOTS, node.address, slots=missing))
    moves += _meetings(found)
    ids = {node.address: node.id for node in found.nodes}
    for node in in_order(found):
        primary = seats[node.address].primary
        if primary and node.me is not None and node.me.primary_id != ids[primary]:
            moves.append(Move(REPLICATE, node.address, primary=primary))
    rules = {reason.rule for reason in gate(found)}
    if moves or rules & GOSSIP_RULES:
        moves.append(Move(TELL))
    if moves or "bus" in rules:
        moves.append(Move(KNOCK))
    return tuple(moves)


def _epochs(found: Look) -> Iterator[Move]:
    taken = {node.epoch for viewer in found.nodes for node in viewer.view}
    free = (number for number in range(1, len(found.nodes) + len(taken) + 1) if number not in taken)
    for node in in_order(found):
        if len(node.view) == 1 and node.me is not None and node.me.epoch == 0:
            yield Move(SET_EPOCH, node.address, epoch=next(free))


def _meetings(found: Look) -> Iterator[Move]:
    nodes = in_order(found)
    for number, node in enumerate(nodes):
        peers = tuple(other.address for other in nodes[number + 1 :] if not _met(node, other))
        if peers:
            yield Move(MEET, node.address, peers=peers)


def _met(one: NodeView, other: NodeView) -> bool:
    return other.id in _known(one) and one.id in _known(other)


def _known(viewer: NodeView) -> dict[str, Node]:
    return by_id(node for node in viewer.view if "handshake" not in node.flags)


def joined(found: Look) -> tuple[Reason, ...]:
    """Return why not every node knows every other one yet; empty when they do."""
    reasons = [Reason("failed", node.address, "answer", node.error, "look at its process")
               for node in found.nodes if node.error]  # fmt: skip
    for node in found.answering:
        lacking = [other.address for other in found.answering if other.id not in _known(node)]
        if lacking:
            reasons.append(Reason("failed", node.address, "join", f"it does not know {listed(lacking)} yet",
                                  "open the bus ports between them, both ways"))  # fmt: skip
    return tuple(reasons)


def problems_of(found: Look, wanted: Wanted) -> tuple[Reason, ...]:
    """Return why nothing may be done to these nodes; empty when it may.

    Args:
        found: a look at the nodes of the inventory and no others.
        wanted: the cluster.
    """
    deaf = [_deaf(node) for node in found.nodes if node.error]
    if deaf:
        return tuple(deaf)
    mode = [
        Reason("failed", node.address, "mode", "it does not run in cluster mode",
               "set cluster-enabled yes in its configuration and restart it")
        for node in found.nodes if not node.server.cluster
    ]  # fmt: skip
    if mode:
        return tuple(mode)
    wrong = (*_same(found), *_foreign(found), *_data(found), *_twice(found), *_numbers(found, wanted))
    wrong = wrong or _lacking_replicas(found, wanted)
    if wrong or not any(True for _ in _meetings(found)):
        return wrong
    accepted = {"majority"} if wanted.accept_one_host_majority else set()
    return (
        *_names(found), *_versions(found),
        *(each for each in failed(host_risks(found, wanted)) if each.rule not in accepted),
    )  # fmt: skip


def host_risks(found: Look, wanted: Wanted) -> tuple[Reason, ...]:
    """Return what the loss of a host would do to the wanted cluster; on one machine's loopback these are notes."""
    local = all(ip_address(node.ip).is_loopback for node in found.nodes)
    return risks(seats_of(found, wanted), local=local)


def _deaf(node: NodeView) -> Reason:
    if "cluster support disabled" in node.error:
        return Reason("failed", node.address, "mode", "it does not run in cluster mode",
                      "set cluster-enabled yes in its configuration and restart it")  # fmt: skip
    if "password" in node.error:
        return Reason("failed", node.address, "answer", node.error, "put the right one where redis.password points to")
    return Reason("failed", node.address, "answer", node.error, "look at its process and its log")


def _same(found: Look) -> Iterator[Reason]:
    seen: dict[str, str] = {}
    for node in found.nodes:
        if node.id in seen:
            yield Reason("failed", node.address, "twice", f"it is the same server as {seen[node.id]}",
                         "name each node once in redis.nodes")  # fmt: skip
        seen[node.id] = node.address


def _foreign(found: Look) -> Iterator[Reason]:
    """Find nodes that remember anybody who is not of the inventory, be it alive or not."""
    ids = {node.id for node in found.nodes}
    for node in found.nodes:
        others = [other.address or other.id[:8] for other in _known(node).values() if other.id not in ids]
        if others:
            yield Reason("failed", node.address, "foreign", f"it belongs to a cluster with {listed(others)}, outside "
                         "the inventory", "take it out of redis.nodes, or name that cluster's other nodes there, or "
                         "have it forget nodes that are gone for good")  # fmt: skip


def _data(found: Look) -> Iterator[Reason]:
    ids = {node.id for node in found.nodes}
    for node in found.nodes:
        keys = facts.keyspace(node.info).keys
        alone = not (_known(node).keys() & ids) - {node.id}
        idle = node.me is not None and node.me.is_primary and not node.me.slots
        if keys and (alone or idle):
            yield Reason("failed", node.address, "data", f"it holds {keys} keys and is in none of this cluster's "
                         "shards; it is never wiped from here", "give an empty node instead, or save what it holds and "
                         "empty it yourself")  # fmt: skip


def _twice(found: Look) -> Iterator[Reason]:
    owners = [node for node in found.nodes if node.me is not None and node.me.slots]
    for number, node in enumerate(owners):
        for other in owners[number + 1 :]:
            common = overlap(node.me.slots, other.me.slots) if node.me and other.me else ()
            if common:
                yield Reason("failed", node.address, "slots", f"it owns the slots {ranges_text(common)}, and so does "
                             f"{other.address}", "find out which of the two holds their keys, and take them from the "
                             "other with CLUSTER DELSLOTS")  # fmt: skip


def _numbers(found: Look, wanted: Wanted) -> Iterator[Reason]:
    number = number_of_primaries(len(found.nodes), wanted.replicas)
    if number < LEAST_PRIMARIES:
        yield Reason("failed", "cluster", "size", f"{len(found.nodes)} nodes with {wanted.replicas} replicas per "
                     f"primary make {number} primaries, expected at least {LEAST_PRIMARIES}",
                     f"name at least {LEAST_PRIMARIES * (wanted.replicas + 1)} nodes, or lower "
                     "redis.deploy.replicas")  # fmt: skip
        return
    replicated = {node.me.primary_id for node in found.nodes if node.me is not None and node.me.primary_id}
    owners = [node for node in found.nodes if node.me is not None and (node.me.slots or node.id in replicated)]
    missing = subtract(ALL, union(*(node.me.slots for node in owners if node.me is not None)))
    if len(owners) > number:
        yield Reason("failed", "cluster", "size", f"{len(owners)} of the nodes are primaries already, and "
                     f"{len(found.nodes)} nodes with {wanted.replicas} replicas per primary make {number}",
                     "add nodes for their replicas, or lower redis.deploy.replicas")  # fmt: skip
    elif len(owners) < number and not missing:
        yield Reason("failed", "cluster", "size", f"{len(owners)} primaries own all slots, and {len(found.nodes)} "
                     f"nodes with {wanted.replicas} replicas per primary make {number}",
                     "let the new ones join with redis-add-node, and share the slots with "
                     "redis-rebalance")  # fmt: skip


def _lacking_replicas(found: Look, wanted: Wanted) -> tuple[Reason, ...]:
    """Find primaries that get too few replicas, because those that are replicas already stay where they are."""
    seats = seats_of(found, wanted)
    ids = {node.address: node.id for node in found.nodes}
    return few_replicas(
        {
            (owner.address, ids[owner.address]): [each.address for each in seats if each.primary == owner.address]
            for owner in seats
            if not owner.primary
        },
        wanted.replicas,
    )


def _names(found: Look) -> Iterator[Reason]:
    for node in found.nodes:
        if node.other_ips:
            yield Reason("failed", node.address, "name", f"its name stands for {listed([node.ip, *node.other_ips])}, "
                         "so it is not one server", "name nodes by names of one address, or by their "
                         "address")  # fmt: skip


def _versions(found: Look) -> Iterator[Reason]:
    kinds: dict[str, list[str]] = {}
    for node in found.nodes:
        kinds.setdefault(f"{node.server.kind} {node.server.version.partition('.')[0]}", []).append(node.address)
    if len(kinds) > 1:
        told = "; ".join(f"{kind} on {listed(where)}" for kind, where in sorted(kinds.items()))
        yield Reason("failed", "cluster", "versions", f"the nodes run different versions: {told}",
                     "install one version everywhere, and upgrade the cluster afterwards")  # fmt: skip
