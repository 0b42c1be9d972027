"""Keys that are on both ends of a move: whether they are the same.

After a failover of the source, its restart with older data, or a MIGRATE that the server cut off, clients may have
written on either end, and nothing tells which they wrote last. So only equal keys may be sent over each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.core.errors import PreconditionFailed, VerificationFailed
from credscale.core.phrases import listed
from credscale.redis_cluster.memory.sampling import patterns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from credscale.redis_cluster.resharding.routes import End, Key, Route

LATE_MILLISECONDS = 5000  # MIGRATE sends what is left to live, so a copy that a slow target made later ends later
MOST_DUMP = 1 << 20  # characters; longer hashes and sets are not compared member by member
# The first byte of DUMP: the types of plain hashes and sets, whose order differs from node to node. Hashes with fields
# that expire (Redis 7.4, Valkey 9) have others, so that their DUMPs are compared and no time to live is overlooked.
MEMBERS = dict.fromkeys((4, 13, 16), "HGETALL") | dict.fromkeys((2, 11, 20), "SMEMBERS")


def refuse_conflicts(route: Route, keys: Sequence[Key]) -> None:
    """Compare keys that are on both ends.

    Args:
        route: the two ends; the slot is open on both.
        keys: of one slot; those that are on one end only are none of a conflict.

    Raises:
        PreconditionFailed: some differ, and nobody said whose count; names the patterns.
        VerificationFailed: a node does not answer for the slot.
    """
    if route.prefer_owner:
        return
    ours, theirs = (_read(end, keys, asking=end is route.target) for end in (route.source, route.target))
    pairs = zip(keys, ours, theirs, strict=True)
    different = [key for key, one, other in pairs if None not in (*one, *other) and not _alike(route, key, one, other)]
    if different:
        shown = patterns(key.name for key in different)
        raise PreconditionFailed(
            f"{len(different)} keys of slot {keys[0].slot} are on {route.source.name}, which owns it, and with other "
            f"values or times to live on {route.target.name}: {listed(sorted(set(shown.values())))}. The move broke "
            "(a failover, a restart with older data or a MIGRATE cut off), so it is not known which a client wrote "
            "last. Neither was changed. To keep the owner's: invoke redis.repair-open-slots --prefer-owner. To keep "
            "the others, delete the owner's by hand and run it again"
        )


def _read(end: End, keys: Iterable[Key], *, asking: bool) -> list[tuple[Any, Any]]:
    """Return the DUMP and the milliseconds to live of each key."""
    replies = _ask(end, [(word, key.name) for key in keys for word in ("DUMP", "PTTL")], asking=asking)
    return list(zip(replies[::2], replies[1::2], strict=True))


def _ask(end: End, commands: Iterable[tuple[str, str]], *, asking: bool) -> list[Any]:
    pipeline: Any = end.client.pipeline(transaction=False)
    for words in commands:
        if asking:
            pipeline.execute_command("ASKING")
        pipeline.execute_command(*words)
    replies = pipeline.execute(raise_on_error=False)
    return gone_as_none(end, replies[1::2] if asking else replies)


def gone_as_none(end: End, replies: Iterable[Any]) -> list[Any]:
    """Return replies about keys, with None for keys that have gone: a node that a slot leaves answers ASK for those.

    Raises:
        VerificationFailed: any other error, without the command, which holds a key's name.
    """
    from redis.exceptions import AskError  # MovedError is one, too

    found = [None if type(reply) is AskError else reply for reply in replies]
    for reply in found:
        if isinstance(reply, Exception):
            raise VerificationFailed(
                f"{end.name} answered {type(reply).__name__} {reply} where a key was asked for. The slot may be open; "
                "clients reach all its keys. Run it again"
            )
    return found


def _alike(route: Route, key: Key, one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    (dump, left), (their_dump, their_left) = one, other
    if min(left, their_left) < 0 and left != their_left:
        return False  # one of them never expires
    if abs(left - their_left) > LATE_MILLISECONDS:
        return False
    return dump == their_dump or _same_members(route, key, dump, their_dump)


def _same_members(route: Route, key: Key, dump: str, their_dump: str) -> bool:
    word, other = (MEMBERS.get(ord(each[0])) for each in (dump, their_dump))
    if word is None or word != other or max(len(dump), len(their_dump)) > MOST_DUMP:
        return False
    ours, theirs = (
        _ask(end, [(word, key.name)], asking=end is route.target)[0] for end in (route.source, route.target)
    )
    return bool(ours == theirs)
