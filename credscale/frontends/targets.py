"""Which cluster a run works on: how the journal names it, and where the run's lease is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.core import mongo_lease, redis_lease
from credscale.core.errors import ConnectFailed, CredscaleError
from credscale.core.lease import Lease, MemoryLease, PlanLease, TargetLease
from credscale.core.redis_clients import redis_failures, turned_away

if TYPE_CHECKING:
    from collections.abc import Callable

    from credscale.core.context import Context
    from credscale.frontends.session import Request

MONGO, REDIS, HOSTS = "mongo", "redis", "hosts"


def target_of(request: Request) -> str:
    """Return what a run works on: ``mongo``, ``redis``, or nothing where the environment has not got it.

    What only looks takes what there is. Hosts are always there: without a section hosts it is this machine.
    """
    if request.runbook.target == HOSTS:
        return HOSTS
    there = {MONGO: request.environment.mongo is not None, REDIS: request.environment.redis is not None}
    wanted = request.runbook.target
    if not there[wanted] and request.runbook.keep_going:
        return next((name for name in there if there[name]), "")
    return wanted if there[wanted] else ""


def _lease_in(request: Request) -> str:
    """Return which target keeps the run's lease; nothing where it may not be a cluster yet, or need not be one.

    Hosts keep none: nobody's work on a cluster is in the way of a look at its hosts.

    A look at a Redis Cluster that serves nothing has to show just that.
    """
    target, runbook = target_of(request), request.runbook
    only_looks = runbook.keep_going or target == HOSTS or (runbook.reads_only and target == REDIS)
    return "" if runbook.builds_target or only_looks else target


def describe_target(ctx: Context, request: Request) -> dict[str, str]:
    """Name cluster and engine on the first line of every journal; an unreachable one is said by the lease or a step."""
    if request.runbook.builds_target or not target_of(request):
        return {"engine": "none", "target": ctx.environment.name}
    return _TARGETS[target_of(request)](ctx, request)


def _hosts_target(ctx: Context, request: Request) -> dict[str, str]:
    """Name the hosts as they were asked for."""
    wanted = request.params.get("hosts") or request.params.get("host")
    there = f"all {len(ctx.environment.hosts)} of {ctx.environment.name}" if ctx.environment.hosts else "this machine"
    return {"engine": "none", "target": f"hosts: {wanted or there}"}


def _mongo_target(ctx: Context, _: Request) -> dict[str, str]:
    from pymongo.errors import PyMongoError

    from credscale.mongo.cluster import facts

    try:
        server = facts.server(ctx.clients.mongo())
    except (CredscaleError, PyMongoError) as error:
        return {"engine": "unknown", "target": f"not reached: {error}"}
    return {"engine": server.engine, "target": f"mongos {ctx.clients.mongo_router()}, cluster {server.cluster_id}"}


def _redis_target(ctx: Context, _: Request) -> dict[str, str]:
    from credscale.redis_cluster.cluster.views import look

    found = look(ctx, links=False)
    if not found.answering:
        reasons = "; ".join(f"{node.address}: {node.error}" for node in found.nodes)
        return {"engine": "unknown", "target": f"not reached: {reasons}"}
    first = found.answering[0]
    return {"engine": first.server.text, "target": f"node {first.address}, {len(found.topology)} nodes"}


_TARGETS = {MONGO: _mongo_target, REDIS: _redis_target, HOSTS: _hosts_target}


def plan_lease(ctx: Context, request: Request) -> Lease:
    """Return what a run that changes nothing may know of the lease: what an earlier run left to put back."""
    return _or_without(ctx, request, _plan_lease)


def take_lease(ctx: Context, request: Request) -> Lease:
    """Take the target's lease for a run; the run's own earlier lease is simply continued."""
    return _or_without(ctx, request, _take_lease)


def _or_without(ctx: Context, request: Request, lease: Callable[[Context, Request], Lease]) -> Lease:
    """Do without a lease where the shard that would hold it does not serve, and just that may be to be mended."""
    try:
        return lease(ctx, request)
    except ConnectFailed as error:
        if not request.runbook.repairs or turned_away(error):
            raise
        why = _why_no_lease(ctx)
        if why:
            ctx.note(f"no lease keeps others out, because {why}: {error}")
            return MemoryLease()
    return lease(ctx, request)  # it serves, so a moment's failure must not let two operators in


def _why_no_lease(ctx: Context) -> str:
    """Return why the cluster cannot hold a lease; nothing where it can.

    A primary that only we do not reach, or that is not voted down yet, may hold another operator's lease.
    """
    from credscale.redis_cluster.cluster.slots import contains, key_slot
    from credscale.redis_cluster.cluster.views import look

    found = look(ctx, links=False)
    if not found.answering:
        return "no node answers"
    if all(node.cluster is not None and node.cluster.state != "ok" for node in found.answering):
        return "no node that answers says that the cluster serves"
    owner = next((node for node in found.topology if contains(node.slots, key_slot(redis_lease.LEASE))), None)
    if owner is None:
        return "no node has the slot of the lease"
    return f"{found.name(owner.id)}, which has the slot of the lease, is down" if "fail" in owner.flags else ""


def _plan_lease(ctx: Context, request: Request) -> Lease:
    from pymongo.errors import PyMongoError

    kept_in = _lease_in(request)
    failures = (PyMongoError,) if kept_in == MONGO else redis_failures()
    try:
        if kept_in == MONGO:
            return PlanLease(mongo_lease.kept_in(ctx.clients.mongo()))
        if kept_in == REDIS:
            return PlanLease(redis_lease.kept_in(ctx.clients.redis_cluster()))
    except failures as error:
        raise ConnectFailed(
            f"the lease cannot be read ({type(error).__name__}: {error}). Nothing was changed"
        ) from None
    return MemoryLease()


def _take_lease(ctx: Context, request: Request) -> Lease:
    kept_in = _lease_in(request)
    if not kept_in:
        return MemoryLease()
    lease: TargetLease
    if kept_in == MONGO:
        lease = mongo_lease.MongoLease(ctx.clients.mongo(), request.run, ctx.note)
    else:
        lease = redis_lease.RedisLease(ctx.clients.redis_cluster(), request.run, ctx.note)
    lease.acquire()
    return lease
