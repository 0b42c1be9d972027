"""Why chunks do not move: the reasons in the order in which they hide each other (reference §3.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from credscale.mongo.distribution import movable
from credscale.mongo.settings import seconds_until_open

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from credscale.mongo.distribution import Distribution, MoveEvent
    from credscale.mongo.facts import ShardedCollection
    from credscale.mongo.settings import BalancerSettings

_REMEDIES = (
    ("identically named collection", "Look at the stray collection on the recipient, then rename or drop it there."),
    ("too big", "Split the chunk, raise the chunk size, or move it with forceJumbo."),
    ("maximum number of documents", "Split the chunk, raise the chunk size, or move it with forceJumbo."),
    ("memory usage", "Too much is written to the moving chunk: slow the writers down or lower the chunk size."),
    ("missing", "Build the missing indexes on the recipient."),
    ("same _id", "Two shards hold the same _id: resolve the duplicates."),
    ("E11000", "Two shards hold the same _id: resolve the duplicates."),
    ("range deletion", "The recipient still deletes what it gave away: wait, 15 minutes by default."),
    ("catch up", "The recipient or its secondaries are too slow: look at replication lag."),
)


def diagnose(
    settings: BalancerSettings,
    sharded: ShardedCollection,
    found: Distribution,
    jumbo: Mapping[str, int],
    moves: Sequence[MoveEvent],
    now: datetime,
) -> str:
    """Return the most likely reason and what to do about it.

    Args:
        settings: the balancer's.
        sharded: the collection.
        found: its distribution.
        jumbo: jumbo chunks by shard.
        moves: migration events, newest first.
        now: the config primary's local time.
    """
    if settings.problems:
        return f"The balancer can't read its settings: {'; '.join(settings.problems)}. Correct config.settings."
    if settings.mode != "full":
        return f"The balancer is {settings.mode}. Run start_balancer."
    if seconds_until_open(settings.window, now) > 0 and settings.window is not None:
        return f"The balancer window {'-'.join(settings.window)} is closed. Wait, or widen the window."
    if sharded.no_balance:
        return "Balancing is disabled for this collection (noBalance or allowMigrations). Run sh.enableBalancing."
    if not found.by_bytes and any(jumbo.values()) and not movable(found.chunks, jumbo):
        marked = ", ".join(f"{shard} {count}" for shard, count in sorted(jumbo.items()))
        return (
            f"Only jumbo chunks are left on the fuller shards ({marked}); the balancer does not move them. Split them, "
            "clear the flag with clearJumboFlag, or raise the chunk size."
        )
    if not found.remaining:
        return "The chunks lie evenly, but balancerCollectionStatus is not content: look at zones and draining shards."
    return _aborted(moves) or (
        "Migrations neither succeed nor fail: look for paused or long-running migrations ($currentOp), a range "
        "deletion that is waited for, an index build on the collection, or an election of the config servers."
    )


def _aborted(moves: Sequence[MoveEvent]) -> str:
    """Return what aborts the newest migrations; only the recipient's event carries the reason (§0.6)."""
    failed = []
    for move in moves:
        if move.outcome == "success":
            break
        failed.append(move)
    if not failed:
        return ""
    text = next((move.error for move in failed if move.error), "")
    if not text:
        return "Migrations are aborted without a reason in config.changelog: read the config primary's log."
    remedy = next((advice for sign, advice in _REMEDIES if sign in text), "Remove the cause named there.")
    return f"Migrations to {failed[0].recipient} are aborted: {text!r}. {remedy}"
