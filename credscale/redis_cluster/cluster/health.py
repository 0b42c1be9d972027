"""Whether a cluster is ready and sound: the gate of §1.4 and the risks of §1.6, as reasons per node. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.agreement import differences
from credscale.redis_cluster.cluster.lag import lag_bytes
from credscale.redis_cluster.cluster.loss import hosts, lose_host
from credscale.redis_cluster.cluster.nodes import moving, primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import Reason, failed, ordered
from credscale.redis_cluster.cluster.slots import ALL, SLOTS, count, ranges_text, subtract, union

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credscale.redis_cluster.cluster.views import Look, NodeView

LEAST_PRIMARIES = 3
QUIET_SECONDS = 10
MEGABYTE = 1 << 20
MOST_LAG = 10 * MEGABYTE  # §1.10


def judge(found: Look) -> tuple[Reason, ...]:
    """Return everything that is wrong, risky or worth knowing about a cluster, the worst first."""
    return ordered(reason for rule in RULES for reason in rule(found))


def gate(found: Look, *, nodes: int | None = None, replicas: int | None = None) -> tuple[Reason, ...]:
    """Return why a cluster is not ready; empty when it is.

    Ready is more than redis-cli means by it: every node serves, all views agree on roles as well, and every replica is
    in sync (§1.1, §1.4).

    Args:
        found: one look.
        nodes: how many nodes there must be; None for as many as were asked.
        replicas: how many replicas each primary must have; None for any number.
    """
    return (*failed(judge(found)), *_expected(found, nodes, replicas))


def _expected(found: Look, nodes: int | None, replicas: int | None) -> Iterator[Reason]:
    topology = found.topology
    if nodes is not None and len(topology) != nodes:
        yield Reason("failed", "cluster", "size", f"it has {len(topology)} nodes instead of {nodes}",
                     "wait until the nodes have met, or add the missing ones")  # fmt: skip
    for primary in primaries(topology) if replicas is not None else ():
        number = len(replicas_of(topology, primary.id))
        if number != replicas:
            yield Reason("failed", found.name(primary.id), "replica-count", f"it has {number} replicas instead of "
                         f"{replicas}", "attach replicas with CLUSTER REPLICATE")  # fmt: skip


def _unreachable(found: Look) -> Iterator[Reason]:
    for node in found.nodes:
        if node.error:
            yield Reason("failed", node.address, "answer", node.error,
                         "look at its process, its log, the network and our password")  # fmt: skip
        for text in node.refused if not node.error else ():
            yield Reason("note", node.address, "refused", f"it refused {text}", "allow it to our user, or live without")
        if node.other_ips:
            asked = f"{node.ip} was asked" if node.pinned else "any of them may have answered"
            yield Reason("note", node.address, "name", f"its name stands for {listed([node.ip, *node.other_ips])}; "
                         f"{asked}", "name nodes by names of one address")  # fmt: skip


def _state(found: Look) -> Iterator[Reason]:
    for node in found.answering:
        info = node.cluster
        if info is None:
            continue
        if info.state != "ok":
            yield Reason("failed", node.address, "state", f"cluster_state is {info.state}",
                         "bring the owners of all slots back; for 2 s after a start this is normal")  # fmt: skip
        for name, value in (("in doubt (pfail)", info.slots_pfail), ("failed", info.slots_fail)):
            if value:
                yield Reason("failed", node.address, "slots", f"{value} slots are {name}", "look at their owner")
        if facts.persistence(node.info).loading:
            yield Reason("failed", node.address, "loading", "it is loading its data", "wait until it has")


def _coverage(found: Look) -> Iterator[Reason]:
    missing = subtract(ALL, union(*(node.slots for node in found.topology))) if found.topology else ALL
    if missing:
        yield Reason("failed", "cluster", "coverage", f"{count(missing)} of {SLOTS} slots have no owner: "
                     f"{listed(ranges_text(missing).split())}", "give them to a primary")  # fmt: skip
    for node in moving(found.topology):
        for slot in node.open_slots:
            way = "leaves for" if slot.direction == "migrating" else "comes from"
            yield Reason("warn", found.name(node.id), "open-slot", f"slot {slot.slot} {way} {found.name(slot.peer)}",
                         "wait if slots are being moved now; otherwise finish the move")  # fmt: skip


def _views(found: Look) -> Iterator[Reason]:
    for each in differences(found):
        yield Reason("failed", each.address, "agreement", f"it {each.what}",
                     "wait a node timeout; if it stays, look at the bus ports between them")  # fmt: skip
    known = {node.id for node in found.topology}
    for node in found.answering:
        if node.declared and node.id not in known:
            yield Reason("failed", node.address, "stranger", "it is in the inventory and not in the cluster",
                         "let it join, or take it out of the inventory")  # fmt: skip
        if not node.declared:
            yield Reason("note", node.address, "inventory", "it is in the cluster and not in the inventory",
                         "add it to redis.nodes")  # fmt: skip
        if node.cluster is not None and node.id in known and node.cluster.known_nodes != len(known):
            yield Reason("failed", node.address, "known-nodes", f"it knows {node.cluster.known_nodes} nodes, "
                         f"the cluster has {len(known)}", "wait for the gossip, or forget the dead ones")  # fmt: skip


def _flags(found: Look) -> Iterator[Reason]:
    seen: dict[tuple[str, str], list[str]] = defaultdict(list)
    for viewer in found.answering:
        for node in viewer.view:
            for flag in node.bad_flags:
                # a handshake has another made-up id in each view, but one address
                seen[(node.address or node.id[:8] if flag == "handshake" else found.name(node.id), flag)].append(
                    viewer.address
                )
    for (where, flag), viewers in seen.items():
        yield Reason("failed", where, "flags", f"{len(viewers)} of {len(found.answering)} nodes flag it {flag}",
                     "look at its process and its bus port")  # fmt: skip
    for node in found.topology:
        if "nofailover" in node.flags and node.is_replica:
            yield Reason("warn", found.name(node.id), "nofailover", "it never takes over by itself "
                         "(cluster-replica-no-failover)", "make sure that this is meant")  # fmt: skip


def _epochs(found: Look) -> Iterator[Reason]:
    owners = primaries(found.topology)
    for epoch, number in Counter(node.epoch for node in owners).items():
        if number > 1:
            names = listed(found.name(node.id) for node in owners if node.epoch == epoch)
            yield Reason("failed", "cluster", "epochs", f"{names} share the configuration epoch {epoch}",
                         "wait: one of them takes a new one; CLUSTER BUMPEPOCH on one does it at once")  # fmt: skip


def _replicas(found: Look) -> Iterator[Reason]:
    for node in found.answering:
        known = facts.replication(node.info)
        if not known.is_replica:
            continue
        if known.syncing:
            yield Reason("failed", node.address, "sync", "it is taking a full copy from its primary", "wait for it")
        elif known.link is not None and known.link != "up":
            since = f" for {known.down_seconds} s" if known.down_seconds and known.down_seconds > 0 else ""
            yield Reason("failed", node.address, "replication", f"its link to {known.primary_host}:"
                         f"{known.primary_port} is {known.link}{since}",
                         "look at the primary, at masterauth and at the log")  # fmt: skip
        elif known.last_io is not None and known.last_io > QUIET_SECONDS:
            yield Reason("warn", node.address, "replication", f"it has heard nothing from its primary for "
                         f"{known.last_io} s", "look at the network and at the primary's load")  # fmt: skip
        behind = lag_bytes(found, node)
        if behind is not None and behind > MOST_LAG:
            yield Reason("warn", node.address, "lag", f"it is {behind / MEGABYTE:.0f} MB behind its primary",
                         "look at the network, at its disk and at client-output-buffer-limit")  # fmt: skip


def _attached(found: Look) -> Iterator[Reason]:
    for primary in primaries(found.topology):
        listed_replicas = replicas_of(found.topology, primary.id)
        name = found.name(primary.id)
        if not listed_replicas:
            yield Reason("warn", name, "alone", "it has no replica: if it is lost, its slots are", "add a replica")
        seen = found.asked(primary.id)
        if seen is None or seen.error:
            continue
        known = facts.replication(seen.info)
        online = sum(each.state == "online" for each in known.attached) if known.attached else known.connected
        if online is not None and online < len(listed_replicas):
            yield Reason("failed", name, "attached", f"{online} of its {len(listed_replicas)} replicas are "
                         "online", "look at the others; their first copy begins after 5 s from 7.0 on "
                         "(repl-diskless-sync-delay)")  # fmt: skip


def _bus(found: Look) -> Iterator[Reason]:
    """Judge links among nodes that answer; those to dead nodes are no news."""
    alive = {node.id for node in found.answering}
    for node in found.answering:
        if node.links is None:
            continue
        for direction, words in (("to", "connection to"), ("from", "connection from")):
            have = {link.peer for link in node.links if link.direction == direction}
            lacking = sorted(found.name(each) for each in alive & {n.id for n in node.view} - have - {node.id})
            if lacking:
                yield Reason("failed", node.address, "bus", f"it has no bus {words} {listed(lacking)}",
                             "open the bus ports (port + 10000, or cluster-port) both ways")  # fmt: skip


def _places(found: Look) -> Iterator[Reason]:
    topology = found.topology
    owners = primaries(topology)
    if owners and len(owners) < LEAST_PRIMARIES:
        yield Reason("warn", "cluster", "quorum", f"{len(owners)} primaries: without a majority of them nobody is "
                     "promoted, so the loss of one stops it", "have at least 3")  # fmt: skip
    if len(hosts(topology)) == 1 and len(topology) > 1:
        yield Reason("note", "cluster", "one-host", f"all nodes are on {hosts(topology)[0]}: its loss is the loss of "
                     "everything", "spread them over at least 3 hosts")  # fmt: skip
        return
    for primary in owners:
        attached = replicas_of(topology, primary.id)
        same = [node for node in attached if node.host == primary.host]
        if attached and len(same) == len(attached):
            yield Reason("warn", found.name(primary.id), "anti-affinity", f"all its replicas are on its own host "
                         f"{primary.host}", "put one elsewhere")  # fmt: skip
        elif len({node.host for node in attached}) < len(attached):
            yield Reason("note", found.name(primary.id), "anti-affinity", "replicas of it share a host",
                         "put them apart")  # fmt: skip
    for host in hosts(topology):
        loss = lose_host(topology, host)
        if not loss.quorum and loss.primaries:
            yield Reason("warn", host, "majority", f"it holds {len(loss.primaries)} of {len(owners)} primaries: if it "
                         "is lost, no replica can be promoted", "fail primaries over to other hosts")  # fmt: skip


def _settings(found: Look) -> Iterator[Reason]:
    versions = Counter(node.server.text for node in found.answering if node.info)
    if len(versions) > 1:
        yield Reason("note", "cluster", "versions", f"different versions: {listed(sorted(versions))}",
                     "finish the upgrade")  # fmt: skip
    for name in ("cluster-node-timeout", "cluster-require-full-coverage", "cluster-allow-reads-when-down"):
        values = {node.settings[name] for node in found.answering if name in node.settings}
        if len(values) > 1:
            yield Reason("warn", "cluster", "settings", f"{name} differs between nodes: {listed(sorted(values))}",
                         "set it alike everywhere, in the files too")  # fmt: skip
    bare = [node.address for node in found.answering if _keeps_nothing(node)]
    if bare:
        yield Reason("warn", listed(bare, 3), "persistence", "neither AOF nor RDB: a primary that restarts by itself "
                     "comes back empty, and its replicas copy that", "set appendonly yes")  # fmt: skip


def _keeps_nothing(node: NodeView) -> bool:
    return facts.persistence(node.info).aof == 0 and node.settings.get("save") == ""


RULES: tuple[Callable[[Look], Iterator[Reason]], ...] = (
    _unreachable, _state, _coverage, _views, _flags, _epochs, _replicas, _attached, _bus, _places, _settings,
)  # fmt: skip
