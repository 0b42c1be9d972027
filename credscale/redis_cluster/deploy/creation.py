"""The steps from running nodes to a cluster that serves."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from credscale.core.errors import VerificationFailed
from credscale.core.step import Finding, probe, step
from credscale.redis_cluster.cluster.health import gate
from credscale.redis_cluster.cluster.nodes import primaries, replicas_of
from credscale.redis_cluster.cluster.reasons import sentence
from credscale.redis_cluster.cluster.slots import count, ranges_text, tag_in
from credscale.redis_cluster.cluster.views import describe, inventory, look
from credscale.redis_cluster.deploy.forming import POLL_SECONDS, form
from credscale.redis_cluster.deploy.layout import layout
from credscale.redis_cluster.deploy.placing import few_replicas
from credscale.redis_cluster.deploy.plan import Wanted, host_risks, imagine_fresh, seats_of
from credscale.redis_cluster.status import summarize, tables

if TYPE_CHECKING:
    from redis import Redis

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.reasons import Reason
    from credscale.redis_cluster.cluster.views import Look

WAIT_MS = 1000
CANARY_SECONDS = 60
CANARY_TIMEOUT = 5.0


def wanted_cluster(ctx: Context, *, accept_one_host_majority: bool = False) -> Wanted:
    """Return the cluster that the environment describes; one replica per primary where it does not say.

    Nodes of one machine of the section hosts fail together, by whichever addresses they are named.

    Raises:
        EnvironmentInvalid: it has no section redis.
    """
    addresses = inventory(ctx)
    section = ctx.environment.redis
    replicas = section.deploy.replicas if section is not None and section.deploy is not None else 1
    machines = {address: ctx.environment.machine_of(address) for address in addresses}
    hosts = {address: name for address, name in machines.items() if name}
    return Wanted(addresses, replicas, hosts, accept_one_host_majority=accept_one_host_majority)


@step()
def create_cluster(ctx: Context, *, timeout: float = 60.0, accept_one_host_majority: bool = False) -> Finding:
    """Make one Redis Cluster of the running nodes of the environment, and wait until every node serves and agrees.

    Primaries are spread over hosts, replicas put on other hosts than their primaries. A half-made cluster is completed
    with what it has; one that is ready is left alone. Nodes that hold data outside the cluster, belong to another one
    or do not answer are refused before anything is changed; nothing is ever reset or wiped. Redis 6.2 to 8, Valkey.

    Args:
        timeout: seconds for the nodes to join, and again until the cluster is ready.
        accept_one_host_majority: create it even if one host holds so many primaries that its loss stops the cluster.
    """
    wanted = wanted_cluster(ctx, accept_one_host_majority=accept_one_host_majority)

    fresh = _to_be_started(ctx) if ctx.planning else frozenset()

    def see() -> Look:
        return imagine_fresh(look(ctx, addresses=wanted.addresses), fresh)

    def connect(address: str, seconds: float) -> Redis:
        return ctx.clients.redis_node(address, timeout=seconds)

    wait = partial(ctx.wait_until, every=POLL_SECONDS)
    made, found = form(wanted, connect, see, ctx.apply, wait, ctx.note, timeout=timeout)
    reasons = host_risks(found, wanted)
    for reason in reasons:
        ctx.note(f"{reason.text}; {reason.action}")
    output = {"rows": _rows(found, wanted), "problems": [reason.row() for reason in reasons]}
    if made and ctx.dry_run:
        return Finding(f"{made} changes make one cluster of {len(found.nodes)} nodes", output)
    if made:
        return Finding(f"the cluster is ready: {summarize(found)}", output)
    return Finding(f"the cluster is complete already: {summarize(found)}", output)


def _to_be_started(ctx: Context) -> frozenset[str]:
    """Return the nodes that the plan has just started and that have nothing stored, so that they come up empty."""
    section = ctx.environment.redis
    if section is None or section.deploy is None:
        return frozenset()
    return frozenset(
        node.address
        for node in layout(ctx.environment).nodes
        if not ctx.clients.machine(node.machine).exists(f"{node.data}/nodes.conf")
    )


def _rows(found: Look, wanted: Wanted) -> list[dict[str, Any]]:
    return [
        {
            "node": seat.address, "host": seat.host, "role": "replica" if seat.primary else "primary",
            "replica of": seat.primary or None, "slots": count(seat.slots), "ranges": ranges_text(seat.slots),
        }
        for seat in seats_of(found, wanted)
    ]  # fmt: skip


@probe()
def cluster_ready(ctx: Context) -> Finding:
    """Check on every node of the environment that the cluster serves, agrees, and that all replicas are in sync.

    This is more than ``redis-cli --cluster check`` looks at: roles, replication, bus connections and epochs as well.
    With ``redis.deploy`` each primary needs at least as many replicas as that says.
    """
    addresses = inventory(ctx)
    found = look(ctx, addresses=addresses)
    wrong = (*gate(found, nodes=len(addresses)), *_few_replicas(ctx, found))
    summary = summarize(found)
    if wrong:
        remedies = "; ".join(dict.fromkeys(each.action for each in wrong if each.rule == "replica-count"))
        todo = f". What to do: {remedies}" if remedies else ""
        raise VerificationFailed(f"the Redis Cluster is not ready: {sentence(wrong)}. {summary}{todo}", tables(found))
    return Finding(f"ready: {summary}", {"rows": tables(found)["rows"]})


def _few_replicas(ctx: Context, found: Look) -> tuple[Reason, ...]:
    section = ctx.environment.redis
    if section is None or section.deploy is None:
        return ()
    attached = {
        (found.name(owner.id), owner.id): [found.name(each.id) for each in replicas_of(found.topology, owner.id)]
        for owner in primaries(found.topology)
    }
    return few_replicas(attached, section.deploy.replicas)


@step()
def write_canary(ctx: Context) -> Finding:
    """Write one key to each shard that expires by itself, and see it reach every replica within a second.

    Needs a user who may SET and WAIT on keys ``credscale:canary:*``.
    """
    found = look(ctx, addresses=inventory(ctx))
    if not primaries(found.topology):
        ctx.require(False, VerificationFailed("no node owns slots; create the cluster first: redis-deploy"))
        return Finding("waits for the planned cluster")
    rows = ctx.apply("write a canary key to each shard", _write_canaries, ctx, found) or []
    late = [row for row in rows if row["acknowledged"] < row["replicas"]]
    if late:
        told = "; ".join(f"{row['node']}: {row['acknowledged']} of {row['replicas']} replicas" for row in late)
        raise VerificationFailed(f"the canary did not reach every replica within {WAIT_MS} ms: {told}. Look at the "
                                 "replicas with cluster-status", {"rows": rows})  # fmt: skip
    return Finding(f"{len(rows)} shards took a write and passed it on to all replicas", {"rows": rows})


def _write_canaries(ctx: Context, found: Look) -> list[dict[str, Any]]:
    from redis.exceptions import RedisError

    rows: list[dict[str, Any]] = []
    for owner in primaries(found.topology):
        name = found.name(owner.id)
        seen = found.asked(owner.id)
        place = seen.place if seen is not None else owner.address
        key, expected = f"credscale:canary:{{{tag_in(owner.slots)}}}", len(replicas_of(found.topology, owner.id))
        # WAIT speaks of the writes of its own connection, so both go in one pipeline
        pipeline: Any = ctx.clients.redis_node(place, timeout=CANARY_TIMEOUT).pipeline(transaction=False)
        pipeline.execute_command("SET", key, "1", "EX", CANARY_SECONDS)
        pipeline.execute_command("WAIT", expected, WAIT_MS)
        begin = time.monotonic()
        try:
            _, acknowledged = pipeline.execute()
        except (RedisError, OSError) as error:
            told = describe(error, CANARY_TIMEOUT)
            raise VerificationFailed(f"{name} does not take the canary {key}: {told}", {"rows": rows}) from error
        rows.append(
            {
                "node": name, "key": key, "replicas": expected, "acknowledged": int(acknowledged),
                "took (ms)": round((time.monotonic() - begin) * 1000, 1),
            }
        )  # fmt: skip
    return rows
