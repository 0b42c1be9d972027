"""Look for acknowledged writes at the present owners of their slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from credscale.redis_cluster.cluster.nodes import primaries
from credscale.redis_cluster.cluster.slots import contains
from credscale.redis_cluster.cluster.views import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credscale.core.context import Context
    from credscale.redis_cluster.cluster.views import Look

BATCH = 500
READ_SECONDS = 5.0
PAUSE_SECONDS = 0.1


def owner_of(found: Look, slot: int) -> str:
    """Return where to reach the owner of a slot, once all that answer name the same one and it answers; else empty."""
    owners = {node.id for view in found.answering for node in primaries(view.view) if contains(node.slots, slot)}
    if len(owners) != 1:
        return ""
    seen = found.asked(owners.pop())
    return "" if seen is None or seen.error else seen.place


def missing(ctx: Context, found: Look, slot: int, keys: Sequence[str], *, timeout: float) -> list[int] | None:
    """Look for keys of one slot and delete them.

    Args:
        ctx: the run.
        found: a fresh look; another is taken where nobody answers for the slot by it.
        slot: of all the keys.
        keys: each holds as its value the number behind its last colon.
        timeout: seconds in which the nodes must agree on the owner, and it must answer.

    Returns:
        the places in ``keys`` of those that are not there; None when nobody answered for the slot in time.
    """
    from redis.exceptions import RedisError

    deadline = time.monotonic() + timeout
    while True:
        place = owner_of(found, slot)
        if place:
            try:
                return _missing_at(ctx, place, keys)
            except (RedisError, OSError):  # it is no longer the owner, or gone: whoever is now, is asked
                pass
        if time.monotonic() >= deadline:
            return None
        time.sleep(PAUSE_SECONDS)
        found = look(ctx, links=False)


def _missing_at(ctx: Context, place: str, keys: Sequence[str]) -> list[int]:
    client: Any = ctx.clients.redis_node(place, timeout=READ_SECONDS)
    lost = []
    for start in range(0, len(keys), BATCH):
        batch = keys[start : start + BATCH]
        values = client.execute_command("MGET", *batch)
        wanted = [key.rpartition(":")[2] for key in batch]
        lost += [start + at for at, (value, want) in enumerate(zip(values, wanted, strict=True)) if value != want]
    for start in range(0, len(keys), BATCH):  # only now: a first part that was deleted could not be read again
        client.execute_command("UNLINK", *keys[start : start + BATCH])
    return lost
