"""What a migration has to put back, and what forbids putting it back: kept in the target, so that it outlives a run.

Three things are kept. What the balancer was before a migration first changed it; what the migration left it at, so that
a later change by somebody else is told from ours; and, for each collection, that its shardCollection may be half done,
during which the balancer must stay off. A dry run keeps in its own memory what it would keep in the target.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.core.errors import Refused
from credscale.mongo.chunks.distribution import range_problem
from credscale.mongo.cluster import facts
from credscale.mongo.cluster.commands import retrying
from credscale.mongo.cluster.operations import sharding_under_way

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.cluster.commands import Client
    from credscale.mongo.cluster.settings import BalancerSettings

BEFORE, LEFT, KEEP_OFF = "balancer", "balancer_left", "keep_balancer_off"
PLANNED = "balancer_planned"  # what a dry run would have left; never in the target
LOOKS = 2  # a command that was just sent shows on a shard only a moment later
PAUSE_SECONDS = 1.0


def remember(ctx: Context, settings: BalancerSettings) -> None:
    """Keep what the balancer is, unless what it was before this migration is kept already.

    From now on until ``left`` nobody can tell who set the mode, so what is kept holds in any case.
    """
    if changed_since(ctx, settings.mode):
        forget(ctx)
    _remember(ctx, BEFORE, {"mode": settings.mode, "autosplit": settings.autosplit})
    _forget(ctx, LEFT)


def plan(ctx: Context, settings: BalancerSettings, mode: str, *, autosplit: bool) -> None:
    """Keep, for the rest of a dry run, what would be remembered and what the run would leave the balancer at."""
    remember(ctx, settings)
    _forget(ctx, PLANNED)
    _remember(ctx, PLANNED, {"mode": mode, "autosplit": autosplit})


def kept(ctx: Context) -> dict[str, Any] | None:
    """Return what a migration, or the plan of one, has kept to be put back: mode and autosplit."""
    found: dict[str, Any] | None = _recall(ctx, BEFORE)
    return found


def planned(ctx: Context) -> dict[str, Any] | None:
    """Return what a dry run would have left the balancer at: mode and autosplit; None outside of one."""
    return _recall(ctx, PLANNED) if ctx.dry_run else None


def before(ctx: Context, mode: str) -> dict[str, Any] | None:
    """Return what is to be put back: mode and autosplit; None when it is nothing, or somebody else's by now.

    Args:
        ctx: the run.
        mode: what it is now; another one than a migration left is somebody else's.
    """
    return None if planned(ctx) is None and changed_since(ctx, mode) else kept(ctx)


def left(ctx: Context, mode: str) -> None:
    """Keep the mode that a migration has set and seen."""
    _remember(ctx, LEFT, mode)


def changed_since(ctx: Context, mode: str) -> bool:
    """Tell whether somebody else has set the balancer since a migration left it: then nothing is to be put back."""
    known = _recall(ctx, LEFT)
    return known is not None and known != mode


def forget(ctx: Context) -> None:
    """Drop what was to be put back, in the order in which a kill between leaves nothing to be put back."""
    _forget(ctx, BEFORE)
    _forget(ctx, LEFT)


def keep_off(ctx: Context, namespace: str, reason: str) -> None:
    """Forbid that the balancer is started at the end of this run or a later one, until the collection is read back."""
    _remember(ctx, _keep_off_key(namespace), {"namespace": namespace, "reason": reason})


def kept_off(ctx: Context) -> list[str]:
    """Return the collections whose shardCollection was sent and never read back."""
    return [str(entry["namespace"]) for entry in _keep_off_entries(ctx).values()]


def is_kept_off(ctx: Context, namespace: str) -> bool:
    """Tell whether a shardCollection of this collection was sent and never read back."""
    return namespace in kept_off(ctx)


def allow(ctx: Context, namespace: str) -> None:
    """Allow the balancer again, once the collection was read back as it should be."""
    for key, entry in _keep_off_entries(ctx).items():
        if entry["namespace"] == namespace:
            _forget(ctx, key)


def reason_to_keep_off(ctx: Context) -> str:
    """Return why the balancer must stay off; empty once no reason holds. Each that holds no longer is forgotten.

    A collection that is sharded whole needs it no more, nor does one that is not sharded while nobody is at it.
    """
    reasons = []
    for key, entry in _keep_off_entries(ctx).items():
        reason = _still(ctx, ctx.clients.mongo(), str(entry["namespace"]))
        if reason:
            reasons.append(f"{entry['reason']}, and {reason}")
        elif not ctx.dry_run:
            _forget(ctx, key)
    return "; ".join(reasons)


def _keep_off_key(namespace: str) -> str:
    """Return a key of its own for each collection; a field's name in a document may not have a namespace's dots."""
    return f"{KEEP_OFF}:{namespace.encode().hex()}"


def _keep_off_entries(ctx: Context) -> dict[str, dict[str, Any]]:
    kept = retrying(ctx.lease.recall_all)
    return {key: entry for key, entry in kept.items() if key.startswith(KEEP_OFF)}


def _still(ctx: Context, client: Client, namespace: str) -> str:
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE_SECONDS)
        sharded = facts.sharded_collection(client, namespace)
        if sharded is not None:
            problem = range_problem(client, sharded)
            return f"its chunks do not cover the key space: {problem}" if problem else ""
        reason = sharding_under_way(ctx, namespace)
        if reason:
            return reason
    return ""


def _remember(ctx: Context, key: str, value: Any) -> None:
    """Keep a value, and read it back; the document lies on a shard, which may be electing its primary at this moment.

    Raises:
        Refused: it is not kept: without it nobody could put the balancer back, so nothing may be changed.
    """
    retrying(lambda: ctx.lease.remember(key, value))
    if _recall(ctx, key) is None:
        raise Refused(
            "what a later run needs to put the balancer back can't be kept in the target: the lease document of "
            "credscale.lease is gone. Stopped before the next change. Find out who has removed it, then run the same "
            "command again"
        )


def _recall(ctx: Context, key: str) -> Any | None:
    return retrying(lambda: ctx.lease.recall(key))


def _forget(ctx: Context, key: str) -> None:
    retrying(lambda: ctx.lease.forget(key))
