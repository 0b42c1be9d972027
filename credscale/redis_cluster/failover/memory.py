"""What a run that fails shards over and back must know when it was killed: kept in the target, forgotten at the end.

Two things are kept: which primaries the shards had at first, and which of them have been failed over already. Without
the second a shard that is back could not be told from one that was never touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from credscale.core.context import Context

GOAL, AWAY = "failover", "failover_away"
STALE = timedelta(hours=24)  # roles that old are no longer what anybody wants back


@dataclass(frozen=True)
class Goal:
    """What an unfinished run is about.

    Args:
        what: its selection in words, such as ``rolling, back``.
        first: ids of the first primaries, in the order of work.
        begun: when, in UTC.
        away: those whose shards have been failed over and seen so.
    """

    what: str
    first: tuple[str, ...]
    begun: str
    away: frozenset[str] = frozenset()


def unfinished(ctx: Context, what: str) -> Goal | None:
    """Return what a run with this selection has left; what another selection or an old run has left is dropped."""
    kept = ctx.lease.recall(GOAL)
    if kept is None:
        return None
    goal = Goal(kept["what"], tuple(kept["first"]), kept["begun"], away(ctx))
    age = datetime.now(UTC) - datetime.fromisoformat(goal.begun)
    if goal.what == what and age < STALE:
        ctx.note(f"goes on with what a run began at {goal.begun}: {what}")
        return goal
    ctx.note(f"a run of {goal.begun} ({goal.what}) was never finished; its roles are left as they are now")
    forget(ctx)
    return None


def begin(ctx: Context, what: str, first: tuple[str, ...]) -> None:
    """Keep the first primaries, unless a run that was killed has kept them."""
    if ctx.lease.recall(GOAL) is None:
        _forget_away(ctx)  # left by a run that was killed while it forgot
    ctx.lease.remember(GOAL, {"what": what, "first": list(first), "begun": datetime.now(UTC).isoformat("T", "seconds")})


def away(ctx: Context) -> frozenset[str]:
    """Return the first primaries whose shards have been failed over and seen so."""
    begun = f"{AWAY}:"
    return frozenset(key.removeprefix(begun) for key in ctx.lease.recall_all() if key.startswith(begun))


def went_away(ctx: Context, primary_id: str) -> None:
    """Keep that a shard has been failed over: to be called before it is failed back."""
    ctx.lease.remember(f"{AWAY}:{primary_id}", True)


def forget(ctx: Context) -> None:
    """Drop everything; the goal first, without which the rest means nothing."""
    ctx.lease.forget(GOAL)
    _forget_away(ctx)


def _forget_away(ctx: Context) -> None:
    for primary_id in away(ctx):
        ctx.lease.forget(f"{AWAY}:{primary_id}")
