"""A node leaves a cluster: its slots go first, then its replicas, then the others forget it, and at last it them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, Refused, VerificationFailed
from credscale.core.phrases import listed
from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster.health import LEAST_PRIMARIES, gate
from credscale.redis_cluster.cluster.loss import hosts, lose_host
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.slots import count
from credscale.redis_cluster.cluster.views import Look, look
from credscale.redis_cluster.resharding.carrying_out import carry_out, refuse_full
from credscale.redis_cluster.resharding.ends import (
    REPLY_SECONDS,
    Limits,
    end,
    find,
    find_member,
    members,
    settle,
    wait_ready,
)
from credscale.redis_cluster.resharding.joining import choose_primary, is_stranger
from credscale.redis_cluster.resharding.plan import moved, plan_drain
from credscale.redis_cluster.resharding.routes import Pace
from credscale.redis_cluster.resharding.steps import require_closed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import NodeView

TIMEOUT = 60.0
STAY_SECONDS = 2.0
FORGET_AT_ONCE = 64


@step()
def remove_node(
    ctx: Context, *, node: str, accept_risk: bool = False, max_key_mb: int = 64, timeout: float = TIMEOUT
) -> Finding:
    """Take a node out of the cluster; a primary gives its slots, with their keys, to the others first.

    Then its replicas follow other primaries, every other node forgets it at once (within the 60 s after which gossip
    would bring it back), and CLUSTER RESET SOFT makes it forget them. A primary that held a key would refuse the reset;
    a replica gives up its copy. A dead node that owns no slots is forgotten, and not reset. On Valkey a node can join
    again only 60 s after it was forgotten.

    Args:
        node: host:port of the node
        accept_risk: remove it though fewer than 3 primaries stay, or a shard without a replica, or one host with a
            majority of the primaries
        max_key_mb: the largest key that may hold up its node while it moves
        timeout: seconds to wait for all nodes to agree

    Raises:
        EnvironmentInvalid: nobody knows the node, or it belongs to another cluster.
        Refused: something of accept_risk is so.
        PreconditionFailed: the cluster is not in order, or the node owns slots and does not answer.
    """
    everybody = look(ctx)
    found, seen = members(everybody), find(everybody, node)
    if seen is None:
        direct = look(ctx, addresses=[node]).nodes[0]
        seen = replace(direct, declared=False) if not direct.error else None
    done = _half_forgotten(ctx, found, seen, node)
    if done is not None:
        return done
    found = settle(ctx)
    seen, member = find(found, node), find_member(found, node)
    if member is None:
        raise EnvironmentInvalid(f"no node of the cluster is {node}")
    _require_removable(ctx, found, member, seen)
    risks = removal_risks(found, member)
    if risks and not accept_risk:
        raise Refused(
            f"{node} is not removed: {'; '.join(risks)}. Nothing was changed. Accept it with: invoke redis-remove-node "
            f"--node {node} --accept-risk"
        )
    moves = plan_drain(found.topology, member.id)
    slots = sum(count(move.slots) for move in moves)
    refuse_full(found, moves)
    rows = _rows(found, moved(found.topology, moves))
    pace = Pace()
    carry_out(ctx, found, moves, Limits(max_key_mb), pace)
    _repoint(ctx, found, member, timeout)
    alive = seen is not None and not seen.error
    others = [each.id for each in found.topology if each.id != member.id]
    ctx.apply(f"let {len(others)} nodes forget {node}", _forget, ctx, found, others, member.id)
    if seen is not None and alive:
        ctx.apply(f"reset {node} (SOFT): it forgets the cluster", _reset, ctx, seen.place)
    else:
        ctx.note(f"{node} does not answer and was not reset. Delete its nodes.conf before it is started again")
    if ctx.dry_run:
        return Finding(f"{node} would leave; {slots:,} slots would move", {"rows": rows})
    _stays_away(ctx, node, member.id, timeout)
    told = f"; {slots:,} slots with {pace.keys:,} keys went to the others" if slots else ""
    return Finding(f"{node} has left the cluster{told}. Take it out of redis.nodes", {"rows": rows})


def _rows(found: Look, after: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {"node": found.name(node.id), "role": node.role, "slots": count(node.slots), "slots after": after.get(node.id)}
        for node in found.topology
    ]


def _require_removable(ctx: Context, found: Look, member: Node, seen: NodeView | None) -> None:
    """Refuse while something else is wrong; the node itself may be dead once it owns nothing.

    Raises:
        PreconditionFailed: names it.
    """
    dead = seen is None or bool(seen.error)
    name = found.name(member.id)
    if dead and member.slots:
        raise PreconditionFailed(
            f"{name} owns {count(member.slots)} slots and does not answer, so its keys cannot be moved. Nothing was "
            "changed. Start it, or let a replica take over first"
        )
    unreachable = [each.address for each in found.nodes if each.error and each is not seen]
    known = {each.id for each in found.answering}
    unreachable += [found.name(each.id) for each in found.topology if each.id not in known and each.id != member.id]
    ctx.require(
        not unreachable,
        PreconditionFailed(
            f"{listed(dict.fromkeys(unreachable))} must answer as well: a node that does not forget {name} brings it "
            "back. Nothing was changed. Start them, or remove them first"
        ),
    )
    rest = Look(tuple(each for each in found.nodes if each is not seen)) if dead else found
    its_death = {("flags", name), ("attached", found.name(member.primary_id))} if dead else set()
    reasons = [each for each in gate(rest) if (each.rule, each.where) not in its_death]
    ctx.require(
        not reasons,
        PreconditionFailed(
            f"the cluster is not ready: {sentence(reasons)}. Nothing was changed. Bring it in order first"
        ),
    )
    require_closed(ctx, found)


def removal_risks(found: Look, member: Node) -> list[str]:
    """Return what a removal would break that holds now, one part of a sentence each. Pure.

    Its replicas are thought to follow other primaries, and its slots to be with the others. The last replica of a whole
    cluster is not counted: a primary becomes one by itself when its slots have gone (cluster-allow-replica-migration),
    and its removal must go on where it broke off.
    """
    before = found.topology
    rest = [node for node in before if node.id != member.id]
    if member.is_replica:
        if not any(node.is_replica for node in rest):
            return []
        alone = [node for node in primaries(before) if replicas_of(before, node.id) == (member,)]
        return [f"{found.name(node.id)} would be without a replica" for node in alone]
    risks = []
    owners = primaries(before)
    if member.slots and len(owners) - 1 < LEAST_PRIMARIES:
        risks.append(f"{len(owners) - 1} primaries would be left, and with fewer than {LEAST_PRIMARIES} the loss of "
                     "one is not survived")  # fmt: skip
    for host in hosts(rest) if len(hosts(before)) > 1 else ():
        lost, was = lose_host(rest, host), lose_host(before, host)
        if was.quorum and not lost.quorum:
            risks.append(f"{host} would hold a majority of the primaries, so that its loss would be the cluster's")
    return risks


def _repoint(ctx: Context, found: Look, member: Node, timeout: float) -> None:
    """Let the replicas of a primary that has given everything away follow others."""
    replicas = [node.id for node in replicas_of(found.topology, member.id)]
    if not replicas:
        return
    now = found if ctx.dry_run else wait_ready(ctx, timeout)
    for replica, primary in plan_repoint(now.topology, member.id, replicas):
        client: Any = end(ctx, now, replica).client
        ctx.apply(
            f"make {now.name(replica)} a replica of {now.name(primary)}",
            client.execute_command, "CLUSTER", "REPLICATE", primary,
        )  # fmt: skip
    if not ctx.dry_run:
        wait_ready(ctx, timeout)


def plan_repoint(topology: Sequence[Node], leaving: str, replicas: Sequence[str]) -> list[tuple[str, str]]:
    """Return which replica shall follow which primary, by their ids. Pure.

    Invariant: afterwards none follows the node that leaves, and no shard has lost a replica. One that follows another
    primary already, as servers arrange it by themselves for a primary without slots (cluster-allow-replica-migration),
    stays there unless another primary has fewer or is on a better host.

    Args:
        topology: every node, after the slots have gone.
        leaving: the id of the node that leaves; it counts for nobody.
        replicas: ids of those that followed it.
    """
    nodes = {node.id: node for node in topology if node.id != leaving}
    moves = []
    for replica in sorted(replicas):
        mine = nodes.pop(replica)
        rest = list(nodes.values())
        wanted = choose_primary(rest, mine.host)
        current = nodes.get(mine.primary_id)
        if current is None or _rank(rest, mine, wanted) < _rank(rest, mine, current):
            moves.append((replica, wanted.id))
            mine = replace(mine, primary_id=wanted.id)
        nodes[replica] = mine
    return moves


def _rank(rest: Sequence[Node], replica: Node, primary: Node) -> tuple[bool, int]:
    return primary.host == replica.host, len(replicas_of(rest, primary.id))


def _forget(ctx: Context, found: Look, nodes: Sequence[str], node_id: str) -> None:
    """Let nodes forget one, all at once: after 60 s gossip of one that has not brings it back."""
    from redis.exceptions import ResponseError

    def forget(each: str) -> None:
        client: Any = end(ctx, found, each).client
        try:
            client.execute_command("CLUSTER", "FORGET", node_id)
        except ResponseError as error:
            if "Unknown node" not in str(error):
                raise

    with ThreadPoolExecutor(FORGET_AT_ONCE) as pool:
        list(pool.map(forget, nodes))


def _reset(ctx: Context, place: str) -> None:
    client: Any = ctx.clients.redis_node(place, timeout=REPLY_SECONDS)
    client.execute_command("CLUSTER", "RESET", "SOFT")


def _stays_away(ctx: Context, node: str, node_id: str, timeout: float) -> None:
    """Make sure that nobody knows the node, that nobody brings it back, and that the others are in order.

    Raises:
        WaitTimeout: some node still knows it, or the cluster is not ready.
        VerificationFailed: it came back.
    """

    def gone() -> tuple[bool, str]:
        knowing = [each.address for each in _knowing(look(ctx), node_id)]
        return not knowing, f"{listed(knowing)} know it"

    ctx.wait_until(f"every node has forgotten {node}", gone, timeout, every=0.1)
    time.sleep(STAY_SECONDS)
    after = wait_ready(ctx, timeout, left_out=node)
    back = [each.address for each in _knowing(after, node_id)]
    if back:
        raise VerificationFailed(
            f"{node} has come back: {listed(back)} know it again. Run it again: invoke redis-remove-node --node {node}"
        )


def _knowing(found: Look, node_id: str) -> list[NodeView]:
    return [each for each in found.answering if each.id != node_id and node_id in {one.id for one in each.view}]


def _half_forgotten(ctx: Context, found: Look, seen: NodeView | None, node: str) -> Finding | None:
    """Finish a removal that broke off after its first FORGET; None when the node is a member like any other.

    Raises:
        EnvironmentInvalid: nobody knows the node, or it belongs to another cluster.
        PreconditionFailed: what it holds may be the only copy.
    """
    node_id = seen.id if seen is not None and not seen.error else _id_of(found, node)
    others = [each for each in found.answering if each.id != node_id]
    knowing = _knowing(found, node_id)
    if node_id and len(knowing) == len(others):
        return None
    alive = seen is not None and not seen.error
    if not node_id:
        if seen is not None and seen.declared:
            return Finding(f"{node} is not in the cluster; take it out of redis.nodes")
        names = listed(found.name(each.id) for each in found.topology)
        raise EnvironmentInvalid(f"no node of the cluster is {node}. Its nodes: {names}")
    if seen is not None and alive and len(seen.view) <= 1 and not knowing:
        return Finding(f"{node} is not in the cluster")
    if seen is not None and alive and is_stranger(found, seen):
        raise EnvironmentInvalid(
            f"{node} belongs to another cluster, of {len(seen.view)} nodes, none of which is in this one. Nothing was "
            "changed. Look whether the address and the environment are the right ones"
        )
    lines = [line for each in (*knowing, seen) if each for line in each.view if line.id == node_id and line.slots]
    primary = seen.me.primary_id if seen is not None and seen.me is not None else ""
    owners = {each.id for each in primaries(found.topology)}
    if lines or (alive and primary and primary not in owners):
        raise PreconditionFailed(
            f"{len(others) - len(knowing)} of {len(others)} nodes do not know {node}, which owns slots or follows "
            "nobody they know: what it holds may be the only copy. Nothing was changed. Look at it with cluster-status"
        )
    if knowing:
        ids = [each.id for each in knowing]
        ctx.apply(f"let the other {len(ids)} nodes forget {node}", _forget, ctx, found, ids, node_id)
    if alive and seen is not None:
        ctx.apply(f"reset {node} (SOFT): it forgets the cluster", _reset, ctx, seen.place)
    if not ctx.dry_run:
        _stays_away(ctx, node, node_id, TIMEOUT)
    return Finding(f"{node} had been forgotten by {len(others) - len(knowing)} of {len(others)} nodes; it has left now")


def _id_of(found: Look, node: str) -> str:
    return next((line.id for each in found.answering for line in each.view if line.address == node), "")
