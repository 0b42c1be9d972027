"""Slots moved with their keys by SETSLOT and MIGRATE, in the order that never leaves a slot without an owner (§1.2).

A slot is opened on the target (IMPORTING) and then on the source (MIGRATING); from then on no new key of it comes to be
on the source, so that its keys run out. Only when the source holds none the target takes the slot, under a new epoch:
a source that still held keys would delete them when it hears of that. SETSLOTs of many slots go in one write, because
each write costs the node one fsync of its nodes.conf; MIGRATEs go one at a time, because a frozen target holds the
source for the timeout of every one that waits in line.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.redis_cluster.cluster.reasons import listed
from credscale.redis_cluster.memory.sampling import patterns
from credscale.redis_cluster.resharding.routes import MEGABYTE, Key, weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from credscale.redis_cluster.resharding.routes import End, Pace, Route


MOST_OPEN = 128  # slots on the way at once: SETSLOTs of so many fit one read of the server (16 KB)
MOST_OPEN_FULL = 32  # of them with keys, each of which takes a MIGRATE while all are open
MOST_OPEN_KEYS = 500
SHARE = 32  # part of what the target owns that is open at once; see _limit
LISTED = 1000
ASKED = 500
TRIES = 5
RUN_AGAIN = "Run it again: it finishes what is open first"


def move_slots(
    route: Route, slots: Sequence[int], pace: Pace, progress: Callable[[int], None], *, opened: bool = False
) -> list[str]:
    """Move slots with all their keys.

    Args:
        route: the two ends.
        slots: which the source owns.
        pace: goes on from one call to the next.
        progress: called with the number of slots that are done.
        opened: whether they are on the way already, so that keys on the target belong there.

    Returns:
        what the other primaries could not be told, one sentence each; they learn it from the target by themselves.

    Raises:
        PreconditionFailed: a key is too big, the target is full, or it holds keys of a slot that is none of its own.
        VerificationFailed: a node answered otherwise than it must.
    """
    if not opened:
        _refuse_leftovers(route, slots)
    notes: list[str] = []
    held, left = dict(zip(slots, counts(route.source, slots), strict=True)), list(slots)
    while left:
        batch = _first(left, held, _limit(route.owned + pace.received[route.target.id]))
        keys = list_keys(route.source, batch)
        refuse_big(route, keys, "nothing was changed in these slots")
        tell(route.target, batch, "IMPORTING", route.source.id)
        tell(route.source, batch, "MIGRATING", route.target.id)
        move_keys(route, batch, keys, pace)
        notes += hand_over(route, batch)
        pace.received[route.target.id] += len(batch)
        left = left[len(batch) :]
        progress(len(slots) - len(left))
    return notes


def _limit(owned: int) -> int:
    """Return how many slots may be open at once on the way to a primary that owns so many.

    A client that does not know the target yet learns of it from the first slot that it finds moved. Where an open slot
    redirects it to a node it does not know, redis-py (8.1) fails with an AttributeError; so of the slots of a new
    primary that clients may meet, few are open and most have moved.
    """
    return max(1, min(MOST_OPEN, owned // SHARE))


def _first(slots: Sequence[int], held: Mapping[int, int], most: int) -> list[int]:
    """Return the slots that are open together: few, where they hold much, so that none is open for long."""
    batch: list[int] = []
    full = keys = 0
    for slot in slots[:most]:
        full, keys = full + bool(held[slot]), keys + held[slot]
        if batch and (full > MOST_OPEN_FULL or keys > MOST_OPEN_KEYS):
            break
        batch.append(slot)
    return batch


def counts(end: End, slots: Sequence[int]) -> list[int]:
    """Return how many keys a node holds in each slot."""
    pipeline: Any = end.client.pipeline(transaction=False)
    for slot in slots:
        pipeline.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
    return [int(reply) for reply in pipeline.execute()]


def _refuse_leftovers(route: Route, slots: Sequence[int]) -> None:
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
    """Return keys of slots, up to ``LISTED`` of each, with their sizes."""
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
        sizes = pipeline.execute()
        keys += [Key(name, slot, int(size or 0)) for (name, slot), size in zip(part, sizes, strict=True)]
    return keys


def refuse_big(route: Route, keys: Iterable[Key], state: str) -> None:
    """Refuse keys that would hold up the source for long: a key moves whole, and nobody is served meanwhile.

    Raises:
        PreconditionFailed: names the patterns, because names of keys hold ids and addresses.
    """
    big = [key for key in keys if key.bytes > route.largest]
    if not big:
        return
    shown = patterns(key.name for key in big)
    texts = [f"{shown[key.name]!r} in slot {key.slot} ({key.bytes / MEGABYTE:.0f} MB)" for key in big]
    raise PreconditionFailed(
        f"{route.source.name} holds keys above {route.largest / MEGABYTE:.0f} MB: {listed(texts)}. Moving one stops "
        f"the node for about a second per 100 MB; {state}. Split or delete them, or accept the pause with --max-key-mb "
        f"{max(key.bytes for key in big) // MEGABYTE + 1}"
    )


def tell(end: End, slots: Iterable[int], word: str, node_id: str = "") -> None:
    """Set the state of slots on one node, in one write.

    Raises:
        VerificationFailed: it refused some.
    """
    refused = _say(end, slots, word, node_id)
    if refused:
        raise VerificationFailed(f"{end.name} refused SETSLOT {word}: {listed(refused)}. {RUN_AGAIN}")


def _say(end: End, slots: Iterable[int], word: str, node_id: str) -> list[str]:
    pipeline: Any = end.client.pipeline(transaction=False)
    wanted = list(slots)
    for slot in wanted:
        pipeline.execute_command("CLUSTER", "SETSLOT", slot, word, *([node_id] if node_id else []))
    replies = pipeline.execute(raise_on_error=False)
    return [
        f"slot {slot}: {reply}" for slot, reply in zip(wanted, replies, strict=True) if isinstance(reply, Exception)
    ]


def move_keys(route: Route, slots: Sequence[int], keys: Sequence[Key], pace: Pace) -> None:
    """Send all keys of open slots to the target, until the source holds none.

    Args:
        route: the two ends.
        slots: open on both.
        keys: of them, as far as known; those that have gone meanwhile do no harm.
        pace: how much goes at once.

    Raises:
        PreconditionFailed: a key is too big, or the target is full.
        VerificationFailed: a node answered otherwise than it must, or keys stay.
    """
    left, before, idle = list(slots), 0, 0
    while True:
        for load in _loads(keys, pace):
            _send(route, load, pace)
        numbers = counts(route.source, left)
        left = [slot for slot, number in zip(left, numbers, strict=True) if number]
        if not left:
            return
        idle = idle + 1 if before and sum(numbers) >= before else 0
        if idle == TRIES:
            raise VerificationFailed(
                f"{sum(numbers)} keys of the slots {listed(map(str, left))} stay on {route.source.name}. They may be "
                f"in another database than 0, which MIGRATE does not reach. The slots are open. {RUN_AGAIN}"
            )
        before, keys = sum(numbers), list_keys(route.source, left)
        refuse_big(route, keys, f"the slots {listed(map(str, left))} are open, and clients reach all their keys")


def _loads(keys: Iterable[Key], pace: Pace) -> Iterator[list[Key]]:
    """Yield what goes in one MIGRATE: keys of one slot, as the server demands, up to the allowance of that moment."""
    by_slot: dict[int, list[Key]] = defaultdict(list)
    for key in keys:
        by_slot[key.slot].append(key)
    for group in by_slot.values():
        load: list[Key] = []
        for key in group:
            if load and weight([*load, key]) > pace.allowance:
                yield load
                load = []
            load.append(key)
        yield load


def _send(route: Route, keys: Sequence[Key], pace: Pace) -> None:
    """Send keys; one that is on the target already is compared, unless it is certain that ours is the newer one."""
    replace = False
    for _ in range(TRIES):
        problem = _migrate(route, keys, pace, replace=replace)
        if not problem:
            return
        if "BUSYKEY" in problem:
            if not route.certain:
                refuse_conflicts(route, keys)
            replace = True
        elif problem.startswith("IOERR"):
            settle(route)
            replace = replace or route.certain  # the key may have arrived though its receipt did not
        else:
            break
    where = f"{route.source.name} could not move keys of slot {keys[0].slot} to {route.target.name}"
    if "OOM" in problem:
        raise PreconditionFailed(
            f"{where}: the target is full ({problem}). The slot is open, and clients reach all its keys. Raise its "
            f"maxmemory or give it a smaller weight. {RUN_AGAIN}"
        )
    raise VerificationFailed(f"{where}: {problem}. The slot is open, and clients reach all its keys. {RUN_AGAIN}")


def _migrate(route: Route, keys: Sequence[Key], pace: Pace, *, replace: bool) -> str:
    """Send one MIGRATE; return the server's complaint, or nothing."""
    from redis.exceptions import ResponseError

    client: Any = route.source.client
    words = [route.target.host, route.target.port, "", 0, route.milliseconds]
    begin = time.monotonic()
    try:
        client.execute_command(
            "MIGRATE", *words, *(["REPLACE"] if replace else []), *route.login, "KEYS", *(key.name for key in keys)
        )
    except ResponseError as error:
        return str(error) if type(error) is ResponseError else f"{type(error).__name__} {error}"
    pace.measured(weight(keys), time.monotonic() - begin)
    pace.keys += len(keys)
    return ""


def settle(route: Route) -> None:
    """Wait until the target has read what it was sent, before anything is sent again.

    What lies in its buffers is worked off in the round of its loop in which it answers again, at the latest.
    """
    for _ in range(2):
        route.target.client.ping()


def refuse_conflicts(route: Route, keys: Sequence[Key]) -> None:
    """Compare keys that are on both ends, where it is not certain which of them clients wrote last.

    Raises:
        PreconditionFailed: some differ, and nobody said whose count.
    """
    if route.prefer_owner:
        return
    ours: Any = route.source.client.pipeline(transaction=False)
    theirs: Any = route.target.client.pipeline(transaction=False)
    for key in keys:
        ours.execute_command("DUMP", key.name)
        theirs.execute_command("ASKING")
        theirs.execute_command("DUMP", key.name)
    pairs = zip(keys, ours.execute(), theirs.execute()[1::2], strict=True)
    different = [key for key, one, other in pairs if None not in (one, other) and one != other]
    if different:
        shown = patterns(key.name for key in different)
        raise PreconditionFailed(
            f"{len(different)} keys of slot {keys[0].slot} are on {route.source.name}, which owns it, and with other "
            f"values on {route.target.name}: {listed(sorted(set(shown.values())))}. A failover broke the move, so it "
            "is not known which a client wrote last. Neither was changed. Keep the owner's with --prefer-owner, or "
            "delete the others by hand"
        )


def hand_over(route: Route, slots: Sequence[int]) -> list[str]:
    """Make the target the owner of open slots of which the source holds no key; then tell the others.

    The target first: were it the source and the target died, nobody would own them (§1.2).

    Returns:
        as for ``move_slots``.
    """
    from redis.exceptions import RedisError

    tell(route.target, slots, "NODE", route.target.id)
    notes = []
    for end in (route.source, *route.others):
        try:
            refused = _say(end, slots, "NODE", route.target.id)
        except (RedisError, OSError) as error:
            notes.append(f"{end.name} was not told of {len(slots)} slots: {type(error).__name__}")
            continue
        # one that has given its last slot away has become a replica by now
        notes += [f"{end.name} refused {each}" for each in refused if "only with" not in each]
    return notes
