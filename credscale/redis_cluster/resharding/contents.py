"""What the ends of a move hold of its slots, and what of that is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed
from credscale.core.phrases import listed
from credscale.redis_cluster.memory.sampling import patterns
from credscale.redis_cluster.resharding.conflicts import gone_as_none
from credscale.redis_cluster.resharding.routes import MEGABYTE, Key, other_databases

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from credscale.redis_cluster.resharding.routes import End, Route

LISTED = 1000
ASKED = 500


def counts(end: End, slots: Sequence[int]) -> list[int]:
    """Return how many keys a node holds in each slot."""
    pipeline: Any = end.client.pipeline(transaction=False)
    for slot in slots:
        pipeline.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
    return [int(reply) for reply in pipeline.execute()]


def refuse_databases(route: Route) -> None:
    """Refuse a source with keys in other databases than 0, which MIGRATE leaves behind.

    Raises:
        PreconditionFailed: names the databases.
    """
    client: Any = route.source.client
    more = other_databases(client.execute_command("INFO", "keyspace"))
    if more:
        raise PreconditionFailed(
            f"{route.source.name} holds keys in {listed(more)}. MIGRATE reaches database 0 only, and the server would "
            "delete the others once it has given their slots away. Nothing was changed in these slots. Upgrade both "
            "nodes to Valkey 9, which moves all databases by itself, or move those keys to database 0"
        )


def refuse_leftovers(route: Route, slots: Sequence[int]) -> None:
    """Refuse slots of which the target holds keys though nobody can reach them there.

    Raises:
        PreconditionFailed: names the slots.
    """
    left = [
        f"{number} of slot {slot}" for slot, number in zip(slots, counts(route.target, slots), strict=True) if number
    ]
    if left:
        raise PreconditionFailed(
            f"{route.target.name} holds keys of slots that {route.source.name} owns: {listed(left)}. They are left "
            "from an earlier move that somebody closed by hand, no client can reach them, and moving the slots there "
            f"would bring them back to life. Nothing was changed in these slots. To delete one on {route.target.name}: "
            f"CLUSTER SETSLOT n IMPORTING {route.source.id}, ASKING, DEL key, and at the end CLUSTER SETSLOT n STABLE"
        )


def list_keys(end: End, slots: Iterable[int]) -> list[Key]:
    """Return keys of slots, up to ``LISTED`` of each, with their sizes.

    Expired ones that the server has not deleted yet are among them, with no size: MIGRATE makes it delete them.
    """
    pipeline: Any = end.client.pipeline(transaction=False)
    wanted = list(slots)
    for slot in wanted:
        pipeline.execute_command("CLUSTER", "GETKEYSINSLOT", slot, LISTED)
    found = [(name, slot) for slot, names in zip(wanted, pipeline.execute(), strict=True) for name in names]
    keys: list[Key] = []
    for start in range(0, len(found), ASKED):
        part = found[start : start + ASKED]
        for name, _ in part:
            pipeline.execute_command("MEMORY", "USAGE", name)
        sizes = gone_as_none(end, pipeline.execute(raise_on_error=False))
        keys += [Key(name, slot, int(size or 0)) for (name, slot), size in zip(part, sizes, strict=True)]
    return keys


def refuse_big(route: Route, keys: Iterable[Key], state: str, *, opened: bool) -> None:
    """Refuse keys that would hold up the source for long: a key moves whole, and nobody is served meanwhile.

    Args:
        route: the two ends.
        keys: with their sizes.
        state: of the slots, in words.
        opened: whether they are on their way, so that the repair goes on with them and not the command that moves more.

    Raises:
        PreconditionFailed: names the patterns, because names of keys hold ids and addresses.
    """
    big = [key for key in keys if key.bytes > route.largest]
    if not big:
        return
    shown = patterns(key.name for key in big)
    texts = [f"{shown[key.name]!r} in slot {key.slot} ({key.bytes / MEGABYTE:.0f} MB)" for key in big]
    accept = f"--max-key-mb {max(key.bytes for key in big) // MEGABYTE + 1}"
    raise PreconditionFailed(
        f"{route.source.name} holds keys above {route.largest / MEGABYTE:.0f} MB: {listed(texts)}. Moving one stops "
        f"the node for about a second per 100 MB; {state}. Split or delete them, or accept the pause: "
        f"{f'invoke redis.repair-open-slots {accept}' if opened else f'run it again with {accept}'}"
    )
