"""Make a replica the primary of a shard whose primary is gone: what a person decides, knowing what it may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import EnvironmentInvalid, PreconditionFailed, Refused, WaitTimeout
from credscale.core.phrases import listed
from credscale.core.step import Finding, step
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import by_id, primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import Reason, sentence
from credscale.redis_cluster.cluster.slots import count, ranges_text
from credscale.redis_cluster.cluster.views import look
from credscale.redis_cluster.failover.execution import AGAIN, CONFIRM_SECONDS, REPLY_SECONDS, flips
from credscale.redis_cluster.failover.plan import node_at
from credscale.redis_cluster.failover.prechecks import answer_of, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import Look

FORCE, TAKEOVER = "force", "takeover"
# Measured with one write per millisecond while the primary was alive (§1.7).
RISKS = {
    FORCE: "writes that the old primary acknowledged and had not replicated are lost for good: 18 to 94 of 5,000 were "
    "where it was still alive",
    TAKEOVER: "it takes the slots without anybody's vote: writes that the old primary acknowledged and had not "
    "replicated are lost for good (3 to 15 of 5,000 where it was still alive, once 1,742), and where the other side of "
    "a partition has promoted a node as well, the newer epoch wins and the other side's writes are lost",
}


@step(repairs=True)
def force_failover(
    ctx: Context, *, replica: str, mode: str = FORCE, accept_data_loss: bool = False, timeout: float = 10.0
) -> Finding:
    """Make a replica the primary although its primary is down: CLUSTER FAILOVER FORCE, or TAKEOVER without a majority.

    For a shard that does not heal itself. FORCE needs the votes of a majority of primaries; TAKEOVER is for the loss of
    that majority, and needs nobody's. Neither is sent while the primary answers us, or while others still hear it.

    Args:
        ctx: the run.
        replica: the replica that takes over, host:port
        mode: force or takeover
        accept_data_loss: what the old primary acknowledged and did not replicate may be lost
        timeout: seconds to wait for the role to flip
    """
    if mode not in RISKS:
        raise EnvironmentInvalid(f"--mode is {FORCE} or {TAKEOVER}, not {mode!r}")
    found = look(ctx, links=False)
    target = node_at(found, replica)
    if target is None:
        known = listed((found.name(node.id) for node in found.topology if node.is_replica), 12)
        raise EnvironmentInvalid(f"--replica {replica}: no such node in the cluster. Its replicas: {known}")
    name = found.name(target.id)
    if target.is_primary and target.slots:
        return Finding(f"{name} is a primary already, with {count(target.slots)} slots", _output(found, target))
    reasons = why_not_forced(found, target.id, mode)
    if reasons:
        raise PreconditionFailed(
            f"CLUSTER FAILOVER {mode.upper()} is not sent: {sentence(reasons)}. Nothing was changed. What to do: "
            f"{listed(dict.fromkeys(reason.action for reason in reasons))}",
            {"problems": [reason.row() for reason in reasons]},
        )
    primary = by_id(found.topology)[target.primary_id]
    behind = _behind(found, target)
    if not accept_data_loss:
        raise Refused(
            f"CLUSTER FAILOVER {mode.upper()} on {name}: {RISKS[mode]}. {behind}. Nothing was changed. Bring "
            f"{found.name(primary.id)} back if you can; otherwise run the same command with --accept-data-loss"
        )
    seen = answer_of(found, target)
    client: Any = ctx.clients.redis_node(seen.place if seen is not None else name, timeout=REPLY_SECONDS)
    ctx.apply(
        f"CLUSTER FAILOVER {mode.upper()} on {name}: it takes the slots {ranges_text(primary.slots)} of "
        f"{found.name(primary.id)}, which is down; what was not replicated is lost",
        client.execute_command, "CLUSTER", "FAILOVER", mode.upper(),
    )  # fmt: skip
    if ctx.dry_run:
        return Finding(f"would make {name} the primary of {count(primary.slots)} slots. {behind}")
    if not flips(client, timeout):
        raise WaitTimeout(
            f"{name} answered OK and is no primary after {timeout:.0f} s: it was not elected. Look at its log and at "
            f"who can vote with: invoke cluster-status --env {ctx.environment.name}; {AGAIN}"
        )
    ctx.wait_until(
        f"every node sees {name} with the slots", lambda: _owns(ctx, target.id, primary), CONFIRM_SECONDS, every=0.1
    )
    after = look(ctx, links=False)
    return Finding(
        f"{name} is the primary of {count(primary.slots)} slots. {behind}. When {found.name(primary.id)} comes back it "
        f"becomes a replica and drops what only it has. Next: invoke cluster-status --env {ctx.environment.name}",
        _output(after, target) | {"risk": RISKS[mode]},
    )


def why_not_forced(found: Look, replica_id: str, mode: str) -> tuple[Reason, ...]:
    """Return what forbids forcing, whatever a person accepts; pure.

    FORCE is only for a primary that is down while a majority of primaries is there to vote; TAKEOVER only for when that
    majority is gone (§1.8). Down means that it does not answer us, and that those who vote, or for TAKEOVER the replica
    itself, flag it as failed: a primary that only we cannot reach is alive.

    Args:
        found: a fresh look.
        replica_id: who would take over.
        mode: ``force`` or ``takeover``.
    """
    return tuple(_forbids(found, replica_id, mode))


def _forbids(found: Look, replica_id: str, mode: str) -> Iterator[Reason]:
    known = by_id(found.topology)
    target, name = known[replica_id], found.name(replica_id)
    primary = known.get(target.primary_id)
    if not target.is_replica or primary is None or not primary.slots:
        yield problem(name, "role", f"it is a {target.role} and replicates no primary with slots", "name a replica")
        return
    if answer_of(found, target) is None:
        yield problem(name, "answer", "it does not answer us", "look at its process and the network")
    yield from _further_sibling(found, target)
    voters = primaries(found.topology)
    there = [node for node in voters if answer_of(found, node) is not None]
    majority = len(there) > len(voters) // 2
    heirs = "a replica takes over by itself within about a node timeout, or use invoke redis-failover"
    if answer_of(found, primary) is not None:
        yield problem(found.name(primary.id), "alive", "the primary answers us", heirs)
    elif not _flagged(found, primary, [node.id for node in there] if majority else [replica_id]):
        what = "it does not answer us, but the nodes that vote do not call it failed"
        remedy = "wait a node timeout; if it stays, we are cut off from it and they are not"
        yield problem(found.name(primary.id), "alive", what, remedy)
    many = f"{len(there)} of {len(voters)} primaries answer"
    if mode == FORCE and not majority:
        yield problem("cluster", "majority", f"{many}: nobody can be elected", "bring primaries back; takeover is what "
                      "is left after that")  # fmt: skip
    if mode == TAKEOVER and majority:
        yield problem("cluster", "majority", f"{many}, which is a majority, so an election is possible",
                      "use --mode force, or wait for the replicas")  # fmt: skip


def _further_sibling(found: Look, target: Node) -> Iterator[Reason]:
    """A replica that takes over makes its siblings drop what it has not got."""
    offsets = {}
    for node in replicas_of(found.topology, target.primary_id):
        seen = answer_of(found, node)
        offset = facts.replication(seen.info).replica_offset if seen is not None else None
        if offset is not None:
            offsets[node.id] = offset
    best = max(offsets, key=lambda node_id: offsets[node_id], default=target.id)
    if target.id in offsets and offsets[best] > offsets[target.id]:
        more = offsets[best] - offsets[target.id]
        name = found.name(best)
        what = f"{name} has {more:,} bytes more of what the primary wrote, which would be lost"
        yield problem(found.name(target.id), "behind", what, f"name that one: --replica {name}")


def _flagged(found: Look, primary: Node, viewers: list[str]) -> bool:
    """Tell whether more than half of these nodes, and at least one, call a primary failed or suspect it."""
    views = [view for view in found.answering if view.id in viewers]
    flags = [{"fail", "fail?"} & set(node.flags) for view in views for node in view.view if node.id == primary.id]
    return 2 * sum(bool(each) for each in flags) > len(flags)


def _behind(found: Look, target: Node) -> str:
    seen = answer_of(found, target)
    known = facts.replication(seen.info) if seen is not None else facts.Replication()
    if known.down_seconds is None or known.down_seconds < 0:
        return f"{found.name(target.id)} does not tell how long it has been without its primary"
    return f"{found.name(target.id)} last heard from its primary {known.down_seconds} s ago"


def _owns(ctx: Context, node_id: str, old: Node) -> tuple[bool, str]:
    found = look(ctx, links=False)
    wrong = [
        f"{view.address} sees it as a {node.role} with {count(node.slots)} slots"
        for view in found.answering
        for node in view.view
        if node.id == node_id and not (node.is_primary and node.slots == old.slots)
    ]
    return not wrong and found.asked(node_id) is not None, listed(wrong)


def _output(found: Look, target: Node) -> dict[str, Any]:
    return {
        "rows": [
            {"node": found.name(node.id), "role": node.role, "slots": ranges_text(node.slots), "epoch": node.epoch}
            for node in found.topology
            if node.id == target.id or node.primary_id == target.id or node.id == target.primary_id
        ]
    }
