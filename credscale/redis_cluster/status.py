"""The probe that looks at a cluster and says whether it is healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.addresses import split_address
from credscale.core.errors import VerificationFailed
from credscale.core.step import Finding, probe
from credscale.redis_cluster import plots
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.health import judge
from credscale.redis_cluster.cluster.lag import lag_bytes
from credscale.redis_cluster.cluster.loss import losses
from credscale.redis_cluster.cluster.nodes import moving, primaries
from credscale.redis_cluster.cluster.reasons import failed, sentence
from credscale.redis_cluster.cluster.slots import count, ranges_text
from credscale.redis_cluster.cluster.views import look

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look, NodeView

Row = dict[str, Any]


@probe(show=plots.slot_map)
def redis_status(ctx: Context) -> Finding:
    """Look at every node of the Redis Cluster at once: views, slots, replication, bus, risks.

    Nodes that only other nodes name are asked as well. A whole node has two bus links with each of the others, one for
    each direction. A node that does not answer within two seconds is a row with its
    reason. Ends in failure, with all tables, when the cluster is not healthy by the readiness gate; risks such as a
    replica on its primary's host are warnings. Redis 6.2 to 8, Valkey 8 and 9.
    """
    found = look(ctx)
    output = tables(found)
    wrong = failed(judge(found))
    summary = summarize(found)
    if wrong:
        raise VerificationFailed(f"the Redis Cluster is not healthy: {sentence(wrong)}. {summary}", output)
    return Finding(summary, output)


def summarize(found: Look) -> str:
    """Return one sentence about a cluster."""
    owners = primaries(found.topology)
    replicas = sum(node.is_replica for node in found.topology)
    slots = sum(count(node.slots) for node in owners)
    kinds = sorted({node.server.text for node in found.answering if node.info})
    states = {node.cluster.state for node in found.answering if node.cluster is not None}
    state = states.pop() if len(states) == 1 else "unknown" if not states else "not the same everywhere"
    return (
        f"{len(found.answering)} of {len(found.nodes)} nodes answer, {len(owners)} primaries with {slots} slots, "
        f"{replicas} replicas, state {state}, {', '.join(kinds) or 'version unknown'}"
    )


def tables(found: Look) -> dict[str, Any]:
    """Return one look as named lists of flat rows: problems, nodes in the order of their slots, hosts, open slots."""
    reasons = judge(found)
    return {
        "problems": [reason.row() for reason in reasons],
        "rows": _nodes(found),
        "hosts": [loss.row() for loss in losses(found.topology)],
        "open_slots": [
            {"node": found.name(node.id), "slot": slot.slot, "way": slot.direction, "peer": found.name(slot.peer)}
            for node in moving(found.topology)
            for slot in node.open_slots
        ],
    }


def _nodes(found: Look) -> list[Row]:
    known = {node.id: node for node in found.topology}
    seen = {node.id for node in found.nodes if node.id}
    places = {(node.host, node.port): node for node in found.topology}
    pairs: list[tuple[Node | None, NodeView | None]] = []
    taken: set[str] = set()
    for view in found.nodes:
        host, port = split_address(view.address)
        node = known.get(view.id) or places.get((view.ip or host, port))
        if view.error and node is not None and node.id in seen:
            node = None  # another node answers under this identity
        if node is not None:
            taken.add(node.id)
        pairs.append((node, view))
    pairs += [(node, None) for node in found.topology if node.id not in taken]
    return [_row(found, node, view) for node, view in sorted(pairs, key=lambda pair: _place(known, pair[0]))]


def _place(known: dict[str, Node], node: Node | None) -> tuple[Any, ...]:
    """Sort by the shard's slots, the primary before its replicas; strangers last."""
    if node is None:
        return (2,)
    owner = known.get(node.primary_id, node)
    return (0 if owner.slots else 1, owner.slots, owner.id, node.is_replica, node.host, node.port)


def _row(found: Look, node: Node | None, view: NodeView | None) -> Row:
    row: Row = {
        "node": view.address if view is not None else node.address if node is not None else "",
        "answer": "not asked" if view is None else view.error or "ok",
        "role": node.role if node is not None else None,
        "replica of": found.name(node.primary_id) if node is not None and node.primary_id else None,
        "slots": count(node.slots) if node is not None else None,
        "ranges": ranges_text(node.slots) if node is not None else "",
        "epoch": node.epoch if node is not None else None,
    }
    return row | _answer(found, view) | {"id": node.id[:8] if node is not None else None}


def _answer(found: Look, view: NodeView | None) -> Row:
    answered = view is not None and not view.error
    info = view.info if view is not None else {}
    known, kept = facts.replication(info), facts.persistence(info)
    link: str | None = None
    if answered:
        link = known.link if known.is_replica else f"{known.connected or 0} attached"
    return {
        "state": view.cluster.state if view is not None and view.cluster is not None else None,
        "replication": link,
        "lag (bytes)": lag_bytes(found, view) if view is not None and answered and known.is_replica else None,
        "heard (s)": known.last_io if known.is_replica else None,
        "bus links": len(view.links) if view is not None and view.links is not None else None,
        "keys": facts.keyspace(info).keys if answered else None,
        "aof": bool(kept.aof) if kept.aof is not None else None,
        "version": view.server.text if view is not None and info else None,
        "up (h)": round(view.server.uptime / 3600, 1) if view is not None and info else None,
        "answered in (ms)": round(view.seconds * 1000) if view is not None and answered else None,
    }
