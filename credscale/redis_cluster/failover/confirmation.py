"""Why a failover that happened is not complete yet (§1.8). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import by_id, replicas_of
from credscale.redis_cluster.cluster.slots import Ranges, ranges_text
from credscale.redis_cluster.failover.prechecks import answer_of, not_serving, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.redis_cluster.cluster.reasons import Reason
    from credscale.redis_cluster.cluster.views import Look, NodeView


@dataclass(frozen=True)
class Before:
    """What a failover must keep, and what it must exceed.

    Args:
        primary: id of who hands over.
        replica: id of who takes over.
        slots: of the shard.
        epoch: the highest of the cluster.
        replicas: ids of the shard's replicas that answered, without the target.
    """

    primary: str
    replica: str
    slots: Ranges
    epoch: int
    replicas: tuple[str, ...]


def before(found: Look, primary_id: str, replica_id: str) -> Before:
    """Note the state of a shard before its failover."""
    known = by_id(found.topology)
    epochs = [view.cluster.current_epoch for view in found.answering if view.cluster is not None]
    others = tuple(
        node.id
        for node in replicas_of(found.topology, primary_id)
        if node.id != replica_id and answer_of(found, node) is not None
    )
    return Before(primary_id, replica_id, known[primary_id].slots, max(epochs, default=0), others)


def unconfirmed(found: Look, was: Before) -> tuple[Reason, ...]:
    """Return what is missing to a complete failover; empty when all of §1.8 is confirmed.

    Every node that answers must see the new primary with exactly the old slots and a newer epoch, and the old primary
    and the other replicas behind it with their links up.
    """
    reasons: list[Reason] = []
    new = found.name(was.replica)
    for view in found.answering:
        reasons += _seen_by(found, view, was)
        if view.cluster is not None and view.cluster.current_epoch <= was.epoch:
            reasons.append(problem(view.address, "epoch", f"its epoch is still {view.cluster.current_epoch}", "wait"))
    reasons += not_serving(found)
    target = found.asked(was.replica)
    if target is None or target.role is None or target.role.role != "primary":
        reasons.append(problem(new, "role", "it does not call itself a primary", "look at its log"))
    for node_id in (was.primary, *was.replicas):
        view_of = found.asked(node_id)
        known = facts.replication(view_of.info) if view_of is not None and not view_of.error else None
        if known is None or not known.is_replica or known.link != "up" or known.syncing:
            link = "it does not answer" if known is None else f"it is {known.role}, its link {known.link}"
            what = f"{link}; it has to replicate {new}"
            reasons.append(problem(found.name(node_id), "follows", what, "wait, or look at its log"))
    if target is not None:
        online = sum(each.state == "online" for each in facts.replication(target.info).attached)
        if online < 1 + len(was.replicas):
            reasons.append(problem(new, "attached", f"{online} of {1 + len(was.replicas)} replicas are online", "wait"))
    return tuple(reasons)


def _seen_by(found: Look, view: NodeView, was: Before) -> Iterator[Reason]:
    known = by_id(view.view)
    new = known.get(was.replica)
    if new is None or not new.is_primary or new.slots != was.slots or new.epoch <= was.epoch:
        seen = "nobody" if new is None else f"a {new.role} with {ranges_text(new.slots) or 'no slots'}"
        yield problem(view.address, "agreement", f"it sees {found.name(was.replica)} as {seen}", "wait for the gossip")
    for node_id in (was.primary, *was.replicas):
        node = known.get(node_id)
        if node is None or not node.is_replica or node.primary_id != was.replica:
            yield problem(view.address, "agreement", f"it does not see {found.name(node_id)} as a replica of "
                      f"{found.name(was.replica)}", "wait for the gossip")  # fmt: skip
