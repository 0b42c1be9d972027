"""A node joins a cluster: as a primary without slots, or as a replica."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed
from credscale.core.phrases import listed
from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import BAD_FLAGS, primaries, replicas_of
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.resharding.ends import (
    REPLY_SECONDS,
    find_member,
    require_ready,
    settle,
    wait_ready,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look, NodeView

TIMEOUT = 60.0
AUTO = "auto"
FUNCTIONS_SINCE = (7, 0)


@step()
def add_node(ctx: Context, *, node: str, replica_of: str = "", timeout: float = TIMEOUT) -> Finding:
    """Let an empty node join the cluster, as a primary without slots or as a replica.

    It has to run in cluster mode with the others' major version, hold nothing, know no other cluster, and take our
    password. A new primary gets the others' functions before it joins (7.0+); slots it gets by rebalancing. A node that
    has joined already is only given its role.

    Args:
        node: host:port of the node
        replica_of: host:port of the primary that it shall replicate, or "auto" for one on another host with the
            fewest replicas; "" to stay a primary
        timeout: seconds to wait for it to be known everywhere, and for its first copy of the data

    Raises:
        EnvironmentInvalid: replica_of names no primary.
        PreconditionFailed: the node, or the cluster, is not as it has to be.
    """
    seen = look(ctx, addresses=[node]).nodes[0]
    cluster = settle(ctx, membership=True)
    require_ready(ctx, cluster, f"invoke redis-add-node --node {node}")
    problems = newcomer_problems(cluster, seen)
    if problems:
        raise PreconditionFailed(f"{node} cannot join: {'; '.join(problems)}. Nothing was changed")
    primary = _primary(cluster, seen, replica_of)
    member = find_member(cluster, node)
    size = len(cluster.topology) + (member is None)
    if member is None:
        if primary is None:
            _copy_functions(ctx, cluster, seen)
        ctx.apply(f"let {node} meet the {len(cluster.topology)} nodes of the cluster", _meet, ctx, cluster, seen)
        ctx.wait_until(f"every node knows {node}", lambda: _joined(look(ctx), seen.id, size), timeout, every=0.1)
    if primary is not None and (member is None or member.primary_id != primary.id):
        name = cluster.name(primary.id)
        client: Any = _client(ctx, seen)
        ctx.apply(f"make {node} a replica of {name}", client.execute_command, "CLUSTER", "REPLICATE", primary.id)
        if primary.host == _host(seen):
            ctx.note(f"{node} is on the host of its primary {name}: if that host is lost, both are")
    role = f"a replica of {cluster.name(primary.id)}" if primary is not None else "a primary"
    if member is not None and (primary is None or member.primary_id == primary.id):
        return Finding(f"{node} is in the cluster already, as {_role(cluster, member)}")
    if ctx.dry_run:
        return Finding(f"{node} would join as {role}")
    after = wait_ready(ctx, timeout, nodes=size)
    rows = [{"node": after.name(each.id), "role": each.role, "replica of": _of(after, each)} for each in after.topology]
    more = "" if primary is not None else ", without slots: give it some with redis-rebalance --use-empty"
    return Finding(f"{node} joined as {role}{more}", {"rows": rows})


def _of(found: Look, node: Node) -> str | None:
    return found.name(node.primary_id) if node.primary_id else None


def _role(found: Look, node: Node) -> str:
    return f"a replica of {found.name(node.primary_id)}" if node.primary_id else "a primary"


def _host(seen: NodeView) -> str:
    return (seen.me.host if seen.me is not None else "") or seen.ip


def newcomer_problems(cluster: Look, seen: NodeView) -> list[str]:
    """Return why a node cannot join, one part of a sentence each. Pure.

    Args:
        cluster: without the node, unless it is a member.
        seen: what the node answered.
    """
    if seen.error:
        return [seen.error]
    found: list[str] = []
    if not seen.server.cluster:
        found.append("it does not run in cluster mode; set cluster-enabled yes and start it again")
    if seen.other_ips:
        found.append(f"its name stands for {listed([seen.ip, *seen.other_ips])}; give a name of one address")
    versions = {(node.server.kind, node.server.version.partition(".")[0]) for node in cluster.answering}
    if (seen.server.kind, seen.server.version.partition(".")[0]) not in versions:
        have = listed(sorted({node.server.text for node in cluster.answering}))
        found.append(f"it is {seen.server.text}, the others are {have}; use the same major version")
    if find_member(cluster, seen.address) is not None:
        return found
    if is_stranger(cluster, seen):
        found.append(f"it belongs to another cluster of {len(seen.view)} nodes; reset it there first")
    elif any(not each.is_myself for each in seen.view):
        found.append("it knows nodes of this cluster, which do not know it: it was removed, or is about to join; wait, "
                     "or reset it with CLUSTER RESET")  # fmt: skip
    if seen.me is not None and seen.me.slots:
        found.append("it owns slots")
    keys = facts.keyspace(seen.info).keys
    if keys:
        found.append(f"it holds {keys:,} keys, which would be lost or in the wrong slots; nothing here ever empties it")
    return found


def is_stranger(cluster: Look, seen: NodeView) -> bool:
    """Return whether a node knows others, and none of this cluster. Pure."""
    others = {each.id for each in seen.view if not each.is_myself}
    return bool(others) and others.isdisjoint(node.id for node in cluster.topology)


def choose_primary(topology: Sequence[Node], host: str, leave_out: str = "") -> Node:
    """Return whom a replica should follow: on another host, then with the fewest replicas, then by address. Pure.

    Args:
        topology: every node.
        host: of the replica.
        leave_out: the id of a replica that does not count, such as the one that is given a new primary.
    """

    def rank(node: Node) -> tuple[Any, ...]:
        replicas = [each for each in replicas_of(topology, node.id) if each.id != leave_out]
        return node.host == host, len(replicas), node.host, node.port

    return min(primaries(topology), key=rank)


def _primary(cluster: Look, seen: NodeView, replica_of: str) -> Node | None:
    if not replica_of:
        return None
    member = find_member(cluster, seen.address)
    if member is not None and member.slots:
        raise PreconditionFailed(
            f"{seen.address} owns slots, so it cannot become a replica. Nothing was changed. Take its slots away "
            f'first: invoke redis-rebalance --weights "{seen.address}=0"'
        )
    if replica_of == AUTO:
        if member is not None and member.primary_id:
            return next(node for node in cluster.topology if node.id == member.primary_id)
        return choose_primary(cluster.topology, _host(seen))
    wanted = find_member(cluster, replica_of)
    if wanted is None or not wanted.is_primary or wanted.id == seen.id:
        names = listed(cluster.name(node.id) for node in primaries(cluster.topology))
        raise EnvironmentInvalid(f"replica_of: {replica_of!r} is no primary of the cluster. Primaries: {names}")
    return wanted


def _client(ctx: Context, seen: NodeView) -> Redis:
    return ctx.clients.redis_node(seen.place, timeout=REPLY_SECONDS)


def _meet(ctx: Context, cluster: Look, seen: NodeView) -> None:
    """Let it greet every node, which is quicker than to wait for the gossip (§1.3)."""
    client: Any = _client(ctx, seen)
    for node in cluster.topology:
        if not set(BAD_FLAGS) & set(node.flags):
            client.execute_command("CLUSTER", "MEET", node.host, node.port, node.bus_port)


def _joined(found: Look, node_id: str, size: int) -> tuple[bool, str]:
    knowing = Counter(
        len(node.view) == size
        and any(each.id == node_id for each in node.view)
        and not any("handshake" in each.flags for each in node.view)
        for node in found.answering
    )
    return knowing[True] >= size, f"{knowing[True]} of {size} nodes know all"


def _copy_functions(ctx: Context, cluster: Look, seen: NodeView) -> None:
    """Copy the functions: they are not in the slots, so that calls would fail on a primary that lacks them (§1.2)."""
    owner = primaries(cluster.topology)[0]
    source = cluster.asked(owner.id)
    if source is None or source.server.numbers < FUNCTIONS_SINCE:
        return
    theirs: Any = _client(ctx, source)
    ours: Any = _client(ctx, seen)
    dump = theirs.execute_command("FUNCTION", "DUMP")
    libraries = len(theirs.execute_command("FUNCTION", "LIST"))
    if not libraries or dump == ours.execute_command("FUNCTION", "DUMP"):
        return
    if ours.execute_command("FUNCTION", "LIST"):
        raise PreconditionFailed(
            f"{seen.address} has other functions than {source.address}. Nothing was changed. Delete them with FUNCTION "
            "FLUSH there if nobody needs them"
        )
    ctx.apply(f"copy {libraries} function libraries from {source.address} to {seen.address}",
              ours.execute_command, "FUNCTION", "RESTORE", dump)  # fmt: skip
