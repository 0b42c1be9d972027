"""What differs between a backup and the present, in one pass over both, since both are in the order of `_id`.

Memory is flat, however much differs. The order is checked, not believed: a collection with a collation is in another
one, and a dump of mongodump can be in any; whoever asks then has to list what differs in another way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from credscale.mongo.cluster.shard_key import sort_key
from credscale.mongo.documents.digest import Difference, compare, id_value, with_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PROGRESS_EVERY = 10_000
_OBJECT_ID = 7
_Documents = dict[bytes, bytes]  # hashes by id key, as ``digest.compare`` wants them


class OutOfOrderError(Exception):
    """A stream is not in the order of `_id`."""


def difference(
    before: Iterable[tuple[bytes, bytes]],
    after: Iterable[tuple[bytes, bytes]],
    on_progress: Callable[[int], None] = lambda _: None,
) -> Difference:
    """Compare two streams of id keys and hashes in the order of `_id`.

    Args:
        before: of the backup.
        after: of the present; two shards can hold the same `_id`, so one can come several times.
        on_progress: called now and then with the number of `_id`s that were compared.

    Raises:
        OutOfOrderError: one of them is not in that order.
    """
    found: dict[str, list[Any]] = {"missing": [], "added": [], "changed": [], "duplicated": []}
    for number, (old, new) in enumerate(_pairs(_groups(before), _groups(after)), 1):
        if old != new:
            part = compare(old, new)
            for kind, items in found.items():
                items.extend(getattr(part, kind))
        if number % PROGRESS_EVERY == 0:
            on_progress(number)
    return Difference(**{kind: tuple(items) for kind, items in found.items()})


def _pairs(
    left: Iterator[tuple[Any, _Documents]], right: Iterator[tuple[Any, _Documents]]
) -> Iterator[tuple[_Documents, _Documents]]:
    """Pair what both sides have at one place of the order; where a side has nothing it is empty."""
    old, new = next(left, None), next(right, None)
    while old is not None and new is not None:
        if old[0] < new[0]:
            yield old[1], {}
            old = next(left, None)
        elif new[0] < old[0]:
            yield {}, new[1]
            new = next(right, None)
        else:
            yield old[1], new[1]
            old, new = next(left, None), next(right, None)
    while old is not None:
        yield old[1], {}
        old = next(left, None)
    while new is not None:
        yield {}, new[1]
        new = next(right, None)


def _groups(stream: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Any, _Documents]]:
    """Give what shares a place in the order: copies of one `_id`, and numbers that are equal across types."""
    place: Any = None
    group: _Documents = {}
    for key, value in stream:
        here = _place(key)
        if place is not None and here != place:
            if here < place:
                raise OutOfOrderError
            yield place, group
            group = {}
        place = here
        group[key] = with_copy(group.get(key, b""), value)
    if group:
        yield place, group


def _place(key: bytes) -> Any:
    if key[0] == _OBJECT_ID:  # nearly always
        return (35, key[1:])
    try:
        return sort_key(id_value(key))
    except ValueError as error:
        raise OutOfOrderError from error
