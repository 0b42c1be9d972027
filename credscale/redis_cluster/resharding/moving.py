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
from credscale.core.phrases import listed
from credscale.redis_cluster.cluster import facts
from credscale.redis_cluster.cluster.nodes import parse_nodes
from credscale.redis_cluster.cluster.slots import contains
from credscale.redis_cluster.resharding.conflicts import refuse_conflicts
from credscale.redis_cluster.resharding.contents import (
    counts,
    list_keys,
    refuse_big,
    refuse_databases,
    refuse_leftovers,
)
from credscale.redis_cluster.resharding.routes import other_databases, weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from credscale.redis_cluster.resharding.routes import End, Key, Pace, Route


MOST_OPEN = 128  # slots on the way at once: SETSLOTs of so many fit one read of the server (16 KB)
MOST_OPEN_FULL = 32  # of them with keys, each of which takes a MIGRATE while all are open
MOST_OPEN_KEYS = 500
SHARE = 32  # part of what the target owns that is open at once; see _limit
TRIES = 5
FRESH_SECONDS = 1.0  # how old the source's last word may be when the target takes its slots
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
        opened: whether they are on the way already, so that keys on the target belong there, and of one on both ends
            it is not known which a client wrote last.

    Returns:
        what the other primaries could not be told, one sentence each; they learn it from the target by themselves.

    Raises:
        PreconditionFailed: a key is too big, the target is full, it holds keys of a slot that is none of its own, a
            key differs on both ends, or the source has more than one database.
        VerificationFailed: a node answered otherwise than it must.
    """
    refuse_databases(route)
    if not opened:
        refuse_leftovers(route, slots)
    notes: list[str] = []
    held, left = dict(zip(slots, counts(route.source, slots), strict=True)), list(slots)
    while left:
        batch = _first(left, held, _limit(route.owned + pace.received[route.target.id]))
        keys = list_keys(route.source, batch)
        refuse_big(route, keys, "nothing was changed in these slots", opened=opened)
        tell(route.target, batch, "IMPORTING", route.source.id)
        tell(route.source, batch, "MIGRATING", route.target.id)
        move_keys(route, batch, keys, pace, opened=opened)
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


def move_keys(route: Route, slots: Sequence[int], keys: Sequence[Key], pace: Pace, *, opened: bool) -> None:
    """Send all keys of open slots to the target, until the source holds none.

    Args:
        route: the two ends.
        slots: open on both.
        keys: of them, as far as known; those that have gone meanwhile do no harm.
        pace: how much goes at once.
        opened: as for ``move_slots``.

    Raises:
        PreconditionFailed: a key is too big or differs on both ends, or the target is full.
        VerificationFailed: a node answered otherwise than it must, or keys stay.
    """
    left, before, idle = list(slots), 0, 0
    while True:
        for load in _loads(keys, pace):
            _send(route, load, pace, opened=opened)
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
        state = f"the slots {listed(map(str, left))} are open, and clients reach all their keys"
        refuse_big(route, keys, state, opened=True)


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


def _send(route: Route, keys: Sequence[Key], pace: Pace, *, opened: bool) -> None:
    """Send keys; those that are on the target already are compared, unless this very call has brought them there.

    It has where a receipt was lost, in slots of which the target held no key before this run opened them: until the
    receipt, clients find and write such a key on the source alone.
    """
    replace = False
    for _ in range(TRIES):
        problem = _migrate(route, keys, pace, replace=replace)
        if not problem:
            return
        if "BUSYKEY" in problem:
            refuse_conflicts(route, keys)
            replace = True
        elif problem.startswith("IOERR"):
            settle(route)
            replace = replace or not opened
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


def hand_over(route: Route, slots: Sequence[int]) -> list[str]:
    """Make the target the owner of open slots of which the source holds no key; then tell the others.

    The target first: were it the source and the target died, nobody would own them (§1.2).

    Returns:
        as for ``move_slots``.

    Raises:
        Refused: somebody else took the lease.
        VerificationFailed: the source does not own them any more or holds keys, or a node answered otherwise than it
            must.
    """
    from redis.exceptions import RedisError

    _require_given_up(route, slots)
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


def _require_given_up(route: Route, slots: Sequence[int]) -> None:
    """Make sure, right before the target takes slots, that the source still owns them and holds none of their keys.

    A replica that was promoted since the last key left does not know that they were leaving (7.0) and takes new keys,
    which it would delete when it hears of the target.
    """
    route.held()
    for _ in range(TRIES):
        begin = time.monotonic()
        problems = _claims(route, slots)
        if not problems and time.monotonic() - begin <= FRESH_SECONDS:
            return
        if problems:
            break
    why = listed(problems) or f"it took more than {FRESH_SECONDS:.0f} s to answer"
    raise VerificationFailed(
        f"{route.target.name} did not get the slots {listed(map(str, slots))}, because {route.source.name} may have "
        f"taken new keys of them: {why}. The slots are open. {RUN_AGAIN}"
    )


def _claims(route: Route, slots: Sequence[int]) -> list[str]:
    pipeline: Any = route.source.client.pipeline(transaction=False)
    for slot in slots:
        pipeline.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)
    pipeline.execute_command("ROLE")
    pipeline.execute_command("CLUSTER", "NODES")
    pipeline.execute_command("INFO", "keyspace")
    *numbers, role, view, info = pipeline.execute()
    me = next(node for node in parse_nodes(view) if node.is_myself)
    leaving = {each.slot for each in me.open_slots if (each.direction, each.peer) == ("migrating", route.target.id)}
    problems = [f"it holds {number} keys of slot {slot}" for slot, number in zip(slots, numbers, strict=True) if number]
    problems += [f"it holds keys in {name}" for name in other_databases(info)]
    if facts.parse_role(role).role != "primary" or not me.is_primary:
        problems.append("it is a replica now")
    problems += [f"it does not own slot {slot} any more" for slot in slots if not contains(me.slots, slot)]
    problems += [f"slot {slot} does not leave it any more" for slot in slots if slot not in leaving]
    return problems
