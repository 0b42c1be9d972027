"""Why a manual failover must not begin (§1.8). Pure.

Every rule is short and says what was seen. Some reasons pass by themselves (a copy under way, gossip that has not come
round): those may be waited for. The others stay until somebody does something.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from credscale.core.addresses import split_address
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.lag import bytes_between
from credscale.redis_cluster.cluster.loss import hosts, lose_host
from credscale.redis_cluster.cluster.nodes import by_id, primaries
from credscale.redis_cluster.cluster.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look, NodeView

MOST_LAG = 1 << 20  # bytes
# An idle primary writes to its replicas every 10 s only (repl-ping-replica-period).
QUIET_SECONDS = 15
MAJORITY = "host-majority"
PASSING = frozenset({
    "sync", "lag", "busy", "paused", "known-as-replica", "agreement", "known-nodes", "epochs", "attached",
})  # fmt: skip


def why_not(
    found: Look, replica_id: str, *, primary_id: str = "", most_lag: int = MOST_LAG, accept_majority: bool = False
) -> tuple[Reason, ...]:
    """Return why a replica should not be asked to take over now; empty when nothing speaks against it.

    Args:
        found: a fresh look.
        replica_id: who would take over.
        primary_id: from whom; empty for whoever it replicates.
        most_lag: bytes that the replica may be behind.
        accept_majority: whether one host may hold so many primaries that its loss would leave no majority.
    """
    known = by_id(found.topology)
    target = known.get(replica_id)
    if target is None or not target.is_replica:
        role = "not in the cluster" if target is None else f"a {target.role}"
        return (problem(found.name(replica_id), "role", f"it is {role}, and only a replica can take over",
                    "name a primary that has a replica"),)  # fmt: skip
    primary = known.get(target.primary_id)
    if primary is None or not primary.slots or (primary_id and primary.id != primary_id):
        meant = f"{found.name(primary_id)}, which is meant" if primary_id else "a primary with slots"
        return (problem(found.name(replica_id), "role", f"it replicates {found.name(target.primary_id)}, not {meant}",
                    "look at the roles with: invoke cluster-status"),)  # fmt: skip
    pair = (*_answers(found, primary, "primary"), *_answers(found, target, "replica"))
    reasons = [*pair]
    if not pair:
        reasons += [*_link(found, primary, target), *_lag(found, primary, target, most_lag)]
        reasons += [*_busy(found, (primary, target)), *_alike(found, primary, target)]
    reasons += [*_flags(found, (primary, target)), *not_serving(found), *_votes(found, primary, target)]
    reasons += [*_open_slots(found, primary)]
    if not accept_majority:
        reasons += majority_on_a_host(found.topology, ((primary.id, target.id),))
    return tuple(reasons)


def lasting(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Return the reasons that do not pass by themselves."""
    return tuple(reason for reason in reasons if reason.rule not in PASSING)


def problem(where: str, rule: str, what: str, action: str) -> Reason:
    """Return a reason that stands against a failover."""
    return Reason("failed", where, rule, what, action)


def answer_of(found: Look, node: Node) -> NodeView | None:
    """Return what a node answered; None when it did not."""
    seen = found.asked(node.id)
    return None if seen is None or seen.error else seen


def _answers(found: Look, node: Node, role: str) -> Iterator[Reason]:
    if answer_of(found, node) is None:
        error = next((view.error for view in found.nodes if view.error and _is_at(view, node)), "nobody answers for it")
        rest = "; a manual failover needs its primary alive" if role == "primary" else ""
        yield problem(found.name(node.id), "answer", f"the {role} does not answer us: {error}{rest}",
                  "look at its process and the network")  # fmt: skip


def _is_at(view: NodeView, node: Node) -> bool:
    host, port = split_address(view.address)
    return port == node.port and node.host in (view.ip, host)


def _link(found: Look, primary: Node, target: Node) -> Iterator[Reason]:
    seen = answer_of(found, target)
    if seen is None:
        return
    name, known = found.name(target.id), facts.replication(seen.info)
    if not known.is_replica:
        yield problem(name, "known-as-replica", f"it calls itself {known.role}", "wait for the gossip")
    elif known.syncing:
        yield problem(name, "sync", "it is taking a full copy from its primary", "wait for it")
    elif known.link != "up":
        yield problem(name, "link", f"its link to {found.name(primary.id)} is {known.link}",
                  "look at masterauth, the network and its log")  # fmt: skip
    elif known.last_io is not None and known.last_io > QUIET_SECONDS:
        yield problem(
            name, "quiet", f"it has heard nothing from its primary for {known.last_io} s", "look at the network"
        )


def _lag(found: Look, primary: Node, target: Node, most: int) -> Iterator[Reason]:
    first, second = answer_of(found, primary), answer_of(found, target)
    if first is None or second is None:
        return
    behind = bytes_between(first, second)
    if behind is not None and behind > most:
        what = f"it is {behind:,} bytes behind its primary, at most {most:,} are allowed"
        yield problem(found.name(target.id), "lag", what, "wait: clients are paused until it has caught up")


def _busy(found: Look, pair: Sequence[Node]) -> Iterator[Reason]:
    for node in pair:
        seen = answer_of(found, node)
        if seen is None:
            continue
        name, kept = found.name(node.id), facts.persistence(seen.info)
        for value, what in (
            (kept.loading, "loading its data"),
            (kept.saving, "saving an RDB file"),
            (kept.aof_rewriting, "rewriting its AOF"),
        ):
            if value:
                yield problem(name, "busy", f"it is {what}", "wait until it has")
        paused = str(seen.info.get("paused_reason", "none"))  # Redis and Valkey from 8 on
        if paused != "none" or seen.info.get("master_failover_state", "no-failover") != "no-failover":
            yield problem(name, "paused", "its clients are paused or another failover is under way", "wait for its end")


def _alike(found: Look, primary: Node, target: Node) -> Iterator[Reason]:
    first, second = answer_of(found, primary), answer_of(found, target)
    if first is None or second is None:
        return
    limits = [facts.memory(view.info).maximum for view in (first, second)]
    if limits[0] != limits[1]:
        yield problem(found.name(target.id), "maxmemory", f"its maxmemory is {limits[1]}, its primary's {limits[0]}",
                  "set both alike with CONFIG SET maxmemory, and in their files")  # fmt: skip
    for name, values in (
        ("appendonly", [facts.persistence(view.info).aof for view in (first, second)]),
        ("save", [view.settings.get("save") for view in (first, second)]),
    ):
        if None not in values and values[0] != values[1]:
            what = f"its {name} is {values[1]!r}, its primary's {values[0]!r}"
            remedy = f"set both alike with CONFIG SET {name}, and in their files"
            yield problem(found.name(target.id), "persistence", what, remedy)


def _flags(found: Look, pair: Sequence[Node]) -> Iterator[Reason]:
    for node in pair:
        viewers = [
            view.address
            for view in found.answering
            for each in view.view
            if each.id == node.id and {"fail", "fail?"} & set(each.flags)
        ]
        if viewers:
            many = f"{len(viewers)} of {len(found.answering)}"
            yield problem(found.name(node.id), "flags", f"{many} nodes take it for failed",
                          "look at its process and its bus port")  # fmt: skip


def not_serving(found: Look) -> Iterator[Reason]:
    """Yield the nodes on which the cluster is down."""
    for view in found.answering:
        if view.cluster is not None and view.cluster.state != "ok":
            yield problem(view.address, "state", f"cluster_state is {view.cluster.state}",
                      "bring the owners of all slots back first")  # fmt: skip


def _votes(found: Look, primary: Node, target: Node) -> Iterator[Reason]:
    """A majority of primaries must know the target as this primary's replica, or it is not elected (cluster-spec)."""
    voters = primaries(found.topology)
    first = answer_of(found, primary)
    mine = by_id(first.view).get(target.id) if first is not None else None
    if mine is not None and mine.primary_id != primary.id:
        yield problem(found.name(primary.id), "known-as-replica", f"it does not know {found.name(target.id)} as its "
                      "replica yet, and would ignore its request", "wait a node timeout for the gossip")  # fmt: skip
    knowing = 0
    for voter in voters:
        seen = answer_of(found, voter)
        mine = by_id(seen.view).get(target.id) if seen is not None else None
        knowing += mine is not None and mine.is_replica and mine.primary_id == primary.id
    if knowing <= len(voters) // 2:
        many = f"{knowing} of {len(voters)}"
        yield problem(found.name(target.id), "known-as-replica", f"{many} primaries know it as a replica of "
                      f"{found.name(primary.id)}; it needs a majority's votes", "wait a node timeout for the "
                      "gossip; if it stays, look at the bus ports")  # fmt: skip


def _open_slots(found: Look, primary: Node) -> Iterator[Reason]:
    slots = [
        slot.slot for node in found.topology for slot in node.open_slots if primary.id in (node.id, slot.peer)
    ]  # fmt: skip
    if slots:
        yield problem(found.name(primary.id), "open-slot", f"{len(set(slots))} of its slots are being moved",
                  "finish moving slots first")  # fmt: skip


def after(topology: Sequence[Node], pairs: Iterable[tuple[str, str]]) -> tuple[Node, ...]:
    """Return a topology in which replicas have taken over from primaries; pairs of ids, the primary first."""
    nodes = {node.id: node for node in topology}
    for old, new in pairs:
        slots, epoch = nodes[old].slots, max(node.epoch for node in nodes.values()) + 1
        for node in list(nodes.values()):
            if node.primary_id == old or node.id == old:
                nodes[node.id] = replace(node, flags=("slave",), primary_id=new, slots=(), epoch=epoch)
        nodes[new] = replace(nodes[new], flags=("master",), primary_id="", slots=slots, epoch=epoch)
    return tuple(nodes[node.id] for node in topology)


def majority_on_a_host(topology: Sequence[Node], pairs: Sequence[tuple[str, str]]) -> tuple[Reason, ...]:
    """Return the hosts whose loss would newly leave no majority of primaries, after failovers.

    Args:
        topology: at present.
        pairs: ids of who hands over to whom.
    """
    if len(hosts(topology)) == 1:
        return ()  # its loss is the loss of everything, whoever is primary
    later = after(topology, pairs)
    return tuple(
        problem(host, MAJORITY, f"it would hold {len(loss.primaries)} of {len(primaries(later))} primaries: if it were "
                "lost then, no replica could be promoted", "use it for a short time only, and fail back")
        for host in hosts(later)
        for loss in [lose_host(later, host)]
        if loss.primaries and not loss.quorum and lose_host(topology, host).quorum
    )  # fmt: skip
