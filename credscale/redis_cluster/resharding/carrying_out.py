"""Plans of moves carried out: one change per piece of slots, with progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from credscale.core.errors import ConnectFailed, PreconditionFailed
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import by_id
from credscale.redis_cluster.cluster.slots import count, numbers, ranges_text
from credscale.redis_cluster.cluster.views import describe
from credscale.redis_cluster.resharding.atomic import is_atomic, move_atomically
from credscale.redis_cluster.resharding.ends import REPLY_SECONDS, route
from credscale.redis_cluster.resharding.moving import RUN_AGAIN, move_slots
from credscale.redis_cluster.resharding.plan import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look
    from credscale.redis_cluster.resharding.ends import Limits
    from credscale.redis_cluster.resharding.plan import SlotMove
    from credscale.redis_cluster.resharding.routes import Pace, Route

FULL = 0.95
ATOMIC_SECONDS = 120.0


def carry_out(ctx: Context, found: Look, moves: Sequence[SlotMove], limits: Limits, pace: Pace) -> None:
    """Make the moves of a plan.

    Args:
        ctx: the run.
        found: the look that the plan was made from.
        moves: of the plan.
        limits: what is accepted.
        pace: of MIGRATE; holds afterwards how long the longest one took.

    Raises:
        ConnectFailed: a node stopped answering; what is open is finished by the next run.
        PreconditionFailed: as for ``move_slots``.
        VerificationFailed: the same.
    """
    watch = Progress(ctx, sum(count(move.slots) for move in moves))
    for piece in chunks(moves):
        number = count(piece.slots)
        what = f"{number} slots" if number > 1 else "slot"
        ctx.apply(
            f"move {what} ({listed(ranges_text(piece.slots).split())}) from {found.name(piece.source)} to "
            f"{found.name(piece.target)}",
            _move, ctx, found, piece, limits, pace, watch,
        )  # fmt: skip
        watch.done += number


class Progress:
    """Tells how many slots are done and how long the rest will take.

    Args:
        ctx: the run.
        total: slots in all.
    """

    def __init__(self, ctx: Context, total: int) -> None:
        self.ctx, self.total, self.done, self._begin = ctx, total, 0, time.monotonic()

    def __call__(self, more: int) -> None:
        """Tell that so many are done besides ``done``."""
        done = self.done + more
        took = time.monotonic() - self._begin
        self.ctx.progress(done, self.total, "slots", eta=round(took / done * (self.total - done), 1))


def _move(ctx: Context, found: Look, piece: SlotMove, limits: Limits, pace: Pace, progress: Progress) -> None:
    way = route(ctx, found, piece.source, piece.target, limits)
    both = [found.asked(piece.source), found.asked(piece.target)]
    if all(seen is not None and is_atomic(seen.server) for seen in both):
        from redis.exceptions import RedisError

        try:
            move_atomically(way.source, way.target, piece.slots, ATOMIC_SECONDS)
        except (RedisError, OSError) as error:
            raise ConnectFailed(
                f"{way.source.name} did not move slots to {way.target.name}: {describe(error, REPLY_SECONDS)}. "
                "What it has begun goes on in the servers. Run it again, which waits for it"
            ) from error
        progress(count(piece.slots))
        return
    for note in guarded(way, list(numbers(piece.slots)), pace, progress):
        ctx.note(note)


def guarded(way: Route, slots: list[int], pace: Pace, progress: Progress, *, opened: bool = False) -> list[str]:
    """Move slots as ``move_slots`` does, and say what a broken connection means."""
    from redis.exceptions import RedisError

    try:
        return move_slots(way, slots, pace, progress, opened=opened)
    except (RedisError, OSError) as error:
        raise ConnectFailed(
            f"moving slots from {way.source.name} to {way.target.name} broke off: {describe(error, REPLY_SECONDS)}. "
            f"Slots may be open; clients reach all their keys while both nodes run. {RUN_AGAIN}"
        ) from error


def refuse_full(found: Look, moves: Sequence[SlotMove]) -> None:
    """Refuse moves that would fill a target, by the sources' mean size of a slot.

    Raises:
        PreconditionFailed: names the target and the sizes.
    """
    nodes = by_id(found.topology)
    coming: dict[str, float] = {}
    for move in moves:
        seen = found.asked(move.source)
        memory = facts.memory(seen.info if seen is not None else {})
        share = count(move.slots) / count(nodes[move.source].slots)
        coming[move.target] = coming.get(move.target, 0.0) + share * (memory.dataset or 0)
    for target, size in coming.items():
        seen = found.asked(target)
        memory = facts.memory(seen.info if seen is not None else {})
        if memory.maximum and (memory.used or 0) + size > FULL * memory.maximum:
            raise PreconditionFailed(
                f"{found.name(target)} would be full: it uses {_mb(memory.used or 0)} of {_mb(memory.maximum)}, and "
                f"about {_mb(size)} would come. Nothing was moved. Raise its maxmemory, or give it a smaller weight"
            )


def _mb(size: float) -> str:
    return f"{size / (1 << 20):.0f} MB"
