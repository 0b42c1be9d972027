"""What a migration has to put back, and what forbids putting it back: kept in the target, so that it outlives a run.

Three things are kept. What the balancer was before a migration first changed it; what the migration left it at, so that
a later change by somebody else is told from ours; and that a shardCollection may be half done, during which the
balancer must stay off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from credscale.mongo import facts
from credscale.mongo.distribution import range_problem
from credscale.mongo.operations import sharding_under_way

if TYPE_CHECKING:
    from credscale.core.context import Context
    from credscale.mongo.commands import Client
    from credscale.mongo.settings import BalancerSettings

BEFORE, LEFT, KEEP_OFF = "balancer", "balancer_left", "keep_balancer_off"
LOOKS = 2  # a command that was just sent shows on a shard only a moment later
PAUSE_SECONDS = 1.0


def remember(ctx: Context, settings: BalancerSettings) -> None:
    """Keep what the balancer is, unless what it was before this migration is kept already.

    From now on until ``left`` nobody can tell who set the mode, so what is kept holds in any case.
    """
    if changed_since(ctx, settings.mode):
        forget(ctx)
    ctx.lease.remember(BEFORE, {"mode": settings.mode, "autosplit": settings.autosplit})
    ctx.lease.forget(LEFT)


def left(ctx: Context, mode: str) -> None:
    """Keep the mode that a migration has set and seen."""
    ctx.lease.remember(LEFT, mode)


def changed_since(ctx: Context, mode: str) -> bool:
    """Tell whether somebody else has set the balancer since a migration left it: then nothing is to be put back."""
    known = ctx.lease.recall(LEFT)
    return known is not None and known != mode


def forget(ctx: Context) -> None:
    """Drop what was to be put back, in the order in which a kill between leaves nothing to be put back."""
    ctx.lease.forget(BEFORE)
    ctx.lease.forget(LEFT)


def keep_off(ctx: Context, namespace: str, reason: str) -> None:
    """Forbid that the balancer is started at the end of this run or a later one, until the collection is read back."""
    ctx.lease.remember(KEEP_OFF, {"namespace": namespace, "reason": reason})


def is_kept_off(ctx: Context, namespace: str) -> bool:
    """Tell whether a shardCollection of this collection was sent and never read back."""
    return bool((ctx.lease.recall(KEEP_OFF) or {}).get("namespace") == namespace)


def allow(ctx: Context, namespace: str) -> None:
    """Allow the balancer again, once the collection was read back as it should be."""
    if is_kept_off(ctx, namespace):
        ctx.lease.forget(KEEP_OFF)


def reason_to_keep_off(ctx: Context) -> str:
    """Return why the balancer must stay off; empty, and the reason forgotten, once it holds no longer.

    A collection that is sharded whole needs it no more, nor does one that is not sharded while nobody is at it.
    """
    kept = ctx.lease.recall(KEEP_OFF)
    if kept is None:
        return ""
    reason = _still(ctx, ctx.clients.mongo(), str(kept["namespace"]))
    if reason:
        return f"{kept['reason']}, and {reason}"
    if not ctx.dry_run:
        ctx.lease.forget(KEEP_OFF)
    return ""


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
