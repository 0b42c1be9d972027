"""The primaries of a look as ends of a move, and looks at a cluster that shall be changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from credscale.core.errors import PreconditionFailed
from credscale.redis_cluster.cluster.agreement import signature
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import by_id
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.slots import count
from credscale.redis_cluster.cluster.views import Look, look
from credscale.redis_cluster.resharding.repair import agreed
from credscale.redis_cluster.resharding.routes import MEGABYTE, End, Route

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.nodes import Node
    from credscale.redis_cluster.cluster.views import NodeView

REPLY_SECONDS = 30.0
NODE_TIMEOUT = 15_000  # the server's default, in milliseconds
LEAST_MILLISECONDS = 1000
READY_SECONDS = 60.0
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What a person accepts of moves.

    Args:
        max_key_mb: the largest key that may hold its node up.
        prefer_owner: whether of two values of a key, after the move broke, the owner's counts.
    """

    max_key_mb: int = 64
    prefer_owner: bool = False


def end(ctx: Context, found: Look, node_id: str) -> End:
    """Return a node as an end of a move."""
    node, seen = by_id(found.topology)[node_id], found.asked(node_id)
    place = seen.place if seen is not None else node.address
    client = ctx.clients.redis_node(place, timeout=REPLY_SECONDS)
    return End(node_id, found.name(node_id), client, node.host, node.port)


def ends(ctx: Context, found: Look) -> dict[str, End]:
    """Return every primary that answers, by its id."""
    answering = {node.id for node in found.answering}
    return {node.id: end(ctx, found, node.id) for node in found.topology if node.is_primary and node.id in answering}


def route(ctx: Context, found: Look, source: str, target: str, limits: Limits) -> Route:
    """Return the way between two primaries, by their ids.

    MIGRATE runs in the source, so it goes to the address that the target announces to its peers, with our own login. A
    frozen target may hold the source for half a node timeout, after which nobody doubts the source yet.
    """
    all_ends = ends(ctx, found)
    others = tuple(each for node_id, each in all_ends.items() if node_id not in (source, target))
    seen = found.asked(source)
    told = (seen.settings if seen is not None else {}).get("cluster-node-timeout", str(NODE_TIMEOUT))
    return Route(
        all_ends[source], all_ends[target], others, login=_login(ctx),
        milliseconds=max(LEAST_MILLISECONDS, int(told) // 2), largest=limits.max_key_mb * MEGABYTE,
        prefer_owner=limits.prefer_owner, owned=count(by_id(found.topology)[target].slots),
        held=ctx.lease.check,
    )  # fmt: skip


def _login(ctx: Context) -> tuple[str, ...]:
    section = ctx.environment.redis
    if section is None or section.password is None:
        return ()
    password = ctx.secrets.resolve(section.password)
    return ("AUTH2", section.user, password) if section.user is not None else ("AUTH", password)


def members(found: Look, left_out: str = "") -> Look:
    """Return a look without those that are in the inventory and not in the cluster: yet, or no longer.

    Args:
        found: the whole look.
        left_out: the address of one that is left out even if it does not answer.
    """
    ids = {node.id for node in found.topology}
    return Look(tuple(node for node in found.nodes if node.id in ids or (node.error and node.address != left_out)))


def settle(ctx: Context, *, membership: bool = False) -> Look:
    """Look until the nodes agree on who owns which slot: a killed run's last change may still be on its way.

    A slot that comes to a node is left out of its own view, in which a failover of the source never shows.

    Args:
        ctx: the run.
        membership: whether they have to agree on who is in the cluster, and as what, as well.

    Raises:
        WaitTimeout: they stay in disagreement.
    """
    seen: list[Look] = []

    def settled() -> tuple[bool, str]:
        seen.append(members(look(ctx)))
        same = len({signature(node.view) for node in seen[-1].answering}) <= 1 if membership else agreed(seen[-1])
        return same, sentence(each for each in gate(seen[-1]) if each.rule == "agreement")

    if ctx.planning:
        return members(look(ctx))
    what = "who belongs to the cluster" if membership else "who owns which slot"
    ctx.wait_until(f"all nodes agree on {what}", settled, SETTLE_SECONDS, every=0.2)
    return seen[-1]


def require_ready(ctx: Context, found: Look, next_command: str) -> None:
    """Refuse to change a cluster that is not ready.

    Raises:
        PreconditionFailed: it is not; names the reasons.
    """
    reasons = gate(found)
    ctx.require(
        reasons == (),
        PreconditionFailed(
            f"the cluster is not ready: {sentence(reasons)}. Nothing was changed by this step. Bring it in order "
            f"(invoke cluster-status shows it), then run: {next_command}"
        ),
    )


def wait_ready(ctx: Context, timeout: float, *, left_out: str = "", nodes: int | None = None) -> Look:
    """Wait until the cluster is ready again, and return the last look.

    Args:
        ctx: the run.
        timeout: seconds.
        left_out: as for ``members``.
        nodes: how many there must be; None for as many as answer.

    Raises:
        WaitTimeout: it did not become ready.
    """
    seen: list[Look] = []

    def ready() -> tuple[bool, str]:
        seen.append(members(look(ctx), left_out))
        reasons = gate(seen[-1], nodes=nodes)
        return reasons == (), sentence(reasons)

    ctx.wait_until("every node serves, agrees and is in sync", ready, timeout, every=0.2)
    return seen[-1] if seen else members(look(ctx), left_out)


def find(found: Look, address: str) -> NodeView | None:
    """Return the answer of a node by the address people know, or one that it announces."""
    for node in found.nodes:
        announced = node.me.address if node.me is not None else ""
        if address in (node.address, node.place, announced):
            return node
    return None


def find_member(found: Look, address: str) -> Node | None:
    """Return a member of the cluster by such an address; also one that does not answer."""
    seen = find(found, address)
    for node in found.topology:
        if address in (node.address, f"{node.hostname}:{node.port}") or (seen is not None and node.id == seen.id):
            return node
    return None
